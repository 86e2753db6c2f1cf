"""The proposer `llm`: asks a language model for programs, and again with what came of them.

After each round the model is shown its best programs so far, and the rows on which the best one is
right and wrong.
"""

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.synth.llm.model import Completion, LanguageModel, ModelError, Request
from attn_dsl.synth.llm.named import kind_of, open_model
from attn_dsl.synth.llm.options import Options
from attn_dsl.synth.llm.parse_output import programs
from attn_dsl.synth.llm.prompt import head_prompt
from attn_dsl.synth.llm.record import Record, failed
from attn_dsl.synth.proposer import Fitted, HeadTask

_log = logging.getLogger("attn_dsl")
SHARE = 0.6  # the most of a head's time that goes into writing; the rest is for fitting
SHOWN = 3  # the number of programs that a refinement shows


class Llm:
    """Asks a language model; one for a session, its model is opened when it is first needed.

    A failure that the run survives is logged, as a warning, and no head is asked again.

    Args:
        options: how.
        run: the directory of the run, in which prompts and completions are kept; None keeps none.
        alone: whether no other proposer is asked: then its failure is the run's.
        model: instead of opening the one of the options.
    """

    name = "llm"

    def __init__(self, options: Options, *, run: Path | None = None, alone: bool = True,
                 model: LanguageModel | None = None) -> None:  # fmt: skip
        self.options, self.run, self.alone = options, run, alone
        self._model, self._lock, self._failed = model, threading.Lock(), False

    @property
    def model(self) -> LanguageModel:
        """The language model; see ``open_model`` for the errors."""
        with self._lock:
            if self._model is None:
                self._model = open_model(self.options.model, device=self.options.device)
            return self._model

    def propose(self, task: HeadTask) -> Iterator[t.Head]:
        """Yield programs for the head of the task.

        Raises:
            InputError, ModelError: the model failed, and no other proposer is asked.
        """
        if self.alone:
            yield task.empty()  # so that there is a result if the model writes nothing of use
        samples: list[Fitted] = []
        seen: set[t.Head] = set()
        for found in self._rounds(task, samples):
            for program in programs(found, causal=task.causal, name=task.name):
                if task.spent:
                    break
                if program not in seen and t.nodes(program) <= task.max_nodes:
                    seen.add(program)
                    samples.append(task.fit(program))
                    yield samples[-1].program

    def _rounds(self, task: HeadTask, samples: list[Fitted]) -> Iterator[list[Completion]]:
        """Yield the completions of each round, of one that failed those that came before."""
        found: list[Completion] = []
        kind, where = kind_of(self.options.model)
        try:
            if kind == "replay":
                yield from Record(Path(where), task.name).rounds()
                return
            for number in range(min(self.options.rounds, self.options.samples)):
                if task.spent or self._failed:
                    return
                found = []
                found.extend(self._ask(task, number, samples))
                yield found
        except (ModelError, InputError) as error:
            yield found
            failed(self.run, task.name, error)
            if self.alone:
                raise
            with self._lock:
                if not self._failed:
                    _log.warning("the proposer llm failed: %s. The other proposers go on.", error)
                self._failed = True

    def _ask(self, task: HeadTask, number: int, samples: list[Fitted]) -> Iterator[Completion]:
        """Ask for the completions of a round."""
        options, ends = self.options, math.inf
        share, more = divmod(options.samples, options.rounds)
        best = sorted(samples, key=lambda f: (-f.score, f.nodes))[:SHOWN]
        request = Request(self.prompt(task, best), task.causal, share + (number < more),
                          task.seed * 16 + number, options.temperature,
                          options.completion_tokens)  # fmt: skip
        if task.deadline is not None:
            ends = time.monotonic() + SHARE * (task.deadline - time.monotonic())

        def stop() -> bool:
            task.short = task.short or time.monotonic() > ends
            return task.spent or task.short

        return Record(self.run, task.name).completions(self.model, number, request, stop)

    def prompt(self, task: HeadTask, best: Sequence[Fitted] = ()) -> str:
        """Write the prompt for a head; at least half of a short context is left for the program."""
        model, options = self.model, self.options
        room = model.context - min(options.completion_tokens, model.context // 2)
        return head_prompt(task, model.count, min(options.prompt_tokens, room), best)

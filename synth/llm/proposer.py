"""The proposer `llm`: asks a language model for programs, after the search and with what came of it.

The model is shown the best programs so far, the rows on which the best one is wrong, and heads like this one
with their programs; in a later round its own programs are among them. The search goes on from what it wrote.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.expand import expand
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.scope import Scope
from attn_dsl.synth.llm.model import Completion, LanguageModel, ModelError, Request
from attn_dsl.synth.llm.named import kind_of, open_model
from attn_dsl.synth.llm.options import Options
from attn_dsl.synth.llm.parse_output import programs
from attn_dsl.synth.llm.prompt import head_part, shared_part, solved_head
from attn_dsl.synth.llm.record import Record, failed
from attn_dsl.synth.llm.summary import Summary
from attn_dsl.synth.proposer import Fitted, HeadTask, Known, plain
from attn_dsl.synth.rewrite import bare

_log = logging.getLogger("attn_dsl")
SHOWN = 1  # the number of plain programs that a prompt shows as tried
LIKE = 2  # the number of solved heads that it shows
STARTS = 16  # the most terms that a search takes on from what was written
Extend = Callable[[t.Head, HeadTask], Iterable[Fitted]]
"""Grows programs for a head from one."""


class Llm:
    """Asks a language model; one for a session, its model is opened when it is first needed.

    A failure that the run survives is logged, as a warning, and no head is asked again.

    Args:
        options: how.
        run: the directory of the run, in which prompts and completions are kept; None keeps none.
        alone: whether no other proposer is asked: then its failure is the run's.
        model: instead of opening the one of the options.
        extend: grows programs from what the model wrote.
    """

    name = "llm"

    def __init__(self, options: Options, *, run: Path | None = None, alone: bool = True,
                 model: LanguageModel | None = None, extend: Extend | None = None) -> None:  # fmt: skip
        self.options, self.run, self.alone, self.extend = options, run, alone, extend
        self._model, self._lock, self._failed = model, threading.Lock(), False
        self._solved: dict[Known, tuple[np.ndarray, str]] = {}  # at most ``record.SOLVED``

    @property
    def model(self) -> LanguageModel:
        """The language model; see ``open_model`` for the errors."""
        with self._lock:
            if self._model is None:
                self._model = open_model(self.options.model, device=self.options.device)
            return self._model

    def propose(self, task: HeadTask) -> Iterator[t.Head | Fitted]:
        """Yield what is known of the head, what the model writes, and what grows from that.

        Raises:
            InputError, ModelError: the model failed, and no other proposer is asked.
        """
        if not task.known:
            yield task.empty()  # so that there is a result if the model writes nothing of use
        yield from task.known
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
        if self.extend and samples and not task.spent:
            yield from self.extend(self._start(task, samples), task)

    def _start(self, task: HeadTask, samples: Sequence[Fitted]) -> t.Head:
        """Join the best known program and the terms of those that were written, the best first."""
        base = max(task.known, key=lambda f: f.score).program if task.known else task.empty()
        best = sorted(samples, key=lambda f: (-f.score, f.nodes))
        written = dict.fromkeys(bare(expand(term, Scope.of(f.program))) for f in best
                                for term in f.program.terms)  # fmt: skip
        terms = (*map(bare, base.terms), *(*written,)[:STARTS])
        return dataclasses.replace(
            base, terms=tuple(one for one in terms if not isinstance(one, t.Table)))  # fmt: skip

    def _rounds(self, task: HeadTask, samples: list[Fitted]) -> Iterator[list[Completion]]:
        """Yield the completions of each round, of one that failed those that came before."""
        found: list[Completion] = []
        kind, where = kind_of(self.options.model)
        ends = time.monotonic() + task.asking.seconds
        try:
            if kind == "replay":
                yield from Record(Path(where), task.name).rounds()
                return
            for number in range(min(self.options.rounds, self.options.samples)):
                if task.spent or self._failed or time.monotonic() > ends:
                    return
                found = []
                found.extend(self._ask(task, number, samples, ends))
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

    def _ask(self, task: HeadTask, number: int, samples: list[Fitted], ends: float) -> Iterator[Completion]:
        """Ask for the completions of a round."""
        options = self.options
        share, more = divmod(options.samples, options.rounds)
        best = sorted([*task.known, *samples], key=lambda f: (-f.score, f.nodes))
        shared, own = self.prompt(task, best)
        request = Request(shared + own, task.causal, share + (number < more), task.seed * 16 + number,
                          options.temperature, options.completion_tokens, options.min_p,
                          len(shared))  # fmt: skip

        def stop() -> bool:
            return task.spent or time.monotonic() > ends

        record, left = Record(self.run, task.name), max(0.0, ends - time.monotonic())
        yield from record.completions(self.model, number, request, stop, left)
        task.short = task.short or (stop() and not self.options.seconds)

    def prompt(self, task: HeadTask, best: Sequence[Fitted] = ()) -> tuple[str, str]:
        """Write the prompt for a head: what all heads share, and the rest.

        At least half of a short context is left for the program.

        Args:
            best: programs that were fitted before, the best first.
        """
        model, options = self.model, self.options
        room = model.context - min(options.completion_tokens, model.context // 2)
        around = model.count("")  # what a chat template adds
        own = min(options.prompt_tokens, room - around)
        shared = shared_part(task.causal, model.count, room - own)
        summary = Summary(task)
        shown = [*best[:1], *(one for one in best[1:] if plain(show(one.program)))][: 1 + SHOWN]
        like = self._like(task, summary)
        return shared, head_part(summary, lambda text: model.count(text) - around, own, shown, like)

    def _like(self, task: HeadTask, summary: Summary) -> list[str]:
        """Write the solved heads whose attention is most like that of a head, the nearest first."""
        near = []
        for one in task.asking.solved:
            if (one.layer, one.head) == (task.layer, task.head):
                continue
            with self._lock:
                if one not in self._solved:
                    there = one.layer, one.head
                    other = Summary(HeadTask(task.design, *there, seed=0, max_nodes=1, max_evals=1))
                    text = solved_head(other, parse(one.program), one.iou)
                    self._solved[one] = other.shares, text
                shares, text = self._solved[one]
            near.append((float(np.abs(shares - summary.shares).sum()), text))
        return [text for _, text in sorted(near)[:LIKE]]

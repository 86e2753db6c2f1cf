"""The proposer `llm`: asks a language model for programs, and again with what came of them.

A model that was trained on heads' summaries (``attn_dsl_prompt``: compact) is asked once, for
all samples. Any other gets the page prompt, and after each round one with the best programs so far
and the rows on which the best of them is right and wrong. In the end samples are put together.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import AttnDslError, InputError
from attn_dsl.synth.llm.grammar import proposal_grammar
from attn_dsl.synth.llm.model import Completion, LanguageModel, ModelError, Sampling, room, too_long
from attn_dsl.synth.llm.named import kind_of, open_model
from attn_dsl.synth.llm.prompt import page_prompt
from attn_dsl.synth.llm.reading import read, whole_terms
from attn_dsl.synth.llm.record import Record, Replay, Request, failed
from attn_dsl.synth.llm.together import together
from attn_dsl.synth.proposer import Fitted, HeadTask

_log = logging.getLogger("attn_dsl")
_told: set[str] = set()
SHARE = 0.6
"""The most of a head's time that goes into writing; the rest is for fitting."""
SHOWN = 3
"""How many of the best programs a refinement shows."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a language model is asked.

    Attributes:
        model: see ``named.NAMED``; None for the one that ships.
        samples: how many completions a head gets, over all rounds.
        rounds: how often a model with the page prompt is asked; the others are asked once.
        prompt_tokens: the longest page prompt.
        plan: let the model say in comments what the head does before it writes.
        sampling: how tokens are drawn.
        device: for transformers.
    """

    model: str | None = None
    samples: int = 64
    rounds: int = 2
    prompt_tokens: int = 3000
    plan: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--samples", self.samples, 1),
            ("--llm-rounds", self.rounds, 1),
            ("--prompt-tokens", self.prompt_tokens, 32),
        ):
            if value < least:
                raise InputError(f"{name} must be at least {least}, not {value}")
        if not re.fullmatch(r"cpu|(?:cuda|xpu|mps)(?::\d+)?", self.device):
            raise InputError(f"--llm-device {self.device}: write cpu, cuda, cuda:1, xpu or mps")


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a model's completions.

    Attributes:
        completions: how many there were.
        truncated: did not come to their end within the budget.
        cut: of these, how many were programs up to their last whole term.
        invalid: came to their end and are no programs: 0 under a grammar.
        distinct: different programs.
    """

    completions: int = 0
    truncated: int = 0
    cut: int = 0
    invalid: int = 0
    distinct: int = 0


class Llm:
    """Asks a language model; one for a session, its model is opened when it is first needed.

    Args:
        options: how.
        run: the directory of the run, in which prompts and completions are kept; None keeps none.
        alone: whether no other proposer is asked: then its failure is the run's.
        model: instead of opening the one of the options.

    A failure that the run survives is logged, as a warning, and no head is asked again.
    """

    name = "llm"

    def __init__(
        self, options: Options, *, run: Path | None = None, alone: bool = True,
        model: LanguageModel | None = None,
    ) -> None:  # fmt: skip
        self.options, self.run, self.alone = options, run, alone
        self._model, self._lock = model, threading.RLock()
        self._failed = False
        kind, where = kind_of(options.model) if model is None else ("transformers", "")
        self._replay = where if kind == "replay" else None

    @property
    def model(self) -> LanguageModel:
        """The language model.

        Raises:
            InputError: there is none such.
            ModelError: its server does not answer.
        """
        with self._lock:
            if self._model is None:
                self._model = open_model(self.options.model, device=self.options.device)
            return self._model

    def propose(self, task: HeadTask) -> Iterator[t.Head | Fitted]:
        """Yield programs for the head of the task.

        Raises:
            ModelError: the model failed, and no other proposer is asked.
        """
        if self.alone:
            yield task.empty()  # so that there is a result if the model writes nothing of use
        if self._failed:
            return
        samples: list[Fitted] = []
        seen: set[t.Head] = set()
        number, rounds = 0, 1
        while number < rounds and not task.spent:
            failure: AttnDslError | None = None
            try:
                rounds = self._rounds(task)
                found = self._ask(task, number, _best(samples))
            except (ModelError, InputError) as error:
                found, failure = getattr(error, "done", ()), error
            number += 1
            for program in programs(task, found):
                if task.spent:
                    return
                if program in seen or t.nodes(program) > task.max_nodes:
                    continue
                seen.add(program)
                fitted = task.fit(program)
                samples.append(fitted)
                yield fitted.program
            if failure is not None:
                self._fail(task, failure)
                break
        yield from together(task, task.tried)

    def _rounds(self, task: HeadTask) -> int:
        if self._replay is not None:
            return len(Replay(self._replay).rounds(task.name))
        return 1 if self.model.prompt == "compact" else self.options.rounds

    def _fail(self, task: HeadTask, error: AttnDslError) -> None:
        failed(self.run, task.name, error)
        if self.alone:
            raise error
        tell(error)
        self._failed = True

    def _ask(self, task: HeadTask, number: int, best: Sequence[Fitted]) -> Sequence[Completion]:
        """Return the completions of a round."""
        if self._replay is not None:
            return Replay(self._replay).rounds(task.name)[number]
        share, more = divmod(self.options.samples, self._rounds(task))
        count = share + (number < more)
        if not count:
            return []
        grammar = proposal_grammar(task.causal, numbers=False, plan=self._plans)
        request = Request(
            number, self.prompt(task, best), grammar, count, task.seed * 16 + number,
            self.options.sampling,
        )  # fmt: skip
        ends = None
        if task.deadline is not None:
            ends = time.monotonic() + SHARE * (task.deadline - time.monotonic())

        def stop() -> bool:
            task.short = task.short or (ends is not None and time.monotonic() > ends)
            return task.spent or task.short

        return Record(self.run, task.name).completions(self.model, request, stop)

    @property
    def _plans(self) -> bool:
        return self.options.plan and self.model.prompt == "page"

    def prompt(self, task: HeadTask, best: Sequence[Fitted] = ()) -> str:
        """Write the prompt that the model wants.

        Args:
            best: programs that were fitted before, the best first.

        Raises:
            ModelError: it does not fit the model's context.
        """
        model, options = self.model, self.options
        if model.prompt == "compact":
            from attn_dsl.synth.llm.compact import compact_prompt

            return compact_prompt(task)
        budget = min(options.prompt_tokens, room(model, options.sampling))
        text = page_prompt(task, model.count, budget, best=best, plan=options.plan)
        if text is None:
            least = page_prompt(task, lambda text: 0, 0, plan=options.plan) or ""
            raise too_long(model.name, model.count(least), model.context)
        return text


def _best(samples: Sequence[Fitted]) -> list[Fitted]:
    """Return what a refinement shows."""
    return sorted(samples, key=lambda f: (-f.iou, f.nodes))[:SHOWN]


def tell(error: AttnDslError) -> None:
    """Log a failure that the run survives, once."""
    if str(error) not in _told:
        _told.add(str(error))
        _log.warning("the proposer llm failed: %s. The other proposers go on.", error)


def programs(task: HeadTask, completions: Sequence[Completion]) -> Iterator[t.Head]:
    """Yield the programs among completions, named after the head, in their order."""
    for completion in completions:
        text = whole_terms(completion.text) if completion.truncated else completion.text
        try:
            program = read(text, causal=task.causal) if text else None
        except AttnDslError:
            continue
        if program is not None:
            yield dataclasses.replace(program, name=task.name)


def counts(completions: Sequence[Completion], *, causal: bool) -> Counts:
    """Count what became of completions; see ``Counts``."""
    valid: list[str] = []
    cut = invalid = 0
    for completion in completions:
        text = whole_terms(completion.text) if completion.truncated else completion.text
        try:
            read(text or "", causal=causal)
        except AttnDslError:
            invalid += not completion.truncated
            continue
        valid.append(text or "")
        cut += completion.truncated
    truncated = sum(completion.truncated for completion in completions)
    return Counts(len(completions), truncated, cut, invalid, len(set(valid)))

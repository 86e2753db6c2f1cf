"""Stand-ins: what is put in the place of heads, the run's programs and the controls beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from attn_dsl.eval.replace.measure import HeldOut, Sums
from attn_dsl.eval.replace.source import Head, Source, control, mean_by_offset
from attn_dsl.eval.replace.store import Store, key_of

if TYPE_CHECKING:
    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.replace.subject import Subject

CONTROLS = ("uniform", "first token", "mean by offset", "zero")
"""What the same heads are replaced by, beside their programs."""


class StandIns:
    """Measures a run's model with heads replaced by programs or by controls.

    >>> stand_ins = StandIns(subject, Store(None))
    >>> stand_ins.measure(subject.held_out("test"), "uniform", [(0, 1)]).loss
    1.213

    Args:
        subject: the run.
        store: where finished measurements are kept.
        programs: programs by a kind's name; ``programs`` are the run's own.
        tell: called with what is being measured.
    """

    def __init__(
        self, subject: Subject, store: Store,
        programs: Mapping[str, Mapping[Head, Program]] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.subject, self.store = subject, store
        self.programs = {"programs": subject.programs, **(programs or {})}
        self.tell = tell or (lambda what: None)
        self._means: dict[Head, Source] | None = None

    def measure(self, held_out: HeldOut, kind: str, heads: Sequence[Head]) -> Sums:
        """Measure the model with some heads replaced, or look the measurement up.

        Args:
            kind: a name of ``programs``, or one of ``CONTROLS``.
        """
        if not heads:
            return held_out.original
        key = key_of(held_out, {head: self._identity(kind, head) for head in heads})
        found = self.store.get(key)
        if found is None:
            what = f"{kind}, {len(heads)} heads"
            self.tell(what)
            found = held_out.measure(self.sources(kind, heads))
            self.store.put(key, what, found)
        return found

    def sources(self, kind: str, heads: Sequence[Head]) -> Mapping[Head, Source | Program]:
        """Return what stands in the place of each head."""
        if kind in self.programs:
            return {head: self.programs[kind][head] for head in heads}
        if kind != "mean by offset":
            return control(kind, heads, self.subject.loaded.causal)
        if self._means is None:
            subject = self.subject
            self._means = mean_by_offset(subject.capture, subject.splits["fit"], subject.heads)
        return {head: self._means[head] for head in heads}

    def _identity(self, kind: str, head: Head) -> str:
        """Return all that a stand-in depends on."""
        if kind in self.programs:
            return self.programs[kind][head].source
        if kind == "mean by offset":
            return f"{kind}, {self.subject.capture.hash}, seed {self.subject.seed}"
        return kind

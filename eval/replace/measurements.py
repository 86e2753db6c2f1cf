"""Measurements of a replaced model: each is made once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from attn_dsl.dsl.errors import WorkError
from attn_dsl.eval.replace.baselines import MeanByOffset, baseline, offset_masses
from attn_dsl.eval.replace.context import Standing
from attn_dsl.eval.replace.measure import HeldOut, Sums
from attn_dsl.eval.replace.replaced_model import ReplacedModel
from attn_dsl.eval.replace.source import Head, Part

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and of how much."""


class Measurements:
    """Measures a run's model with heads replaced by programs or by baselines.

    >>> measurements = Measurements(model)
    >>> measurements.measure(model.held_out("test"), "uniform", [(0, 1)]).loss
    1.213

    A measurement depends on the model, the texts, and what stands in the place of which heads. All
    of these are in its key, so programs that were fitted anew are measured anew. Lines are only
    ever added to the file; a line that an interruption cut short does not count.

    Attributes:
        programs: by kind, by head; the kind ``programs`` are the run's own.

    Args:
        file: JSON lines, a measurement each; None keeps measurements in memory.
    """

    def __init__(self, model: ReplacedModel, file: Path | None = None) -> None:
        self.model, self.file = model, file
        self.programs = {"programs": model.programs}
        self._known: dict[str, Sums] = {}
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = Sums(
                    *(np.array(entry["sums"][name]) for name in Sums._fields)
                )
            except (ValueError, KeyError, TypeError):
                continue

    def measure(self, held_out: HeldOut, kind: str, heads: Sequence[Head]) -> Sums:
        """Measure heads replaced by a kind (in ``programs``, or a baseline), or look it up."""
        if not heads:
            return held_out.original
        key = self._key(held_out, kind, heads)
        if key not in self._known:
            self._known[key] = held_out.measure(self.standing(kind, heads))
            sums = {name: array.tolist() for name, array in self._known[key]._asdict().items()}
            self._append({"key": key, "what": f"{kind}, {len(heads)} heads", "sums": sums})
        return self._known[key]

    def standing(self, kind: str, heads: Sequence[Head]) -> Mapping[Head, Standing]:
        """Return what stands in the place of each head."""
        if kind in self.programs:
            return {head: self.programs[kind][head] for head in heads}
        causal = self.model.loaded.causal
        if kind != "mean by offset":
            return baseline(kind, heads, causal)
        group = MeanByOffset(np.stack([self._masses[head] for head in heads]), causal)
        return {head: Part(group, i) for i, head in enumerate(heads)}

    @cached_property
    def _masses(self) -> dict[Head, np.ndarray]:
        return offset_masses(self.model.capture, self.model.splits["fit"], self.model.heads)

    def _key(self, held_out: HeldOut, kind: str, heads: Sequence[Head]) -> str:
        what = [kind] * len(heads)
        if kind in self.programs:
            what = [self.programs[kind][head].source for head in heads]
        elif kind == "mean by offset":
            what = [f"{kind}, {self.model.capture.hash}, seed {self.model.seed}"] * len(heads)
        places = sorted([*head, one] for head, one in zip(heads, what, strict=True))
        content = json.dumps([held_out.loaded.revision, held_out.hash, places])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def _append(self, entry: Mapping[str, object]) -> None:
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a+b") as out:
                out.seek(0)
                cut_off = not out.read().endswith(b"\n") and out.tell() > 0
                out.write((b"\n" if cut_off else b"") + json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise WorkError(f"{self.file}: cannot write: {error.strerror}") from None

"""Measurements of a replaced model: each is made once and kept on disk."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval import files
from attn_dsl.eval.controls import offset_means
from attn_dsl.eval.files import UNREADABLE, sealed, typed, unsealed
from attn_dsl.eval.heads import Pair, label
from attn_dsl.eval.replace.measure import HeldOut, Sums
from attn_dsl.eval.replace.programs import HeadSource, MeanByOffset, baseline
from attn_dsl.eval.replace.replaced_model import ReplacedModel

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and of how much."""


class Measurements:
    """Measures a run's model with heads replaced by programs or by baselines.

    The key of a measurement tells the model, the texts, and what stands in the place of which heads, so
    programs that were fitted anew are measured anew. Lines are only ever added to the file; a line that
    an interruption cut short does not count.

    Attributes:
        programs: by kind, by head; the kind ``programs`` are the run's own.

    Args:
        file: JSON lines, a measurement each; None keeps measurements in memory.
    """

    def __init__(self, model: ReplacedModel, file: Path | None = None) -> None:
        self.model, self.file = model, file
        self.programs = {"programs": model.programs}
        self._known: dict[str, dict[str, list[float]]] = {}
        if file is None:
            return
        lines = files.lines_of(file)
        for number, line in enumerate(lines, 1):
            try:
                entry = unsealed(line.decode())
                sums = typed(dict[str, tuple[float, ...]], entry["sums"])
                known = sums.keys() in ({"damage"}, {*Sums._fields})
                alike = len({*map(len, sums.values())}) == 1
                if not (known and alike and all(map(math.isfinite, chain(*sums.values())))):
                    raise ValueError("sums are missing, not finite, or not as many of each kind")
                self._known[typed(str, entry["key"])] = entry["sums"]
            except UNREADABLE as error:
                if files.cut_off(line, error):
                    files.write_bytes(file, b"".join(lines[:-1]))
                    return
                raise InputError(f"{file}:{number}: damaged ({error}); delete this line, and it is measured "
                                 "again") from None  # fmt: skip

    def measure(self, held_out: HeldOut, kind: str, heads: Sequence[Pair]) -> Sums:
        """Measure heads replaced by a kind (in ``programs``, or a baseline), or look it up."""
        if not heads:
            return held_out.original

        def made() -> dict[str, list[float]]:
            sums = held_out.measure(self.standing(kind, heads))
            return {name: array.tolist() for name, array in sums._asdict().items()}

        found = self._once(held_out, kind, heads, made)
        return Sums(**{name: np.array(values) for name, values in found.items()})

    def damages(self, held_out: HeldOut, heads: Sequence[Pair],
                taken: Sequence[Pair] = ()) -> dict[Pair, float]:  # fmt: skip
        """Return the damage of the programs of some heads by gradients, or look it up."""

        def made() -> dict[str, list[float]]:
            found = held_out.damages(self.standing("programs", heads), taken)
            return {"damage": [found[head] for head in sorted(heads)]}

        what = ["damage", *(label(*head) for head in sorted(taken))]
        found = self._once(held_out, "programs", heads, made, *what)
        return dict(zip(sorted(heads), found["damage"], strict=True))

    def _once(self, held_out: HeldOut, kind: str, heads: Sequence[Pair],
              made: Callable[[], dict[str, list[float]]], *what: str) -> dict[str, list[float]]:  # fmt: skip
        """Make a measurement and keep it, unless it is there; ``what`` it is, if no ``Sums``."""
        key = self._key(held_out, kind, heads, *what)
        if key not in self._known:
            self._known[key] = made()
            entry = {"key": key, "what": ", ".join([*what[:1], kind, f"{len(heads)} heads"])}
            if self.file is not None:
                line = json.dumps(sealed(entry | {"sums": self._known[key]}))
                files.append(self.file, f"{line}\n")
        return self._known[key]

    def standing(self, kind: str, heads: Sequence[Pair]) -> Mapping[Pair, Program | HeadSource]:
        """Return what stands in the place of each head."""
        if kind in self.programs:
            return {head: self.programs[kind][head] for head in heads}
        causal = self.model.loaded.causal
        if kind != "mean by offset":
            return baseline(kind, heads, causal)
        group = MeanByOffset(np.stack([self._offset_means[head] for head in heads]), causal)
        return {head: HeadSource(group, i) for i, head in enumerate(heads)}

    @cached_property
    def _offset_means(self) -> dict[Pair, np.ndarray]:
        capture, heads = self.model.capture, self.model.heads
        numbers = [layer * capture.heads_per_layer + head for layer, head in heads]
        means = offset_means(capture, self.model.splits["fit"], numbers)
        return dict(zip(heads, means, strict=True))

    def _key(self, held_out: HeldOut, kind: str, heads: Sequence[Pair], *what: str) -> str:
        own = self.programs.get(kind)
        other = f"{kind}, {self.model.capture.hash}, seed {self.model.seed}"
        places = sorted([*head, own[head].source if own else other] for head in heads)
        content = json.dumps([held_out.loaded.revision, held_out.hash, places, *what])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

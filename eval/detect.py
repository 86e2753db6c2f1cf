"""Detection: which heads are of a kind that is known from the literature, told by library programs.

The share of a kind is the mean attention that a head puts on the keys that the kind's program singles out,
over the queries where it singles some out: for induction and previous-token heads, the usual score.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, pack
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.library import library
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.capture_write import capture_of
from attn_dsl.eval.controls import offset_means, offsets, rows_by_offset
from attn_dsl.eval.metrics import Estimate, bootstrap
from attn_dsl.eval.notebook import Tabular
from attn_dsl.eval.texts import Spec

SHOWN = 200
"""About how many characters of detected heads ``repr`` shows."""
SOME = 64
"""On how many texts of ``fit`` the means by distance are taken."""
LEAST = 30
"""On fewer queries than this no kind is detected."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of head."""

    letter: str  # in maps
    name: str
    program: str  # of the library
    # what the same share is compared with beside uniform attention: ``offset``, the head's own mean
    # by distance; ``neighbour``, what the query before gives to the same keys
    controls: tuple[str, ...] = ()
    threshold: float = 0.4  # the share above which a head is of the kind


KINDS = (
    Kind("I", "induction", "induction_context", ("offset", "neighbour"), 0.2),
    Kind("D", "duplicate token", "duplicate_token", ("offset", "neighbour"), 0.2),
    Kind("F", "first-token sink", "first_token", ("offset",)), Kind("P", "previous token", "previous_token"),
    Kind("N", "next token", "next_token"), Kind("C", "current token", "self_token"),
    Kind("S", "separator", "separator", ("offset",)), Kind("M", "delimiter", "punctuation", ("offset",)),
    Kind("W", "current word", "same_word", ("offset",)), Kind("L", "local", "neighbourhood"))  # fmt: skip
"""The kinds; a head is shown as the first that it is of, so those of few queries and keys come first."""


@dataclass(frozen=True, slots=True)
class Detected:
    """One kind and one head."""

    layer: int
    head: int
    kind: Kind
    share: Estimate
    control: float  # the largest share of a control
    detected: bool  # whether the interval of the share lies above the threshold and the control

    @property
    def label(self) -> str:
        """The head's name, as in ``L5H1``."""
        return f"L{self.layer}H{self.head}"


@dataclass(frozen=True, slots=True, repr=False)
class Detection(Tabular):
    """Every kind with every head of a model, by kind and then by head."""

    model: str
    layers: int
    heads_per_layer: int
    texts: int  # how many test texts
    every: tuple[Detected, ...]  # of kinds with too few queries, none
    queries: dict[str, int]  # by kind, at how many queries its program singles keys out

    @property
    def heads(self) -> dict[str, tuple[Detected, ...]]:
        """The kinds that each head is of, the first one first; heads of no kind are left out."""
        found: dict[str, tuple[Detected, ...]] = {}
        for one in sorted(self.every, key=lambda x: (x.layer, x.head)):
            if one.detected:
                found[one.label] = (*found.get(one.label, ()), one)
        return found

    def rows(self) -> list[Mapping[str, Any]]:
        """Return a row for each kind and head, those detected first."""
        return [{"layer": x.layer, "head": x.head, "kind": x.kind.name, "program": x.kind.program,
                    **x.share.named("share"), "control": x.control, "detected": x.detected,
                    "queries": self.queries[x.kind.name], "texts": self.texts}
                for x in sorted(self.every, key=lambda x: not x.detected)]  # fmt: skip

    def __repr__(self) -> str:
        told = ", ".join(f"{label} {kinds[0].kind.name}" for label, kinds in self.heads.items())
        few = told if len(told) < SHOWN else f"{told[:SHOWN].rpartition(',')[0]}, …"
        return f"<Detection in {self.model}: {few or 'no head of a known kind'}>"

    @property
    def map(self) -> list[str]:
        """A line by layer with a letter by head: that of its first kind, or a dot."""
        first = {label: kinds[0].kind.letter for label, kinds in self.heads.items()}
        return ["".join(first.get(f"L{layer}H{head}", ".") for head in range(self.heads_per_layer))
                for layer in range(self.layers)]  # fmt: skip


def detect(model: str | None = None, text: Spec | None = None, *, capture: str | Path | Capture | None = None,
           threshold: float | None = None, seed: int = 0, max_tokens: int = 128, max_texts: int = 300,
           device: str = "cpu", dtype: str = "float32") -> Detection:  # fmt: skip
    """Say which heads of a model are previous-token, induction, … heads, on held-out texts.

    >>> detect("demo").heads["L1H1"][0].kind.name
    'induction'

    Args:
        model, text: as for ``fit``.
        capture: attention captured before, instead.
        threshold: the share that a head of a kind must have, instead of the kind's own.
        seed: decides which texts are held out.
        max_tokens, max_texts, device, dtype: as for ``fit``.

    Raises:
        InputError: too few texts, or something that was given cannot be used.
    """
    with TemporaryDirectory(prefix="attn-dsl-") as folder:
        attention = capture_of(capture, model, text, f"{folder}/capture", max_tokens=max_tokens,
                               max_texts=max_texts, device=device, dtype=dtype)  # fmt: skip
        return _detect(attention, threshold, seed)


def _detect(capture: Capture, threshold: float | None, seed: int) -> Detection:
    texts = capture.split(seed)
    if not texts["test"]:
        raise InputError(f"{capture.n_texts} texts are too few: none is left to test on")
    known = library("causal" if capture.causal else "bidirectional")
    kinds = [kind for kind in KINDS if kind.program in known]
    programs = [known[kind.program].program for kind in kinds]
    plan = Plan(programs, Batch([capture.tokens(i) for i in texts["test"]]))
    means = offset_means(capture, texts["fit"][:SOME], range(capture.n_heads))
    counts = np.zeros((len(texts["test"]), len(kinds)))
    shape = len(texts["test"]), capture.n_heads, len(kinds)
    sums = {name: np.zeros(shape) for name in ("head", "uniform", "offset", "neighbour")}
    for at, text in enumerate(texts["test"]):
        n, own = len(capture.tokens(text)), capture.attention(text)
        distance = offsets(n, capture.causal)
        q = pack(np.arange(n).repeat(n).reshape(n, n), capture.causal)
        k, visible = q - distance, q + 1 if capture.causal else np.full(len(q), n)
        keys = (plan.packed(at) * visible > 1.0001).T.astype(np.float32)
        rows = np.flatnonzero(k == 0)
        counts[at] = np.add.reduceat(keys, rows).astype(np.bool_).sum(0)
        seen = (q > 0) & ((k < q) if capture.causal else True)  # what the query before sees as well
        above = np.where(seen, np.arange(len(q)) - (q if capture.causal else n), 0)
        sums["head"][at] = own @ keys
        sums["uniform"][at] = (1 / visible) @ keys
        sums["offset"][at] = rows_by_offset(means, n, capture.causal) @ keys
        sums["neighbour"][at] = (own[:, above] * seen) @ keys
    queries = {kind.name: int(x) for kind, x in zip(kinds, counts.sum(0), strict=True)}
    every = []
    for at, kind in enumerate(kinds):
        if queries[kind.name] < LEAST:
            continue
        beside = [sums[name][..., at].sum(0) for name in ("uniform", *kind.controls)]
        controls = np.max(beside, axis=0) / queries[kind.name]
        least = kind.threshold if threshold is None else threshold
        for number in range(capture.n_heads):
            with np.errstate(invalid="ignore"):  # resamples without a query have no share
                share = bootstrap(sums["head"][:, number, at], seed, counts=counts[:, at])
            control = float(controls[number])
            found = share.low > max(least, control)
            place = divmod(number, capture.heads_per_layer)
            every.append(Detected(*place, kind, share, control, found))
    return Detection(capture.name, capture.n_layers, capture.heads_per_layer, len(texts["test"]),
                     tuple(every), queries)  # fmt: skip

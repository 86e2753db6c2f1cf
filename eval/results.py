"""Results: what the search found for one head or for all of them, as it is kept and shown."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from attn_dsl.eval.files import sealed, typed, unsealed
from attn_dsl.eval.heads import label
from attn_dsl.eval.metrics import Estimate, bootstrap, decimal
from attn_dsl.eval.outputs import output_r2
from attn_dsl.eval.score_matrix import METRICS

CONTROLS = ("uniform", "first token", "previous token", "mean by offset", "positional grid")
"""The controls that every head has beside it, in the order in which they are reported."""


@dataclass(frozen=True, slots=True, repr=False)
class FrontRow:
    """One program of a head's Pareto front: IoU and output R² (nan without values) on each split."""

    nodes: int
    iou_fit: float
    iou_select: float
    iou_test: float
    output_r2_select: float
    output_r2_test: float
    score: float  # on the select split, by the objective of the run
    gain_by_node: float
    chosen: bool
    proposer: str
    program: str

    def __repr__(self) -> str:
        iou, r2 = map(decimal, (self.iou_test, self.output_r2_test))
        chosen = ", chosen" if self.chosen else ""
        return f"<{self.nodes} nodes: IoU {iou}, output R² {r2}{chosen}>"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program that was fitted to a head: its source, nodes, IoU on the fit rows, and origin."""

    layer: int
    head: int
    nodes: int
    iou_fit: float
    proposer: str
    program: str


@dataclass(frozen=True, slots=True)
class TermWorth:
    """What a term of a head's program is worth on the select texts; a part of a sum is a term."""

    term: int  # its number in the program, from 1
    source: str
    # iou_loss, output_r2_loss: what is lost when it alone is left out and the others are refitted
    iou_loss: float
    output_r2_loss: float
    share: float  # of what the program's score lies above that of uniform attention


@dataclass(frozen=True, slots=True)
class LibraryEntry:
    """A program of the shared library."""

    label: str  # of the head whose program it is
    nodes: int
    heads: tuple[str, ...]  # labels of the heads that it describes best of all entries
    # iou_select, iou_test: mean IoU over all heads with the library up to this entry, each head
    # with the entry that is best on the select split
    iou_select: float
    iou_test: float
    program: str


@dataclass(frozen=True, slots=True, repr=False)
class HeadResult:
    """The outcome for one head; every metric but ``iou_fit`` and ``iou_select`` is held out."""

    layer: int
    head: int
    program: str  # canonical source of the chosen program
    nodes: int
    iou_fit: float
    iou_select: float
    # by metric (``score_matrix.METRICS``), the mean over test texts with its interval; and
    # ``output_r2``, nan where it is not known
    test: dict[str, Estimate]
    test_ious: tuple[float, ...]  # the IoU on each test text
    # controls, controls_output_r2: by control, the mean IoU over test texts and the output R²
    controls: dict[str, float]
    category: str  # the kind of attention that carries the program (``dsl.kinds``)
    lookahead: tuple[str, ...]  # features by which a causal program sees ahead
    evals: int
    seconds: float
    cut_short: bool  # the time ran out before the search ended
    front: tuple[FrontRow, ...]
    test_errors: tuple[float, ...] = ()  # the squared error of the outputs on each test text …
    test_spreads: tuple[float, ...] = ()
    """… and the summed squares of the head's outputs about their mean."""
    controls_output_r2: dict[str, float] = field(default_factory=dict)
    terms: tuple[TermWorth, ...] = ()  # of the program, in its order
    shares: dict[str, float] = field(default_factory=dict)  # of each category, the largest first

    @property
    def label(self) -> str:
        """The head's name, as in ``L05H01``."""
        return label(self.layer, self.head)

    @property
    def name(self) -> str:
        """The head's usual name, as in ``L5H1``."""
        return f"L{self.layer}H{self.head}"

    @property
    def best_control(self) -> tuple[str, float]:
        """The control that explains most of the head, and its IoU; ("", nan) without any."""
        return best_of(self.controls)

    @property
    def best_output_control(self) -> tuple[str, float]:
        """The control that explains most of the outputs, and its R²; ("", nan) where not known."""
        return best_of(self.controls_output_r2)

    @property
    def gain(self) -> float:
        """How far the program's test IoU lies above that of the best control."""
        return self.test["iou"].mean - self.best_control[1]

    def __repr__(self) -> str:
        return f"<HeadResult {self.name}: IoU {self.test['iou']}, {self.nodes} nodes>"

    def to_json(self, origin: str) -> str:
        """Write the result as one JSON object; ``origin``: the capture and split that it is of."""
        return json.dumps(sealed(asdict(self) | {"origin": origin}), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, origin: str) -> Self:
        """Read what ``to_json`` wrote, also before output R² was measured.

        Raises:
            ValueError, KeyError, TypeError, RecursionError, OverflowError: it is damaged, or of another
                origin.
        """
        data = unsealed(text)
        if data.pop("origin", origin) != origin:
            raise ValueError("it is of another capture or seed")
        for name in ("stability", "unfinished"):
            data.pop(name, None)
        unknown = asdict(Estimate(math.nan, math.nan, math.nan, len(data["test_ious"])))
        data["test"] = {"output_r2": unknown, **data["test"]}
        later = {"output_r2_select": math.nan, "output_r2_test": math.nan}
        data["front"] = [{**later, "score": row["iou_select"], **row} for row in data["front"]]
        found: Self = typed(cls, data)
        scores = [found.iou_select, *found.test_ious, *(row.score for row in found.front)]
        if not (found.front and all(map(math.isfinite, scores))):
            raise ValueError("it lacks a front, or a score is not finite")
        beside = (CONTROLS, found.controls), (CONTROLS, found.controls_output_r2 or CONTROLS)
        for names, there in ((METRICS, found.test), *beside):
            if lacking := [name for name in names if name not in there]:
                raise ValueError(f"it lacks {', '.join(lacking)}")
        if len({found.test["iou"].texts, len(found.test_ious)}) > 1:
            raise ValueError("it does not have one IoU a test text")
        return found


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over heads."""

    # iou, output_r2: means over heads on the test texts; the intervals resample texts, all heads
    # together. Heads without an output R² are left out.
    iou: Estimate
    output_r2: Estimate
    output_r2_median: float  # the median over heads, which one head far below zero does not change
    nodes: float  # mean complexity
    controls: dict[str, float]  # by control, the mean IoU over heads
    # by control, the median output R² over heads; nan where not known
    controls_output_r2: dict[str, float]


def summarise(results: Sequence[HeadResult], seed: int) -> Summary:
    """Average the results of some heads, which must share their test texts."""
    by_text = np.mean([r.test_ious for r in results], axis=0)
    unknown = (math.nan,) * len(by_text)
    errors, spreads = (np.array([getattr(r, name) or unknown for r in results])
                       for name in ("test_errors", "test_spreads"))  # fmt: skip
    names = list(results[0].controls)
    found = ((r.controls_output_r2.get(name, math.nan) for r in results) for name in names)
    return Summary(
        bootstrap(by_text, seed), output_r2(errors, spreads, seed),
        median_known(r.test["output_r2"].mean for r in results), float(np.mean([r.nodes for r in results])),
        {name: float(np.mean([r.controls[name] for r in results])) for name in names},
        {name: median_known(values) for name, values in zip(names, found, strict=True)})  # fmt: skip


def mean_known(values: Iterable[float], average: Callable[..., Any] = np.mean) -> float:
    """Return the mean, or another average, of the finite values; nan if there is none."""
    known = [x for x in values if math.isfinite(x)]
    return float(average(known)) if known else math.nan


def median_known(values: Iterable[float]) -> float:
    """Return the median of the finite values; nan if there is none."""
    return mean_known(values, np.median)


def best_of(controls: Mapping[str, float]) -> tuple[str, float]:
    """Return the control of the largest value, and that value; ("", nan) where none is known."""
    known = ((name, value) for name, value in controls.items() if math.isfinite(value))
    return max(known, key=lambda item: item[1], default=("", math.nan))

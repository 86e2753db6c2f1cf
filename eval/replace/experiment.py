"""The experiment: a run's heads replaced, measured, tuned and tasked, with all results on disk."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import alone
from attn_dsl.eval.heads import Pair
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.replace import curve
from attn_dsl.eval.replace.measure import HeldOut, Outcome
from attn_dsl.eval.replace.measurements import Measurements, Tell
from attn_dsl.eval.replace.predictions import Ids
from attn_dsl.eval.replace.programs import BASELINES
from attn_dsl.eval.replace.replaced_model import ReplacedModel
from attn_dsl.eval.texts import Spec

BY_HAND = "by hand"
WORK = 5.2e11
"""Parameters times tokens read in a measurement by default: 30 windows of 128 by 135 million."""
ORDER_TEXTS = 16
"""On at most so many windows of the select texts heads are ordered."""
FEWEST, MOST = 10, 300
"""The fewest and the most windows that are measured on by default."""
TASK_FRACTIONS = (0.25, 1.0)
"""The shares of heads that are replaced for tasks unless another is asked for."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of a replacement: the options of ``attn-dsl replace``."""

    fraction: float | None = None  # the share of heads to replace; None measures the whole curve
    # heads chosen by hand, as in ``L2H3,L4``: all of them are replaced, or with a ``fraction``
    # the first of them
    heads: str | None = None
    orders: tuple[str, ...] = ("greedy",)
    tune: bool = False
    # tune_text, tune_texts: what to tune on beside the run's fit texts; the most windows of it
    tune_text: Spec | None = None
    tune_texts: int = 600
    tasks: tuple[str, ...] = ()
    task_limit: int | None = None
    # text, max_tokens: the user's own text instead of the test texts; how it is cut
    text: Spec | None = None
    max_tokens: int | None = None
    # the most windows to measure on, and to order heads by; by default so many that parameters
    # times tokens are at most ``WORK``, and ``FEWEST`` or more
    max_texts: int | None = None
    out: Path | None = None  # the directory for the results; the run's own by default
    seed: int = 0  # decides the resampling and the order of batches in tuning

    @property
    def by_hand(self) -> bool:
        """Whether all the heads that are named are replaced."""
        return self.heads is not None and self.fraction is None

    @property
    def fractions(self) -> tuple[float, ...]:
        """The shares of heads that are replaced."""
        if self.fraction is not None:
            return (self.fraction,)
        if self.by_hand:
            return (1.0,)
        return TASK_FRACTIONS if self.tasks else curve.FRACTIONS

    @property
    def stem(self) -> str:
        """The name of the files of the results.

        >>> Options(fraction=0.25, tune=True).stem, Options(heads="L2H3,L4").stem
        ('fraction-0.25-tuned', 'heads-L2H3-L4')
        """
        one = not self.by_hand and len(self.fractions) == 1
        parts = [f"heads-{self.heads}" if self.heads else "" if one or self.tasks else "curve",
                 f"fraction-{self.fractions[0]:g}" if one else "", "tasks" if self.tasks else "",
                 "tuned" if self.tune else ""]  # fmt: skip
        return re.sub(r"[^\w.]+", "-", "-".join(filter(None, parts))).strip("-")[:100]

    def check(self) -> None:
        """Refuse, as an InputError, what does not fit together."""
        wrong = [name for name in self.orders if name not in curve.ORDERS]
        if wrong or not self.orders:
            raise InputError(f"--order: there is no {', '.join(wrong)}; known: {', '.join(curve.ORDERS)}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise InputError(f"--fraction is a share of the heads above 0 and up to 1, not {self.fraction}")
        if self.tune_text is not None and not self.tune:
            raise InputError("--tune-text says what to tune on; give --tune as well")
        if self.out is not None and self.out.is_file():
            raise InputError(f"{self.out} is a file; give a directory by --out")


def replace_run(model: ReplacedModel, options: Options,
                tell: Tell = lambda what, done, total: None) -> tuple[Outcome, list[Path]]:  # fmt: skip
    """Measure what a run's model loses when programs stand in the place of its heads.

    Results are written to ``replacement`` in the run directory: every measurement as soon as it is made,
    then tables and the plot; their files are returned. What is finished is never measured again.

    Raises:
        InputError: the options do not fit the run, or another process measures there.
        KeyboardInterrupt: interrupted; the same call goes on from there.
    """
    options.check()
    with alone((options.out or model.run.path) / "replacement"):
        return _replaced(model, options, tell)


def _replaced(model: ReplacedModel, options: Options, tell: Tell) -> tuple[Outcome, list[Path]]:
    """Measure, and write what was measured; see ``replace_run``."""
    heads = model.choose_heads(options.heads)
    out = (options.out or model.run.path) / "replacement"
    held_out, notes = _texts(model, options)
    settings = _settings(model, options, heads, held_out)
    measurements = Measurements(model, out / "measurements.jsonl")
    held_out.watch = curve.steps("reading texts as they are", len(held_out.batches), tell)
    own = held_out.original
    held_out.watch = lambda: None
    original = bootstrap(own.nll, options.seed, counts=own.tokens, transform=np.exp)
    ranked = {BY_HAND if options.by_hand else options.orders[0]: list(heads)}
    if not options.by_hand and (options.fraction != 1 or len(options.orders) > 1):
        some = _some(model, options, model.ids("select"))[:ORDER_TEXTS]
        select = HeldOut(model.loaded, some, seed=model.seed)
        ranked = {name: curve.order_heads(name, measurements, select, heads, tell) for name in options.orders}
    kinds = ["programs", *BASELINES]
    extra: dict[str, Any] = {"spearman": {f"{one}, {other}": curve.spearman(ranked[one], ranked[other])
                                 for one, other in combinations(ranked, 2)}}  # fmt: skip
    if options.tune:
        from attn_dsl.eval.replace.tuned import tuned_programs

        order, last = next(iter(ranked.items()))
        chosen = sorted(last[: curve.count_of(max(options.fractions), len(last))])
        measurements.programs["tuned"], extra["tuning"] = tuned_programs(
            measurements.model, chosen, further_texts(model, options), out.parent / "tuned",
            options.seed, tell,
        )  # fmt: skip
        kinds.insert(1, "tuned")
        if len(ranked) > 1 and len(chosen) < len(last):
            ranked = {order: last}
            notes.append(f"Weights were tuned for the heads in the order of {order} only.")
    points = curve.measure_curve(measurements, held_out, ranked, options.fractions, kinds, options.seed, tell)
    if options.tasks:
        choices = list(dict.fromkeys(point.heads for point in points))
        extra["tasks"] = _tasks(measurements, choices, options, tell)
    extra["orders"] = {name: [list(head) for head in order] for name, order in ranked.items()}
    tokens = int(own.tokens.sum())
    outcome = Outcome(settings, original, tokens, tuple(points), tuple(notes), extra)
    files = curve.save(outcome, out, options.stem)
    if options.tune:
        files.append(out.parent / extra["tuning"]["folder"] / "tuned.csv")
    return outcome, files


def _texts(model: ReplacedModel, options: Options) -> tuple[HeldOut, list[str]]:
    """Prepare the texts to measure on, and say what readers must know of them."""
    if options.text is None:
        ids, notes = model.ids("test"), []
        name = "the test texts"
    else:
        given = [options.text] if isinstance(options.text, str) else options.text
        name, most = ", ".join(Path(one).name for one in given), options.max_texts or MOST
        ids, left_out = model.unseen_windows(options.text, options.max_tokens, most)
        notes = [f"Measured on {name}."]
        if left_out:
            notes.append(f"{left_out} of its texts were left out: programs were fitted or picked on them.")
    chosen = _some(model, options, ids)
    if len(chosen) < len(ids):
        notes.append(f"Measured on {len(chosen)} of {len(ids)} windows of {name}; --max-texts N.")
    return HeldOut(model.loaded, chosen, seed=model.seed), notes


def _some(model: ReplacedModel, options: Options, ids: Sequence[Ids]) -> Sequence[Ids]:
    """Return the first windows, as many as are measured on."""
    work = np.cumsum([len(one) for one in ids]) * float(model.loaded.model.num_parameters())
    return ids[: options.max_texts or max(FEWEST, int(np.searchsorted(work, WORK, "right")))]


def further_texts(model: ReplacedModel, options: Options) -> list[tuple[int, ...]]:
    """Return the windows to tune on beside the fit texts: none that is picked or measured on."""
    if options.tune_text is None:
        return []
    ids, _ = model.unseen_windows(options.tune_text, options.max_tokens, options.tune_texts,
                                  ("fit", "select", "test"), but_not=options.text)  # fmt: skip
    return ids


def _settings(model: ReplacedModel, options: Options, heads: Sequence[Pair],
              held_out: HeldOut) -> dict[str, Any]:  # fmt: skip
    """Return all that decides the figures."""
    sources = "".join(model.programs[head].source for head in heads)
    given = asdict(options)
    for name in ("out", "max_tokens", "max_texts"):  # no figure, or one of the texts'
        del given[name]
    return {**{name: list(x) if isinstance(x, tuple) else x for name, x in given.items()},
            "model": model.loaded.name, "revision": model.loaded.revision,
            "programs": hashlib.sha256(sources.encode()).hexdigest(),
            "heads": [f"L{layer}H{head}" for layer, head in heads],
            "orders": [BY_HAND] if options.by_hand else list(options.orders),
            "texts": held_out.hash}  # fmt: skip


def _tasks(measurements: Measurements, choices: Sequence[Sequence[Pair]], options: Options,
           tell: Tell) -> list[dict[str, Any]]:  # fmt: skip
    """Score tasks with the programs of each choice, and the tuned ones where there are any."""
    from attn_dsl.eval.replace.tasks import run_tasks

    tell("scoring tasks", 0, 1)
    kinds = ("programs", "tuned") if options.tune else ("programs",)
    work = list(product(choices, kinds))
    results = run_tasks(measurements.model.loaded,
                        [measurements.standing(kind, heads) for heads, kind in work], options.tasks,
                        options.seed, options.task_limit)  # fmt: skip
    return [
        {"heads": len(heads), "source": kind, **asdict(result)}
        for (heads, kind), every in zip(work, results, strict=True)
        for result in every
    ]

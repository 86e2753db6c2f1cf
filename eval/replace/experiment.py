"""The experiment: a run's heads replaced, measured, tuned and tasked, with all results on disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.replace import curve as curves
from attn_dsl.eval.replace.measure import HeldOut
from attn_dsl.eval.replace.options import Options
from attn_dsl.eval.replace.orders import ORDERS, order_heads
from attn_dsl.eval.replace.outcome import Outcome
from attn_dsl.eval.replace.source import Head
from attn_dsl.eval.replace.stand_ins import CONTROLS, StandIns
from attn_dsl.eval.replace.store import Store
from attn_dsl.eval.replace.subject import Subject, choose_heads, own_text

BY_HAND = "by hand"
TASK_FRACTION = 0.25
"""The share of heads that is replaced for tasks unless another is asked for, as in the paper."""
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What an experiment found, and the files that hold it."""

    outcome: Outcome
    files: tuple[Path, ...]


def replace_run(subject: Subject, options: Options, watch: Watch | None = None) -> Result:
    """Measure what a run's model loses when programs stand in the place of its heads.

    >>> result = replace_run(open_subject("runs/demo"), Options(fraction=0.25))
    >>> result.outcome.points[0].cost
    0.021

    Results are written to ``replacement`` in the run directory: every measurement as soon as it
    is made, then tables and the plot. What is finished is never measured again; results of other
    settings are only replaced with ``overwrite``.

    Args:
        watch: called with (what is done, how far, of how much).

    Raises:
        InputError: the options do not fit the run, or would replace other results.
        KeyboardInterrupt: interrupted; the same call goes on from there.
    """
    tell = watch or (lambda what, done, total: None)
    _check(options)
    heads = choose_heads(subject, options.heads)
    whole = options.fraction is None and options.heads is None and not options.tasks
    fraction = options.fraction
    if fraction is None and options.heads is None and options.tasks:
        fraction = TASK_FRACTION
    shares = curves.FRACTIONS if whole else (fraction if fraction is not None else 1.0,)
    by_hand = options.heads is not None and options.fraction is None
    orders = (BY_HAND,) if by_hand else options.orders
    out = (options.out or subject.run.path) / "replacement"
    held_out, notes = _texts(subject, options)
    settings = _settings(subject, options, heads, held_out, orders, shares)
    stem = _stem(options, fraction)
    curves.refuse_other_results(out / f"{stem}.json", settings, options.overwrite)
    store = Store(out / "measurements.jsonl")
    stand_ins = StandIns(subject, store)
    tell("reading texts as they are", 0, 1)
    original = curves.original_perplexity(held_out, options.seed)
    ranked = _ranked(subject, stand_ins, orders, heads, tell)
    kinds = ["programs", *CONTROLS]
    extra: dict[str, Any] = {}
    if options.tune:
        from attn_dsl.eval.replace.tuned import tuned_programs

        last = ranked[orders[0]]
        chosen = sorted(last[: curves.count_of(max(shares), len(last))])
        tuned, extra["tuning"] = tuned_programs(
            subject, stand_ins, held_out, chosen, out.parent / "tuned", options, tell
        )
        stand_ins.programs["tuned"] = tuned
        kinds.insert(1, "tuned")
        if len(orders) > 1 and len(chosen) < len(last):
            ranked = {orders[0]: last}
            notes.append(f"Weights were tuned for the heads in the order of {orders[0]} only.")
    points = curves.measure_curve(
        stand_ins, held_out, ranked, shares, kinds, options.seed,
        lambda done, total: tell("measuring", done, total),
    )  # fmt: skip
    if options.tasks:
        chosen = list(points[0].heads)
        extra["tasks"] = _tasks(subject, stand_ins, chosen, options, tell)
    extra["orders"] = {name: [list(head) for head in order] for name, order in ranked.items()}
    tokens = int(held_out.original.tokens.sum())
    outcome = Outcome(settings, original, tokens, tuple(points), tuple(notes), extra)
    return Result(outcome, tuple(curves.save(outcome, out, stem)))


def _check(options: Options) -> None:
    wrong = [name for name in options.orders if name not in ORDERS]
    if wrong or not options.orders:
        raise InputError(f"--order: there is no {', '.join(wrong)}; known: {', '.join(ORDERS)}")
    if options.fraction is not None and not 0 < options.fraction <= 1:
        raise InputError(
            f"--fraction is a share of the heads above 0 and up to 1, not {options.fraction}"
        )
    if options.tune_text is not None and not options.tune:
        raise InputError("--tune-text says what to tune on; give --tune as well")
    if options.out is not None and options.out.is_file():
        raise InputError(f"{options.out} is a file; give a directory by --out")


def _texts(subject: Subject, options: Options) -> tuple[HeldOut, list[str]]:
    """Prepare the texts to measure on, and say what readers must know of them."""
    if options.text is None:
        return subject.held_out("test"), []
    own = own_text(subject, options.text, options.max_tokens, options.max_texts)
    notes = [f"Measured on {Path(options.text).name}."]
    if own.left_out:
        notes.append(
            f"{own.left_out} of its texts were left out: programs were fitted or picked on them."
        )
    return HeldOut(subject.loaded, own.ids, seed=subject.seed), notes


def _ranked(
    subject: Subject, stand_ins: StandIns, orders: Sequence[str], heads: Sequence[Head], tell: Watch
) -> dict[str, list[Head]]:
    if tuple(orders) == (BY_HAND,):
        return {BY_HAND: list(heads)}
    select = subject.held_out("select")
    return {
        name: order_heads(
            name, stand_ins, select, heads,
            lambda done, total, name=name: tell(f"ordering by {name}", done, total),  # type: ignore[misc]
        )
        for name in orders
    }  # fmt: skip


def _settings(
    subject: Subject, options: Options, heads: Sequence[Head], held_out: HeldOut,
    orders: Sequence[str], shares: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    """Return all that decides the figures."""
    sources = "".join(subject.programs[head].source for head in heads)
    return {
        "model": subject.loaded.name,
        "revision": subject.loaded.revision,
        "programs": hashlib.sha256(sources.encode()).hexdigest(),
        "heads": [f"L{layer}H{head}" for layer, head in heads],
        "orders": list(orders),
        "fractions": list(shares),
        "texts": held_out.hash,
        "text": options.text,
        "tune": options.tune,
        "tune_text": [options.tune_text, options.tune_texts] if options.tune_text else None,
        "tasks": list(options.tasks),
        "task_limit": options.task_limit,
        "seed": options.seed,
    }


def _stem(options: Options, fraction: float | None) -> str:
    """Name the files of the results after what was asked for.

    >>> _stem(Options(fraction=0.25, tune=True), 0.25), _stem(Options(heads="L2H3,L4"), None)
    ('fraction-0.25-tuned', 'heads-L2H3-L4')
    """
    parts = []
    if options.heads is not None:
        parts.append("heads-" + re.sub(r"\W+", "-", options.heads).strip("-"))
    if fraction is not None:
        parts.append(f"fraction-{fraction:g}")
    parts = parts or ["curve"]
    if options.tasks:
        parts.append("tasks")
    if options.tune:
        parts.append("tuned")
    return "-".join(parts)[:100]


def _tasks(
    subject: Subject, stand_ins: StandIns, heads: Sequence[Head], options: Options, tell: Watch
) -> list[dict[str, Any]]:
    """Score tasks with the programs, and with the tuned ones where there are any."""
    from attn_dsl.eval.replace.harness import run_harness
    from attn_dsl.eval.replace.tasks import run_items

    found: list[dict[str, Any]] = []
    for kind in ("programs", "tuned") if options.tune else ("programs",):
        sources: Mapping[Head, Any] = stand_ins.sources(kind, heads)
        results = []
        for file in (task for task in options.tasks if task.endswith(".jsonl")):
            results += run_items(
                subject.loaded, sources, file, options.seed,
                lambda done, total: tell("scoring items", done, total),
            )  # fmt: skip
        names = [task for task in options.tasks if not task.endswith(".jsonl")]
        if names:
            results += run_harness(
                subject.loaded, sources, names, options.seed, options.task_limit,
                lambda what: tell(what, 0, 1),
            )  # fmt: skip
        found += [{"source": kind, **result.to_json()} for result in results]
    return found

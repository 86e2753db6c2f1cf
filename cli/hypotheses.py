"""What `attn-dsl fit --program` prints: figures of hypotheses beside controls, and where they fail."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from attn_dsl.cli import options
from attn_dsl.eval.pictures import around, visible

if TYPE_CHECKING:
    from attn_dsl.synth.hypothesis import Failure, Hypothesis

SHOWN = 3
"""Of how many heads, those that a hypothesis explains best, it is shown where it fails."""


def json_rows(found: Iterable[Hypothesis]) -> list[dict[str, Any]]:
    """Return hypotheses as JSON data: the columns of the table, the program, where it fails."""
    return [{**{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in x.row().items()},
             "source": x.program,
             "failures": [asdict(one) | {"tokens": around(one.tokens, one.query)} for one in x.failures]}
            for x in found]  # fmt: skip


def print_hypotheses(found: Sequence[Hypothesis], place: str) -> None:
    """Print the table of hypotheses, and the program and the failures of the heads nearest to each."""
    from attn_dsl.eval.metrics import decimal

    screen, lacking = options.console(), all(math.isnan(x.output_r2.mean) for x in found)
    by_name: dict[str, list[Hypothesis]] = {}
    for one in sorted(found, key=lambda x: x.control[1] - x.iou.mean):
        by_name.setdefault(one.name, []).append(one)
    rows = []
    for name, own in by_name.items():
        for at, x in enumerate(own):
            figures = [x.iou.mean, x.iou.low, x.iou.high, x.control[1], x.found[0]]
            if not lacking:
                figures += [x.output_r2.mean, x.output_control[1], x.found[1]]
            rows.append(("" if at else visible(name), x.label, *map(decimal, figures)))
    outputs = () if lacking else ("output R²", "control", "found")
    options.print_table(("program", "head", "IoU", "from", "to", "control", "found", *outputs), rows,
                        left=("program", "head"), gap=1)  # fmt: skip
    for own in by_name.values():
        for x in own[:SHOWN]:
            screen.print(f"\n[bold]{x.label}[/], {x.fitted} weights fitted:")
            options.print_program(x.program.rstrip())
            what = "attention" if lacking else "output"
            screen.print(f"Where its {what} is furthest from the head's, in errors of a mean query:")
            for failure in x.failures:
                for line in told(failure):
                    screen.print(line, markup=False, overflow="fold")
    screen.print()
    for name, own in by_name.items():
        holds = [x.label for x in own if x.holds]
        which = f": {', '.join(holds)}" if holds and len(holds) < len(own) else ""
        screen.print(f"{name}: above every control, its whole interval, on {len(holds)} of {len(own)} "
                     f"heads{which}.", markup=False)  # fmt: skip
    if lacking:
        screen.print("Output R² is not known: the capture has no values of heads that vary.")
    texts = found[0].iou.texts
    screen.print(f"{texts} test texts. Table and programs: {place}/hypotheses.csv", markup=False)


def told(failure: Failure) -> Iterator[str]:
    """Tell of a failure: its text, and the keys of the head and of the program."""
    yield f"{failure.error:5.0f} × {around(failure.tokens, failure.query)}"
    for name, seen in (("head", failure.head), ("program", failure.program)):
        keys = (f"{visible(failure.tokens[k])}@{k} {weight:.2f}" for k, weight in seen)
        yield f"{name:>9}: {'  '.join(keys)}"

"""Measures what the plan of a fit rests on: the rates of a machine, and what each proposer takes.

    python benchmarks/scale.py MODEL [--efforts 1,2,4] [--texts 300]

MODEL is a ``transformers`` folder, which reads stories of 128 tokens. The table has the constants of
``synth/runs/plan.py`` and, by proposer and effort, seconds and fitted programs for the ``Cost`` in
``synth/proposers/registry.py``. All rates are of processor time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from measuring import ATTN_DSL, STORIES, Figure, print_table, run

from attn_dsl.eval.capture import Capture
from attn_dsl.eval.locate import locate
from attn_dsl.synth.proposer import HeadTask, pool
from attn_dsl.synth.proposers import registry
from attn_dsl.synth.runs.plan import count_parameters
from attn_dsl.synth.search import Search
from attn_dsl.synth.session import Session, Settings


def rates(model: Path, texts: int, folder: Path) -> Iterator[Figure]:
    """How fast a model reads, and what a fit takes beside the search."""
    cpu, tokens = [], []
    for count in (texts // 3, texts):
        out = folder / str(count)
        given = ("--text", STORIES, "--max-texts", count, "--out", out)
        usage = run(*ATTN_DSL, "capture", model, *given)
        made = Capture.open(out)
        cpu.append(usage.cpu)
        tokens.append(sum(len(made.tokens(i)) for i in range(made.n_texts)))
        yield Figure(f"capture, {count} texts", str(usage))
    _, multiplied, _ = count_parameters(locate(str(model)))
    yield Figure("FLOPS", f"{2 * multiplied * (tokens[1] - tokens[0]) / (cpu[1] - cpu[0]):.2g}")
    given = ("--capture", out, "--rounds", 1, "--max-evals", 1)
    one, layer = (
        run(*ATTN_DSL, "fit", *given, "--heads", heads, "--out", folder / heads).cpu
        for heads in ("L0H0", "L0")
    )
    entries = sum(made.packed(i).shape[1] for i in range(made.n_texts))
    by_head = (layer - one) / (made.heads_per_layer - 1)
    yield Figure("START_SECONDS", f"{one:.0f}")
    yield Figure("SCORE_SECONDS", f"{by_head / (0.4 * entries):.2g}")


def proposers(capture: Path, effort: int) -> Iterator[Figure]:
    """What each proposer takes for a head: the mean of three, after one that makes what all share."""
    session = Session(Capture.open(capture), Settings(registry.DEFAULT, effort=effort))
    search, last = Search(session), session.capture.n_layers - 1
    search.prepare()
    places = (0, 0), (0, 1), (last // 2, 1), (last, 0)
    before = [search.head(*place, dict)[0] for place in places]
    others = tuple(result.program for result in before)
    for one in registry.BUILT_IN:
        if one.effort > effort or one.name == "llm":
            continue
        proposer, seconds, evals = one.make(session), [], 0
        for place, result in zip(places, before, strict=True):
            known = {"before": result, "others": others} if one.later else {}
            task = HeadTask(session.design, *place, seed=0, max_nodes=200, max_evals=1600, **known)
            started = time.process_time()
            pool(task, [proposer])
            seconds.append(time.process_time() - started)
            evals += task.evals
        reached = f"{sum(seconds[1:]) / 3:.2f} s, {evals / 4:.0f} programs"
        yield Figure(f"{one.name}, effort {effort}", reached)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("--efforts", default="1,2,4")
    parser.add_argument("--texts", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, efforts = Path(place), map(int, options.efforts.split(","))
        by_effort = [partial(proposers, folder / str(options.texts), effort) for effort in efforts]
        print_table([partial(rates, options.model.resolve(), options.texts, folder), *by_effort])


if __name__ == "__main__":
    main()

"""Writes `docs/readme.json`, the figures of the README: of one head, and those of a benchmark.

    python docs/readme.py RUN L17H3 TABLE

RUN is a run of SmolLM2, TABLE what `benchmarks/outputs.py` printed. `make readme` makes both.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from click.testing import CliRunner

from attn_dsl.cli.main import cli
from attn_dsl.eval.heads import parse_heads
from attn_dsl.eval.run import Run


def head_figures(path: str, name: str) -> dict[str, str]:
    """Return the program of a head of a run, its explanation, and its figures beside controls."""
    run = Run.open(path)
    [pair] = parse_heads(name, run.info["layers"], run.info["heads_per_layer"])
    [result] = [r for r in run.results if (r.layer, r.head) == pair]
    told = CliRunner().invoke(cli, ["explain", path, name]).output
    return {
        "head": name,
        "program": run.program(*pair).source.partition("\n\n")[2],
        "explanation": "\n".join(line.rstrip() for line in told.splitlines()),
        "iou": result.test["iou"].with_interval,
        "r2": result.test["output_r2"].with_interval,
        "control_iou": f"{max(result.controls.values()):.3f}",
        "control_r2": f"{max(result.controls_output_r2.values()):.3f}",
        "texts": str(len(result.test_ious)),
    }


def table_figures(table: str) -> dict[str, str]:
    """Return the figures of a benchmark's table that the README tells, by short names."""
    found, about = {}, ""
    for what, reached in re.findall(r"^\| (.*?) \| (.*?) \|$", table, re.MULTILINE):
        if fit := re.fullmatch(r"(\w+): IoU; output R², (as chosen|any size), (\d+) nodes", what):
            about, kind = fit[1], fit[2].split()[-1]
            found |= dict(
                zip((f"{about}_{kind}_iou", f"{about}_{kind}_r2"), reached.split("; "), strict=True)
            )
            if kind == "chosen":
                found[f"{about}_nodes"] = fit[3]
        elif what == "... best control of each head":
            found |= dict(
                zip(
                    (f"{about}_control_iou", f"{about}_control_r2"),
                    reached.split("; "),
                    strict=True,
                )
            )
        elif what.startswith("... shared scores"):
            found[f"{about}_predicates"] = reached.split("; ")[1]
        elif what.startswith("... as chosen, on "):
            found["elsewhere"] = reached.partition("; ")[0]
        elif grown := re.fullmatch(r"(.*): (\d+) %, (.*)", what):
            series = {"best outputs of each front": "", "... all heads, chosen programs": "chosen_",
                      "... all heads, tuned": "tuned_"}[grown[1]]  # fmt: skip
            found[f"growth_{series}{grown[2]}_{grown[3].replace(' ', '_')}"] = reached
    return found


def main(run: str, head: str, table: str) -> None:
    """Write the figures."""
    figures = head_figures(run, head) | table_figures(Path(table).read_text(encoding="utf-8"))
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    Path(__file__).with_name("readme.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

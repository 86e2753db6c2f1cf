"""Writes `docs/readme.json`, the figures of the README, and the pictures of heads on a text.

    python docs/readme.py RUN L17H3 TABLE          the figures of a head, and those of a benchmark
    python docs/readme.py RUN L17H3 107 FILE.svg   the picture of a head on the text of this number

RUN is a run of SmolLM2, TABLE what `benchmarks/outputs.py` printed. `make readme` makes both.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from attn_dsl.cli.main import cli
from attn_dsl.dsl.tree import Score
from attn_dsl.eval.heads import parse_heads
from attn_dsl.eval.run import Run


def head_figures(path: str, name: str) -> dict[str, str]:
    """Return the program of a head of a run, its explanation, and its figures beside controls."""
    run = Run.open(path)
    [pair] = parse_heads(name, run.info["layers"], run.info["heads_per_layer"])
    [result] = [r for r in run.results if (r.layer, r.head) == pair]
    told = CliRunner().invoke(cli, ["explain", path, name]).output
    used = next(x.name for x in run.program(*pair).tree.walk() if isinstance(x, Score))
    score = CliRunner().invoke(cli, ["features", "--run", path, used]).output
    return {
        "head": name,
        "program": run.program(*pair).source.partition("\n\n")[2],
        "explanation": "\n".join(line.rstrip() for line in told.splitlines()),
        "score": "\n".join(line.rstrip() for line in score.splitlines()),
        "score_name": used,
        "iou": result.test["iou"].with_interval,
        "r2": result.test["output_r2"].with_interval,
        "control_iou": f"{max(result.controls.values()):.3f}",
        "control_r2": f"{max(result.controls_output_r2.values()):.3f}",
        "texts": str(len(result.test_ious)),
    }


def table_figures(table: str) -> dict[str, str]:
    """Return the figures of a benchmark's table that the README tells, by short names."""
    found, about = {}, ""
    for what, reached in re.findall(r"^\| (.*?) \| (.*?) \|", table, re.MULTILINE):
        both = re.sub(r" \(\d+ texts\)", "", reached).split("; ")
        if fit := re.fullmatch(r"(\w+): IoU; output R², (as chosen|any size), (\d+) nodes", what):
            about, kind = fit[1], fit[2].split()[-1]
            found |= {f"{about}_{kind}_iou": both[0], f"{about}_{kind}_r2": both[1]}
            if kind == "chosen":
                found[f"{about}_nodes"] = fit[3]
        elif what == "... best control of each head":
            found |= {f"{about}_control_iou": both[0], f"{about}_control_r2": both[1]}
        elif what.startswith("... shared scores"):
            found[f"{about}_predicates"] = both[1]
        elif what.startswith("... as chosen, on "):
            found["elsewhere"] = both[0]
        elif grown := re.fullmatch(r"(.*): (\d+) %, (.*)", what):
            series = {"best outputs of each front": "", "... all heads, chosen programs": "chosen_",
                      "... all heads, tuned": "tuned_"}[grown[1]]  # fmt: skip
            kind = grown[3].replace(" ", "_")
            found[f"growth_{series}{grown[2]}_{kind}"] = (
                reached if kind in ("programs", "tuned") else reached.partition(" [")[0]
            )
    told = (Path(__file__).with_name("readme.in.md")).read_text(encoding="utf-8")
    return {name: value for name, value in found.items() if f"{{{{{name}}}}}" in told}


def main(run: str, head: str, table: str, picture: str = "") -> None:
    """Write the figures, or the picture of the first tokens of a text."""
    if picture:
        replace(Run.open(run)[head].plot(int(table)), most=26).save(picture)
        return
    figures = head_figures(run, head) | table_figures(Path(table).read_text(encoding="utf-8"))
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    Path(__file__).with_name("readme.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

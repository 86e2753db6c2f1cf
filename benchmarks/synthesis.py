"""Measures what the search reaches on real models, and prints each figure beside its target.

    make bench-synth                                    everything; an interrupted bench goes on
    python benchmarks/synthesis.py --only stories       one part: see --list
    python benchmarks/synthesis.py --again --fit "--jobs 2 --max-evals 100"

Every model part is one ``attn-dsl fit`` as a user would run it (a process of its own, from the
model's folder and a text), with ``--timeout 600`` where the target is a figure within ten minutes.
From its run directory the figures are taken so that nothing is picked on the test split: of each
head's front the row with the best IoU on the select split among those of at most so many nodes, and
of that row the IoU on the test split. Intervals are 95 % bootstrap intervals over the test texts of
the mean over all heads.

Runs and figures are kept in ``--out`` under a hash of the search's sources. Weights and texts are
those of ``../shared``; parts that need them are skipped where the folder is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fronts
import numpy as np

from attn_dsl.eval.texts import read_texts

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
COMMAND = [sys.executable, "-m", "attn_dsl.cli"]
STORIES = SHARED / "text/tinystories-5k.jsonl"


@dataclass(frozen=True)
class Part:
    """One fit of a model on a text, and what it must reach.

    Attributes:
        model: a folder of ``../shared/models``; None for the demo model.
        texts: makes the file of texts in a folder.
        options: of ``attn-dsl fit``.
        targets: by name of a figure, the least that it must be.
        what: a line for the table.
    """

    what: str
    model: str | None
    texts: Callable[[Path, Path], Path] | None = None
    options: tuple[str, ...] = ()
    targets: dict[str, float] = field(default_factory=dict)


def stories(model: Path, folder: Path) -> Path:
    """Take whole stories; ``fit`` cuts them."""
    return STORIES


def first_stories(count: int) -> Callable[[Path, Path], Path]:
    """Take the first so many stories."""

    def make(model: Path, folder: Path) -> Path:
        return _jsonl(folder / "texts.jsonl", read_texts(str(STORIES))[:count])

    return make


def openings(low: int, high: int, count: int = 300) -> Callable[[Path, Path], Path]:
    """Take the openings of stories, each of a random length in tokens of the model."""

    def make(model: Path, folder: Path) -> Path:
        from attn_dsl.eval.models import load_tokenizer
        from attn_dsl.eval.vocabulary import Vocabulary

        vocabulary, rng = Vocabulary(load_tokenizer(str(model))), np.random.default_rng(0)
        cut = []
        for text in read_texts(str(STORIES))[:count]:
            tokens = vocabulary.encode(text, max_tokens=int(rng.integers(low, high + 1)))[0].tokens
            cut.append(tokens.text)
        return _jsonl(folder / "texts.jsonl", cut)

    return make


def wikitext(model: Path, folder: Path) -> Path:
    """Take the paragraphs of encyclopedic text that are no headings."""
    path = SHARED / "text/wikitext2-valid.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    return _jsonl(folder / "texts.jsonl", [line.strip() for line in lines if len(line) > 300])


def sentences(model: Path, folder: Path) -> Path:
    """Take the sentences of the treebank, those of at least ten words."""
    found = []
    for name in ("dev", "test"):
        text = (SHARED / f"text/ud-ewt-{name}.conllu").read_text(encoding="utf-8")
        found += [line[9:] for line in text.splitlines() if line.startswith("# text = ")]
    return _jsonl(folder / "texts.jsonl", [text for text in found if len(text.split()) >= 10])


def _jsonl(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
    return path


LARGE = ("--effort", "4", "--max-nodes", "4000")
MINUTES = ("--timeout", "600", *LARGE)
PARTS: dict[str, Part] = {
    "demo": Part("demo model, its own stories", None),
    "stories": Part(
        "stories260k, 300 stories of 128 tokens", "stories260k", stories, MINUTES,
        {"any": 0.60, "40": 0.45},
    ),
    "openings": Part(
        "stories260k, 300 openings of 16 to 96 tokens", "stories260k", openings(16, 96), MINUTES,
        {"any": 0.58},
    ),
    "babyllama": Part(
        "babyllama-char, 300 stories of 128 tokens", "babyllama-char", stories, MINUTES,
        {"any": 0.60},
    ),
    "babyllama-openings": Part(
        "babyllama-char, 300 openings of 50 to 150 characters", "babyllama-char",
        openings(50, 150), (*MINUTES, "--max-tokens", "160"),
    ),
    "minilm": Part(
        "minilm-l6, 500 stories cut to 64 tokens", "minilm-l6", first_stories(500),
        (*LARGE, "--max-tokens", "64", "--max-texts", "500"), {"any": 0.60},
    ),
    "stories-wikitext": Part(
        "stories260k, 300 encyclopedic paragraphs of 128 tokens", "stories260k", wikitext, MINUTES
    ),
    "stories-sentences": Part(
        "stories260k, 300 treebank sentences", "stories260k", sentences, MINUTES
    ),
    "babyllama-wikitext": Part(
        "babyllama-char, 300 encyclopedic paragraphs of 128 tokens", "babyllama-char", wikitext,
        MINUTES,
    ),
}  # fmt: skip
"""The fits; texts that the search was not made on are among them: they say whether it is general."""


def fit(part: Part, folder: Path, extra: list[str]) -> dict[str, Any]:
    """Run one fit in a process of its own and measure it; an interrupted one goes on."""
    run = folder / "run"
    arguments = [*part.options]
    if part.model is not None:
        model = SHARED / "models" / part.model
        assert part.texts is not None
        arguments = [str(model), "--text", str(part.texts(model, folder)), *arguments]
    resumed = (run / "run.json").exists()
    command = [*COMMAND, "fit", *arguments, "--out", str(run), "--seed", "0", *extra]
    seconds, first = watch([*command, *(["--resume"] if resumed else [])])
    found = fronts.figures(run)
    return {
        **found, "seconds": seconds, "first_head": first, "resumed": resumed, "what": part.what,
        "targets": part.targets, "options": [*part.options, *extra],
    }  # fmt: skip


def watch(command: list[str]) -> tuple[float, float | None]:
    """Run a process; return its wall time, and when its first head was shown, in seconds."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        cwd=tempfile.gettempdir(),
    )  # fmt: skip
    assert process.stderr is not None
    first, last = None, ""
    for line in process.stderr:
        last = line.strip() or last
        if line.startswith("L0"):
            first = first or time.perf_counter() - started
            print(f"\r  {line.split()[0]}", end="", file=sys.stderr)
    print("\r", end="", file=sys.stderr)
    if process.wait():
        raise SystemExit(f"{shlex.join(command)}\nfailed with {process.returncode}: {last}")
    return time.perf_counter() - started, first


def ceiling(folder: Path, extra: list[str]) -> dict[str, Any]:
    """Say by how much runs of stories260k, given work without end, overstep their ``--timeout``."""
    model, found = SHARED / "models/stories260k", []
    for limit in (60, 120):
        with tempfile.TemporaryDirectory() as place:
            command = [
                *COMMAND, "fit", str(model), "--text", str(STORIES), "--out", f"{place}/run",
                "--seed", "0", "--timeout", str(limit), "--max-evals", "1000000", "--rounds", "50",
                *extra,
            ]  # fmt: skip
            seconds, _ = watch(command)
            info = json.loads((Path(place) / "run/run.json").read_text(encoding="utf-8"))
            means = fronts.figures(Path(place) / "run")["any"]["mean"]
        found.append({
            "limit": limit, "seconds": seconds, "cut_short": len(info.get("cut_short", [])),
            "iou": means,
        })  # fmt: skip
    return {"what": "stories260k with a ceiling of time", "ceilings": found}


def untrained(folder: Path, extra: list[str]) -> dict[str, Any]:
    """Fit a model of GPT-2's configuration with random weights: 144 heads, 300 texts."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        GPT2LMHeadModel(GPT2Config()).save_pretrained(place)
        AutoTokenizer.from_pretrained(SHARED / "models/gpt2-tokenizer").save_pretrained(place)
        command = [
            *COMMAND, "fit", place, "--text", str(STORIES), "--out", f"{place}/run", "--seed", "0",
            "--timeout", "900", *extra,
        ]  # fmt: skip
        seconds, first = watch(command)
        info = json.loads((Path(place) / "run/run.json").read_text(encoding="utf-8"))
    return {
        "what": "GPT-2's configuration with random weights: 144 heads, 300 texts of 128 tokens",
        "ceilings": [{"limit": 900, "seconds": seconds, "iou": None,
                      "cut_short": len(info.get("cut_short", []))}],
        "first_head": first,
    }  # fmt: skip


def transfer(folder: Path, extra: list[str]) -> dict[str, Any]:
    """Score the programs of stories on the attention of the same heads on other text."""
    runs = {name: folder.parent / name / "run" for name in ("stories", "stories-wikitext")}
    lacking = [name for name, run in runs.items() if not (run / "heads.csv").exists()]
    if lacking:
        raise SystemExit(f"transfer needs the parts {', '.join(lacking)}; run them first")
    found = fronts.transfer(runs["stories"], runs["stories-wikitext"])
    return {"what": "stories260k, programs found on stories scored on encyclopedic text", **found}


OTHERS: dict[str, Callable[[Path, list[str]], dict[str, Any]]] = {
    "transfer": transfer,
    "timeout": ceiling,
    "gpt2": untrained,
}
NEED_SHARED = {name for name, part in PARTS.items() if part.model} | {"transfer", "timeout", "gpt2"}


def measure(name: str, folder: Path, extra: list[str], again: bool) -> dict[str, Any] | None:
    """Measure one part, or read what was measured before; None where ``../shared`` is missing."""
    if name in NEED_SHARED and not SHARED.is_dir():
        return None
    kept = folder / name / "figures.json"
    if kept.exists() and not again:
        return json.loads(kept.read_text(encoding="utf-8"))
    print(f"{name} …", file=sys.stderr, flush=True)
    (folder / name).mkdir(parents=True, exist_ok=True)
    part, place = PARTS.get(name), folder / name
    found = OTHERS[name](place, extra) if part is None else fit(part, place, extra)
    found["load"] = os.getloadavg()[0]
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def rows(name: str, found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Write the figures of one part as rows: what, reached, target."""
    targets = found.get("targets", {})
    for key, label in (("any", "any size"), ("40", "at most 40 nodes"), ("chosen", "as chosen")):
        if key in found:
            target = f"at least {targets[key]:.2f}" if key in targets else "-"
            yield f"{found['what']}: mean IoU, {label}", fronts.estimate(found[key]), target
    if "controls" in found:
        shown = ", ".join(f"{k} {v:.3f}" for k, v in found["controls"].items())
        yield "… controls on the same texts", shown, "-"
        yield "… by layer, any size", " ".join(f"{x:.2f}" for x in found["by_layer"]), "-"
        yield "… nodes, quartiles: any size; as chosen", found["nodes"], "-"
        yield "… distinct programs for 95 % of the mean IoU", found["distinct"], "-"
        time_target = "under 60 s" if name == "demo" else "under 600 s" if targets else "-"
        yield "… whole process", _seconds(found), time_target
    for row in found.get("ceilings", []):
        limit = row["limit"]
        reached = f"{row['seconds']:.1f} s, {row['cut_short']} heads cut short"
        if row["iou"] is not None:
            reached += f", mean IoU {row['iou']:.3f}"
        yield f"{found['what']}: --timeout {limit}", reached, f"at most {1.05 * limit:.0f} s"


def _seconds(found: dict[str, Any]) -> str:
    resumed = " (of the part after it was resumed)" if found["resumed"] else ""
    first = "" if found["first_head"] is None else f", first head after {found['first_head']:.1f} s"
    return f"{found['seconds']:.1f} s{resumed}{first}, load {found['load']:.1f}"


def main() -> None:
    """Measure and print Markdown tables."""
    names = [*PARTS, *OTHERS]
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--only", choices=names, action="append", help="this part; may be repeated")
    made.add_argument("--list", action="store_true", help="list the parts")
    made.add_argument("--again", action="store_true", help="measure again what is kept")
    made.add_argument("--fit", default="", metavar="OPTIONS", help="more options of attn-dsl fit")
    made.add_argument("--out", default=str(ROOT / "runs/bench/synthesis"), metavar="DIR")
    options = made.parse_args()
    if options.list:
        for name in names:
            print(f"{name:20} {PARTS[name].what if name in PARTS else OTHERS[name].__doc__}")
        return
    work = hashlib.sha256(options.fit.encode()).hexdigest()[:6] if options.fit else "default"
    folder = Path(options.out) / f"{fronts.sources_hash(ROOT)}-{work}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; {folder.name}\n\n| what | reached | target |\n|---|---|---|", flush=True)
    for name in options.only or names:
        found = measure(name, folder, shlex.split(options.fit), options.again)
        if found is None:
            print(f"| {name} | skipped: no folder ../shared | - |", flush=True)
        else:
            for row in rows(name, found):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()

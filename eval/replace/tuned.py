"""Tuned programs on disk: new `.attn` files, their IoU before and after."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from attn_dsl.compiler.program import Program, load
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import UNREADABLE, sealed, table, unsealed, write
from attn_dsl.eval.heads import Pair, label
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.outputs import output_r2
from attn_dsl.eval.replace.measurements import Tell
from attn_dsl.eval.replace.predictions import Ids
from attn_dsl.eval.replace.replaced_model import ReplacedModel
from attn_dsl.eval.replace.tune import Epoch, TuneSettings, tune
from attn_dsl.eval.split import Split

FILE, STATE = "tuned.json", "state.safetensors"


def tuned_programs(model: ReplacedModel, heads: Sequence[Pair], further: Sequence[Ids], folder: Path,
                   seed: int, tell: Tell) -> tuple[dict[Pair, Program], dict[str, Any]]:  # fmt: skip
    """Tune programs and write them, or read those written before; return them, and what there is to tell."""
    settings = TuneSettings(seed=seed)
    key = {"revision": model.loaded.revision, "capture": model.capture.hash,
           "programs": [model.programs[head].source for head in heads],
           "heads": [label(*head) for head in heads], "further texts": further,
           **asdict(settings)}  # fmt: skip
    folder /= hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]
    files = {head: folder / f"{label(*head)}.attn" for head in heads}
    if not (folder / FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = _tune(model, files, settings, further, folder / STATE, tell)
        write(folder / FILE, json.dumps(sealed(found), indent=1) + "\n")
        (folder / STATE).unlink(missing_ok=True)
    try:
        found = unsealed((folder / FILE).read_text(encoding="utf-8"))
    except UNREADABLE as error:
        raise InputError(f"{folder / FILE}: damaged ({error}); remove it, and the programs are tuned "
                         "again") from None  # fmt: skip
    found["folder"] = f"{folder.parent.name}/{folder.name}"
    return {h: load(f, allow_lookahead=model.lookahead) for h, f in files.items()}, found


def _tune(model: ReplacedModel, files: Mapping[Pair, Path], settings: TuneSettings, further: Sequence[Ids],
          state: Path, tell: Tell) -> dict[str, Any]:  # fmt: skip
    """Tune, write the programs and their table, and return what there is to tell."""
    heads, started = list(files), time.monotonic()

    def tick(batches: int, total: int, history: Sequence[Epoch]) -> None:
        kl = f", KL {history[-1].select_kl:.4f}" if history else ""
        tell(f"tuning{kl}", batches, total)

    done = tune(model, heads, settings, further, state=state, tick=tick)
    seconds, tuned = time.monotonic() - started, done.programs
    for head, file in files.items():
        write(file, tuned[head].source)
    split, per_layer = Split(model.capture, model.splits["test"]), model.capture.heads_per_layer
    numbers = [(head, head[0] * per_layer + head[1]) for head in heads]
    compared = [split.compare([model.programs[head].tree, tuned[head].tree], n) for head, n in numbers]
    before, after = np.array([one.ious for one in compared]).swapaxes(0, 1)
    rows = []
    for head, one in zip(heads, compared, strict=True):
        row: dict[str, Any] = {"layer": head[0], "head": head[1], "program": files[head].name}
        for at, when in enumerate(("before", "after")):
            outputs = output_r2(one.errors[at : at + 1], one.spreads[None], model.seed)
            row |= bootstrap(one.ious[at], model.seed).named(f"iou_{when}")
            row |= outputs.named(f"output_r2_{when}")
        rows.append(row | {"texts": len(model.splits["test"])})
    write(state.parent / "tuned.csv", table(rows[0], (row.values() for row in rows)))
    return {"heads": rows, "mean_iou_before": asdict(bootstrap(before.mean(0), model.seed)),
            "mean_iou_after": asdict(bootstrap(after.mean(0), model.seed)),
            "history": [epoch._asdict() for epoch in done.history], "best": done.best, "seconds": seconds,
            "texts": len(model.splits["fit"]) + len(further)}  # fmt: skip

"""Tuned programs on disk: new `.attn` files, their IoU before and after, and the trade-off."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import load
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.files import write
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.replace.measure import effect
from attn_dsl.eval.replace.source import Head
from attn_dsl.eval.replace.subject import own_text
from attn_dsl.eval.replace.tune import Epoch, Texts, TuneSettings, tune

if TYPE_CHECKING:
    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.replace.measure import HeldOut
    from attn_dsl.eval.replace.options import Options
    from attn_dsl.eval.replace.stand_ins import StandIns
    from attn_dsl.eval.replace.subject import Subject

FILE, STATE = "tuned.json", "state.safetensors"
COLUMNS = (
    "layer", "head", "program", "iou_before", "iou_before_low", "iou_before_high", "iou_after",
    "iou_after_low", "iou_after_high", "texts",
)  # fmt: skip


def tuned_programs(
    subject: Subject, stand_ins: StandIns, held_out: HeldOut, heads: Sequence[Head], folder: Path,
    options: Options, tell: Callable[[str, int, int], None],
) -> tuple[dict[Head, Program], dict[str, Any]]:  # fmt: skip
    """Tune the programs of some heads and write them, or read what was written before.

    Returns:
        By head, the tuned programs as they were written; and what there is to tell: the epochs,
        IoU before and after, and the trade-off of IoU against perplexity, both on held-out texts.

    Raises:
        InputError: the folder holds programs that were tuned with other settings.
    """
    settings = TuneSettings(seed=options.seed)
    further = _further(subject, options)
    key = _key(subject, heads, settings, further)
    told = _finished(folder, key, options.overwrite)
    if told is None:
        told = _tune(subject, heads, settings, further, folder, key, tell)
    ahead = bool(subject.run.info["key"].get("allow_lookahead"))
    programs = {h: load(folder / f"{_label(h)}.attn", allow_lookahead=ahead) for h in heads}
    found = dict(told["found"])
    found["tradeoff"] = _tradeoff(subject, stand_ins, held_out, heads, found["path"], options.seed)
    del found["path"]
    return programs, found


def _tune(
    subject: Subject, heads: Sequence[Head], settings: TuneSettings, further: Texts, folder: Path,
    key: Mapping[str, Any], tell: Callable[[str, int, int], None],
) -> dict[str, Any]:  # fmt: skip
    """Tune, and write programs first and then the file that says that they are finished."""
    from attn_dsl.eval.files import table

    folder.mkdir(parents=True, exist_ok=True)
    tell("tuning", 0, settings.epochs)
    started = time.monotonic()

    def tick(epoch: Epoch, total: int) -> None:
        tell(f"tuning, KL {epoch.select_kl:.4f}", epoch.number, total)

    done = tune(subject, heads, settings, further, state=folder / STATE, tick=tick)
    seconds = time.monotonic() - started
    for head, program in done.programs.items():
        write(folder / f"{_label(head)}.attn", program.source)
    before = program_ious(
        subject.capture, subject.splits["test"], {h: subject.programs[h] for h in heads}
    )
    after = program_ious(subject.capture, subject.splits["test"], done.programs)
    rows, ious = [], []
    for i, head in enumerate(heads):
        pair = [bootstrap(values[i], subject.seed) for values in (before, after)]
        numbers = [x for e in pair for x in (e.mean, e.low, e.high)]
        rows.append((*head, f"{_label(head)}.attn", *numbers, pair[0].texts))
        ious.append({"head": list(head), "before": asdict(pair[0]), "after": asdict(pair[1])})
    write(folder / "tuned.csv", table(COLUMNS, rows))
    found = {
        "heads": ious,
        "mean_iou_before": asdict(bootstrap(before.mean(0), subject.seed)),
        "mean_iou_after": asdict(bootstrap(after.mean(0), subject.seed)),
        "history": [asdict(epoch) for epoch in done.history],
        "best": done.best,
        "seconds": seconds,
        "texts": len(subject.splits["fit"]) + len(further),
        "path": {
            str(share): {_label(head): program.source for head, program in programs.items()}
            for share, programs in done.path.items()
        },
    }
    told = {"key": dict(key), "found": found}
    write(folder / FILE, json.dumps(told, indent=1) + "\n")
    (folder / STATE).unlink(missing_ok=True)
    return told


def _tradeoff(
    subject: Subject, stand_ins: StandIns, held_out: HeldOut, heads: Sequence[Head],
    path: Mapping[str, Mapping[str, str]], seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure IoU and perplexity along the way from the fitted weights to the tuned ones."""
    from attn_dsl.compiler.program import parse

    ahead = bool(subject.run.info["key"].get("allow_lookahead"))
    found = []
    for share, sources in path.items():
        programs = {
            head: parse(sources[_label(head)], _label(head), allow_lookahead=ahead)
            for head in heads
        }
        stand_ins.programs["on the way"] = programs
        sums = stand_ins.measure(held_out, "on the way", heads)
        ious = program_ious(subject.capture, subject.splits["test"], programs)
        measured = effect(sums, held_out.original, seed)
        found.append(
            {
                "share": float(share),
                "iou": asdict(bootstrap(ious.mean(0), seed)),
                "ratio": asdict(measured.ratio),
                "kl": asdict(measured.kl),
            }
        )
    return found


def program_ious(
    capture: Capture, texts: Sequence[int], programs: Mapping[Head, Program]
) -> np.ndarray:
    """Score each program against its own head, float64 (programs, texts)."""
    heads = list(programs)
    numbers = [layer * capture.heads_per_layer + head for layer, head in heads]
    plan = Plan([programs[h].tree for h in heads], Batch([capture.tokens(i) for i in texts]))
    out = np.empty((len(heads), len(texts)))
    for at, text in enumerate(texts):
        actual, predicted = capture.attention(text, numbers), plan.packed(at)
        shared = np.minimum(actual, predicted).sum(1, dtype=np.float64)
        whole = actual.sum(1, dtype=np.float64) + predicted.sum(1, dtype=np.float64)
        out[:, at] = shared / (whole - shared)
    return out


def _further(subject: Subject, options: Options) -> Texts:
    """Return the windows to tune on beside the fit texts: none that is selected or measured on."""
    if options.tune_text is None:
        return ()
    found = own_text(
        subject, options.tune_text, options.max_tokens, options.tune_texts,
        unseen=("fit", "select", "test"), other_than=options.text,
    )  # fmt: skip
    return found.ids


def _key(
    subject: Subject, heads: Sequence[Head], settings: TuneSettings, further: Texts
) -> dict[str, Any]:
    sources = "".join(subject.programs[head].source for head in heads)
    return {
        "revision": subject.loaded.revision,
        "capture": subject.capture.hash,
        "programs": hashlib.sha256(sources.encode()).hexdigest(),
        "heads": [_label(head) for head in heads],
        "further texts": hashlib.sha256(repr(further).encode()).hexdigest() if further else None,
        **asdict(settings),
    }


def _finished(folder: Path, key: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Return what a finished tuning with the same settings left, None if there is none."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known, _ = told["key"], told["found"]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: damaged ({error}); delete it and tune again") from None
    if known == dict(key):
        return told
    if overwrite:
        for old in [file, *folder.glob("L*.attn")]:
            old.unlink()
        return None
    wrong = [name for name in key if known.get(name) != key[name]]
    raise InputError(
        f"{folder} holds programs that were tuned with other settings ({', '.join(wrong)}); keep "
        "them by another --out DIR, or replace them by --overwrite"
    )


def _label(head: Head) -> str:
    from attn_dsl.eval.heads import label

    return label(*head)

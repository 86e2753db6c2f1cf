"""The whole fit: text and model to attention, to programs for every head, to a run directory."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl.errors import AttnDslError, InputError
from attn_dsl.synth.run import Run, refuse_other_work

if TYPE_CHECKING:
    from attn_dsl.eval.capture import Capture
    from attn_dsl.synth.result import Candidate, HeadResult
    from attn_dsl.synth.search import Session, Settings


@dataclass(frozen=True, slots=True)
class Progress:
    """What a fit tells whoever watches it.

    Attributes:
        stage: ``capture``, ``prepare`` or ``search``.
        done, total: texts or heads.
        result: the head that was just finished, if any.
    """

    stage: str
    done: int
    total: int
    result: HeadResult | None = None


Watcher = Callable[[Progress], None]


def parse_heads(text: str | None, layers: int, heads: int) -> list[tuple[int, int]]:
    """Read a choice of heads: ``L2H3`` one head, ``L4`` a layer; None is all of them.

    >>> parse_heads("L1H0,L0", layers=2, heads=2)
    [(0, 0), (0, 1), (1, 0)]

    Raises:
        InputError: it is written otherwise, or there is no such head.
    """
    if text is None:
        return [(layer, head) for layer in range(layers) for head in range(heads)]
    chosen: set[tuple[int, int]] = set()
    for part, layer, one in read_heads(text):
        for head in range(heads) if one is None else [one]:
            if layer >= layers or head >= heads:
                raise InputError(
                    f"--heads: there is no {part}; the model has layers 0 to {layers - 1} with "
                    f"heads 0 to {heads - 1}"
                )
            chosen.add((layer, head))
    return sorted(chosen)


def read_heads(text: str) -> list[tuple[str, int, int | None]]:
    """Read a choice of heads without knowing the model: each part, its layer, its head if any.

    >>> read_heads("L1H0,L0")
    [('L1H0', 1, 0), ('L0', 0, None)]
    """
    parts = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = re.fullmatch(r"[Ll](\d+)(?:\.?[Hh](\d+))?", part)
        if not found:
            raise InputError(
                f"--heads: cannot read {part!r}; write L2H3 for a head, L4 for a layer"
            )
        parts.append((part, int(found[1]), None if found[2] is None else int(found[2])))
    if not parts:
        raise InputError("--heads names no head; write L2H3 for a head, L4 for a layer")
    return parts


def fit(
    model: str | None = None,
    text: str | None = None,
    *,
    capture: str | Path | Capture | None = None,
    out: str | Path,
    heads: str | None = None,
    seed: int = 0,
    timeout: float | None = None,
    max_evals: int = 200,
    max_nodes: int = 200,
    max_tokens: int = 128,
    max_texts: int = 300,
    proposers: Sequence[str] = ("library", "greedy"),
    allow_lookahead: bool = False,
    jobs: int | None = None,
    resume: bool = False,
    watch: Watcher | None = None,
) -> Run:
    """Find a program for each head of a model, and write a run directory.

    >>> run = fit("gpt2", "stories.jsonl", out="runs/gpt2", heads="L5H1")
    >>> run.program(5, 1)
    <Program l05h01: 38 nodes>

    Args:
        model: a Hugging Face id or a directory; None for the demo model.
        text: a .txt or .jsonl file, or ``hf:dataset``; None for the demo model's own stories.
        capture: attention captured before, instead of a model and a text.
        out: the run directory.
        heads: ``"L2H3,L4"``; all by default.
        seed: decides everything that is drawn.
        timeout: seconds for the whole search, after which every head keeps what it has.
        max_evals, max_nodes: how many programs are fitted to a head, and how large they may be.
        max_tokens, max_texts: how much text is captured, where no capture is given.
        proposers: who suggests programs; see ``synth.search.PROPOSERS``.
        allow_lookahead: accept causal programs that read the whole text.
        jobs: how many heads are searched at once; all cores by default. The result is the same.
        resume: go on with a run that was interrupted.
        watch: called with progress.

    Raises:
        InputError: something that was given cannot be used; the message says what and why.
        KeyboardInterrupt: interrupted; the heads that were finished are on disk.
    """
    from attn_dsl.synth.search import PROPOSERS, Session, Settings

    unknown = [name for name in proposers if name not in PROPOSERS]
    if unknown or not proposers:
        wrong = f"unknown {', '.join(unknown)}" if unknown else "none is named"
        raise InputError(f"--proposers: {wrong}; known: {', '.join(PROPOSERS)}")
    for name, value in (
        ("--max-evals", max_evals),
        ("--max-nodes", max_nodes),
        ("--jobs", jobs or 1),
    ):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    started = time.monotonic()
    tell = watch or (lambda progress: None)
    settings = Settings(
        seed=seed, proposers=tuple(proposers), max_evals=max_evals, max_nodes=max_nodes,
        allow_lookahead=allow_lookahead,
    )  # fmt: skip
    refuse_other_work(Path(out), resume)
    if heads is not None:
        read_heads(heads)
    try:
        attention = _attention(model, text, capture, Path(out), max_tokens, max_texts, tell)
    except AttnDslError:
        _remove_empty(Path(out))
        raise
    chosen = parse_heads(heads, attention.n_layers, attention.heads_per_layer)
    session = Session(attention, settings)
    _refuse_empty_splits(session)
    run = Run.create(out, _info(attention, session, settings, chosen), resume=resume)
    left = [pair for pair in chosen if not run.done(*pair)]
    deadline = None if timeout is None else started + timeout
    workers = jobs or os.cpu_count() or 1
    try:
        _search(run, session, left, len(chosen), deadline, workers, tell)
    except KeyboardInterrupt:
        run.tabulate()
        run.update(status="interrupted")
        raise
    run.tabulate()
    short = [r.label for r in run.results if r.cut_short]
    run.update(status="done", cut_short=short)
    return run


def _remove_empty(out: Path) -> None:
    """Take back the folders that were made for a capture that could not be."""
    for folder in (out / "capture", out):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _attention(
    model: str | None, text: str | None, capture: str | Path | Capture | None, out: Path,
    max_tokens: int, max_texts: int, tell: Watcher,
) -> Capture:  # fmt: skip
    """Open the capture that is given, or make one."""
    from attn_dsl.eval import capture as captures
    from attn_dsl.eval.texts import read_texts

    if capture is not None:
        if model is not None or text is not None:
            raise InputError("give either --capture, or MODEL and --text, not both")
        if isinstance(capture, captures.Capture):
            return capture
        return captures.Capture.open(capture)
    if model is not None and text is None:
        raise InputError("a model needs a text to read: --text FILE (.txt, .jsonl or hf:dataset)")
    from attn_dsl import demo

    texts = read_texts(text or str(demo.stories_path()))

    def progress(done: int, total: int) -> None:
        tell(Progress("capture", done, total))

    return captures.capture(
        model or str(demo.model_dir()), texts, out / "capture", max_tokens=max_tokens,
        max_texts=max_texts, progress=progress,
    )  # fmt: skip


def _refuse_empty_splits(session: Session) -> None:
    empty = [name for name, texts in session.texts.items() if not texts]
    if empty:
        raise InputError(
            f"{session.capture.n_texts} texts are too few: nothing is left to {', '.join(empty)} "
            "on; give at least 10 texts"
        )


def _info(
    capture: Capture, session: Session, settings: Settings, heads: Iterable[tuple[int, int]]
) -> dict[str, Any]:
    """Return what ``run.json`` holds when a run starts."""
    import platform
    from importlib.metadata import version

    sizes = {name: len(texts) for name, texts in session.texts.items()}
    lengths = [len(capture.tokens(i)) for i in range(capture.n_texts)]
    key = {**asdict(settings), "capture": capture.hash, "heads": [list(pair) for pair in heads]}
    key["proposers"] = list(settings.proposers)
    packages = ("attn-dsl", "torch", "transformers", "numpy", "numba", "lark")
    return {
        "key": key,
        "status": "running",
        "model": capture.name,
        "capture": str(capture.path) if capture.path else None,
        "capture_settings": {
            k: v for k, v in capture.meta.items() if isinstance(v, str | int | float | bool)
        },
        "causal": capture.causal,
        "layers": capture.n_layers,
        "heads_per_layer": capture.heads_per_layer,
        "texts": sizes,
        "split": capture.split_rule(settings.seed),
        "tokens_per_text": sum(lengths) / max(len(lengths), 1),
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _search(
    run: Run, session: Session, left: list[tuple[int, int]], total: int, deadline: float | None,
    workers: int, tell: Watcher,
) -> None:  # fmt: skip
    """Search the heads that are left, several at once, recording each as it is finished."""
    from attn_dsl.eval.controls import control_ious

    done = total - len(left)
    tell(Progress("search", done, total))
    if not left:
        return
    capture = session.capture
    numbers = [layer * capture.heads_per_layer + head for layer, head in left]
    tell(Progress("prepare", 0, len(left)))
    executor: Executor = ThreadPoolExecutor(workers)
    futures: list[Future[tuple[HeadResult, list[Candidate]]]] = []
    try:
        scoring = executor.submit(control_ious, capture, session.texts, numbers)
        session.prepare()
        waiting = len(left)
        for at, (layer, head) in enumerate(left):
            futures.append(
                executor.submit(
                    _one, session, layer, head, scoring, deadline, len(left), at, workers
                )
            )
        for future in as_completed(futures):
            result, candidates = future.result()
            run.add(result, candidates)
            waiting -= 1
            tell(Progress("search", total - waiting, total, result))
    except BaseException:
        session.stop.set()
        for future in futures:
            future.cancel()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _one(
    session: Session, layer: int, head: int, scoring: Future[dict[str, Any]],
    deadline: float | None, heads: int, at: int, workers: int,
) -> tuple[HeadResult, list[Candidate]]:  # fmt: skip
    """Search one head with its fair share of the time that is left."""
    share = None
    if deadline is not None:
        now = time.monotonic()
        rounds = max(1.0, (heads - at) / workers)
        share = min(deadline, now + max(0.0, deadline - now) / rounds)

    def controls() -> dict[str, Any]:
        return {name: values[at] for name, values in scoring.result().items()}

    return session.search(layer, head, controls, share)

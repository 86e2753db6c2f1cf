"""The whole fit: text and model to attention, to programs for every head, to a run directory."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import AttnDslError, InputError, WorkError
from attn_dsl.dsl.printer import show
from attn_dsl.eval.files import alone, write
from attn_dsl.eval.heads import label, parse_heads, read_heads
from attn_dsl.eval.run import VOCABULARY, Run, refuse_other_work
from attn_dsl.synth.runs.progress import Progress, Watcher, watcher_here

if TYPE_CHECKING:
    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.capture import Capture
    from attn_dsl.eval.texts import Spec
    from attn_dsl.synth.llm.options import Options
    from attn_dsl.synth.runs.budget import Budget
    from attn_dsl.synth.runs.executors import Workers
    from attn_dsl.synth.session import Session, Settings


SCORES_SHARE = 0.12  # the most of a limited time in which shared scores are looked for
HELD_OUT_ENTRIES = 15_000
"""On about how many entries of the select split it is decided which of them are kept."""


def fit(model: str | None = None, text: Spec | None = None, *, out: str | Path | None = None,
        capture: str | Path | Capture | None = None, heads: str | None = None, seed: int = 0,
        timeout: float | None = None, max_evals: int = 1600, max_nodes: int = 200, effort: int = 1,
        max_tokens: int = 128, max_texts: int = 300, device: str = "cpu", dtype: str = "float32",
        objective: str | None = None, proposers: Sequence[str] | None = None,
        programs: Sequence[Program] = (), llm: str | Options | None = None, allow_lookahead: bool = False,
        jobs: int | None = None, scheduler: str | None = None, resume: bool = False,
        self_contained: bool = False, comments: bool = False,
        watch: Watcher | None = None) -> Run:  # fmt: skip
    """Find a program for each head of a model, and write a run directory.

    >>> run = fit("gpt2", "stories.jsonl", out="runs/gpt2", heads="L5H1")
    >>> run["L5H1"].program
    <Program l05h01: 38 nodes>

    Args:
        model: a Hugging Face id, a directory, a GGUF file or an embedded model, as for
            ``load_model``; None for the demo model.
        text: files, directories or ``hf:dataset``, one or several, as for ``read_texts``; None for
            an embedded model, which reads the demo model's stories.
        capture: attention captured before, instead of a model and a text.
        out: the run directory; ``runs/NAME-TIME`` by default.
        heads: ``"L2H3,L4"``; all by default.
        seed: decides everything that is drawn.
        timeout: seconds for everything, after which every head keeps what it has; a run that was
            cut short says so.
        max_evals, max_nodes: how many programs are fitted to a head, and how large they may be.
        effort: on how many samples of 150,000 entries of attention the programs of a head are searched.
        max_tokens, max_texts: how much text is captured, where no capture is given.
        device, dtype: of the model that is captured: ``cpu`` or ``cuda``; ``float32``, ``bfloat16``
            or ``float16``.
        objective: what programs are scored by: ``attention`` (IoU), ``output`` (output R²) or ``both``;
            by default both, and attention where the capture has no values.
        proposers: who suggests programs, by name (``synth.proposers.registry``); the usual ones if None.
        programs: those from which the proposer ``scores`` starts, instead of from none; it may leave
            out of them what brings too little.
        llm: the language model of the proposer ``llm``, or all of its options; if it is given and
            no proposers are, ``llm`` is asked beside the usual ones.
        allow_lookahead: accept causal programs that read the whole text.
        jobs: how many heads are searched at once; all cores by default. The result is the same.
        scheduler: the address of a Dask scheduler, whose workers search instead of this process;
            they must see the capture under the same path.
        resume: go on with a run that was interrupted, and search heads again that were cut short.
        self_contained: write programs with the definitions of the scores that they use.
        comments: write beside each term what it is worth.
        watch: called with progress; notebooks show a bar where it is None.

    Raises:
        InputError: something that was given cannot be used; the message says what and why.
        WorkError: the disk is full, the cluster went away, or no head was finished in time.
        KeyboardInterrupt: interrupted; the heads that were finished are on disk.
    """
    from attn_dsl.eval.capture_write import capture_of
    from attn_dsl.synth.given import checked
    from attn_dsl.synth.proposers import registry
    from attn_dsl.synth.runs.budget import Budget
    from attn_dsl.synth.runs.executors import open_workers

    started = time.monotonic()
    tell = watch or watcher_here()
    settings = settings_of(seed, max_evals, max_nodes, effort, proposers, llm=llm,
                           allow_lookahead=allow_lookahead, objective=objective)  # fmt: skip
    if programs and not any(registry.find(name).scores for name in settings.proposers):
        raise InputError("the proposer scores starts from given programs; add it to --proposers")
    if tables := [x.name for x in programs for term in x.tree.terms if isinstance(term, t.Table)]:
        raise InputError(
            f"{tables[0]}: a search cannot start from a table (`by …`); write a term for each of its "
            "steps, as in `? where q - k <= 3`")  # fmt: skip
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, not {jobs}")
    place = Path(out or fresh_place(model, capture))
    refuse_other_work(place, resume)
    if heads is not None:
        read_heads(heads)
    with open_workers(jobs, scheduler) as workers, alone(place):
        refuse_other_work(place, resume)
        try:
            attention = capture_of(capture, model, text, place / "capture", max_tokens=max_tokens,
                                   max_texts=max_texts, device=device, dtype=dtype,
                                   progress=lambda i, n: tell(Progress("capture", i, n)))  # fmt: skip
        except AttnDslError:
            with contextlib.suppress(OSError):
                (place / "capture").rmdir()  # nothing came of it
            raise
        starts = tuple(show(checked(one, attention, every=True)) for one in programs)
        chosen = parse_heads(heads, attention.n_layers, attention.heads_per_layer)
        session = ready_session(attention, replace(settings, programs=starts), place)
        if not workers.shares_memory and attention.path is None:
            raise InputError("--scheduler: a capture in memory cannot be searched on other machines")
        budget = Budget(timeout, started, len(chosen))
        return _search(session, place, chosen, budget, workers, tell, self_contained, comments)


def fresh_place(model: str | None, capture: str | Path | Capture | None) -> str:
    """Return a run directory that nothing is in: the name of the model or capture, and the time."""
    name = model or (capture if isinstance(capture, str | Path) else None) or "demo"
    return f"runs/{Path(name).name}-{time.strftime('%Y%m%d-%H%M%S')}"


def settings_of(seed: int, max_evals: int, max_nodes: int, effort: int, proposers: Sequence[str] | None, *,
                allow_lookahead: bool, llm: str | Options | None = None,
                objective: str | None = None) -> Settings:  # fmt: skip
    """Return the settings of a search; see ``fit``.

    Raises:
        InputError: one of them is out of range, or a proposer or objective is not known.
    """
    from attn_dsl.synth.llm.named import absolute, check_spec
    from attn_dsl.synth.llm.options import Options
    from attn_dsl.synth.objective import OBJECTIVES
    from attn_dsl.synth.proposers import registry
    from attn_dsl.synth.session import Settings

    if objective not in (None, *OBJECTIVES):
        raise InputError(f"--objective: there is no {objective}; known: {', '.join(OBJECTIVES)}")
    if proposers is None:
        proposers = (*registry.DEFAULT, *(() if llm is None else ("llm",)))
    if not proposers:
        raise InputError(f"--proposers names none; known: {', '.join(registry.names())}")
    for name in proposers:
        registry.find(name)
    sizes = {"--seed": seed, "--max-evals": max_evals, "--max-nodes": max_nodes, "--effort": effort}
    for name, value in sizes.items():
        if not (least := int(name != "--seed")) <= value < 2**63:
            raise InputError(f"{name} must be from {least} to 2^63 - 1, not {value}")
    options = Options(model=llm) if isinstance(llm, str) else llm or Options()
    options = replace(options, model=absolute(options.model))
    if "llm" in proposers:
        check_spec(options.model)
    elif llm is not None:
        raise InputError("--llm is for the proposer llm; add it to --proposers, or leave that out")
    return Settings(seed=seed, proposers=tuple(proposers), max_evals=max_evals, max_nodes=max_nodes,
                    effort=effort, allow_lookahead=allow_lookahead, llm=options,
                    objective=objective or "")  # fmt: skip


def ready_session(capture: Capture, settings: Settings, run: Path | None = None) -> Session:
    """Return the session of a capture that has texts to fit, select and test on.

    Raises:
        InputError: it has not, or lacks the values that the objective needs.
    """
    from attn_dsl.synth.session import Session

    session = Session(capture, with_objective(settings, capture), run)
    if empty := [name for name, texts in session.texts.items() if not texts]:
        raise InputError(
            f"{capture.n_texts} texts are too few: nothing is left to {', '.join(empty)} on; give at "
            "least 10 texts")  # fmt: skip
    return session


def with_objective(settings: Settings, capture: Capture) -> Settings:
    """Choose the objective of a search where none was asked for: both, if the capture has values.

    Raises:
        InputError: outputs are asked for, and the capture has no values.
    """
    objective = settings.objective or ("both" if capture.has_outputs else "attention")
    if objective != "attention" and not capture.has_outputs:
        raise InputError(
            f"--objective {objective} needs the values of heads, and {capture.path or capture.name} "
            f"has none: {capture.lacking}; or give --objective attention")  # fmt: skip
    return replace(settings, objective=objective)


def _search(session: Session, out: Path, chosen: list[tuple[int, int]], budget: Budget, workers: Workers,
            tell: Watcher, self_contained: bool, comments: bool) -> Run:  # fmt: skip
    """Search the heads, and keep the run's status up to date."""
    from attn_dsl.eval.scores import comment_vocabulary, write_programs
    from attn_dsl.synth.llm.record import told
    from attn_dsl.synth.program_cover import shared_library
    from attn_dsl.synth.proposers import registry
    from attn_dsl.synth.runs.heads import ask_heads, search_heads
    from attn_dsl.synth.runs.worker import Place, at_hand, processor, versions

    settings, capture = session.settings, session.capture
    path = None if capture.path is None else str(capture.path.resolve())
    place = Place(path, capture.hash, settings, versions(settings.proposers), str(out.resolve()))
    written = {"self_contained": self_contained, "comments": comments}
    run = Run.create(out, _info(session, chosen) | {"written": written})
    run.update(processors=sorted({processor(), *run.info.get("processors", ())}))
    if asked := run.info.get("asked"):  # those whose result is gone are asked about again
        run.update(asked=[pair for pair in asked if tuple(pair) in run])
    here = at_hand(place, session) if workers.shares_memory else contextlib.nullcontext()
    tell(Progress("prepare", 0, len(chosen)))
    try:
        if any(registry.find(name).scores for name in settings.proposers):
            _share_scores(run, session, chosen, budget, workers, tell)
        with here:
            asks = "llm" in settings.proposers
            if len(settings.proposers) > asks:
                most = budget if not asks else budget.without(settings.llm.seconds)
                search_heads(run, place, chosen, most, workers, tell)
            if asks:
                ask_heads(run, place, chosen, budget, workers, tell)
    except (KeyboardInterrupt, WorkError):
        with contextlib.suppress(WorkError):  # a full disk does not take this either
            run.tabulate()
            run.update(status="interrupted")
        raise
    run.tabulate()
    if not run.results:
        raise WorkError(
            f"--timeout {budget.limit:g}: the time was over before any head was finished; give more "
            "and go on with --resume")  # fmt: skip
    if "llm" in settings.proposers:
        run.update(llm=told(out))
    if len(run.results) > 1:
        run.share(shared_library(run.results, session.select, session.test, run.resolve))
    comment_vocabulary(run)
    if self_contained or comments:
        write_programs(run, self_contained, comments)
    run.update(status="out of time" if run.missing else "done", cut_short=run.cut_short,
               not_reached=[label(*pair) for pair in run.missing])  # fmt: skip
    return run


def _share_scores(run: Run, session: Session, chosen: list[tuple[int, int]], budget: Budget, workers: Workers,
                  tell: Watcher) -> None:  # fmt: skip
    """Find the scores that heads share, and write them to the run; once found, they stay."""
    import os

    from attn_dsl.dsl.definitions import show_definitions
    from attn_dsl.synth.design import Design
    from attn_dsl.synth.scores.vocabulary import find_vocabulary

    if run.definitions is not None:
        return
    capture, seed = session.capture, session.settings.seed
    width = capture.heads_per_layer
    held_out = Design(capture, session.texts["select"][::2], HELD_OUT_ENTRIES, seed)
    found = find_vocabulary(
        session.design, held_out, [layer * width + head for layer, head in chosen], seed,
        workers.slots if workers.shares_memory else os.cpu_count() or 1,
        math.inf if budget.remaining is None else SCORES_SHARE * max(0.0, budget.remaining),
        lambda i, n: tell(Progress("scores", i, n)))  # fmt: skip
    write(run.path / VOCABULARY, show_definitions(found))
    run.update(vocabulary=found.digest)


def _info(session: Session, heads: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Return what ``run.json`` holds when a run starts."""
    import platform
    from importlib.metadata import version

    capture, settings = session.capture, session.settings
    sizes = {name: len(texts) for name, texts in session.texts.items()}
    lengths = [len(capture.tokens(i)) for i in range(capture.n_texts)]
    key = {**asdict(settings), "capture": capture.hash, "heads": [list(pair) for pair in heads]}
    key["proposers"] = list(settings.proposers)
    key["programs"] = list(settings.programs) or None
    if "llm" not in settings.proposers:
        del key["llm"]
    packages = ("attn-dsl", "torch", "transformers", "numpy", "numba", "lark")
    return {
        "key": key, "status": "running", "model": capture.name,
        "capture": str(capture.path.resolve()) if capture.path else None,
        "capture_settings": {name: value for name, value in capture.meta.items()
                             if isinstance(value, str | int | float | bool)},
        "lacking": capture.lacking, "causal": capture.causal, "layers": capture.n_layers,
        "heads_per_layer": capture.heads_per_layer, "texts": sizes,
        "split": capture.split_and_rule(settings.seed)[1],
        "tokens_per_text": sum(lengths) / max(len(lengths), 1),
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}  # fmt: skip

"""`attn-dsl fit`: programs for every head, with a progress bar and a hall of fame."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attn_dsl.cli import completion, interrupt, language_model, options

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.run import Run
    from attn_dsl.synth.runs.progress import Progress

FITTING = ("text capture heads seed max_tokens max_texts device dtype objective allow_lookahead "
           "jobs").split()  # fmt: skip
"""The settings of a fit that do not belong to the search."""
RECALLED = "proposers objective seed max_evals max_nodes effort allow_lookahead".split()
"""Those that ``run.json`` holds under their names."""


@click.command()
@click.argument("model", shell_complete=completion.models, required=False)
@options.text_option()
@options.capture_option()
@click.option("--heads", **options.HEADS, help="Heads to fit, as in L2H3,L4; all by default.")
@click.option("--out", **options.DIR, help="Run directory; runs/NAME-TIME by default.")
@click.option("--program", **options.FILE, multiple=True,
              help="Fit the holes of this program instead of searching, and say how well it does beside "
              "controls and the programs of a run in --out; can be given more than once.")  # fmt: skip
@click.option("--refit", is_flag=True, help="Fit all weights of --program, not only its holes.")
@click.option("--extend", is_flag=True,
              help="Also search, from these programs: weights are fitted, terms added.")  # fmt: skip
@options.seed_option()
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="S",
              help="End after S seconds, all included; every head keeps what it has.")  # fmt: skip
@click.option("--max-evals", metavar="N", type=click.IntRange(1), default=1600, show_default=True,
              help="Fit at most so many programs to a head.")  # fmt: skip
@click.option("--max-nodes", metavar="N", type=click.IntRange(1), default=200, show_default=True,
              help="The largest program.")  # fmt: skip
@click.option("--effort", metavar="N", type=click.IntRange(1), default=1, show_default=True,
              help="Search so many samples of rows, keep the best; time and memory grow.")  # fmt: skip
@options.max_tokens_option()
@options.max_texts_option()
@options.device_option()
@options.dtype_option()
@click.option("--objective", type=click.Choice(["attention", "output", "both"]),
              help="Score programs by IoU, by output R², or by both; both by default, attention "
              "where a capture has no values.")  # fmt: skip
@click.option("--proposers", metavar="LIST",
              help="Who suggests programs: library, scores, llm; all but llm by default.")  # fmt: skip
@language_model.options
@options.define_option()
@options.lookahead_option()
@click.option("--jobs", type=click.IntRange(1), metavar="N",
              help="Heads searched at once; all cores by default. Results do not depend on it.")  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS",
              help="Search on the workers of this Dask cluster, as in tcp://HOST:8786; they must "
              "see the run directory or --capture under the same path.")  # fmt: skip
@click.option("--dry-run", is_flag=True,
              help="Only print what would be done and what it takes: disk, memory, time.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with the run in --out, or RUN in the place of MODEL, "
              "that was interrupted or cut short; options that are not given are as they were.")  # fmt: skip
@click.option("--self-contained", is_flag=True,
              help="Write programs with the definitions of the scores that they use inside.")  # fmt: skip
@click.option("--comments", is_flag=True, help="Write beside each term what it is worth.")
@options.json_option()
def fit(model: str | None, out: str | None, as_json: bool, dry_run: bool, proposers: str | None,
        program: tuple[str, ...], refit: bool, extend: bool, define: tuple[str, ...],
        **settings: Any) -> None:  # fmt: skip
    """Find a program for each head of MODEL and write a run directory.

    MODEL is a Hugging Face id, a directory, FILE.gguf, hf:REPO:FILE.gguf, or an embedded model:
    demo, or smollm2 where its package is installed. Embedded models read the demo model's stories
    where no --text is given; without MODEL, it is demo. With --program, programs of your own are
    fitted and judged instead (hypotheses.csv).
    """
    given = given_options()
    starts: list[Program] = []
    if settings["resume"] and out is None and model and (Path(model) / "run.json").is_file():
        out, model = model, None
        del given["model"]
    searches = extend or not program
    if (refit or extend) and not program:
        raise click.UsageError("--refit and --extend are for programs of your own: give --program FILE")
    if not searches:
        refuse_search_options()
    options.quiet_libraries()
    # Heads are searched side by side; threads within a matrix product would only be in their way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from attn_dsl.synth import fit as fits

    if out is None:
        out = fits.fresh_place(model, settings["capture"])
    suggesting = None if proposers is None else list(options.name_list(proposers))
    settings["llm"] = language_model.chosen(settings, suggesting)
    if settings["resume"] and (Path(out) / "run.json").is_file() and searches:
        was, starts = recalled(out, given)
        suggesting = was.pop("proposers") if proposers is None else suggesting
        settings |= was
    if dry_run:
        from attn_dsl.cli.plan import print_plan

        print_plan(model, out, suggesting, as_json, **settings)
        return
    screen = options.console(stderr=True)
    fitting = {name: settings[name] for name in FITTING}
    kept = [f"{given[name]}={settings[name]}" for name in ("jobs", "scheduler") if name in given]
    kept += ["--json"] * as_json
    how = partial(how_to_go_on, out, searches, bool(program), kept)
    if program:
        from attn_dsl.compiler.program import load

        ahead = settings["allow_lookahead"]
        starts = [load(one, allow_lookahead=ahead, define=define) for one in program]
    with interrupt.told(how), options.progress_bar(screen) as bar:
        watcher, run = Watcher(bar), None
        if searches:
            from attn_dsl.eval.report import write_run_report

            run = fits.fit(model, out=out, watch=watcher, proposers=suggesting, programs=starts, **settings)
            bar.update(watcher.task, description="writing the report")
            write_run_report(run, settings["capture"])
        if program:
            from attn_dsl.cli.hypotheses import json_rows, print_hypotheses
            from attn_dsl.synth.hypothesis import fit_hypotheses

            found = fit_hypotheses(starts, model, out=out, watch=watcher, refit=refit or extend, **fitting)
    if as_json:
        data = {} if run is None else summary(run)
        if program:
            data["hypotheses"] = json_rows(found)
        options.print_json(data, sort_keys=True)
        return
    if run is not None:
        print_run(run)
    if program:
        print_hypotheses(found, out)


def refuse_search_options() -> None:
    """Refuse options that only a search reads, where only hypotheses are fitted."""
    for name, option in given_options().items():
        if name not in (*FITTING, "model", "out", "program", "refit", "define", "as_json"):
            raise click.UsageError(f"{option} is for the search, and --program alone does not search; leave "
                                   "it out, or search from the program with --extend")  # fmt: skip


def given_options() -> dict[str, str]:
    """Return the options and arguments that the command line gives, by name, as they are written."""
    context, given = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
    named = ((one.name or "", one.opts[0]) for one in context.command.params)
    return {name: opt for name, opt in named if context.get_parameter_source(name) is given}


def recalled(out: str, given: Collection[str]) -> tuple[dict[str, Any], list[Program]]:
    """Return the settings of a run that are not given, and the programs that its search starts from."""
    from attn_dsl.compiler.program import parse
    from attn_dsl.eval.run import Run
    from attn_dsl.synth.llm.options import Options

    run = Run.open(out)
    key = run.info["key"]
    was = {name: key[name] for name in RECALLED if name in key} | run.info.get("written", {})
    was["heads"] = ",".join(f"L{layer}H{head}" for layer, head in key["heads"])
    if "llm" in key and not any(name.startswith("llm_") for name in given):
        was["llm"] = Options(**key["llm"])
    if not {"model", "text", "capture"} & set(given):
        was["capture"] = str(run.open_capture().path)
    ahead = key["allow_lookahead"]
    starts = [parse(x, allow_lookahead=ahead, resolve=run.resolve) for x in key["programs"] or ()]
    return {name: x for name, x in was.items() if name not in given}, starts


def how_to_go_on(out: str, searches: bool, whole: bool, kept: list[str]) -> str:
    """Say how an interrupted fit is continued: by ``run.json`` and ``kept``, or by the ``whole`` command."""
    there = Path(out).exists()
    resume = [("--resume",)] if searches and there else []
    command = interrupt.same_command(("--out", out), *resume)
    if searches and not whole and (Path(out) / "run.json").exists():
        command = shlex.join(["attn-dsl", "fit", "--resume", "--out", out, *kept])
    kept_so_far = f"what is finished is in {out}" if there else "nothing was found yet"
    return f"{kept_so_far}. Go on with:\n{command}"


class Watcher:
    """Shows progress on the terminal: a bar, and one line for each head as it is finished."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.task = bar, bar.add_task("starting", total=None)
        self.shown: dict[str, str] = {}  # by head, the program that was told

    def __call__(self, progress: Progress) -> None:
        """Show how far a fit is."""
        from attn_dsl.eval.metrics import decimal
        from attn_dsl.synth.runs.progress import STAGES

        what, done, total = STAGES[progress.stage], progress.done, progress.total
        if progress.left is not None:
            what += f" ({progress.left:.0f} s left)"
        self.bar.update(self.task, description=what, completed=done, total=total)
        r = progress.result
        if r is None or self.shown.get(r.label) == r.program:
            return
        if not self.shown:
            self.bar.console.print("head    IoU on test texts     control  output R²  control  nodes  "
                                   "category")  # fmt: skip
        self.shown[r.label] = r.program
        control, r2, of_outputs = (decimal(x) for x in (r.best_control[1], r.test["output_r2"].mean,
                                       r.best_output_control[1]))  # fmt: skip
        self.bar.console.print(f"{r.label}  {r.test['iou'].with_interval:20}  {control:>7}  {r2:>9}  "
                               f"{of_outputs:>7}  {r.nodes:5}  {r.category}")  # fmt: skip


def summary(run: Run) -> dict[str, Any]:
    """Return the outcome of a run as JSON data."""
    from attn_dsl.eval.results import summarise

    found = summarise(run.results, run.info["key"]["seed"])
    told = {name: run.info[name] for name in ("model", "status", "texts", "tokens_per_text")}
    later = {name: run.info.get(name, []) for name in ("cut_short", "not_reached")}
    return {"run": str(run.path), **told, "heads": len(run.results), **found.iou.named("iou_test"),
            **found.output_r2.named("output_r2"),
            "output_r2_median": None if run.lacking else found.output_r2_median, "nodes": found.nodes,
            "controls": found.controls,
            "controls_output_r2_median": {} if run.lacking else found.controls_output_r2,
            "library": run.info.get("library"), "llm": run.info.get("llm"), **later}  # fmt: skip


def print_run(run: Run) -> None:
    """Print the heads of a run, the front of the best explained one, and the means."""
    from attn_dsl.eval.metrics import decimal
    from attn_dsl.eval.report_text import terms_line

    screen, results, known = options.console(), run.results, not run.lacking
    options.print_table(
        ("head", "IoU", "no sink", "control", *("output R²", "control") * known, "nodes", "terms"),
        [(r.label, *map(decimal, (r.test["iou"].mean, r.test["iou_no_sink"].mean, r.best_control[1])),
                *map(decimal, (r.test["output_r2"].mean, r.best_output_control[1]) * known), str(r.nodes),
                terms_line(r.program)) for r in results], left=("head",), cut="terms")  # fmt: skip
    best = max(results, key=lambda r: r.gain)
    screen.print(f"\n[bold]Hall of fame of {best.label}[/], furthest above its best control:")
    options.print_table(
        ("nodes", "IoU select", "test", *("output R² select", "test") * known, "gain/node", ""),
        [(str(row.nodes), decimal(row.iou_select), decimal(row.iou_test),
                *map(decimal, (row.output_r2_select, row.output_r2_test) * known), f"{row.gain_by_node:.4f}",
                "<- chosen" if row.chosen else "") for row in best.front])  # fmt: skip
    screen.print()
    options.print_program(best.program)
    for line in told(run):
        screen.print(line, markup=False)
    screen.print(f"Run: {run.path}    Report: {run.report}", markup=False, soft_wrap=True)


def told(run: Run) -> Iterator[str]:
    """Yield what is said of a run as a whole, in sentences."""
    from attn_dsl.eval.metrics import decimal
    from attn_dsl.eval.results import summarise

    info, found = run.info, summarise(run.results, run.info["key"]["seed"])
    yield (f"{len(run.results)} heads, mean IoU {found.iou}, {found.nodes:.0f} nodes in the mean; "
           f"{info['tokens_per_text']:.0f} tokens a text; fitted on {info['texts']['fit']}, picked on "
           f"{info['texts']['select']}.")  # fmt: skip
    means = ", ".join(f"{name} {value:.3f}" for name, value in found.controls.items())
    yield f"Controls on the same texts: {means}."
    if run.lacking:
        yield f"Output R² is not known: {run.lacking}."
    else:
        yield f"Mean output R² {found.output_r2}, median over heads {decimal(found.output_r2_median)}."
        medians = (f"{name} {decimal(x)}" for name, x in found.controls_output_r2.items())
        yield f"Output R² of the controls, medians over heads: {', '.join(medians)}."
    if library := info.get("library"):
        yield (f"{library['programs']} of the programs, each for several heads as it is, give 95 % of the "
               "mean IoU (library.csv).")  # fmt: skip
    llm = info.get("llm") or {}
    if llm.get("completions"):
        yield (f"Language model {', '.join(llm['models'])}: {llm['completions']} completions about "
               f"{llm['heads']} of {len(run.results)} heads, "
               f"{llm['truncated']} of them cut off at their limit.")  # fmt: skip
    if failed := llm.get("failed"):
        yield f"The proposer llm failed at {failed['head']}: {failed['error']}"
    if short := info.get("cut_short"):
        yield f"Cut short by --timeout, left to --resume: {len(short)} heads, which the report names."
    if missing := info.get("not_reached"):
        yield f"Not reached in time, left to --resume: {len(missing)} heads."

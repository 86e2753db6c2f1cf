"""`attn-dsl check`: is a program valid, what does it cost, and does it keep its properties."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from attn_dsl.cli import completion, options
from attn_dsl.dsl.errors import AttnDslError


@click.command()
@click.argument("program", shell_complete=completion.programs, nargs=-1, required=True)
@click.option("--examples", metavar="N", type=click.IntRange(0), default=100, show_default=True,
              help="Texts to test the properties on; 0 leaves the test out.")  # fmt: skip
@options.seed_option()
@options.define_option()
@options.lookahead_option()
@options.json_option()
def check(program: tuple[str, ...], examples: int, seed: int, define: tuple[str, ...], allow_lookahead: bool,
          as_json: bool) -> None:  # fmt: skip
    """Check each PROGRAM: syntax, types, causality, cost, and its properties on random texts.

    The properties: every row is a distribution, a causal row is the same whatever follows, and
    the same text gives the same matrix; and those that a program claims in lines `property …`.
    What fails is shown on the smallest text found, with its matrix; the exit code is 1.
    Warnings say what never holds, always holds or changes nothing; the exit code stays 0.
    Of a file of definitions, which programs use, syntax and types are checked.
    """
    reports = [_check(file, examples, seed, define, allow_lookahead) for file in program]
    if as_json:
        options.print_json(reports)
    else:
        for report in reports:
            click.echo(_shown(report, examples) if report["valid"] else report["error"])
    if code := max(report["code"] for report in reports):
        raise click.exceptions.Exit(code)


def _check(file: str, examples: int, seed: int, define: tuple[str, ...],
           allow_lookahead: bool) -> dict[str, Any]:  # fmt: skip
    """Return what is found in a program, as JSON data."""
    from attn_dsl.compiler.program import load
    from attn_dsl.dsl.definitions import only_definitions, read_definitions, read_source
    from attn_dsl.dsl.lint import lint
    from attn_dsl.dsl.printer import show_property

    try:
        if only_definitions(source := read_source(file)):
            found = read_definitions(file)
            return {"program": file, "valid": True, "sets": len(found.sets), "scores": len(found.scores),
                    "functions": len(found.functions), "code": 0}  # fmt: skip
        loaded = load(file, allow_lookahead=allow_lookahead, define=define)
    except AttnDslError as error:
        return {"program": file, "valid": False, "error": str(error), "code": 2}
    facts = loaded.facts
    failures: list[str] = []
    if examples and not facts.holes:
        from attn_dsl.testing import check_properties

        failures = [one.report() for one in check_properties(loaded, max_examples=examples, seed=seed)]
    return {"program": file, "valid": True, "nodes": facts.nodes, "cost": facts.cost,
            "visibility": "causal" if loaded.causal else "bidirectional", "holes": facts.holes,
            "lookahead": list(facts.lookahead), "failures": failures,
            "properties": [show_property(one) for one in loaded.tree.properties],
            "code": 1 if failures else 0,
            "warnings": [{"message": one.message, "line": one.span and one.span.line,
                    "column": one.span and one.span.column, "help": one.hint, "shown": str(one)}
                for one in lint(loaded.tree, source, file)]}  # fmt: skip


def _shown(report: dict[str, Any], examples: int) -> str:
    """Write what is found in a valid program for people."""
    if "scores" in report:
        counts = (f"{report[what]} {what}" for what in ("sets", "functions", "scores"))
        return f"{report['program']}: ok\n  {', '.join(counts)}"
    holes, ahead, failures = report["holes"], report["lookahead"], report["failures"]
    notes = [f"{report['nodes']} nodes", f"{report['cost']} operations per pair", report["visibility"]]
    if holes:
        weights = "weight" if holes == 1 else "weights"
        notes.append(f"{holes} {weights} to be fitted, so its properties are not tested")
    if ahead:
        notes.append(f"looks ahead by {', '.join(ahead)}")
    if examples and not holes and not failures:
        but = " (all but causality)" if ahead else ""
        own = f"properties hold, {len(claims)} of its own," if (claims := report["properties"]) else (
            "properties hold")  # fmt: skip
        notes.append(f"{own} on {examples} texts{but}")
    parts = [textwrap.fill(", ".join(notes), 78), *failures]
    first = f"{report['program']}: {'FAILS' if failures else 'ok'}"
    lines = [first, *(textwrap.indent(part, "  ") for part in parts)]
    return "\n".join(lines + [one["shown"] for one in report["warnings"]])

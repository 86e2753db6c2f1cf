"""`attn-dsl check`: is a program valid, what does it cost, and does it keep its properties."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from attn_dsl.cli import options
from attn_dsl.dsl.errors import AttnDslError


@click.command()
@click.argument("program", nargs=-1, required=True)
@click.option("--examples", type=click.IntRange(0), default=100, show_default=True,
              help="Texts to test the properties on; 0 leaves the test out.")  # fmt: skip
@click.option("--max-nodes", type=click.IntRange(1), metavar="N", help="Refuse larger programs.")
@options.seed_option()
@options.lookahead_option()
@options.json_option()
def check(
    program: tuple[str, ...], examples: int, max_nodes: int | None, seed: int,
    allow_lookahead: bool, as_json: bool,
) -> None:  # fmt: skip
    """Check each PROGRAM: syntax, types, causality, cost, and its properties on random texts.

    The properties: every row is a distribution, a causal row is the same whatever follows, and
    the same text gives the same matrix. What fails is shown on the smallest text that shows it.
    """
    reports = [_check(file, examples, max_nodes, seed, allow_lookahead) for file in program]
    if as_json:
        options.print_json([{k: v for k, v in r.items() if k != "shown"} for r in reports])
    else:
        for report in reports:
            click.echo(report["shown"])
    code = max(report["code"] for report in reports)
    if code:
        raise click.exceptions.Exit(code)


def _check(
    file: str, examples: int, max_nodes: int | None, seed: int, allow_lookahead: bool
) -> dict[str, Any]:
    from attn_dsl.compiler.program import load
    from attn_dsl.dsl.limits import MAX_NODES

    try:
        loaded = load(file, allow_lookahead=allow_lookahead, max_nodes=max_nodes or MAX_NODES)
    except AttnDslError as error:
        told = str(error)
        return {"program": file, "valid": False, "error": told, "code": 2, "shown": told}
    facts = loaded.facts
    found: list[str] = []
    if examples and not facts.holes:
        from attn_dsl.testing import check_properties

        found = [str(one) for one in check_properties(loaded, max_examples=examples, seed=seed)]
    kind = "causal" if loaded.causal else "bidirectional"
    notes = [f"{facts.nodes} nodes", f"{facts.cost} operations per pair", kind]
    if facts.holes:
        weights = "weight" if facts.holes == 1 else "weights"
        notes.append(f"{facts.holes} {weights} to be fitted, so its properties are not tested")
    if facts.lookahead:
        notes.append(f"looks ahead by {', '.join(facts.lookahead)}")
    if examples and not facts.holes and not found:
        but = " (all but causality)" if facts.lookahead else ""
        notes.append(f"properties hold on {examples} texts{but}")
    parts = [textwrap.fill(", ".join(notes), 78), *found]
    shown = [f"{file}: {'FAILS' if found else 'ok'}", *(textwrap.indent(x, "  ") for x in parts)]
    return {
        "program": file, "valid": True, "nodes": facts.nodes, "cost": facts.cost,
        "visibility": kind, "holes": facts.holes, "lookahead": list(facts.lookahead),
        "failures": found, "code": 1 if found else 0, "shown": "\n".join(shown),
    }  # fmt: skip

"""`attn-dsl features` and `attn-dsl grammar`: the reference of the language, from its tables."""

from __future__ import annotations

from typing import Any

import click

from attn_dsl.cli import options
from attn_dsl.dsl.functions import FUNCTIONS as FUNCTIONS_OF_TERMS

FUNCTIONS = (
    ("abs(x)", "the magnitude of an integer"),
    ("min(x, y), max(x, y)", "the smaller or the larger of two integers"),
    ("nearest(P), first(P), last(P)", "position of that other key where P holds; -1 for none"),
    ("count(P), any(P)", "number of other keys where P holds; whether there is one"),
    ('starts(s, "a"), ends(s, "b")', "whether the symbol s starts or ends with the string"),
    *(
        (f"{f.name}(x{', rate' if f.rated else ''})", f"in terms only: {f.doc}")
        for f in FUNCTIONS_OF_TERMS.values()
    ),
    ("weight(s, Starts)", "in terms only: the weight of the symbol s in a set, else 0"),
)
READS = {
    "left": "depends on the text up to its position",
    "visible": "depends on the text that the query sees",
    "full": "depends on the whole text: not in causal programs, unless --allow-lookahead",
}


@click.command()
@click.option("--sets", is_flag=True, help="List the word sets of the lexicon with their words.")
@options.json_option()
def features(sets: bool, as_json: bool) -> None:
    """List the vocabulary of the language: features, functions and word sets."""
    from attn_dsl.dsl.features import FEATURES
    from attn_dsl.dsl.lexicon import lexicon

    if as_json:
        listed: dict[str, Any] = {
            "features": [
                {"name": f.name, "type": f.type, "reads": f.reads, "positions": f.arity,
                 "doc": f.doc, "example": f.example, "extra": f.extra}
                for f in FEATURES.values()
            ],
            "sets": {name: sorted(s.elements) for name, s in lexicon().items()},
        }  # fmt: skip
        options.print_json(listed, ensure_ascii=False)
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    screen = options.console()
    if sets:
        for name, entry in lexicon().items():
            screen.print(Text.assemble((name, "bold"), "  ", entry.doc))
            screen.print(Padding(Text(" ".join(sorted(entry.elements))), (0, 0, 0, 2)))
        return
    for reads, meaning in READS.items():
        screen.print(f"[bold]{reads}[/]: {meaning}")
        table = Table.grid(padding=(0, 1))
        for width in (18, 6):
            table.add_column(min_width=width, no_wrap=True)
        for f in FEATURES.values():
            if f.reads == reads:
                name = f"{f.name}({'k, q' if f.arity == 2 else 'k'})"
                extra = f" [{f.extra}]" if f.extra else ""
                table.add_row(name, f.type, Text(f.doc + extra))
        screen.print(Padding(table, (0, 0, 1, 2)))
    screen.print("[bold]functions[/]")
    for name, doc in FUNCTIONS:
        screen.print(f"  {name}\n      {doc}", markup=False)
    screen.print("\n[bold]word sets[/], for word(k) in NAME; --sets lists their words")
    screen.print(Padding(Text(", ".join(lexicon())), (0, 0, 0, 2)))


@click.command()
@click.option("--gbnf", is_flag=True, help="As GBNF, the format of llama.cpp.")
@click.option("--proposal", type=click.Choice(["causal", "bidirectional"]),
              help="The part of it in which language models write programs for such a head.")  # fmt: skip
def grammar(gbnf: bool, proposal: str | None) -> None:
    """Print the grammar of the language, in Lark's format or as GBNF."""
    from attn_dsl.dsl.parser import grammar_text

    text = grammar_text()
    if proposal is not None:
        from attn_dsl.synth.llm.grammar import proposal_grammar

        text = proposal_grammar(proposal == "causal")
    if gbnf:
        from attn_dsl.dsl.gbnf import to_gbnf

        text = to_gbnf(text)
    click.echo(text, nl=False)

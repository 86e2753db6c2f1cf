"""`attn-dsl explain`: a program in plain English."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from attn_dsl.cli import completion, options
from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from attn_dsl.compiler.program import Program
    from attn_dsl.dsl import tree as t
    from attn_dsl.dsl.tokens import Tokens
    from attn_dsl.eval.run import Run
    from attn_dsl.synth.llm.naming import Title

TERMS, PAIRS, LEAST = 8, 3, 0.05
"""How many terms are told on a text, keys of each, and how much of a row's attention counts as moved."""


@click.command()
@click.argument("program", shell_complete=completion.programs)
@click.argument("head", shell_complete=completion.heads, required=False)
@options.on_option(help="Tell what each term does on this text, too.")
@options.define_option()
@options.moved_model_option()
@options.moved_capture_option()
@options.lookahead_option()
@click.option(
    "--llm",
    metavar="MODEL",
    help="Let a language model, named as for `attn-dsl fit --llm`, give "
    "the program, its scores and its sets a title each.",
)
@options.json_option()
def explain(program: str, head: str | None, on: str | None, define: tuple[str, ...], model: str | None,
            capture: str | None, allow_lookahead: bool, llm: str | None, as_json: bool) -> None:  # fmt: skip
    """Describe PROGRAM (.attn), or the program of HEAD in the run directory PROGRAM, in plain English.

    A head of a run, named as in L5H1, is told in the order of what its terms are worth: in brackets is
    the share of what the program explains. With --on, the run's model reads the text; for PROGRAM it is
    cut into words and marks. Titles that a language model gave are kept in the run and shown again.
    """
    from attn_dsl.dsl import tree as t
    from attn_dsl.dsl.english import describe
    from attn_dsl.dsl.english import explain as in_english
    from attn_dsl.dsl.printer import show_term

    if llm is not None:
        refuse_replay(llm)
    loaded, run, found = options.open_program(program, head, "explain", allow_lookahead, define)
    tree = loaded.tree
    if found and not found.terms:
        click.echo("attn-dsl: warning: this run was made before the worth of terms was measured, so terms "
                   "come in the order of their weights; run `attn-dsl fit` again", err=True)  # fmt: skip
    text = in_english(tree, [one.share for one in found.terms] if found else ())
    if on is not None:
        from attn_dsl.cli.show import cut, read_head
        from attn_dsl.eval.difference import term_effects
        from attn_dsl.eval.metrics import variation

        loaded.refuse_holes("write numbers, or leave out --on")
        tokens = read_head(run, found, on, model, capture)[0] if run and found else cut(on)
        effects = term_effects(loaded, tokens)
    entitled = titles_of(tree, text, run, llm)
    if not as_json:
        options.console().print(text, markup=False)
        for line in [] if on is None or not len(effects) else tell_effects(loaded, tokens, effects):
            options.console().print(line, markup=False)
        for at, title in enumerate(entitled):
            click.echo("" if at else "\nIn the words of a language model, which may be wrong:\n", nl=False)
            options.console().print(f"- {title.of}: “{title.text}” ({title.model})", markup=False)
        return
    terms = [part for whole in tree.terms for part in t.parts_of(whole)]
    told = [
        {"term": i, "source": show_term(one), "english": english}
        for i, (one, english) in enumerate(zip(terms, describe(tree), strict=True), 1)
    ]
    for row, worth in zip(told, found.terms if found else (), strict=False):
        row |= {name: getattr(worth, name) for name in ("iou_loss", "output_r2_loss", "share")}
    for row, moved in zip(told, () if on is None else effects, strict=False):
        row["moved"] = variation(moved).round(4).tolist()
    whole = {"category": found.category, "shares": found.shares} if found else {}
    whole |= {} if on is None else {"tokens": list(tokens.strings)}
    by_model = [dataclasses.asdict(one) for one in entitled]
    titled = {"titles_by_language_model": by_model} if by_model else {}
    options.print_json({"program": tree.name, "english": text, **whole, **titled, "terms": told})


def refuse_replay(llm: str) -> None:
    """Refuse the name of a run in the place of a language model."""
    from attn_dsl.synth.llm.named import kind_of

    if kind_of(llm)[0] == "replay":
        raise InputError(f"--llm {llm}: titles that are kept are shown without --llm; name a model")


def titles_of(program: t.Head, english: str, run: Run | None, llm: str | None) -> Iterable[Title]:
    """Return the titles of a program, its scores and its sets: those that the run keeps, or a model's."""
    if run is None and llm is None:
        return ()
    from attn_dsl.synth.llm.named import open_model
    from attn_dsl.synth.llm.naming import titles

    return titles(program, english, run.path if run else None, None if llm is None else open_model(llm))


def tell_effects(program: Program, tokens: Tokens, effects: np.ndarray) -> Iterator[str]:
    """Yield what each term moves on a text: at how many queries, and to or from which keys most."""
    from attn_dsl.dsl.english import describe
    from attn_dsl.eval.metrics import variation
    from attn_dsl.eval.pictures import visible

    english, names = describe(program.tree), [visible(x) for x in tokens]
    rows = variation(effects)  # (terms, queries)
    order = (-rows.sum(-1)).argsort(kind="stable").tolist()
    told = [i for i in order if rows[i].max() >= LEAST][:TERMS]
    yield f"\nOn this text of {len(tokens)} tokens, what a term moves of the attention of a query:"
    for i in told:
        pairs = []
        for q in (-rows[i]).argsort(kind="stable")[:PAIRS].tolist():
            k = int(abs(effects[i, q]).argmax())
            if rows[i, q] >= LEAST:
                pairs.append(f"{names[q]}@{q} → {names[k]}@{k} {effects[i, q, k]:+.2f}")
        count = int((rows[i] >= LEAST).sum())
        yield f"- {english[i]}\n    {count} token{'s' * (count > 1)}: {'; '.join(pairs)}"
    if left := len(order) - len(told):
        yield f"Less than these: {left} other term{'s' * (left > 1)}."

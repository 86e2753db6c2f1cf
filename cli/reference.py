"""`attn-dsl features` and `attn-dsl grammar`: the reference of the language, from its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from attn_dsl.cli import completion, options
from attn_dsl.dsl.errors import InputError, did_you_mean
from attn_dsl.dsl.functions import FUNCTIONS as FUNCTIONS_OF_TERMS

if TYPE_CHECKING:
    from attn_dsl.dsl.features import Feature

FUNCTIONS = (
    ("abs(x)", "the magnitude of an integer"),
    ("min(x, y), max(x, y)", "the smaller or the larger of two integers"),
    ("x % 3", "the remainder of an integer by a whole number, which is never negative"),
    ("nearest(P), first(P), last(P)", "position of that other key where P holds; -1 for none"),
    ("count(P), any(P)", "number of other keys where P holds; whether there is one"),
    ("count(j < k where P)", "the same over positions j, for one other position; or j <= k, >, >=, j alone"),
    ('starts(s, "a"), ends(s, "b")', "whether the symbol s starts or ends with the string"),
    ('contains(s, "c")', "whether the string is a part of the symbol s"),
    ("prefix(s, 4), suffix(s, 2)", "the first 4 or the last 2 characters of the symbol s"),
    ("stem(s)", "the stem of the symbol s, an English word, in lower case"),
    *((f"{f.name}(x{', rate' if f.rated else ''})", f"in terms only: {f.doc}")
        for f in FUNCTIONS_OF_TERMS.values()),
    ("weight(s, Starts)", "in terms only: the weight of the symbol s in a set, else 0"))  # fmt: skip
READS = {"left": "depends on the text up to its position",
         "visible": "depends on the text that the query sees",
         "full": "depends on the whole text: not in causal programs, unless --allow-lookahead"}  # fmt: skip


@click.command()
@click.argument("score", required=False)
@click.option("--sets", is_flag=True, help="List the word sets of the lexicon with their words.")
@click.option("--run", metavar="DIR", shell_complete=completion.runs,
              help="List the scores that the heads of a run share.")  # fmt: skip
@options.define_option()
@options.json_option()
def features(score: str | None, sets: bool, run: str | None, define: tuple[str, ...], as_json: bool) -> None:
    """List the vocabulary of the language: features, functions and word sets.

    With --run, list the scores that programs of the run share; with a SCORE of it too, show that
    one, and the heads that use it.
    """
    from attn_dsl.dsl.features import FEATURES
    from attn_dsl.dsl.lexicon import lexicon

    if sets and (run or score or as_json):
        raise InputError("--sets lists the lexicon, not the scores of a run; leave one of them out")
    if run is not None:
        print_scores(run, score, as_json)
        return
    if score is not None or as_json:
        raise InputError(f"{score or '--json'}: scores belong to a run; name it by --run DIR")
    page = click.HelpFormatter(max_width=80)
    if sets:
        for name, entry in lexicon().items():
            page.write_text(f"{name}: {entry.doc}")
            with page.indentation():
                page.write_text(" ".join(sorted(entry.elements)))
        click.echo(page.getvalue(), nl=False)
        return
    for reads, meaning in READS.items():
        with page.section(reads):
            page.write_text(meaning)
            page.write_paragraph()
            own = [f for f in FEATURES.values() if f.reads == reads]
            page.write_dl([(call(f), f"{f.type}: {f.doc}{mark(f)}") for f in own])
    for file in define:
        with page.section(f"functions of {file}"):
            page.write_dl(defined(file))
    with page.section("functions"):
        page.write_dl(FUNCTIONS)
    with page.section("word sets (for word(k) in NAME; --sets lists their words)"):
        page.write_text(", ".join(lexicon()))
    click.echo(page.getvalue().lstrip("\n"), nl=False)


def print_scores(place: str, name: str | None, as_json: bool) -> None:
    """Print the scores that the heads of a run share, or one of them."""
    from attn_dsl.eval.run import VOCABULARY, Run
    from attn_dsl.eval.scores import shared_scores

    run = Run.open(place)
    scores = shared_scores(run)
    if not scores:
        raise InputError(f"{place}: its programs share no scores; `attn-dsl fit` finds them with the "
                         "proposer scores")  # fmt: skip
    if name is not None and name not in scores:
        hint = did_you_mean(name, scores) or f"`attn-dsl features --run {place}` lists them"
        raise InputError(f"{run.path / VOCABULARY} has no score {name}; {hint}")
    if as_json:
        options.print_json([{"name": key, "source": x.source, "words": x.words, "heads": x.users}
                               for key, x in scores.items() if name in (None, key)])  # fmt: skip
        return
    if name is None:
        order = sorted(scores.items(), key=lambda item: -item[1].heads)
        counts = ((key, (x.definition.terms, *x.users.values()), x.words) for key, x in order)
        rows = [(key, *(str(len(part)) for part in parts), words) for key, parts, words in counts]
        columns = ("score", "lines", "key", "query", "high at")
        options.print_table(columns, rows, left=columns[:1], cut=columns[-1])
        used = sum(one.heads > 0 for one in scores.values())
        options.console().print(f"\nkey, query: how many heads use the score there. {used} of {len(scores)} "
                                "are used.")  # fmt: skip
        click.echo(f"`attn-dsl features --run {place} SCORE` shows one.")
        return
    one, page = scores[name], click.HelpFormatter(max_width=80)
    page.write_text(f"High at {one.words}.")
    page.write(f"\n{one.source}\n\n")
    page.write_dl([(f"{len(heads)} at the {where}", ", ".join(heads) or "none")
                      for where, heads in one.users.items()])  # fmt: skip
    click.echo(page.getvalue(), nl=False)


def defined(file: str) -> list[tuple[str, str]]:
    """List the functions of a file of definitions: their types, what they are, and what they read."""
    from attn_dsl.dsl.definitions import prelude
    from attn_dsl.dsl.english import function_gloss
    from attn_dsl.dsl.expand import expand, reads
    from attn_dsl.dsl.scope import Scope

    (found,) = prelude([file])
    scope = Scope({}, {}, (found.definitions,))
    types = scope.types()
    return [
        (f"{name}(k)", f"{types[name]}: {function_gloss(name, scope)} ({reads(expand(one.value, scope))})")
        for name, one in found.definitions.functions.items()
    ] or [("none", "the file defines sets and scores alone")]


def call(feature: Feature) -> str:
    """Write how a feature is called: ``word(k)``, ``match(k, q)``, ``n``."""
    return feature.name + ("", "(k)", "(k, q)")[feature.arity]


def mark(feature: Feature) -> str:
    """Name the optional package that a feature needs, if it needs one."""
    return f" (needs the extra `{feature.extra}`)" if feature.extra else ""


@click.command()
@click.option("--gbnf", is_flag=True, help="As GBNF, the format of llama.cpp.")
@click.option("--proposal", type=click.Choice(["causal", "bidirectional"]),
              help="The part of it in which language models write programs for such a head.")  # fmt: skip
@click.option("--textmate", "for_editors", is_flag=True,
              help="For the colours of editors such as VS Code: a TextMate grammar (JSON).")  # fmt: skip
def grammar(gbnf: bool, proposal: str | None, for_editors: bool) -> None:
    """Print the grammar of the language: for Lark, as GBNF, or for editors."""
    if for_editors:
        from attn_dsl.cli.editors import textmate

        if gbnf or proposal:
            raise InputError("--textmate stands alone; leave out --gbnf and --proposal")
        options.print_json(textmate())
        return
    from attn_dsl.dsl.parser import grammar_text

    text = grammar_text()
    if proposal is not None:
        from attn_dsl.synth.llm.grammar import proposal_grammar

        text = proposal_grammar(proposal == "causal")
    if gbnf:
        from attn_dsl.dsl.gbnf import to_gbnf

        text = to_gbnf(text)
    click.echo(text, nl=False)

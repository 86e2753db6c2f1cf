"""Words for a program, the scores it uses and the sets it writes out: short titles by a language model.

A title is asked for once, kept in ``llm/titles.jsonl`` of the run directory, and from then on shown without
the model. It is what the model makes of a description; nothing measures whether it is right.
"""

import dataclasses
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.english import score_gloss
from attn_dsl.dsl.printer import expression, number
from attn_dsl.dsl.scope import Scope
from attn_dsl.synth.llm.model import LanguageModel, Request
from attn_dsl.synth.llm.record import Record

WORDS, LETTERS = 8, 80  # words of a title that are asked for, and letters that it may have
LONGEST = 1500  # characters of a description that are shown
FEWEST = 3  # the fewest members of a set that is given a title
GRAMMAR = f"""start: "{{}} " TITLE
TITLE: /[A-Za-z0-9][A-Za-z0-9 ,;:'()%-]{{{{0,{LETTERS - 1}}}}}/
"""
"""The grammar of titles and the words before them, which are filled in, in Lark's notation."""
_HEAD, _TOKENS = "It looks at", "They are"  # how a title goes on


@dataclass(frozen=True, slots=True)
class Title:
    """What a language model calls something."""

    of: str  # the name of the program or score, or the set
    text: str
    model: str


def titles(program: t.Head, english: str, run: Path | None,
           model: LanguageModel | None) -> Iterator[Title]:  # fmt: skip
    """Yield titles of a program, of its scores and of its sets, as the model writes them.

    Args:
        english: the program in plain English.
        run: where titles are kept; None keeps none.
        model: is asked for what it has not been asked yet; None: what is kept is yielded.

    Raises:
        ModelError: the model failed.
    """
    record = Record(run, "titles")
    for name, begun, described in _subjects(program, english):
        prompt = (f"{described[:LONGEST]}\n\nSum up the most important of it in at most {WORDS} words. "
                  f"Begin with “{begun}”:\n")  # fmt: skip
        if model is not None:
            request = Request(prompt, program.causal, 1, 0, 0.0, LETTERS // 3,
                              other=GRAMMAR.format(begun))  # fmt: skip
            found = record.completions(model, 0, request, lambda: False)
            told = [(one.text, model.name) for one in found]
        else:
            told = [(one["text"], line["model"]) for line in record.lines if line["prompt"] == prompt
                    for one in line["completions"]]  # fmt: skip
        for text, by in told[-1:]:
            line = text.rpartition(begun)[2].strip().partition("\n")[0]
            title = textwrap.shorten(re.sub(r"[^\w ,;:'()%-]", "", line), LETTERS, placeholder="")
            yield Title(name, title, re.split("[/#]", by)[-1])


def _subjects(program: t.Head, english: str) -> Iterator[tuple[str, str, str]]:
    """Yield what is given a title, by name: how the title begins, and what it is of."""
    yield program.name, _HEAD, english
    scope = Scope.of(program)
    for name in dict.fromkeys(x.name for x in program.walk() if isinstance(x, t.Score)):
        score, file = scope.score(name)
        lines = [f"{score_gloss(one, scope.inside(file))} (weight {number(term.weight)})"
                 for term in score.terms for one in [dataclasses.replace(score, terms=(term,))]]  # fmt: skip
        yield name, _TOKENS, f"Tokens that belong together: {'; '.join(lines)}."
    sets = {one.name: one.value for one in program.sets}
    literals = (x for term in program.terms for x in term.walk() if isinstance(x, t.SetLiteral))
    sets |= {expression(one): one for one in literals}
    for name, one in sets.items():
        if len(one.elements) >= FEWEST:
            yield name, _TOKENS, f"Tokens that belong together: {expression(one)}."

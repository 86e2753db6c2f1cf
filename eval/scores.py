"""The scores that the heads of a run share: what they hold, who uses them, and their values on texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import self_contained, show_definitions
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import definition_lines, expression, quote, show
from attn_dsl.dsl.scope import Scope
from attn_dsl.eval.files import write
from attn_dsl.eval.run import VOCABULARY, Run

SUBJECTS = {
    0: "it", -1: "the token before it", -2: "the second token before it", 1: "the token after it",
}  # fmt: skip
"""What a line of a score is about, by the shift at which it reads features."""
NAMED = 6
"""How many heads the comments of a vocabulary name."""


@dataclasses.dataclass(frozen=True, slots=True)
class SharedScore:
    """A score of a run, and the heads whose programs use it, named as in ``L5H1``."""

    definition: t.ScoreDefinition
    at_key: tuple[str, ...]
    at_query: tuple[str, ...]

    @property
    def heads(self) -> int:
        """How many heads use it."""
        return len({*self.at_key, *self.at_query})

    @property
    def source(self) -> str:
        """Its definition, without the comments above it."""
        bare = dataclasses.replace(self.definition, remarks=t.NO_REMARKS)
        return "\n".join(definition_lines([], [bare]))

    @property
    def words(self) -> str:
        """Where it is high, in words; see ``in_words``."""
        return in_words(self.definition)


def shared_scores(run: Run) -> dict[str, SharedScore]:
    """Return the scores that the heads of a run share by name, in the order of their file.

    >>> shared_scores(Run.open("runs/demo"))["At_the"].at_key
    ('L0H1', 'L1H3')

    Raises:
        InputError: the file of the scores is gone or was changed.
    """
    definitions = run.definitions
    if definitions is None:
        return {}
    users: dict[tuple[str, str], list[str]] = {}
    for r in run.results:
        program = parse(r.program, r.label, run.resolve)
        scope = Scope.of(program)
        for name, variable in {
            (x.name, x.variable) for x in program.walk() if isinstance(x, t.Score)
        }:
            if scope.score(name)[1] == definitions:
                users.setdefault((name, variable), []).append(r.name)
    return {
        name: SharedScore(one, *(tuple(users.get((name, variable), ())) for variable in "kq"))
        for name, one in definitions.scores.items()
    }


def in_words(score: t.ScoreDefinition, lines: int = 4) -> str:
    """Say where a score is high, from its first lines.

    >>> in_words(parse_definitions('score The:\\n 2 where token(i) == " the"').scores["The"])
    'Most where it is " the"'
    """
    parts = []
    for how, sign in (("most", 1), ("least", -1)):
        told: dict[str, list[str]] = {}
        for line in score.terms[:lines]:
            if sign * (line.weight or 0.0) > 0:
                subject, what = _phrase(line.condition)
                told.setdefault(subject, []).append(what)
        places = []
        for subject, what in told.items():
            what.sort(key=lambda phrase: not phrase.startswith("is "))
            places.append(f"where {subject}{' or '.join(what).replace(' or is ', ' or ')}")
        if told:
            parts.append(f"{how} {'; '.join(places)}")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _phrase(predicate: t.Predicate) -> tuple[str, str]:
    """Tell a predicate of ``i``: what it is about, and what it says of that."""
    shifts = {x.shift for x in predicate.walk() if isinstance(x, t.Position)}
    subject = SUBJECTS.get(*shifts) if len(shifts) == 1 else None
    match predicate:
        case t.Compare("==", t.Call("token"), t.Text(text)):
            what = f"is {quote(text)}"
        case t.Compare("==" | ">=" as op, t.Call("length"), t.Integer(value)):
            more = " or more" if op == ">=" else ""
            what = f"has {value}{more} character{'s' if more or value != 1 else ''}"
        case t.Member(t.Call("token" | "lower"), t.SetName(name)):
            what = f"is in {name}"
        case t.Affix(kind, t.Call("token" | "lower"), text):
            what = f"{kind} with {quote(text)}"
        case t.Call(name) if FEATURES[name].doc.startswith("it "):
            what = FEATURES[name].doc.removeprefix("it ")
        case _:
            subject = None
    return (f"{subject} ", what) if subject else ("", expression(predicate))


def comment_vocabulary(run: Run) -> None:
    """Write above each score of a run's vocabulary where it is high and which heads use it.

    Raises:
        InputError: the file of the scores is gone or was changed.
    """

    def named(heads: Sequence[str]) -> str:
        more = ", …" if len(heads) > NAMED else ""
        return f"{len(heads)}" + (f" ({', '.join(heads[:NAMED])}{more})" if heads else "")

    if run.definitions is None:
        return
    scores = {}
    for name, one in shared_scores(run).items():
        used = f"Heads that use it at the key: {named(one.at_key)}; at the query: {named(one.at_query)}."
        remarks = dataclasses.replace(one.definition.remarks, above=(f"{one.words}.", used))
        scores[name] = dataclasses.replace(one.definition, remarks=remarks)
    commented = dataclasses.replace(run.definitions, scores=scores)
    write(run.path / VOCABULARY, show_definitions(commented))


def write_self_contained(run: Run) -> None:
    """Write the programs of a run with the definitions that they need inside, and without ``use``."""
    for r in run.results:
        program = self_contained(parse(r.program, r.label, run.resolve))
        write(run.path / "programs" / f"{r.label}.attn", show(program))


def key_values(program: t.Head, batch: Batch) -> np.ndarray:
    """Compute what the weights of a program multiply at each key, as the last query of its text sees it.

    Returns:
        float32 (weights, tokens), all texts concatenated.
    """
    plan = Plan([program], batch)
    planes = plan.planes([np.arange(n)[-1:] for n in batch.sizes])
    return planes[list(plan.code.programs[0])]


def score_values(definitions: t.Definitions, names: Sequence[str], batch: Batch) -> np.ndarray:
    """Compute the values of scores at every token, as the last query of its text sees it.

    >>> score_values(parse_definitions("score S:\\n 2 where capital(i)"), ["S"],
    ...              Batch([Tokens.from_strings(["A", " b"])]))
    array([[2.],
           [0.]], dtype=float32)

    Returns:
        float32 (tokens, scores), all texts concatenated.
    """
    terms = tuple([t.Scaled(1.0, t.Score(name, "k", 0)) for name in names])
    uses = (t.Use(VOCABULARY, definitions),)
    return key_values(t.Head("scores", "bidirectional", terms=terms, uses=uses), batch).T

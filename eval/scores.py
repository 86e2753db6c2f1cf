"""The scores that the heads of a run share: what they hold, who uses them, and their values on texts."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import self_contained, show_definitions
from attn_dsl.dsl.english import score_gloss
from attn_dsl.dsl.printer import definition_lines, show
from attn_dsl.dsl.scope import Scope
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.files import write
from attn_dsl.eval.notebook import with_worths
from attn_dsl.eval.run import VOCABULARY, Run

LEAST_KNOWN = 0.25
"""The share of the tokens that scores name which texts must have, at least."""


@dataclasses.dataclass(frozen=True, slots=True)
class SharedScore:
    """A score of a run, and the heads whose programs use it, named as in ``L5H1``."""

    definition: t.ScoreDefinition
    users: Mapping[str, tuple[str, ...]]  # by ``key`` and ``query``, the heads that use it there
    scope: Scope | None = None  # of its file

    @property
    def heads(self) -> int:
        """How many heads use it."""
        return len({head for heads in self.users.values() for head in heads})

    @property
    def source(self) -> str:
        """Its definition, without the comments above it."""
        bare = dataclasses.replace(self.definition, remarks=t.NO_REMARKS)
        return "\n".join(definition_lines([], [bare]))

    @property
    def words(self) -> str:
        """At which tokens it is high, told by its first lines: ``“the”, articles``."""
        return score_gloss(self.definition, self.scope)


def shared_scores(run: Run) -> dict[str, SharedScore]:
    """Return the scores that the heads of a run share by name, in the order of their file.

    Raises:
        InputError: the file of the scores is gone or was changed.
    """
    definitions, users = run.definitions, dict[tuple[str, str], list[str]]()
    if definitions is None:
        return {}
    for r in run.results:
        program = run.parsed(r.program, r.label)
        scope = Scope.of(program)
        for use in {(x.name, x.variable) for x in program.walk() if isinstance(x, t.Score)}:
            if scope.score(use[0])[1] == definitions:
                users.setdefault(use, []).append(r.name)
    scope = Scope.of_file(definitions)
    found = {}
    for name, one in definitions.scores.items():
        here = {at: tuple(users.get((name, at[0]), ())) for at in ("key", "query")}
        found[name] = SharedScore(one, here, scope)
    return found


def commented(definitions: t.Definitions, shared: Mapping[str, SharedScore]) -> t.Definitions:
    """Return definitions with comments: where each score is high, and which heads use it."""
    scores = dict(definitions.scores)
    for name, one in shared.items():
        named = ((at, heads, textwrap.shorten(", ".join(heads), 40, placeholder=" …"))
                 for at, heads in one.users.items())  # fmt: skip
        told = (f"{len(heads)} at the {at}{some and f' ({some})'}" for at, heads, some in named)
        above = f"High at {one.words}.", f"Heads that use it: {', '.join(told)}."
        remarks = t.Remarks(above, one.definition.remarks.beside)
        scores[name] = dataclasses.replace(one.definition, remarks=remarks)
    return dataclasses.replace(definitions, scores=scores)


def comment_vocabulary(run: Run) -> None:
    """Write comments above the scores of a run's vocabulary."""
    if (own := run.definitions) is not None:
        write(run.path / VOCABULARY, show_definitions(commented(own, shared_scores(run))))


def write_programs(run: Run, inside: bool, comments: bool) -> None:
    """Write the programs of a run anew.

    Args:
        inside: with the definitions that they need, and without ``use``.
        comments: with the worth of each term beside it.
    """
    for r in run.results:
        program = run.parsed(r.program, r.label)
        if comments and r.terms:
            program = with_worths(program, [one.share for one in r.terms])
        program = self_contained(program) if inside else program
        write(run.path / "programs" / f"{r.label}.attn", show(program))


def score_values(definitions: t.Definitions, batch: Batch) -> np.ndarray:
    """Compute scores at every token, as the last query of its text sees it: float32 (tokens, scores).

    >>> score_values(parse_definitions("score S:\\n 2 where capital(i)"),
    ...              Batch([Tokens.from_strings(["A", " b"])]))
    array([[2.],
           [0.]], dtype=float32)
    """
    program = t.Head("scores", "bidirectional",
                     sets=tuple([t.SetDefinition(*one) for one in definitions.sets.items()]),
                     terms=tuple([t.Scaled(1.0, t.Score(name, "k")) for name in definitions.scores]),
                     scores=tuple(definitions.scores.values()))  # fmt: skip
    plan = Plan([program], batch)
    planes = plan.planes([np.arange(n)[-1:] for n in batch.sizes])
    return planes[list(plan.code.programs[0])].T


def predicate_values(predicates: Sequence[t.Predicate], batch: Batch) -> np.ndarray:
    """Compute which predicates of ``i`` hold at every token, float32 (tokens, predicates), 0 or 1."""
    lines = (t.ScoreDefinition(f"P{j}", (t.Where(1.0, x),)) for j, x in enumerate(predicates))
    return score_values(t.Definitions({}, {one.name: one for one in lines}, "predicates"), batch)


def foreign(program: t.Head, texts: Sequence[Tokens]) -> str | None:
    """Say that most of the tokens that a program's used scores name are not in texts; None where they are."""
    named = {node.right.value for use in program.uses for score in use.definitions.scores.values()
             for node in score.walk() if isinstance(node, t.Compare)
             and isinstance(node.right, t.Text)}  # fmt: skip
    there = named & {string for text in texts for string in text.strings}
    if len(there) >= LEAST_KNOWN * len(named):
        return None
    files = ", ".join(use.path for use in program.uses)
    return (f"{files} names {len(named)} tokens, and {len(there)} of them occur in these texts: its scores "
            "were found with another tokenizer or on other text; fit the model anew, or score it on texts "
            "like those")  # fmt: skip

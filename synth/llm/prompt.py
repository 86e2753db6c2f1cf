"""The page prompt: the language in a page with worked examples, a head's summary, what to write.

It is for models that were not trained for this language. Each part has a longer and a shorter
form, and what does not fit the budget, counted by the model's own tokenizer, is left out from the
end: first examples and lines of the summary, then most of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.synth.llm.grammar import MAX_TERMS, NAME, as_proposal
from attn_dsl.synth.llm.summary import Summary, fitting
from attn_dsl.synth.proposer import Fitted, HeadTask

LINES = 120
"""The most lines of a summary."""
FEWEST = 12
"""The fewest, as long as there is something else to leave out."""
BEST, WORST = 3, 5
"""Rows of each kind that a refinement shows."""

_INTRODUCTION = """\
You explain attention heads of transformers by short programs. A program scores every pair of a
query position q and a visible key position k by a sum of weighted terms; softmax over the keys
turns scores into attention."""

_PAGE = """\
The language:
  head {name} {visibility} softmax:
      ? where PREDICATE                 adds its weight where the predicate holds
      ? * VALUE                         adds its weight times a number
      ? * VALUE where PREDICATE
      by q - k [0: ?, 1: ?, 4: ?]       adds a weight by the step that a whole number falls into
Weights are holes `?`: they are fitted afterwards, with any sign. Write structure, at most {terms} terms.
Positions: q, k, shifted as in q-1, k-1, k+2. Features take a position:
  text features (compare with ==, !=, a "string", or in a set): {symbols}
  true or false: {bools}
  whole numbers (compare with ==, !=, <, <=, >, >=): {ints}
  match(k-1, q): how many tokens ending at the two positions are the same
Predicates join by and, or, not. Sets: text(k) in {{"cat", "dog"}}, word(k) in Pronoun. Named sets:
  {sets}
Numbers: q - k, abs(q - k), min(x, 4), max(x, 0), q - k in 1..4, q - k >= 16.
Search among keys: nearest(P), first(P), last(P) give the position of a key where P holds, -1 if there
  is none, as in k == nearest(punct(k) and k < q); count(P), any(P).
Values: log(1 + q - k), sqrt(q - k), inv(1 + q - k), decay(q - k, 0.8), length(k), match(k-1, q).
Token strings in text(k) are without spaces before them; token(k) has them; word(k) is in lower case."""

_BRIEF = """\
Write `head {name} {visibility} softmax:` and lines such as
    ? where k == 0
    ? where text(k-1) == text(q)
    ? where text(k) in {{"cat", "dog"}} and punct(q)
    ? * log(1 + q - k)"""

_EXAMPLES = (
    ("A head that looks at the token before, and rests on the first one",
     ("? where k == q-1", "? where k == 0", "? * log(1 + {gap})")),
    ("An induction head: it looks at what followed the last copy of the query's token",
     ("? where text(k-1) == text(q)", "? where match(k-1, q) >= 2", "? where k == 0")),
    ("A head of verbs that looks back at subjects, within the sentence",
     ("? where word(k) in SubjectPronoun and sentence(k) == sentence(q)",
      "? where capital(k) and not sentence_start(k)", "? where k == nearest(punct(k) and k < q)",
      "by {gap} [0: ?, 1: ?, 2: ?, 4: ?, 8: ?]")),
)  # fmt: skip


def page_prompt(
    task: HeadTask, count: Callable[[str], int], budget: int, *, best: Sequence[Fitted] = (),
    plan: bool = False,
) -> str | None:  # fmt: skip
    """Write the prompt for a head; None if not even the shortest fits.

    Args:
        count: counts tokens.
        budget: the most tokens.
        best: programs that were fitted before, the best first: the prompt asks for better ones.
        plan: ask for comment lines before the program.
    """
    summary = Summary(task)
    visibility = "causal" if task.causal else "bidirectional"
    gap = "q - k" if task.causal else "abs(q - k)"
    fields = {"name": NAME, "visibility": visibility, "terms": MAX_TERMS, **_names(task.causal)}
    ask = _ask(plan)
    full = "\n\n".join([_INTRODUCTION, _PAGE.format(**fields)])
    brief = "\n\n".join([_INTRODUCTION, _BRIEF.format(**fields)])
    shown = [(title, [term.format(gap=gap) for term in terms]) for title, terms in _EXAMPLES]
    examples = "\n\n".join(
        f"{title}:\n"
        + f"head {NAME} {visibility} softmax:\n"
        + "\n".join(f"    {x}" for x in terms)
        for title, terms in shown
    )
    tried = _tried(summary, best)

    def make(parts: Sequence[str], lines: int) -> str:
        about = "\n".join(["The head:", *summary.lines(lines)]) if lines else ""
        return "\n\n".join(part for part in (*parts, about, ask) if part) + "\n"

    forms = [
        (full, examples, tried),
        (full, tried),
        (brief, tried),
        (brief, _short(best)),
        (brief,),
        (),
    ]
    for parts in forms:
        least = FEWEST if parts is not forms[-1] else 0
        if count(make(parts, least)) <= budget:
            text = fitting(lambda n, p=parts: make(p, n), count, budget, LINES)  # type: ignore[misc]
            if text is not None:
                return text
    return None


def _names(causal: bool) -> dict[str, str]:
    """List features and sets, by the kind of their result."""

    def some(kind: str) -> str:
        return ", ".join(
            f.name for f in FEATURES.values()
            if f.type == kind and f.arity == 1 and not f.extra and not (causal and f.reads == "full")
        )  # fmt: skip

    sets = [e.name for e in lexicon().values() if e.file in ("english.toml", "punctuation.toml")]
    return {
        "symbols": some("symbol"), "bools": some("bool"), "ints": some("int"),
        "sets": ", ".join(sets),
    }  # fmt: skip


def _ask(plan: bool) -> str:
    if plan:
        return (
            "First say in one to three lines that begin with `#` what the head does, then write its "
            "program, nothing else:"
        )
    return "Write the program of this head, nothing else:"


def _tried(summary: Summary, best: Sequence[Fitted]) -> str:
    """Tell of programs that were tried, and where the best one is right and wrong."""
    if not best:
        return ""
    return "\n".join([_short(best), *summary.compared(best[0], BEST, WORST)])


def _short(best: Sequence[Fitted]) -> str:
    """Tell of programs that were tried, with their fitted weights and IoU."""
    if not best:
        return ""
    told = []
    for fitted in best:
        weights = [float(f"{w or 0:.2g}") for w in fitted.program.weights]
        source = as_proposal(fitted.program.with_weights(weights), numbers=True)
        told.append(f"IoU {fitted.iou:.3f}:\n{source}")
    return "Programs that were tried, with fitted weights (IoU 1 is perfect):\n" + "\n".join(told)

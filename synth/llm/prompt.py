"""The prompt: the language in a page with worked examples, a summary of the head, what to write.

What does not fit the budget, counted by the model's own tokenizer, is left out: first lines of the
summary and examples, then the page.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.printer import show
from attn_dsl.synth.llm.grammar import MAX_TERMS, NAME, usable
from attn_dsl.synth.llm.summary import Summary
from attn_dsl.synth.proposer import Fitted, HeadTask

_MARKER = re.compile(r"<(?=[|/a-zA-Z\uff5c])|\[(?=/?INST)")
"""How marks of chat templates begin, as in ``<|im_end|>``: in texts that are shown they are broken."""
LINES = (40, 20, 10, 5)  # lines of each part of the summary; the most that fit are written
ASK = "Write the program of this head, nothing else:"

_INTRODUCTION = """\
You explain attention heads of transformers by short programs. A program scores every pair of a
query position q and a visible key position k by a sum of weighted terms; softmax over the keys
turns scores into attention."""

_PAGE = """\
The language:
  {head}
      ? where PREDICATE                 adds its weight where the predicate holds
      ? * VALUE                         adds its weight times a number
      ? * VALUE where PREDICATE
      by q - k [0: ?, 1: ?, 4: ?]       adds a weight by the step that a whole number falls into
Weights are holes `?`: they are fitted afterwards, with any sign. Write structure, at most {terms} terms.
Positions: q, k, shifted as in q-1, k-1, k+2. Features of a position:
{features}
Predicates join by and, or, not. Parts of strings: contains(word(k), "ing"), prefix(word(k), 3),
  suffix(word(k), 2), stem(word(k)). Sets: text(k) in {{"cat", "dog"}}, word(k) in Pronoun. Named sets:
  {sets}
Numbers: q - k, abs(q - k), min(x, 4), max(x, 0), k % 2, q - k in 1..4, q - k >= 16.
Search among keys: nearest(P), first(P), last(P) give the position of a key where P holds, -1 if there
  is none, as in k == nearest(punct(k) and k < q); count(P), any(P).
Search over positions j for one other position: count(j < k where text(j) == text(k)),
  count(j where number(j) < number(k)) == q, k == last(j < q where punct(j)).
Definitions, in front of the head: `def marked(i) = PREDICATE`, then `def level(i) = NUMBER`, one or both, as
  def level(i) = count(j <= i where text(j) == "(") - count(j <= i where text(j) == ")")
Values: {values}, or a whole number."""

_EXAMPLES = """\
A head that looks at the token before, and rests on the first one:
{head}
    ? where k == q-1
    ? where k == 0
    ? * log(1 + {gap})

An induction head: it looks at what followed the last copy of the query's token:
{head}
    ? where text(k-1) == text(q)
    ? where match(k-1, q) >= 2
    ? where k == 0

A head of verbs that looks back at subjects, within the sentence:
{head}
    ? where word(k) in SubjectPronoun and sentence(k) == sentence(q)
    ? where capital(k) and not sentence_start(k)
    ? where k == nearest(punct(k) and k < q)
    by {gap} [0: ?, 1: ?, 2: ?, 4: ?, 8: ?]"""

_KINDS = {"symbol": "strings; compare with ==, !=, a \"string\", or in a set", "bool": "true or false",
          "int": "whole numbers; compare with ==, !=, <, <=, >, >="}  # fmt: skip


def head_prompt(task: HeadTask, count: Callable[[str], int], budget: int,
                best: Sequence[Fitted] = ()) -> str:  # fmt: skip
    """Write the longest prompt of at most ``budget`` tokens for a head, or else the shortest.

    ``best`` are programs that were fitted before, the best first: the prompt asks for better ones.
    """
    summary = Summary(task)
    fields = {
        "head": f"head {NAME} {'causal' if task.causal else 'bidirectional'} softmax:",
        "gap": "q - k" if task.causal else "abs(q - k)", "terms": MAX_TERMS,
        "values": ", ".join(f.example for f in FUNCTIONS.values()),
        "sets": ", ".join(e.name for e in lexicon().values()
                          if e.file in ("english.toml", "punctuation.toml"))}  # fmt: skip
    page = _PAGE.format(**fields, features=_features(task.causal))
    tried = _tried(best)
    told = "\n".join([tried, *summary.compared(best[0])]) if best else ""
    for parts in ([_INTRODUCTION, page, _EXAMPLES.format(**fields), told], [_INTRODUCTION, page, told],
                  [_INTRODUCTION, told], [_INTRODUCTION, tried], []):  # fmt: skip
        for lines in LINES if parts else (2, 0):
            about = "\n".join(["The head:", *summary.lines(lines)])
            text = "\n\n".join(part for part in (*parts, about, ASK) if part) + "\n"
            text = _MARKER.sub(r"\g<0> ", text)
            if count(text) <= budget:
                return text
    return text


def _features(causal: bool) -> str:
    """List the features by their types, with what they mean."""
    lines = []
    for kind, how in _KINDS.items():
        some = [f for f in usable(causal) if f.type == kind]
        lines.append(f"  {how}:")
        places = "", "(k)", "(k-1, q)"
        lines += [f"    {f.name}{places[f.arity]}: {f.doc}" for f in some]
    return "\n".join(lines)


def _tried(best: Sequence[Fitted]) -> str:
    """Tell of programs that were tried, with their fitted weights and IoU."""
    if not best:
        return ""
    told = ["Programs that were tried, with fitted weights (IoU 1 is perfect):"]
    for fitted in best:
        weights = [float(f"{w or 0:.2g}") for w in fitted.program.weights]
        program = dataclasses.replace(fitted.program.with_weights(weights), name=NAME)
        told.append(f"IoU {fitted.iou:.3f}:\n{show(program)}")
    return "\n".join(told)

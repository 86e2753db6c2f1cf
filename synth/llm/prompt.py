"""The prompt: the language in a page with worked examples, which all heads share, then what is about a head.

What does not fit the budget, counted by the model's own tokenizer, is left out: of the first part the
examples, then the page; of the second lines of the summary, solved heads, then what was tried.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.printer import show
from attn_dsl.synth.llm.grammar import NAME, usable
from attn_dsl.synth.llm.summary import Summary
from attn_dsl.synth.proposer import Fitted, plain
from attn_dsl.synth.rewrite import bare

LINES = (12, 8, 5, 3)  # lines of each part of the summary; the most that fit are written
TERMS = 6  # the most terms that are asked for
EXAMPLE = 4  # lines of the summary of a solved head
_MARKER = re.compile(r"<(?=[|/a-zA-Z\uff5c])|\[(?=/?INST)")
"""How marks of chat templates begin, as in ``<|im_end|>``: in texts that are shown they are broken."""
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
Heads, by shares of their attention where a predicate holds (by chance), and their programs:

  k == 0: 0.75 (0.04)
  k == previous(q) + 1: 0.58 (0.04)
  capital(k): 0.79 (0.14)
IoU 0.63:
{head}
    ? where k == 0
    ? where text(k-1) == text(q)

  match(k, q) >= 2: 0.71 (0.04)
  k == word_first(q): 0.70 (0.04)
  k > nearest(punct(k)): 0.80 (0.15)
IoU 0.66:
{head}
    ? where k == q
    ? where k == q-1
    ? * log(1 + {gap})

  q - k in 1..4: 0.54 (0.12)
  k > nearest(punct(k)): 0.54 (0.15)
Tokens: " the" 0.24 (0.03), " saw" 0.01 (0.00)
IoU 0.27:
{head}
    ? where word(k) in Article
    ? where q - k in 1..4
    ? where k > nearest(punct(k))
    ? where text(k) == "the" and q - k >= 4"""

_KINDS = {"symbol": "strings; compare with ==, !=, a \"string\", or in a set", "bool": "true or false",
          "int": "whole numbers; compare with ==, !=, <, <=, >, >="}  # fmt: skip


def shared_part(causal: bool, count: Callable[[str], int], room: int) -> str:
    """Return what the prompts of all heads begin with, as much of it as fits ``room`` tokens."""
    fields = {
        "head": f"head {NAME} {'causal' if causal else 'bidirectional'} softmax:",
        "gap": "q - k" if causal else "abs(q - k)", "terms": TERMS,
        "values": ", ".join(f.example for f in FUNCTIONS.values()),
        "sets": ", ".join(e.name for e in lexicon().values()
                          if e.file in ("english.toml", "punctuation.toml"))}  # fmt: skip
    page = _PAGE.format(**fields, features=_features(causal))
    parts = [_INTRODUCTION, page, _EXAMPLES.format(**fields)]
    texts = ("".join(f"{part}\n\n" for part in parts[:most]) for most in (3, 2, 1))
    return next((text for text in texts if count(text) <= room), "")


def head_part(summary: Summary, count: Callable[[str], int], budget: int,
              best: Sequence[Fitted] = (), like: Sequence[str] = ()) -> str:  # fmt: skip
    """Write the longest part of a prompt about a head of at most ``budget`` tokens, or else the shortest.

    Args:
        best: programs that were fitted before, the best first; better ones are asked for.
        like: heads of the same model that are solved, as ``solved_head`` writes them, the nearest first.
    """
    shown = [one for one in best if plain(show(one.program))]
    tried = _tried(shown)
    told = "\n".join([tried, *summary.compared(best[0])]).strip() if best else ""
    text = ""
    for after, before in ((told, like), (told, like[:1]), (told, ()), (tried, ()), (_tried(shown[:1]), ()),
                          ("", ())):  # fmt: skip
        for lines in LINES if after else (*LINES, 2, 0):
            about = "\n".join(["The head:", *summary.lines(lines, rows=after != told or not best)])
            text = "\n\n".join(part for part in (*before, about, after, ASK) if part) + "\n"
            text = _MARKER.sub(r"\g<0> ", text)
            if count(text) <= budget:
                return text
    return text


def solved_head(summary: Summary, program: t.Head, iou: float) -> str:
    """Write a head that is solved: its summary and its program."""
    lines = "\n".join(f"  {line}" for line in itertools.islice(summary.preferences(), EXAMPLE))
    return (f"Another head of the model, by shares of its attention (by chance):\n{lines}\n"
            f"Its program, IoU {iou:.2f}:\n{_unfitted(program)}")  # fmt: skip


def _unfitted(program: t.Head) -> str:
    """Write a program with holes for its weights."""
    return show(dataclasses.replace(program, name=NAME, terms=tuple(map(bare, program.terms)))).rstrip()


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
    """Tell of programs that were tried, with their IoU."""
    told = [f"IoU {fitted.iou:.3f}:\n{_unfitted(fitted.program)}" for fitted in best]
    said = "Programs that were tried, IoU 1 is perfect; write a better one:"
    return "\n".join([said, *told] if told else [])

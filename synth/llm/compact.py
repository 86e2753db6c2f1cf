r"""The short prompt: what the shipped proposer is told of a head, in a few lines.

    causal uniform 3 found 9 clean
    self 5 prev 7 near 4 far 3 first 2 same 4 next 1 mark 2
    8+    ? where k == q-1
    6-    ? * log(1 + q - k)
    or 0 5+    ? where q - k in 1..2
    add 2+    ? where token(k) in {" the", " a"}

The first line says which keys a query sees, and how near uniform attention and the listed terms
come to the head (IoU in tenths), and ``clean`` if the head seems to be a program without noise. The
second line has shares of attention in powers of two over uniform attention, which is 4: on the query
itself, the token before it, two to four before, more than 16 before, the first token, tokens equal to
the query, tokens that follow one equal to the query, and punctuation; for bidirectional heads also
on the token after the query (``after``) and on all later ones (``ahead``). Then come terms as a
program would have them, found by ``pool.py``: those that explain most together, the most important
one first, each with how much is lost without it (9 is all; two less is a tenth) and the sign of
its weight; terms that may stand for one of them (``or``, its number from 0); terms to add.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.parser import parse_predicate
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.llm.grammar import LADDER, LOWEST, as_proposal, is_proposal
from attn_dsl.synth.llm.pool import Hint, Looked, look
from attn_dsl.synth.llm.sketch import Sketch, sketch_of
from attn_dsl.synth.proposer import HeadTask

SHARES = {
    "self": "k == q", "prev": "k == q-1", "near": "q - k in 2..4", "far": "q - k >= 16",
    "first": "k == 0", "same": "text(k) == text(q) and k != q", "next": "text(k-1) == text(q)",
    "mark": "punct(k)",
}  # fmt: skip
AHEAD = {"after": "k == q+1", "ahead": "k > q"}
"""More shares, for bidirectional heads."""
LISTED = 12
"""Terms that are no more than an alternative are left out if their sets have more elements."""
OTHERS, MORE = 5, 3
"""How many alternatives and further terms are listed."""


def compact_prompt(task: HeadTask) -> str:
    """Describe a head for the shipped proposer; see the module.

    Only the task's rows of the fit split are looked at. The same task gives the same prompt.
    """
    sketch = sketch_of(task)
    return describe(sketch, task.layer, task.head)


def describe(sketch: Sketch, layer: int, head: int) -> str:
    """Describe a head of the sketch's capture."""
    return prompt_of(sketch, layer, head, look(sketch, layer, head))


def prompt_of(sketch: Sketch, layer: int, head: int, looked: Looked) -> str:
    """Write down what was found of a head."""
    causal = sketch.design.causal
    lines = [
        f"{'causal' if causal else 'bidirectional'} uniform {_tenths(looked.uniform)} "
        f"found {_tenths(looked.iou)}{' clean' if looked.clean else ''}",
        " ".join(f"{name} {level}" for name, level in shares(sketch, layer, head).items()),
    ]
    for hint in listing(sketch, looked):
        before = "" if hint in looked.chosen else "add " if hint.instead is None else "or "
        number = f"{hint.instead} " if hint.instead is not None else ""
        lines.append(f"{before}{number}{written(sketch, hint)}")
    return "\n".join(lines) + "\n"


def listing(sketch: Sketch, looked: Looked) -> list[Hint]:
    """Choose what the prompt lists: what a proposal may have, and what is not too long."""
    chosen = [h for h in looked.chosen if written(sketch, h)]
    kept = {at for at, h in enumerate(looked.chosen) if h in chosen}
    numbers = {at: number for number, at in enumerate(sorted(kept))}
    others = [h for h in looked.others if h.instead in numbers]
    short = [
        [h for h in some if _elements(h) <= LISTED and written(sketch, h)][:most]
        for some, most in ((others, OTHERS), (looked.more, MORE))
    ]
    return [*chosen, *short[0], *short[1]]


def shares(sketch: Sketch, layer: int, head: int) -> dict[str, int]:
    """Say how much more attention than uniform goes to some kinds of keys, in powers of two.

    Returns:
        By kind: 4 for as much as uniform attention, 0 to 9.
    """
    design = sketch.design
    planes = _planes(sketch)
    rows = design.target(layer, head)
    widths = np.diff(design.starts)
    uniform = np.repeat(1.0 / widths, widths)
    names = [*SHARES, *(() if design.causal else AHEAD)]
    mass, expected = planes @ rows.actual, planes @ uniform
    return {
        name: min(9, max(0, round(4 + math.log2((m + 1e-6) / e)))) if e > 0 else 4
        for name, m, e in zip(names, mass, expected, strict=True)
    }


@lru_cache(maxsize=2)
def _planes(sketch: Sketch) -> np.ndarray:
    """Compute the planes of the kinds of keys on the rows that are looked at."""
    design = sketch.design
    sources = [*SHARES.values(), *(() if design.causal else AHEAD.values())]
    terms = tuple(t.Where(None, parse_predicate(source)) for source in sources)
    head = t.Head("shares", "causal" if design.causal else "bidirectional", "softmax", terms)
    plan = Plan([head], design.batch)
    return plan.planes(design.rows)[list(plan.code.programs[0])]


def written(sketch: Sketch, hint: Hint) -> str:
    """Write a hint: how much it explains, its sign, and the term; "" if no proposal may have it."""
    term = proposal_term(sketch, hint.rule)
    line = as_proposal(t.Head("hint", _visibility(sketch), "softmax", (term,)))
    if not _allowed(line, sketch.design.causal):
        return ""
    level = max(0, min(9, round(9 + 2 * math.log10(max(hint.share, 1e-9)))))
    return f"{level}{'+' if hint.positive else '-'}{line.split(chr(10))[1]}"


@lru_cache(maxsize=100_000)
def _allowed(source: str, causal: bool) -> bool:
    return is_proposal(source, causal)


def proposal_term(sketch: Sketch, rule: r.Rule) -> t.Term:
    """Write a rule as a term with a hole, with the numbers that a proposal may have."""
    return _legal(r.term(sketch.atoms, rule, None))  # type: ignore[return-value]


def _legal(node: t.Node) -> t.Node:
    """Write ranges whose ends no proposal has as two comparisons, and no negative numbers."""
    match node:
        case t.Where(_, condition):
            return t.Where(None, _legal(condition))  # type: ignore[arg-type]
        case t.Scaled(_, value, condition):
            return t.Scaled(None, value, condition and _legal(condition))  # type: ignore[arg-type]
        case t.And(left, right):
            return _and(_legal(left), _legal(right))
        case t.Between(value, low, high):
            if all(abs(x) in LADDER or abs(x) < LOWEST for x in (low, high)):
                return node
            return _and(_side(value, ">=", low), _side(value, "<=", high))
        case t.Compare(op, value, t.Integer(bound)) if bound < 0:
            return _side(value, op, bound)
    return node


def _and(left: t.Node, right: t.Node) -> t.And:
    """Join two predicates, the second not in parentheses."""
    if isinstance(right, t.And):
        return t.And(_and(left, right.left), right.right)
    return t.And(left, right)  # type: ignore[arg-type]


def _side(value: t.Node, op: str, bound: int) -> t.Compare:
    if bound < 0 and isinstance(value, t.Arithmetic) and value.op == "-":
        flipped = {">=": "<=", "<=": ">=", ">": "<", "<": ">"}.get(op, op)
        value = t.Arithmetic("-", value.right, value.left)
        return t.Compare(flipped, value, t.Integer(-bound))  # type: ignore[arg-type]
    return t.Compare(op, value, t.Integer(bound))  # type: ignore[arg-type]


def _elements(hint: Hint) -> int:
    return sum(len(c.symbols) for c in (hint.rule.key, hint.rule.query) if c is not None)


def _tenths(iou: float) -> int:
    return min(9, int(10 * iou))


def _visibility(sketch: Sketch) -> t.Visibility:
    return "causal" if sketch.design.causal else "bidirectional"

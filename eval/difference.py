"""Differences of programs: what changed in their trees, and the rows of attention where it shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import self_contained
from attn_dsl.dsl.printer import definition_lines, expression, number, quote, show_term
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.metrics import variation
from attn_dsl.eval.pictures import Picture, around, strongest, visible

ROWS, KEYS = 5, 3
"""How many rows are told, and keys of each."""
_COLOURS = {"-": "#d6453d44", "+": "#2f8f5b44", "~": "#8a63c444"}


@dataclass(frozen=True, slots=True)
class Change:
    """One term or definition that is gone (``-``), new (``+``) or changed (``~``)."""

    mark: Literal["-", "+", "~"]
    source: str  # as the new program has it; of what is gone, as the old one had it
    edits: tuple[str, ...] = ()  # what changed inside it, as in ``k-1 → k-2``

    def __str__(self) -> str:
        return "\n".join([f"{self.mark} {self.source}", *(f"      {edit}" for edit in self.edits)])


@dataclass(frozen=True, eq=False, repr=False)
class Difference:
    """What changed from one program to another; ``str`` tells it, and notebooks show it.

    Attributes:
        tokens, matrices: a text, and the attention of both programs on it; None and empty without.
    """

    changes: tuple[Change, ...]
    tokens: Tokens | None = None
    matrices: tuple[np.ndarray, ...] = ()

    @property
    def apart(self) -> np.ndarray:
        """The total variation between both rows of each query, float32 (n,)."""
        old, new = self.matrices
        return variation(old - new)

    def rows(self) -> list[int]:
        """Return the queries whose rows differ most, the largest difference first."""
        order = np.argsort(-self.apart, kind="stable")[:ROWS].tolist()
        return [q for q in order if self.apart[q] >= 0.0005]

    def lines(self) -> Iterator[str]:
        """Yield what ``str`` tells."""
        yield from map(str, self.changes or ("The programs are the same.",))
        if self.tokens is None or not self.changes:
            return
        names, rows = [visible(x) for x in self.tokens], self.rows()
        yield (f"\nRows differ by {self.apart.mean():.3f} in the mean (total variation)"
               f"{', most:' if rows else '.'}")  # fmt: skip
        for q in rows:
            yield f"{q:>4} {self.apart[q]:.3f}  {around(self.tokens.strings, q)}"
            for side, matrix in zip(("before", "after"), self.matrices, strict=True):
                yield f"{'':>10}  {side:<6}  {strongest(names, matrix[q], KEYS)}"

    def to_json(self) -> dict[str, Any]:
        """Return the changes, and the rows that differ most, as JSON data."""
        changes = [dataclasses.asdict(one) for one in self.changes]
        if self.tokens is None:
            return {"changes": changes}
        before, after = self.matrices
        rows = [{"query": q, "difference": float(self.apart[q]), "before": before[q].tolist(),
                 "after": after[q].tolist()} for q in self.rows()]  # fmt: skip
        return {"changes": changes, "tokens": list(self.tokens.strings),
                "mean_difference": float(self.apart.mean()), "rows": rows}  # fmt: skip

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        count = {mark: sum(one.mark == mark for one in self.changes) for mark in "-+~"}
        return f"<Difference: {count['-']} gone, {count['+']} new, {count['~']} changed>"

    def _repr_html_(self) -> str:
        line = '<div style="background:{}">{}</div>'
        told = "".join(line.format(_COLOURS[x.mark], escape(str(x))) for x in self.changes)
        matrices = dict(zip(("before", "after"), self.matrices, strict=False))
        drawn = Picture(self.tokens, matrices)._repr_html_() if self.tokens else ""
        return f"<pre>{told}</pre>{drawn}"


def difference(old: Program, new: Program, text: str | Sequence[str] | Tokens | None) -> Difference:
    """Compare two programs, on a text if one is given; see ``Program.diff``."""
    changes = tuple(_changes(self_contained(old.tree), self_contained(new.tree)))
    if text is None:
        return Difference(changes)
    tokens = text if isinstance(text, Tokens) else Tokens.from_text(text)
    return Difference(changes, tokens, (old(tokens), new(tokens)))


def most_different(old: Program, new: Program, texts: Iterable[Tokens]) -> int:
    """Return the number of the text on which the rows of two programs differ most in the mean."""
    apart = [float(variation(old(tokens) - new(tokens)).mean()) for tokens in texts]
    return int(np.argmax(apart))


def term_effects(program: Program, tokens: Tokens) -> np.ndarray:
    """Return what each simple term adds to the attention on a text: that with it less that without it.

    The simple terms are those of ``parts_of``; of the others, the weights stay as they are.

    Returns:
        float32 (simple terms, n, n).
    """
    tree = program.tree
    terms = [part for term in tree.terms for part in t.parts_of(term)]
    fewer = [dataclasses.replace(tree, terms=(*terms[:i], *terms[i + 1 :])) for i in range(len(terms))]
    whole, *others = Plan([tree, *fewer], Batch([tokens])).square(0)
    return np.reshape([whole - one for one in others], (len(terms), *whole.shape))


def _changes(old: t.Head, new: t.Head) -> Iterator[Change]:
    kinds = [(one.visibility, one.normaliser) for one in (old, new)]
    if kinds[0] != kinds[1]:
        edits = tuple(f"{one} → {other}" for one, other in zip(*kinds, strict=True) if one != other)
        yield Change("~", f"head {new.name} {' '.join(kinds[1])}", edits)
    pairs = _pairs(old.terms, new.terms)
    for field in ("functions", "scores", "sets"):
        before, after = ({one.name: one for one in getattr(head, field)} for head in (old, new))
        names = dict.fromkeys([*before, *after])
        pairs = [*((before.get(name), after.get(name)) for name in names), *pairs]
    for one, other in pairs:
        if one is None or other is None:
            yield Change("+", _written(other)) if one is None else Change("-", _written(one))
        elif one != other:
            kind = {t.SetDefinition: "set", t.ScoreDefinition: "score"}.get(type(other))
            yield Change("~", f"{kind} {other.name}" if kind else _written(other),
                         tuple(told for told, _ in _edits(one, other)))  # fmt: skip


def _written(node: Any) -> str:
    """Write a definition, a term, or a part of one."""
    match node:
        case None:
            return "true"
        case t.SetDefinition():
            return "\n  ".join(definition_lines([node], []))
        case t.ScoreDefinition():
            return "\n  ".join(definition_lines([], [node]))
        case t.Definition():
            return "\n  ".join(definition_lines([], [], [node]))
        case t.Part(weight, value):
            return number(weight) if value is None else show_term(t.Scaled(weight, value))
        case t.Entry(bound, weight):
            return f"{bound}: {number(weight)}"
        case t.Where() | t.Scaled() | t.Sum() | t.Table():
            return show_term(node)
    return expression(node)


def _pairs(old: Sequence[Any], new: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Pair terms that are equal or alike; None stands beside those that are gone or new."""
    left, found = list(old), dict[int, Any]()  # by the place of the new one
    for at, one in enumerate(new):
        if one in left:
            left.remove(one)
            found[at] = one
    costs = sorted(
        (sum(size for _, size in _edits(before, after)) / (t.nodes(before) + t.nodes(after)), i, at)
        for i, before in enumerate(left) for at, after in enumerate(new) if at not in found)  # fmt: skip
    gone = dict(enumerate(left))
    for cost, i, at in costs:
        if cost <= 0.5 and i in gone and at not in found:
            found[at] = gone.pop(i)
    return [*((found.get(at), one) for at, one in enumerate(new)), *((one, None) for one in gone.values())]


def _edits(old: Any, new: Any) -> list[tuple[str, int]]:
    """Return the smallest parts of two trees that differ, and how many nodes or elements each has."""
    if old == new:
        return []
    kind = type(new)
    if kind is t.SetLiteral is type(old):
        return _set_edits(*(dict(zip(one.elements, one.weights or [None] * len(one.elements), strict=True))
                            for one in (old, new)))  # fmt: skip
    below = t.node_fields(kind) if kind is type(old) else ()  # type: ignore[arg-type]
    plain = {x.name for x in dataclasses.fields(kind) if x.compare and x.name not in below
             and getattr(old, x.name) != getattr(new, x.name)} if kind is type(old) else set()  # fmt: skip
    if kind is not type(old) or plain - {"weight"}:
        size = sum(t.nodes(one) for one in (old, new) if one is not None)
        return [(f"{_written(old)} → {_written(new)}", size)]
    edits = []
    if plain:
        value = getattr(new, "value", None) if kind is t.Part else getattr(new, "bound", None)
        told = str(value) if value is None or isinstance(value, int) else expression(value)
        of = "" if value is None else f" of {told}"
        edits.append((f"weight {number(old.weight)} → {number(new.weight)}{of}", 1))
    for name in below:
        pair = getattr(old, name), getattr(new, name)
        if not isinstance(pair[0], tuple):
            edits += _edits(*pair)
            continue
        for before, after in zip(*pair, strict=True) if name == "args" else _pairs(*pair):
            if before is None or after is None:
                mark, node = ("+", after) if before is None else ("-", before)
                edits.append((f"{mark} {_written(node)}", t.nodes(node)))
            else:
                edits += _edits(before, after)
    return edits


def _set_edits(old: dict[str, float | None], new: dict[str, float | None]) -> list[tuple[str, int]]:
    """Return the elements of another weight, and those that are new or gone."""
    edits = [(f"{quote(name)}: {number(old[name])} → {number(new[name])}", 1)
             for name in new if name in old and old[name] != new[name]]  # fmt: skip
    for mark, some, others in (("+", new, old), ("-", old, new)):
        if names := [name for name in some if name not in others]:
            edits.append((f"{mark} {', '.join(map(quote, names))}", len(names)))
    return edits

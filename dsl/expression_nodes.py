"""Nodes of expressions: numbers, symbols, predicates, values; ``tree`` takes them in and has the others."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, dataclass_transform

from attn_dsl.dsl.errors import Span


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
@dataclass(frozen=True)
class Node:
    """A node of the syntax tree; ``span`` is its place in the source (None for a tree built in code)."""

    span: Span | None = field(default=None, compare=False, repr=False, kw_only=True)

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    def children(self) -> list[Node]:
        """Return the direct children of this node, in source order."""
        found: list[Node] = []
        for name in node_fields(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            if value.__class__ is tuple:
                found += value
            elif value is not None:
                found.append(value)
        return found

    def walk(self) -> Iterator[Node]:
        """Yield this node and all its descendants, parents first."""
        stack: list[Node] = [self]
        while stack:
            node = stack.pop()
            yield node
            if below := node.children():
                stack += below[::-1]


# Prefixes of the type annotations of fields that hold no nodes.
_PLAIN = ("int", "str", "float", "Literal", "Visibility", "Normaliser", "Definitions", "tuple[str",
          "tuple[float")  # fmt: skip


@lru_cache(maxsize=64)
def node_fields(kind: type[Node]) -> tuple[str, ...]:
    """Return the names of the fields that hold nodes, None, or tuples of nodes."""
    fields = dataclasses.fields(kind)
    return tuple(f.name for f in fields if f.compare and not str(f.type).startswith(_PLAIN))


class Integer(Node):
    """A whole number: ``3``."""

    value: int


class Position(Node):
    """A position plus a shift: ``q``, ``k-1``; in definitions ``i``, and in searches ``i`` and ``j``."""

    variable: Literal["q", "k", "i", "j"]
    shift: int = 0


class Arithmetic(Node):
    """A sum or difference: ``q - k``."""

    op: Literal["+", "-"]
    left: Int
    right: Int


class Modulo(Node):
    """The remainder of an integer by a positive whole number, which is never negative: ``k % 2``."""

    value: Int
    modulus: int


class Absolute(Node):
    """The absolute value of an integer: ``abs(q - k)``."""

    value: Int


class Extremum(Node):
    """The smaller or larger of two integers: ``min(q - k, 8)``."""

    name: Literal["min", "max"]
    left: Int
    right: Int


class Call(Node):
    """A feature or function at its positions, or of the text: ``text(k-1)``, ``match(k-1, q)``, ``n``."""

    name: str
    args: tuple[Int, ...]


class Shortened(Node):
    """The first or last characters of a symbol, or its stem: ``prefix(word(k), 4)``, ``stem(word(k))``."""

    name: Literal["prefix", "suffix", "stem"]
    value: Symbol
    length: int = 0  # of a prefix or suffix


class Quantifier(Node):
    """A search over the keys that the query sees, except its own: ``nearest(text(k) == text(q))``.

    In ``body``, ``k`` is the key that is searched. ``nearest``, ``first`` and ``last`` are the
    position of such a key where ``body`` holds (-1 if there is none), ``count`` is the number of
    these keys, and ``any`` is whether there is one.
    """

    name: Literal["nearest", "first", "last", "count", "any"]
    body: Predicate


BACKWARDS = ("<", "<=")
"""How ``j`` is compared to ``i`` in searches of positions up to ``i`` alone."""


class Search(Node):
    """A search over positions of the text for one of them: ``count(j <= k where text(j) == text(k))``.

    In ``body``, ``j`` is the position that is searched, and ``i`` the one that is searched for, ``at``.
    The results are those of ``Quantifier``; ``j`` may be ``i`` itself. A search over all positions, or
    those after ``i``, finds those that the query sees. A search up to ``i`` sees what a query at ``i`` sees.
    """

    name: Literal["nearest", "first", "last", "count", "any"]
    over: Literal["", "<", "<=", ">", ">="]  # what ``j`` is compared to ``i``; "": any
    body: Predicate
    at: Int

    @property
    def backwards(self) -> bool:
        """Whether only positions up to ``i`` are searched."""
        return self.over in BACKWARDS


class Always(Node):
    """The predicate ``true``."""


COMPARE: dict[str, Callable[[Any, Any], bool]] = {"==": operator.eq, "!=": operator.ne, "<": operator.lt,
                                                  "<=": operator.le, ">": operator.gt,
                                                  ">=": operator.ge}  # fmt: skip
"""The comparisons of the language."""


class Compare(Node):
    """A comparison of two integers, or ``==`` or ``!=`` of two symbols (strings)."""

    op: Literal["==", "!=", "<", "<=", ">", ">="]
    left: Int | Symbol | Text
    right: Int | Symbol | Text


class Text(Node):
    """A string to compare a symbol with: ``"the"``."""

    value: str


class Between(Node):
    """Whether an integer is in a range, both ends included: ``q - k in 1..4``."""

    value: Int
    low: int
    high: int


class SetName(Node):
    """The name of a set of the program or of the lexicon: ``Stop``."""

    name: str


class SetLiteral(Node):
    """A set that is written out: ``{".", "?"}``, or with weights ``{".": 2.1, "?": -0.7}``.

    The elements are sorted. ``weights`` has one number per element; None means that the set has no
    weights, and each element counts as 1.
    """

    elements: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is None:
            object.__setattr__(self, "elements", tuple(sorted(set(self.elements))))
            return
        pairs = sorted(set(zip(self.elements, self.weights, strict=True)))
        object.__setattr__(self, "elements", tuple(element for element, _ in pairs))
        object.__setattr__(self, "weights", tuple(weight for _, weight in pairs))

    def hundredths(self) -> dict[str, int]:
        """Return the weight of each element in hundredths, which is an integer in a valid program."""
        if self.weights is None:
            return dict.fromkeys(self.elements, 100)
        return {e: round(100 * w) for e, w in zip(self.elements, self.weights, strict=True)}


class Member(Node):
    """Whether a symbol is in a set: ``text(k) in Stop``."""

    value: Symbol
    set: SetName | SetLiteral


class Affix(Node):
    """Whether a symbol starts or ends with a string, or contains it: ``ends(word(k), "ing")``."""

    name: Literal["starts", "ends", "contains"]
    value: Symbol
    text: str


class Not(Node):
    """The negation of a predicate."""

    value: Predicate


class And(Node):
    """The conjunction of two predicates."""

    left: Predicate
    right: Predicate


class Or(Node):
    """The disjunction of two predicates."""

    left: Predicate
    right: Predicate


class Real(Node):
    """A real function (a name in ``dsl.functions.FUNCTIONS``) of an integer: ``log(1 + q - k)``."""

    name: str
    value: Int


class Decay(Node):
    """``decay(x, r)`` = r to the power of max(x, 0)."""

    value: Int
    rate: float


class Weight(Node):
    """The weight of a symbol in a set, or 0 for other symbols: ``weight(token(k), Starts)``."""

    value: Symbol
    set: SetName | SetLiteral


class Score(Node):
    """The value of a score of the program, or of a file that it uses, at a position: ``Noun(k-1)``."""

    name: str
    variable: Literal["q", "k"]
    shift: int = 0


class Product(Node):
    """A product of two values: ``weight(token(q), A) * log(1 + q - k)``."""

    left: Factor
    right: Factor


Int = Integer | Position | Arithmetic | Modulo | Absolute | Extremum | Call | Quantifier | Search
Symbol = Call | Shortened
Predicate = Always | Compare | Between | Member | Affix | Not | And | Or | Call | Quantifier | Search
Factor = Int | Real | Decay | Weight | Score
Value = Factor | Product

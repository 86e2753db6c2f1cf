"""Bytecode: programs as instructions on rows of registers, shared by all programs of a plan.

An instruction computes one integer for each key that a query sees, from the rows of earlier
instructions. Equal subexpressions of all programs of a plan are one instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from attn_dsl.compiler.batch import Batch, ColumnArrays
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon_literal


class Op(IntEnum):
    """Operations; ``a`` and ``b`` are registers or columns, ``x`` and ``y`` are numbers."""

    CONST = 0  # x
    QUERY = 1  # q + x
    KEY = 2  # k + x
    COLUMN_QUERY = 3  # column a at q + x
    COLUMN_KEY = 4  # column a at k + x
    COLUMN = 5  # column a at register b
    MATCH = 6  # equal tokens ending at registers a and b
    ADD = 7
    SUB = 8
    ABS = 9
    MIN = 10
    MAX = 11
    EQ = 12
    NE = 13
    LT = 14
    LE = 15
    BETWEEN = 16  # x <= register a <= y
    AND = 17
    OR = 18
    NOT = 19
    ANY = 20
    COUNT = 21
    NEAREST = 22
    FIRST = 23
    LAST = 24


class Real(IntEnum):
    """What a term makes of its register before the weight multiplies it."""

    PLAIN = 0
    LOG = 1
    SQRT = 2
    INV = 3
    DECAY = 4
    WEIGHT = 5  # hundredths


NEVER = -(2**31)
ALWAYS = 2**31 - 1
_FLIPPED = {">": "<", ">=": "<="}
_COMPARISONS = {"==": Op.EQ, "!=": Op.NE, "<": Op.LT, "<=": Op.LE}
_QUANTIFIERS = {
    "any": Op.ANY, "count": Op.COUNT, "nearest": Op.NEAREST, "first": Op.FIRST, "last": Op.LAST,
}  # fmt: skip
_REALS = {"log": Real.LOG, "sqrt": Real.SQRT, "inv": Real.INV}


@dataclass(frozen=True, slots=True)
class Plane:
    """What one weight multiplies: functions of one or two registers, where another one is true.

    Attributes:
        register: what the function is applied to.
        condition: register that must be true; -1 for none.
        real: the function.
        rate: of a decay.
        truth: whether it is a predicate, 0 or 1 everywhere.
        other, other_real, other_rate: the second factor of a product; -1 for none.
    """

    register: int
    condition: int
    real: Real
    rate: float = 0.0
    truth: bool = False
    other: int = -1
    other_real: Real = Real.PLAIN
    other_rate: float = 0.0


@dataclass(frozen=True)
class Code:
    """Compiled programs of one visibility: instructions, columns, and planes by program.

    Attributes:
        instructions: int32 (n, 5): op, a, b, x, y.
        planes: the distinct planes.
        programs: per program its planes, one for each weight.
        needs_match: whether any instruction is ``MATCH``.
        causal: the visibility of all of them.
    """

    instructions: np.ndarray
    planes: tuple[Plane, ...]
    programs: tuple[tuple[int, ...], ...]
    columns: tuple[ColumnArrays, ...]
    causal: bool
    batch: Batch

    @cached_property
    def needs_match(self) -> bool:
        """Whether the table of matching contexts must be made."""
        return bool((self.instructions[:, 0] == Op.MATCH).any())

    @cached_property
    def plane_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The planes as int32 (n, 5), and their functions as float64 (functions, 2 + length).

        A plane's row: register, condition, function, the second register and its function. A
        function's row: which one, its rate, and its values at 0, 1, 2, …
        """
        numbers: dict[tuple[Real, float], int] = {(Real.PLAIN, 0.0): 0, (Real.WEIGHT, 0.0): 1}
        rows = []
        for p in self.planes:
            one, two = (
                numbers.setdefault(f, len(numbers))
                for f in ((p.real, p.rate), (p.other_real, p.other_rate))
            )
            rows.append((p.register, p.condition, one, p.other, two))
        at = np.arange(self.batch.sizes.max(initial=0) + 2, dtype=np.float64)
        functions = [[float(real), rate, *_values(real, rate, at)] for real, rate in numbers]
        return (
            np.array(rows, dtype=np.int32).reshape(-1, 5),
            np.array(functions, dtype=np.float64),
        )

    @cached_property
    def slots(self) -> np.ndarray:
        """Per plane, int32 (n, 2): 0 for a truth or 1 for a value, and its number among those."""
        kinds = np.array([int(not p.truth) for p in self.planes], dtype=np.int32)
        numbers = np.where(kinds == 0, np.cumsum(kinds == 0), np.cumsum(kinds == 1)) - 1
        return np.stack([kinds, numbers], axis=1).astype(np.int32).reshape(-1, 2)

    @cached_property
    def column_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All columns stacked: settled, known and open (columns, tokens); pad and partial.

        Behind the tokens there is room for lanes that begin at the last of them.
        """
        total = int(self.batch.starts[-1])
        stacked = []
        for part in ("settled", "known", "open"):
            rows = np.zeros((len(self.columns), total + 16), dtype=np.int32)
            for row, column in zip(rows, self.columns, strict=True):
                row[:total] = getattr(column, part)
            stacked.append(rows)
        marks = [(c.pad, int(c.partial and self.causal)) for c in self.columns]
        return (*stacked, np.array(marks, dtype=np.int32).reshape(-1, 2))  # type: ignore[return-value]


def _values(real: Real, rate: float, at: np.ndarray) -> np.ndarray:
    """Compute a function at whole numbers from 0 on."""
    if real == Real.LOG:
        return np.log(np.maximum(at, 1))
    if real == Real.SQRT:
        return np.sqrt(at)
    if real == Real.INV:
        return 1 / np.maximum(at, 1)
    if real == Real.DECAY:
        return rate**at
    return at / 100 if real == Real.WEIGHT else at


class Compiler:
    """Compiles programs of one visibility for one batch of texts, sharing what they share."""

    def __init__(self, batch: Batch, causal: bool) -> None:
        self.batch, self.causal = batch, causal
        self.instructions: list[tuple[int, int, int, int, int]] = []
        self._known: dict[tuple[int, int, int, int, int], int] = {}
        self._columns: dict[int, int] = {}
        self.columns: list[ColumnArrays] = []
        self._planes: dict[Plane, int] = {}
        self.programs: list[tuple[int, ...]] = []
        self.sets: dict[str, t.SetLiteral] = {}

    def add(self, program: t.Head) -> int:
        """Compile one more program; return its number."""
        if program.causal != self.causal:
            raise ValueError("programs of one batch must share their visibility")
        self.sets = {d.name: d.value for d in program.sets}
        self.programs.append(tuple(p for term in program.terms for p in self.term(term)))
        return len(self.programs) - 1

    def finish(self) -> Code:
        """Return what has been compiled."""
        return Code(
            np.array(self.instructions, dtype=np.int32).reshape(-1, 5), tuple(self._planes),
            tuple(self.programs), tuple(self.columns), self.causal, self.batch,
        )  # fmt: skip

    def term(self, term: t.Term) -> list[int]:
        """Compile a term to one plane for each of its weights."""
        if isinstance(term, t.Where):
            return [self.plane(Plane(self.predicate(term.condition), -1, Real.PLAIN, truth=True))]
        condition = -1 if term.condition is None else self.predicate(term.condition)
        if isinstance(term, t.Scaled):
            return [self.plane(self.value(term.value, condition))]
        register = self.integer(term.value)
        bounds = [entry.bound for entry in term.entries]
        steps = zip(bounds, [*(b - 1 for b in bounds[1:]), ALWAYS], strict=True)
        return [
            self.plane(
                Plane(
                    self.emit(Op.BETWEEN, register, 0, low, high), condition, Real.PLAIN, truth=True
                )
            )
            for low, high in steps
        ]

    def plane(self, plane: Plane) -> int:
        """Number a plane."""
        return self._planes.setdefault(plane, len(self._planes))

    def value(self, node: t.Value, condition: int) -> Plane:
        """Compile what a weight multiplies; a factor that is 0 or 1 becomes part of the condition."""
        factors: list[tuple[int, Real, float]] = []
        for factor in (node.left, node.right) if isinstance(node, t.Product) else (node,):
            if isinstance(factor, t.Weight) and self.literal(factor.set).weights is None:
                member = self.member(factor.value, factor.set)
                condition = member if condition < 0 else self.emit(Op.AND, condition, member)
            else:
                factors.append(self.factor(factor))
        if not factors:
            return Plane(condition, -1, Real.PLAIN, truth=True)
        register, real, rate = min(factors)
        other = max(factors) if len(factors) > 1 else (-1, Real.PLAIN, 0.0)
        return Plane(register, condition, real, rate, False, *other)

    def factor(self, node: t.Factor) -> tuple[int, Real, float]:
        """Compile a factor: a register, the function that is applied to it, and its rate."""
        if isinstance(node, t.Weight):
            pairs = tuple(sorted(self.literal(node.set).hundredths().items()))
            arrays = self.batch.weights(node.value.name, pairs)
            return self.load(arrays, node.value.args[0]), Real.WEIGHT, 0.0
        if isinstance(node, t.Real):
            return self.integer(node.value), _REALS[node.name], 0.0
        if isinstance(node, t.Decay):
            return self.integer(node.value), Real.DECAY, node.rate
        return self.integer(node), Real.PLAIN, 0.0

    def literal(self, chosen: t.SetName | t.SetLiteral) -> t.SetLiteral:
        """Return the elements of a set: of the program, or else of the lexicon."""
        if isinstance(chosen, t.SetLiteral):
            return chosen
        return self.sets.get(chosen.name) or lexicon_literal(chosen.name)

    def member(self, symbol: t.Call, chosen: t.SetName | t.SetLiteral) -> int:
        """Compile whether a symbol is in a set."""
        elements = frozenset(self.literal(chosen).elements)
        return self.load(self.batch.members(symbol.name, elements), symbol.args[0])

    def emit(self, op: Op, a: int = 0, b: int = 0, x: int = 0, y: int = 0) -> int:
        """Add an instruction, unless it is there already; return its register."""
        if op in (Op.ADD, Op.MIN, Op.MAX, Op.EQ, Op.NE, Op.AND, Op.OR) and a > b:
            a, b = b, a
        instruction = (int(op), a, b, x, y)
        register = self._known.setdefault(instruction, len(self.instructions))
        if register == len(self.instructions):
            self.instructions.append(instruction)
        return register

    def column(self, arrays: ColumnArrays) -> int:
        """Number a column."""
        number = self._columns.setdefault(id(arrays), len(self.columns))
        if number == len(self.columns):
            self.columns.append(arrays)
        return number

    def load(self, arrays: ColumnArrays, position: t.Int) -> int:
        """Compile a column at a position."""
        number = self.column(arrays)
        if isinstance(position, t.Position):
            op = Op.COLUMN_QUERY if position.variable == "q" else Op.COLUMN_KEY
            return self.emit(op, number, 0, position.shift)
        return self.emit(Op.COLUMN, number, self.integer(position))

    def integer(self, node: t.Int) -> int:
        """Compile an integer expression; return its register."""
        match node:
            case t.Integer(value):
                return self.emit(Op.CONST, x=value)
            case t.Position(variable, shift):
                return self.emit(Op.QUERY if variable == "q" else Op.KEY, x=shift)
            case t.Arithmetic(op, left, right):
                return self.emit(
                    Op.ADD if op == "+" else Op.SUB, self.integer(left), self.integer(right)
                )
            case t.Absolute(inner):
                return self.emit(Op.ABS, self.integer(inner))
            case t.Extremum(name, left, right):
                chosen = Op.MIN if name == "min" else Op.MAX
                return self.emit(chosen, self.integer(left), self.integer(right))
            case t.Call(name, args):
                if FEATURES[name].arity == 2:
                    return self.emit(Op.MATCH, self.integer(args[0]), self.integer(args[1]))
                return self.load(self.batch.column(name), args[0])
            case t.Quantifier(name, body):
                return self.emit(_QUANTIFIERS[name], self.predicate(body))
        raise TypeError(f"not an integer: {node!r}")

    def predicate(self, node: t.Predicate) -> int:
        """Compile a predicate; return its register, which holds 0 or 1."""
        match node:
            case t.Always():
                return self.emit(Op.CONST, x=1)
            case t.Not(inner):
                return self.emit(Op.NOT, self.predicate(inner))
            case t.And(left, right):
                return self.emit(Op.AND, self.predicate(left), self.predicate(right))
            case t.Or(left, right):
                return self.emit(Op.OR, self.predicate(left), self.predicate(right))
            case t.Compare():
                return self.compare(node)
            case t.Between(inner, low, high):
                return self.emit(Op.BETWEEN, self.integer(inner), 0, low, high)
            case t.Member(symbol, chosen):
                return self.member(symbol, chosen)
            case t.Affix(name, symbol, text):
                return self.load(self.batch.affix(symbol.name, name, text), symbol.args[0])
        return self.integer(node)

    def compare(self, node: t.Compare) -> int:
        """Compile a comparison; with a string it is a test of the symbol column."""
        if isinstance(node.right, t.Text):
            assert isinstance(node.left, t.Call)
            arrays = self.batch.members(node.left.name, frozenset([node.right.value]))
            register = self.load(arrays, node.left.args[0])
            return register if node.op == "==" else self.emit(Op.NOT, register)
        assert not isinstance(node.left, t.Text)
        a, b = self.integer(node.left), self.integer(node.right)
        if node.op in _FLIPPED:
            return self.emit(_COMPARISONS[_FLIPPED[node.op]], b, a)
        return self.emit(_COMPARISONS[node.op], a, b)

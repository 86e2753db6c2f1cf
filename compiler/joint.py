"""Joint plans: many programs compiled together once, for any texts, whole or growing.

    >>> from attn_dsl.compiler.program import parse
    >>> plan = JointPlan([parse("head previous causal:\\n    1000 where k == q-1").tree])
    >>> plan.evaluate([Tokens.from_strings(["a", " b"])])[0, 0]
    array([[1., 0.],
           [1., 0.]], dtype=float32)

``compiler/evaluate.py`` compiles candidates that are seen once, for texts that are known; here
programs in use meet new texts all the time, so each is compiled once and split by what its parts
read (see ``compiler/joint_machine.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from attn_dsl.compiler import joint_machine as machine
from attn_dsl.compiler.batch import Batch, ColumnArrays
from attn_dsl.compiler.bytecode import Code, Compiler, Op, Plane
from attn_dsl.compiler.joint_columns import Columns
from attn_dsl.compiler.kernel_graph import ColumnKey, Stage
from attn_dsl.compiler.machine import plane_value
from attn_dsl.compiler.reads import joined, of_slope
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.tokens import Tokens

if TYPE_CHECKING:
    from attn_dsl.compiler.joint_tables import State, Tables

Affine = tuple[int, int, int]
"""The numbers a, b, c of a register that is a q + b k + c."""
_COMPARE = {
    Op.EQ: np.equal, Op.NE: np.not_equal, Op.LT: np.less, Op.LE: np.less_equal,
}  # fmt: skip
_BINARY = {
    **_COMPARE, Op.ADD: np.add, Op.SUB: np.subtract, Op.MIN: np.minimum, Op.MAX: np.maximum,
    Op.AND: np.bitwise_and, Op.OR: np.bitwise_or,
}  # fmt: skip
_QUANTIFIERS = (Op.ANY, Op.COUNT, Op.NEAREST, Op.FIRST, Op.LAST)
_TOKEN = ColumnKey("feature", "token")


class _Recorder(Batch):
    """Stands for the texts while programs are compiled: notes which columns are asked for."""

    def __init__(self) -> None:
        super().__init__([])
        self.keys: dict[ColumnKey, ColumnArrays] = {}

    def column(self, name: str) -> ColumnArrays:
        """Note a feature."""
        return self._note(ColumnKey("feature", name))

    def members(self, name: str, elements: frozenset[str]) -> ColumnArrays:
        """Note a test for a set."""
        return self._note(ColumnKey("in", name, elements))

    def weights(self, name: str, hundredths: tuple[tuple[str, int], ...]) -> ColumnArrays:
        """Note a weighted set."""
        return self._note(ColumnKey("weight", name, hundredths=hundredths))

    def affix(self, name: str, kind: str, text: str) -> ColumnArrays:
        """Note a test for a beginning or an end."""
        return self._note(ColumnKey(kind, name, frozenset([text])))

    def _note(self, key: ColumnKey) -> ColumnArrays:
        nothing = np.zeros(0, dtype=np.int32)
        partial = FEATURES[key.name].reads == "visible"
        return self.keys.setdefault(key, ColumnArrays(nothing, nothing, nothing, partial, key.pad))


Value = tuple[int, int, float]
"""A factor that is a number: register, function (``bytecode.Real``), rate of a decay."""


@dataclass
class Term:
    """A weight's plane, split by what its factors read.

    Attributes:
        weight: constant factors included.
        query: registers of the query that must be true.
        scales: factors that read the query alone.
        distance, key, pair: the planes whose product is weighted; -1 for none.
    """

    weight: float
    query: tuple[int, ...] = ()
    scales: tuple[Value, ...] = ()
    distance: int = -1
    key: int = -1
    pair: int = -1


PlaneKey = tuple[tuple[Value, ...], tuple[int, ...]]
"""A plane: up to two factors that are numbers, and the registers that must be true."""


@dataclass
class _Split:
    """Everything that the terms of all programs refer to."""

    key_planes: dict[PlaneKey, int] = field(default_factory=dict)
    pair_planes: dict[PlaneKey, int] = field(default_factory=dict)
    distance_planes: dict[PlaneKey, int] = field(default_factory=dict)


class JointPlan:
    """Programs of one visibility, compiled together.

    Attributes:
        columns: the features that they read, in the order of the machine's columns.
        reader: computes these on texts.
        causal: their visibility.
        size: how many programs there are.
        partial: int32 (columns): whether a feature may be settled later than at its position.
        reach: by how many positions a key looks to the right.
        token: the column of token strings, for ``match``; -1 if not needed.

    Args:
        programs: without holes.
    """

    def __init__(self, programs: Sequence[t.Head]) -> None:
        if not programs:
            raise ValueError("a plan needs at least one program")
        recorder = _Recorder()
        compiler = Compiler(recorder, programs[0].causal)
        for program in programs:
            compiler.add(program)
        self.code: Code = compiler.finish()
        self.causal, self.size = self.code.causal, len(programs)
        self.token = -1
        known = {id(arrays): key for key, arrays in recorder.keys.items()}
        self.columns = tuple(known[id(arrays)] for arrays in self.code.columns)
        if self.code.needs_match:
            if _TOKEN not in self.columns:
                self.columns = (*self.columns, _TOKEN)
            self.token = self.columns.index(_TOKEN)
        self.linear = np.array([p.normaliser == "linear" for p in programs], dtype=np.bool_)
        later = (self.causal and FEATURES[key.name].reads == "visible" for key in self.columns)
        self.partial = np.array(list(later), dtype=np.int32)
        shifts = [x for op, _, _, x, _ in self.code.instructions.tolist() if op == Op.COLUMN_KEY]
        self.reach = max([0, *shifts])
        self.reader = Columns(self.columns)
        self._stages()
        self.parts = _Split()
        self.terms = [
            [
                term
                for plane, weight in zip(planes, program.weights, strict=True)
                if (term := self._term(self.code.planes[plane], float(weight or 0.0))) is not None
            ]
            for planes, program in zip(self.code.programs, programs, strict=True)
        ]
        self._tables: dict[int, Tables] = {}
        self._spare: dict[int, list[State]] = {}

    # -- what each register reads ------------------------------------------------------------

    def _stages(self) -> None:
        """Say of every register what it reads."""
        self._affine: list[Affine | None] = []
        self.stage: list[Stage] = []
        for op, a, b, x, _ in self.code.instructions.tolist():
            affine = self._line(op, a, b, x)
            self._affine.append(affine)
            if affine is not None:
                stage = of_slope(*affine[:2])
                if op in (Op.ADD, Op.SUB) and stage in (Stage.KEY, Stage.QUERY):
                    # q - (q - k) is the key, but is not computed from what reads the key alone.
                    inner = {self.stage[a], self.stage[b]} <= {Stage.CONSTANT, stage}
                    stage = stage if inner else Stage.PAIR
                self.stage.append(stage)
                continue
            first = self.stage[a] if a < len(self.stage) else Stage.CONSTANT
            if op in (Op.COLUMN_QUERY, *_QUANTIFIERS):
                stage = Stage.QUERY
            elif op == Op.COLUMN_KEY:
                stage = Stage.KEY
            elif op == Op.COLUMN:
                stage = Stage.QUERY if self.stage[b] <= Stage.QUERY else Stage.PAIR
            elif op == Op.MATCH:
                quiet = max(first, self.stage[b]) <= Stage.QUERY
                stage = Stage.QUERY if quiet else Stage.PAIR
            elif op in (Op.ABS, Op.NOT, Op.BETWEEN):
                stage = first
            else:
                stage = joined(first, self.stage[b])
                gap = self._gap(a, b) if op in _COMPARE else None
                if gap is not None and of_slope(*gap[:2]) == Stage.DISTANCE:
                    stage = Stage.DISTANCE
            self.stage.append(stage)

    def _line(self, op: int, a: int, b: int, x: int) -> Affine | None:
        if op == Op.CONST:
            return (0, 0, x)
        if op == Op.QUERY:
            return (1, 0, x)
        if op == Op.KEY:
            return (0, 1, x)
        if op == Op.SUB:
            return self._gap(a, b)
        left, right = (self._affine[i] if op == Op.ADD else None for i in (a, b))
        if left is None or right is None:
            return None
        return (left[0] + right[0], left[1] + right[1], left[2] + right[2])

    def _gap(self, a: int, b: int) -> Affine | None:
        """Return the difference of two registers if it is linear in the positions."""
        left, right = self._affine[a], self._affine[b]
        if left is None or right is None:
            return None
        return (left[0] - right[0], left[1] - right[1], left[2] - right[2])

    def by_distance(self, register: int, distance: np.ndarray) -> np.ndarray:
        """Return a register that reads the distance alone, for many distances."""
        affine = self._affine[register]
        if affine is not None:
            return affine[0] * distance + affine[2]
        op, a, b, x, y = self.code.instructions[register].tolist()
        gap = self._gap(a, b) if op in _COMPARE else None
        if gap is not None:
            values = _COMPARE[Op(op)](gap[0] * distance + gap[2], 0)
        else:
            left = self.by_distance(a, distance)
            if op == Op.BETWEEN:
                values = (left >= x) & (left <= y)
            elif op == Op.NOT:
                values = 1 - left
            elif op == Op.ABS:
                values = np.abs(left)
            else:
                values = _BINARY[Op(op)](left, self.by_distance(b, distance))
        return values.astype(np.int64)

    # -- terms -------------------------------------------------------------------------------

    def _term(self, plane: Plane, weight: float) -> Term | None:
        """Split a plane; None where it adds nothing to any program."""
        factors = self._factors(plane.register) if plane.truth else []
        factors += self._factors(plane.condition) if plane.condition >= 0 else []
        by: dict[Stage, list[int]] = {stage: [] for stage in Stage}
        for register in dict.fromkeys(factors):
            by[self.stage[register]].append(register)
        if any(self.constant(i) == 0 for i in by[Stage.CONSTANT]):
            return None
        values: dict[Stage, list[Value]] = {stage: [] for stage in Stage}
        if not plane.truth:
            values[self.stage[plane.register]].append((plane.register, plane.real, plane.rate))
        if plane.other >= 0:
            other = (plane.other, plane.other_real, plane.other_rate)
            values[self.stage[plane.other]].append(other)
        for register, kind, rate in values[Stage.CONSTANT]:
            weight *= float(plane_value(int(kind), self.constant(register), rate))
        if weight == 0.0:
            return None
        term = Term(weight, tuple(by[Stage.QUERY]), tuple(values[Stage.QUERY]))
        three = (Stage.DISTANCE, Stage.KEY, Stage.PAIR)
        if by[Stage.PAIR] or values[Stage.PAIR]:
            numbers = tuple(v for stage in three for v in values[stage])
            held = tuple(i for stage in three for i in by[stage])
            term.pair = _number(self.parts.pair_planes, (numbers, held))
            return term
        if by[Stage.DISTANCE] or values[Stage.DISTANCE]:
            key = (tuple(values[Stage.DISTANCE]), tuple(by[Stage.DISTANCE]))
            term.distance = _number(self.parts.distance_planes, key)
        if by[Stage.KEY] or values[Stage.KEY]:
            key = (tuple(values[Stage.KEY]), tuple(by[Stage.KEY]))
            term.key = _number(self.parts.key_planes, key)
        return term

    def _factors(self, register: int) -> list[int]:
        """Return the registers that must all be true for a register to be."""
        op, a, b, _, _ = self.code.instructions[register].tolist()
        if op == Op.AND:
            return self._factors(a) + self._factors(b)
        return [register]

    def constant(self, register: int) -> int:
        """Return a register that reads nothing."""
        return int(self.by_distance(register, np.zeros(1, dtype=np.int64))[0])

    # -- evaluation --------------------------------------------------------------------------

    def tables(self, tokens: int) -> Tables:
        """Return the programs ready for texts of up to so many tokens."""
        capacity = 64
        while capacity < tokens:
            capacity *= 2
        if capacity not in self._tables:
            from attn_dsl.compiler.joint_tables import tables

            self._tables[capacity] = tables(self, capacity)
        return self._tables[capacity]

    def state(self, tokens: int) -> State:
        """Return room for the rows of a text of up to so many tokens."""
        from attn_dsl.compiler.joint_tables import state

        return state(self, self.tables(tokens))

    def evaluate(
        self,
        texts: Sequence[Tokens],
        out: np.ndarray | None = None,
        executor: Executor | None = None,
        clean: bool = False,
    ) -> np.ndarray:
        """Evaluate all programs on texts.

        Args:
            texts: any.
            out: where to write, float32 (programs, texts, n, n); by default a new array.
            executor: of threads, to work on several texts at once.
            clean: whether ``out`` is zero wherever these texts leave it; else it is made so.

        Returns:
            ``out``, with n the longest text or more: zero outside of a text and behind a query.
        """
        longest = max(map(len, texts), default=0)
        if out is None:
            out = np.zeros((self.size, len(texts), longest, longest), dtype=np.float32)
            clean = True
        tables = self.tables(longest)
        capacity = tables.sums.shape[1]

        def work(i: int, settled: np.ndarray, known: np.ndarray, opened: np.ndarray) -> None:
            spare = self._spare.setdefault(capacity, [])
            state = spare.pop() if spare else self.state(longest)
            machine.evaluate_text(
                *tables, *state, self.partial, self.reach, self.token, self.causal,
                len(texts[i]), settled, known, opened, clean, out[:, i],
            )  # fmt: skip
            spare.append(state)

        # one text is evaluated while the features of the next are read
        waiting = []
        for i, text in enumerate(texts):
            parts = self.reader.read(text)
            if executor is None:
                work(i, *parts)
            else:
                waiting.append(executor.submit(work, i, *parts))
        for future in waiting:
            future.result()
        return out


def _number(table: dict[PlaneKey, int], key: PlaneKey) -> int:
    return table.setdefault(key, len(table))

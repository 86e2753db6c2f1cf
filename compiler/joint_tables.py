"""Tables of a joint plan: what ``compiler/joint_machine.py`` reads, and room for what it keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from attn_dsl.compiler.bytecode import Op
from attn_dsl.compiler.joint_machine import FAR_OFF, State, Tables
from attn_dsl.compiler.kernel_graph import Stage
from attn_dsl.compiler.machine import plane_value
from attn_dsl.dsl.reference import TERM_LIMIT

if TYPE_CHECKING:
    from attn_dsl.compiler.joint import JointPlan

_NO_OPERANDS = (Op.CONST, Op.QUERY, Op.KEY, Op.COLUMN_QUERY, Op.COLUMN_KEY)
_GIVEN = (Stage.CONSTANT, Stage.KEY)
"""What is a row already when a plane of pairs asks for it."""
_WIDE = (Stage.QUERY, Stage.DISTANCE)
"""What is no row by itself, but becomes one where an operation on rows needs it."""
_UNARY = (Op.ABS, Op.NOT, Op.BETWEEN, Op.ANY, Op.COUNT, Op.NEAREST, Op.FIRST, Op.LAST)


class _Lists:
    """Lists of registers behind each other."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def add(self, registers: Iterable[int]) -> tuple[int, int]:
        """Add a list; return where it starts and ends."""
        start = len(self.items)
        self.items += registers
        return start, len(self.items)


def tables(plan: JointPlan, capacity: int) -> Tables:
    """Lay out a plan for texts of up to ``capacity`` tokens."""
    code, parts = plan.code, plan.parts
    distance = capacity - np.arange(2 * capacity, dtype=np.int64)
    conditions, needs = _Lists(), _Lists()
    key_rows, key_rates = _planes(parts.key_planes, conditions)
    pair_rows, pair_rates = _planes(parts.pair_planes, conditions)
    queries = sorted({q for terms in plan.terms for term in terms for q in term.query})
    roots = set(conditions.items) | {int(row[0]) for row in [*key_rows, *pair_rows] if row[0] >= 0}
    used = _closure(plan, {*roots, *queries})
    bodies = {a for q in used if _is_quantifier(plan, q) for a in _operands(plan, q)}
    as_rows = {
        i for i in _closure(plan, bodies) if i in bodies or plan.stage[i] in (Stage.PAIR, *_WIDE)
    }
    eager: list[int] = []
    for i in sorted(used | as_rows):
        if plan.stage[i] in (Stage.QUERY, Stage.KEY):
            eager.append(i)
        if i in as_rows and plan.stage[i] not in (Stage.KEY, Stage.CONSTANT):
            eager.append(-1 - i)
    pair_needs = []
    for value, _, _, held in parts.pair_planes:
        wanted = _closure(plan, {*held, *([value] if value >= 0 else [])})
        pair_needs.append(needs.add(i for i in sorted(wanted) if plan.stage[i] not in _GIVEN))
    slot, distances = _slots(plan, used, distance)
    planes = [_distance_plane(plan, key, distance) for key in parts.distance_planes]
    sums = np.zeros((plan.size, 2 * capacity))
    key_terms: list[tuple[int, int]] = []
    key_weights: list[float] = []
    rows: list[tuple[int, ...]] = []
    weights: list[float] = []
    starts = [0]
    for number, terms in enumerate(plan.terms):
        floor = 0.0 if plan.linear[number] else -TERM_LIMIT
        for term in terms:
            plain = (term.distance < 0) + (term.key < 0) + (term.pair < 0)
            if plain == 3 and not plan.linear[number]:
                continue  # the same for all keys of a row: it changes no softmax
            if not term.query and plain == 2 and term.distance >= 0:
                sums[number] += np.clip(term.weight * planes[term.distance], floor, TERM_LIMIT)
            elif not term.query and plain == 2 and term.key >= 0:
                key_terms.append((number, term.key))
                key_weights.append(term.weight)
            else:
                where = conditions.add(term.query)
                rows.append((term.distance, term.key, term.pair, *where))
                weights.append(term.weight)
        starts.append(len(rows))
    return Tables(
        code=code.instructions,
        stage=_ints(plan.stage),
        slot=slot,
        eager=_ints(eager),
        pads=_ints(key.pad for key in plan.columns),
        key_planes=_ints(key_rows, 4),
        key_rates=np.array(key_rates, dtype=np.float64),
        pair_planes=_ints(pair_rows, 4),
        pair_rates=np.array(pair_rates, dtype=np.float64),
        conditions=_ints(conditions.items),
        pair_needs=_ints(pair_needs, 2),
        needs=_ints(needs.items),
        distance=distances,
        distance_planes=np.array(planes, dtype=np.float64).reshape(-1, 2 * capacity),
        sums=sums,
        key_terms=_ints(key_terms, 2),
        key_weights=np.array(key_weights, dtype=np.float64),
        terms=_ints(rows, 5),
        weights=np.array(weights, dtype=np.float64),
        starts=_ints(starts),
        linear=plan.linear,
    )


def state(plan: JointPlan, t: Tables) -> State:
    """Make room for a text of up to the tables' capacity."""
    capacity = t.sums.shape[1] // 2
    scalars = np.zeros(len(t.stage), dtype=np.int32)
    rows = np.zeros((len(t.stage), capacity), dtype=np.int32)
    for i, stage in enumerate(plan.stage):
        if stage == Stage.CONSTANT:
            scalars[i] = rows[i] = plan.constant(i)
    side = capacity if plan.token >= 0 else 0
    return State(
        columns=np.zeros((len(plan.columns), capacity), dtype=np.int32),
        scalars=scalars,
        rows=rows,
        key_rows=np.zeros((len(t.key_planes), capacity)),
        pair_rows=np.zeros((len(t.pair_planes), capacity)),
        key_sums=np.full((plan.size, capacity), FAR_OFF),
        stamps=np.full(len(t.stage) + len(t.pair_planes), -1, dtype=np.int64),
        match=np.zeros((side, side), dtype=np.int32),
        scores=np.zeros(capacity),
        masses=np.zeros((2, capacity), dtype=np.float32),
        bits=np.zeros(capacity, dtype=np.int32),
    )


def _planes(keys: Iterable[tuple], conditions: _Lists) -> tuple[list[tuple], list[float]]:
    rows, rates = [], []
    for value, kind, rate, held in keys:
        rows.append((value, kind, *conditions.add(held)))
        rates.append(rate)
    return rows, rates


def _operands(plan: JointPlan, register: int) -> set[int]:
    op, a, b, _, _ = plan.code.instructions[register].tolist()
    if op in _NO_OPERANDS:
        return set()
    if op == Op.COLUMN:
        return {b}
    return {a} if op in _UNARY else {a, b}


def _is_quantifier(plan: JointPlan, register: int) -> bool:
    return int(plan.code.instructions[register, 0]) >= Op.ANY


def _closure(plan: JointPlan, roots: set[int]) -> set[int]:
    """Return registers with all that they are computed from; what reads the distance is given."""
    found: set[int] = set()
    left = list(roots)
    while left:
        register = left.pop()
        if register not in found:
            found.add(register)
            if plan.stage[register] not in (Stage.DISTANCE, Stage.CONSTANT):
                left += _operands(plan, register)
    return found


def _slots(
    plan: JointPlan, used: set[int], distance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the registers that read the distance, and say which row each has."""
    slot = np.full(len(plan.stage), -1, dtype=np.int32)
    chosen = [i for i in sorted(used) if plan.stage[i] == Stage.DISTANCE]
    slot[chosen] = np.arange(len(chosen))
    rows = [plan.by_distance(i, distance).astype(np.int32) for i in chosen]
    return slot, np.array(rows, dtype=np.int32).reshape(-1, len(distance))


def _distance_plane(plan: JointPlan, key: tuple, distance: np.ndarray) -> np.ndarray:
    value, kind, rate, held = key
    row = np.ones(len(distance))
    if value >= 0:
        row = np.array([plane_value(kind, v, rate) for v in plan.by_distance(value, distance)])
    for register in held:
        row = row * (plan.by_distance(register, distance) != 0)
    return row


def _ints(values: Iterable, width: int = 0) -> np.ndarray:
    array = np.array(list(values), dtype=np.int32)
    return array.reshape(-1, width) if width else array

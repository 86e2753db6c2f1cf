"""Tables of a joint plan: what ``compiler/joint_machine.py`` reads, and room for what it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from attn_dsl.compiler.bytecode import Op
from attn_dsl.compiler.joint_machine import FAR_OFF, State, Tables
from attn_dsl.compiler.kernel_graph import Stage
from attn_dsl.compiler.machine import plane_value
from attn_dsl.dsl.reference import TERM_LIMIT

if TYPE_CHECKING:
    from attn_dsl.compiler.joint import JointPlan, PlaneKey, Term, Value

NEAR = 60.0
"""How far apart the scores of a program may lie for its rows to need no largest one."""
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
    scales = [scale for terms in plan.terms for term in terms for scale in term.scales]
    planes_of_rows = [*parts.key_planes, *parts.pair_planes]
    numbers = {value[0] for values, _ in planes_of_rows for value in values}
    used = _closure(plan, {*conditions.items, *queries, *numbers, *(s[0] for s in scales)})
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
    for values, held in parts.pair_planes:
        wanted = _closure(plan, {*held, *(value[0] for value in values)})
        pair_needs.append(needs.add(i for i in sorted(wanted) if plan.stage[i] not in _GIVEN))
    slot, distances = _slots(plan, used, distance)
    planes = [_distance_plane(plan, key, distance) for key in parts.distance_planes]
    sums = np.zeros((plan.size, 2 * capacity))
    bounded = np.zeros(plan.size, dtype=np.bool_)
    key_terms: list[tuple[int, int]] = []
    key_weights: list[float] = []
    rows: list[tuple[int, ...]] = []
    rates: list[tuple[float, ...]] = []
    weights: list[float] = []
    starts = [0]
    for number, terms in enumerate(plan.terms):
        floor = 0.0 if plan.linear[number] else -TERM_LIMIT
        for term in terms:
            plain = (term.distance < 0) + (term.key < 0) + (term.pair < 0)
            if plain == 3 and not plan.linear[number]:
                continue  # the same for all keys of a row: it changes no softmax
            alone = plain == 2 and not (term.query or term.scales)
            if alone and term.distance >= 0:
                sums[number] += np.clip(term.weight * planes[term.distance], floor, TERM_LIMIT)
            elif alone and term.key >= 0:
                key_terms.append((number, term.key))
                key_weights.append(term.weight)
            else:
                where, (factors, own) = conditions.add(term.query), _functions(term.scales)
                rows.append((term.distance, term.key, term.pair, *where, *factors))
                rates.append(own)
                weights.append(term.weight)
        starts.append(len(rows))
        bounded[number] = not plan.linear[number] and _bound(plan, terms, planes, sums[number])
    return Tables(
        code=code.instructions,
        stage=_ints(plan.stage),
        slot=slot,
        eager=_ints(eager),
        pads=_ints(key.pad for key in plan.columns),
        key_planes=_ints(key_rows, 6),
        key_rates=_reals(key_rates),
        pair_planes=_ints(pair_rows, 6),
        pair_rates=_reals(pair_rates),
        conditions=_ints(conditions.items),
        pair_needs=_ints(pair_needs, 2),
        needs=_ints(needs.items),
        distance=distances,
        distance_planes=np.array(planes, dtype=np.float64).reshape(-1, 2 * capacity),
        sums=sums,
        key_terms=_ints(key_terms, 2),
        key_weights=np.array(key_weights, dtype=np.float64),
        terms=_ints(rows, 9),
        rates=_reals(rates),
        weights=np.array(weights, dtype=np.float64),
        starts=_ints(starts),
        linear=plan.linear,
        bounded=bounded,
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


def _planes(keys: Iterable[PlaneKey], conditions: _Lists) -> tuple[list[tuple], list[tuple]]:
    rows, rates = [], []
    for values, held in keys:
        factors, own = _functions(values)
        rows.append((*conditions.add(held), *factors))
        rates.append(own)
    return rows, rates


def _functions(values: Sequence[Value]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return registers (-1 for none) and functions of up to two factors, and their rates."""
    two = [*values, (-1, 0, 0.0), (-1, 0, 0.0)][:2]
    return tuple(int(x) for value in two for x in value[:2]), tuple(float(v[2]) for v in two)


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


def _slots(plan: JointPlan, used: set[int], distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the registers that read the distance, and say which row each has."""
    slot = np.full(len(plan.stage), -1, dtype=np.int32)
    chosen = [i for i in sorted(used) if plan.stage[i] == Stage.DISTANCE]
    slot[chosen] = np.arange(len(chosen))
    rows = [plan.by_distance(i, distance).astype(np.int32) for i in chosen]
    return slot, np.array(rows, dtype=np.int32).reshape(-1, len(distance))


def _distance_plane(plan: JointPlan, key: PlaneKey, distance: np.ndarray) -> np.ndarray:
    values, held = key
    row = np.ones(len(distance))
    for register, kind, rate in values:
        at = plan.by_distance(register, distance)
        row = row * np.array([plane_value(int(kind), v, rate) for v in at])
    for register in held:
        row = row * (plan.by_distance(register, distance) != 0)
    return row


def _bound(
    plan: JointPlan, terms: Sequence[Term], planes: Sequence[np.ndarray], sums: np.ndarray
) -> bool:
    """Lower a softmax program's scores so that none is positive, if they all lie near each other.

    Then no row needs its largest score: what is added to all of its scores changes nothing.
    """
    seen = slice(0, len(sums) // 2 + 1) if plan.causal else slice(None)
    least, most = float(sums[seen].min()), float(sums[seen].max())
    keys, pairs = list(plan.parts.key_planes), list(plan.parts.pair_planes)
    for term in terms:
        if not (term.query or term.scales) and term.key < 0 and term.pair < 0:
            continue  # part of the sums
        counts = term.scales
        if term.key >= 0:
            counts += keys[term.key][0]
        if term.pair >= 0:
            counts += pairs[term.pair][0]
        if counts:
            return False  # a number that the text decides
        ends = [0.0, term.weight]
        if term.distance >= 0:
            plane = planes[term.distance][seen]
            ends += [term.weight * float(plane.min()), term.weight * float(plane.max())]
        least, most = least + min(ends), most + max(ends)
    if most - least > NEAR:
        return False
    sums -= most
    return True


def _reals(rates: Sequence[tuple[float, ...]]) -> np.ndarray:
    return np.array(rates, dtype=np.float64).reshape(-1, 2)


def _ints(values: Iterable, width: int = 0) -> np.ndarray:
    array = np.array(list(values), dtype=np.int32)
    return array.reshape(-1, width) if width else array

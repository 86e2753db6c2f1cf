"""Tables of a joint plan: what ``compiler/joint_machine.py`` reads, and room for what it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from attn_dsl.compiler.bytecode import Op
from attn_dsl.compiler.joint_machine import FAR_OFF
from attn_dsl.compiler.kernel_graph import Stage
from attn_dsl.compiler.machine import plane_value
from attn_dsl.compiler.reads import operands
from attn_dsl.dsl.limits import TERM_LIMIT

if TYPE_CHECKING:
    from attn_dsl.compiler.joint import JointPlan, PlaneKey, Term, Value

NEAR = 60.0
"""How far apart the scores of a program may lie for its rows to need no largest one."""
_GIVEN = (Stage.CONSTANT, Stage.KEY)
"""What is a row already when a plane of pairs asks for it."""
_WIDE = (Stage.QUERY, Stage.DISTANCE)
"""What is no row by itself, but becomes one where an operation on rows needs it."""


class Tables(NamedTuple):
    """Programs of one visibility, ready for the machine; made by ``tables``.

    Attributes:
        code: int32 (registers, 5), as in the bytecode.
        stage, slot: int32 (registers): what each reads; for those that read the distance, the row
            of ``distance`` that holds it.
        eager: int32, the registers to compute for every query, in order: those that read the query
            or the key; -1 - register: what else is wanted as a row, for a quantifier looks at it.
        pads: int32 (columns): the value outside of what is visible.
        key_planes: int32 (planes, 6): conditions' start and end, and up to two factors, register
            (-1: none) and function each.
        key_rates: float64 (planes, 2): of decays.
        pair_planes, pair_rates: the same for planes of pairs.
        conditions: int32, registers that must be true.
        pair_needs: int32 (planes, 2): start and end in ``needs``.
        needs: int32, the registers that a plane of pairs needs as rows, in order.
        distance: int32 (registers that read the distance, 2 * capacity), backwards.
        distance_planes: float64 (planes, 2 * capacity), backwards.
        sums: float64 (programs, 2 * capacity): all that a program adds by distance, backwards.
        key_terms: int32 (terms, 2): program, key plane.
        key_weights: float64 (terms).
        terms: int32 (terms, 9): planes by distance, key and pair (-1: none), start and end of the
            conditions on the query, and up to two factors that read the query; each program's
            behind those of the one before.
        rates: float64 (terms, 2): of decays among these factors.
        weights: float64 (terms).
        starts: int32 (programs + 1): the terms of each program.
        linear: bool (programs).
        bounded: bool (programs): whether no score is positive, and the largest of a row never so
            far below zero that float32 could not hold its exponential.
    """

    code: np.ndarray
    stage: np.ndarray
    slot: np.ndarray
    eager: np.ndarray
    pads: np.ndarray
    key_planes: np.ndarray
    key_rates: np.ndarray
    pair_planes: np.ndarray
    pair_rates: np.ndarray
    conditions: np.ndarray
    pair_needs: np.ndarray
    needs: np.ndarray
    distance: np.ndarray
    distance_planes: np.ndarray
    sums: np.ndarray
    key_terms: np.ndarray
    key_weights: np.ndarray
    terms: np.ndarray
    rates: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    linear: np.ndarray
    bounded: np.ndarray


class State(NamedTuple):
    """What the rows of a text so far have left, up to a capacity of tokens.

    Attributes:
        columns: int32 (columns, capacity): the features as the newest query sees them.
        scalars: int32 (registers): values that do not depend on the key.
        rows: int32 (registers, capacity): values by key.
        key_rows, pair_rows: float64 (planes, capacity).
        key_sums: float64 (programs, capacity): all that a program adds by key; ``FAR_OFF`` behind
            the newest key.
        stamps: int64 (registers + planes of pairs): for which row each was computed last.
        match: int32 (capacity, capacity), or (0, 0) where no program needs it.
        scores: float64 (capacity).
        masses: float32 (2, capacity).
    """

    columns: np.ndarray
    scalars: np.ndarray
    rows: np.ndarray
    key_rows: np.ndarray
    pair_rows: np.ndarray
    key_sums: np.ndarray
    stamps: np.ndarray
    match: np.ndarray
    scores: np.ndarray
    masses: np.ndarray


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


def _operands(plan: JointPlan, register: int) -> tuple[int, ...]:
    return operands(*plan.code.instructions[register, :3].tolist())


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

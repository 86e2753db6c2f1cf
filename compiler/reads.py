"""What registers read: the query, the key, their distance or both, found before anything runs.

What reads the key alone is one vector of a text, what reads the distance alone is another, and
what reads the query alone adds the same to a whole row, which softmax takes out again. So only
the rest is computed for every pair.
"""

from __future__ import annotations

import numpy as np

from attn_dsl.compiler.bytecode import Code, Op
from attn_dsl.compiler.kernel_graph import Stage

_SEARCHES = (Op.ANY, Op.COUNT, Op.NEAREST, Op.FIRST, Op.LAST)
_COMPARISONS = (Op.EQ, Op.NE, Op.LT, Op.LE)
_OF_ONE = (Op.ABS, Op.NOT, Op.BETWEEN)
_OF_COLUMNS = (Op.COLUMN, Op.COLUMN_KEY, Op.COLUMN_QUERY)


def stages(code: Code) -> np.ndarray:
    """Say for each register what it reads.

    A causal query does not see positions behind itself, nor what is settled only later, so that
    ``text(k+1)`` and partial columns read the query too.

    Returns:
        int64 (registers): values of ``Stage``.
    """
    found: list[Stage] = []
    slopes: list[tuple[int, int] | None] = []
    for op, a, b, x, _ in code.instructions.tolist():
        slope = _slope(op, a, b, slopes)
        slopes.append(slope if op in (Op.CONST, Op.QUERY, Op.KEY, Op.ADD, Op.SUB) else None)
        if slope is not None:
            found.append(of_slope(*slope))
        elif op in (*_SEARCHES, Op.COLUMN_QUERY):
            found.append(Stage.QUERY)
        elif op == Op.COLUMN_KEY:
            hidden = code.causal and (x > 0 or code.columns[a].partial)
            found.append(Stage.PAIR if hidden else Stage.KEY)
        elif op in _OF_ONE:
            found.append(found[a])
        else:
            read = found[b] if op == Op.COLUMN else joined(found[a], found[b])
            if op in (Op.COLUMN, Op.MATCH) and code.causal:
                read = Stage.QUERY if read <= Stage.QUERY else Stage.PAIR
            found.append(read)
    return np.array(found, dtype=np.int64)


def joined(a: Stage, b: Stage) -> Stage:
    """Say what two registers read together.

    >>> joined(Stage.KEY, Stage.CONSTANT), joined(Stage.KEY, Stage.QUERY)
    (<Stage.KEY: 2>, <Stage.PAIR: 4>)
    """
    if a == Stage.CONSTANT or a == b:
        return b
    return a if b == Stage.CONSTANT else Stage.PAIR


def plane_stages(code: Code, registers: np.ndarray) -> np.ndarray:
    """Say for each plane what it reads.

    Args:
        registers: as ``stages`` returns them.
    """
    found = []
    for plane in code.planes:
        read = Stage.CONSTANT
        for register in (plane.register, plane.condition, plane.other):
            if register >= 0:
                read = joined(read, Stage(registers[register]))
        found.append(read)
    return np.array(found, dtype=np.int64)


def needed(code: Code, wanted: np.ndarray) -> np.ndarray:
    """Return the registers that some registers are computed from, themselves included, in order."""
    inside = set(map(int, wanted))
    for number in range(len(code.instructions) - 1, -1, -1):
        if number in inside:
            op, a, b = code.instructions[number, :3].tolist()
            inside.update(operands(op, a, b))
    return np.array(sorted(inside), dtype=np.int64)


def operands(op: int, a: int, b: int) -> tuple[int, ...]:
    """Return the registers that an instruction reads."""
    if op in (Op.CONST, Op.QUERY, Op.KEY, Op.COLUMN_QUERY, Op.COLUMN_KEY):
        return ()
    if op == Op.COLUMN:
        return (b,)
    return (a,) if op in (*_OF_ONE, *_SEARCHES) else (a, b)


def _slope(op: int, a: int, b: int, known: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Return what a linear register, or the gap of two that are compared, gains with q and k."""
    if op in (Op.CONST, Op.QUERY, Op.KEY):
        return (int(op == Op.QUERY), int(op == Op.KEY))
    if op not in (Op.ADD, Op.SUB, *_COMPARISONS):
        return None
    left, right = known[a], known[b]
    if left is None or right is None:
        return None
    sign = 1 if op == Op.ADD else -1
    return left[0] + sign * right[0], left[1] + sign * right[1]


def of_slope(query: int, key: int) -> Stage:
    """Say what is read by what gains so much with the query and with the key.

    >>> of_slope(1, -1)
    <Stage.DISTANCE: 3>
    """
    if key == 0:
        return Stage.CONSTANT if query == 0 else Stage.QUERY
    if query == 0:
        return Stage.KEY
    return Stage.DISTANCE if query == -key else Stage.PAIR

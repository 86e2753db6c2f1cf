"""Dependencies: what each node of a graph reads, and so how often it must be computed.

What reads the key alone is one vector of a text, what reads the distance alone is another, and
what reads the query alone adds the same to a whole row, which softmax takes out again. Only the
rest is computed for every pair of query and key.
"""

from __future__ import annotations

from enum import IntEnum

from attn_dsl.compiler.graph import Graph, Node
from attn_dsl.compiler.operations import CODES, QUANTIFIERS


class Stage(IntEnum):
    """What a node reads."""

    CONSTANT = 0
    QUERY = 1
    KEY = 2
    DISTANCE = 3
    PAIR = 4


_SEARCHES = {CODES[name] for name in QUANTIFIERS}
_COLUMN_QUERY, _COLUMN_KEY, _COLUMN = (
    CODES[name] for name in ("column_query", "column_key", "column")
)
_MATCH = CODES["match"]
_SLOPES = {CODES["constant"]: (0, 0), CODES["query"]: (1, 0), CODES["key"]: (0, 1)}
_SIGNS = {CODES["add"]: 1} | {
    CODES[name]: -1
    for name in ("subtract", "equal", "unequal", "less", "at_most", "more", "at_least")
}
_SUMS = {CODES["add"], CODES["subtract"]}


def stages(graph: Graph) -> list[Stage]:
    """Return what each node reads.

    A causal query does not see positions after itself, nor what is settled only later, so
    ``text(k+1)`` and partial columns read the query too.

    >>> from attn_dsl.compiler.lower import lower
    >>> from attn_dsl.dsl.parser import parse
    >>> stages(lower([parse("head a causal:\\n 1 where q - k == 2")]))[-1]
    <Stage.DISTANCE: 3>
    """
    found: list[Stage] = []
    slopes: list[tuple[int, int] | None] = []
    partial = [key.partial and graph.causal for key in graph.keys]
    for node in graph.nodes:
        slope = _slope(node, slopes)
        linear = node.op in _SLOPES or node.op in _SUMS
        slopes.append(slope if linear else None)
        if slope is not None:
            found.append(_of_slope(*slope))
        elif node.op in _SEARCHES or node.op == _COLUMN_QUERY:
            found.append(Stage.QUERY)
        elif node.op == _COLUMN_KEY:
            hidden = graph.causal and (node.x > 0 or partial[node.y])
            found.append(Stage.PAIR if hidden else Stage.KEY)
        else:
            read = joined(*(found[operand] for operand in node.operands))
            if node.op in (_COLUMN, _MATCH) and graph.causal:
                read = Stage.QUERY if read <= Stage.QUERY else Stage.PAIR
            found.append(read)
    return found


def joined(*stages: Stage) -> Stage:
    """Return what several nodes read together.

    >>> joined(Stage.KEY, Stage.CONSTANT), joined(Stage.KEY, Stage.QUERY)
    (<Stage.KEY: 2>, <Stage.PAIR: 4>)
    """
    found = set(stages) - {Stage.CONSTANT}
    return Stage.PAIR if len(found) > 1 else max(found, default=Stage.CONSTANT)


def _slope(node: Node, known: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Return what a linear node, or the difference of two that are compared, gains with q and k."""
    if node.op in _SLOPES:
        return _SLOPES[node.op]
    sign = _SIGNS.get(node.op)
    if sign is None:
        return None
    left, right = known[node.a], known[node.b]
    if left is None or right is None:
        return None
    return left[0] + sign * right[0], left[1] + sign * right[1]


def _of_slope(query: int, key: int) -> Stage:
    """Return what is read by a node that gains so much with the query and with the key."""
    if key == 0:
        return Stage.CONSTANT if query == 0 else Stage.QUERY
    if query == 0:
        return Stage.KEY
    return Stage.DISTANCE if query == -key else Stage.PAIR

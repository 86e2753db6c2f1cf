"""Dependencies: what each node of a graph depends on, and so how often it must be computed.

A node that depends on the key alone is one vector for a text, and one that depends on the distance
q - k alone is another. A score that depends on the query alone shifts its whole row, so softmax does
not need it. Only other nodes are computed for every pair of query and key.
"""

from enum import IntEnum

from attn_dsl.compiler.graph import Graph, Node
from attn_dsl.compiler.operations import QUANTIFIERS


class Stage(IntEnum):
    """What a node depends on."""

    CONSTANT = 0
    QUERY = 1
    KEY = 2
    DISTANCE = 3
    PAIR = 4


_SLOPES = {"constant": (0, 0), "query": (1, 0), "key": (0, 1)}
_SIGNS = {"add": 1} | dict.fromkeys(
    ("subtract", "equal", "unequal", "less", "at_most", "more", "at_least"), -1
)


def stages(graph: Graph) -> list[Stage]:
    """Return what each node depends on.

    ``text(k+1)`` in a causal program depends on the query too, because the query may not see position
    k+1. So does a partial column, whose value the query may not know yet.
    """
    found: list[Stage] = []
    slopes: list[tuple[int, int] | None] = []
    partial = [key.partial and graph.causal for key in graph.keys]
    for node in graph.nodes:
        name, slope = node.operation.name, _slope(node, slopes)
        slopes.append(slope if name in _SLOPES or name in ("add", "subtract") else None)
        if slope is not None:
            found.append(_of_slope(*slope))
        elif name in QUANTIFIERS or name == "column_query":
            found.append(Stage.QUERY)
        elif name == "column_key":
            hidden = graph.causal and (node.x > 0 or partial[node.y])
            found.append(Stage.PAIR if hidden else Stage.KEY)
        else:
            read = joined(*(found[operand] for operand in node.operands))
            if name in ("column", "table") and graph.causal:
                read = Stage.QUERY if read <= Stage.QUERY else Stage.PAIR
            found.append(read)
    return found


def joined(*stages: Stage) -> Stage:
    """Return what a function of several nodes depends on."""
    found = set(stages) - {Stage.CONSTANT}
    return Stage.PAIR if len(found) > 1 else max(found, default=Stage.CONSTANT)


def _slope(node: Node, known: list[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Return the coefficients of q and k in a linear node, or in the difference of two compared ones."""
    name = node.operation.name
    if name in _SLOPES:
        return _SLOPES[name]
    sign = _SIGNS.get(name)
    if sign is None:
        return None
    left, right = known[node.a], known[node.b]
    if left is None or right is None:
        return None
    return left[0] + sign * right[0], left[1] + sign * right[1]


def _of_slope(query: int, key: int) -> Stage:
    """Return what a node depends on, given its coefficients of q and k."""
    if key == 0:
        return Stage.CONSTANT if query == 0 else Stage.QUERY
    if query == 0:
        return Stage.KEY
    return Stage.DISTANCE if query == -key else Stage.PAIR

"""Bounds on the magnitude of terms, so that exports clip only terms that can exceed their limit."""

from __future__ import annotations

import math

from attn_dsl.compiler.graph import Factor, Graph, Term
from attn_dsl.compiler.operations import real_bound

LARGEST = 2.0**31
"""No integer of a checked program is larger in magnitude."""


def largest(graph: Graph, term: Term) -> float:
    """Return an upper bound on the magnitude of the product of the factors of a term.

    >>> from attn_dsl.compiler.lower import lower
    >>> from attn_dsl.dsl.parser import parse
    >>> graph = lower([parse("head a causal:\\n 1 * inv(q - k) * 3")])
    >>> largest(graph, graph.programs[0][0])
    3.0
    """
    return 1.0 if term.bounds else math.prod(_factor(graph, factor) for factor in term.factors)


def _factor(graph: Graph, factor: Factor) -> float:
    node, most = graph.nodes[factor.node], LARGEST
    if node.operation.name == "constant":
        most = abs(node.x)
    elif factor.function == "hundredths":
        most = max(abs(weight) for _, weight in graph.keys[node.y].elements)
    return float(real_bound(factor.function, most))

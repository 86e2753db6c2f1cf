"""The cost of a program: its number of operations for each pair of query and key."""

import math

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.expand import expand
from attn_dsl.dsl.scope import Scope

_FREE = (t.Integer, t.Position, t.Text, t.Always, t.Entry, t.Sum)
"""Nodes that cost nothing. The steps of a table are counted with the table, a sum by its parts."""


def cost(program: t.Head) -> int:
    """Return the cost of a program: its number of operations for each pair of query and key.

    A feature, function, operator, quantifier or weight is one operation, and ``match`` is four. A
    step of a table is two, a comparison and a weight. Each use of a set is one more per 100
    elements, rounded up. A use of a score is one for each line of its definition. Positions, shifts
    and whole numbers cost nothing. A use of a function costs what its value does. What a search costs
    at each pair of positions counts once for the program, and then one for each use.
    """
    scope, total = Scope.of(program), 0
    pending: list[t.Node] = [expand(term, scope) for term in program.terms]
    pending += [expand(line, scope) for score in program.scores for line in score.terms]
    searches = set[tuple]()
    while pending:
        node = pending.pop()
        if isinstance(node, t.Search):
            known = (node.over, node.body) in searches
            searches.add((node.over, node.body))
            pending += [node.at] if known else node.children()
        else:
            pending += node.children()
        if isinstance(node, t.Table):
            total += 2 * len(node.entries)
        elif isinstance(node, t.SetLiteral):
            total += math.ceil(len(node.elements) / 100)
        elif isinstance(node, t.SetName):
            total += math.ceil(len(getattr(scope.find(node.name)[0], "elements", ())) / 100)
        elif isinstance(node, t.Score):
            total += len(getattr(scope.find(node.name)[0], "terms", ()))
        elif not isinstance(node, _FREE):
            total += 4 if isinstance(node, t.Call) and node.name == "match" else 1
    return total

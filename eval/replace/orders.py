"""Orders: which heads are replaced first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from attn_dsl.eval.replace.measure import HeldOut
from attn_dsl.eval.replace.measurements import Measurements, Tell
from attn_dsl.eval.replace.source import Head

ORDERS = ("iou", "damage", "greedy")
"""By IoU, by the damage of each head alone, by the damage on top of those replaced before."""


def order_heads(
    name: str, measurements: Measurements, select: HeldOut, heads: Sequence[Head], tell: Tell
) -> list[Head]:
    """Order heads so that those whose programs cost least come first.

    ``iou``: by the IoU of head and program, highest first (the paper's order). ``damage``: by
    what the loss grows when the head alone is replaced. ``greedy``: again and again the head
    that adds least to the loss of those replaced so far. All of it is measured on the select
    texts, so that figures on the test texts are held out.

    Args:
        name: one of ``ORDERS``.
        select: the select texts.
        heads: those to order.
    """
    if name == "iou":
        return sorted(heads, key=lambda head: (-measurements.model.ious[head], head))

    def loss(chosen: Sequence[Head]) -> float:
        return measurements.measure(select, "programs", sorted(chosen)).loss

    damages: dict[Head, float] = {}
    for at, head in enumerate(heads):
        tell(f"ordering by {name}", at, len(heads))
        damages[head] = loss([head]) - select.original.loss
    if name == "damage":
        return sorted(heads, key=lambda head: (damages[head], head))
    return greedy(damages, loss, select.original.loss, tell)


def greedy(
    damages: dict[Head, float], loss: Callable[[list[Head]], float], original: float, tell: Tell
) -> list[Head]:
    """Choose heads one after the other, each the one that adds least to the loss.

    What a head adds is measured again only when it comes to the front (Minoux's accelerated
    greedy algorithm, 1978): a head whose damage was larger before is taken to be no better now.
    For damages that only grow as more heads are replaced this is exactly the greedy order.

    >>> cost = {(0, 0): 0.1, (0, 1): 0.3, (0, 2): 0.2}
    >>> greedy(cost, lambda chosen: sum(cost[h] for h in chosen), 0.0, tell)
    [(0, 0), (0, 2), (0, 1)]

    Args:
        damages: what each head alone adds to the loss.
        loss: the loss with some heads replaced.
        original: the loss with none replaced.
    """
    waiting = [(damage, 0, head) for head, damage in damages.items()]
    heapq.heapify(waiting)
    chosen: list[Head] = []
    now = original
    while waiting:
        tell("ordering by greedy", len(chosen), len(damages))
        damage, measured_at, head = heapq.heappop(waiting)
        if measured_at == len(chosen):
            chosen.append(head)
            now += damage
            continue
        fresh = loss([*chosen, head]) - now
        heapq.heappush(waiting, (fresh, len(chosen), head))
    return chosen

"""Heads of a model: how they are named, and how a choice of them is read.

A head is called ``L5H1``. Files, and what is sorted as text, have its label, ``L05H01``; both are read.
"""

import re
from collections.abc import Sequence

from attn_dsl.dsl.errors import InputError, did_you_mean

Pair = tuple[int, int]
"""Layer and query head, both from 0."""


def label(layer: int, head: int) -> str:
    """Return the label of a head, as in ``L05H01``."""
    return f"L{layer:02d}H{head:02d}"


def unpadded(text: str) -> str:
    """Write the heads that a text names without leading zeros.

    >>> unpadded("L05H01 L10H00")
    'L5H1 L10H0'
    """
    return re.sub(r"\bL0*(\d+)H0*(\d+)\b", r"L\1H\2", text)


def one_head(head: str | tuple[int, int], known: Sequence[tuple[int, int]], where: str) -> tuple[int, int]:
    """Return layer and number of one of the known heads; else an InputError with names near it."""
    found = re.fullmatch(r"\s*[Ll](\d{1,9})\.?[Hh](\d{1,9})\s*", head) if isinstance(head, str) else None
    pair = tuple(map(int, found.groups())) if found else head
    if pair in known:
        return known[known.index(pair)]
    names = [f"L{layer}H{number}" for layer, number in known]
    pair_given = isinstance(head, tuple) and len(head) == 2
    name = "L{}H{}".format(*head) if pair_given else str(head)
    near = did_you_mean(name, names) or f"its heads: {', '.join(names[:3]) or 'none yet'}, …"
    raise InputError(f"{where} has no head {name}; {near}")


def parse_heads(text: str | None, layers: int, heads: int) -> list[tuple[int, int]]:
    """Read a choice of heads: ``L2H3`` one head, ``L4`` a layer; None is all of them.

    >>> parse_heads("L1H0,L0", layers=2, heads=2)
    [(0, 0), (0, 1), (1, 0)]

    Raises:
        InputError: it is written otherwise, or there is no such head.
    """
    if text is None:
        return [(layer, head) for layer in range(layers) for head in range(heads)]
    chosen: set[tuple[int, int]] = set()
    for part, layer, one in read_heads(text):
        for head in range(heads) if one is None else [one]:
            if layer >= layers or head >= heads:
                raise InputError(f"--heads: there is no {part}; the model has layers 0 to {layers - 1} with "
                                 f"heads 0 to {heads - 1}")  # fmt: skip
            chosen.add((layer, head))
    return sorted(chosen)


def read_heads(text: str) -> list[tuple[str, int, int | None]]:
    """Read a choice of heads without knowing the model: each part, its layer, its head if any."""
    parts = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = re.fullmatch(r"[Ll](\d{1,9})(?:\.?[Hh](\d{1,9}))?", part)
        if not found:
            raise InputError(f"--heads: cannot read {part!r}; write L2H3 for a head, L4 for a layer")
        parts.append((part, int(found[1]), None if found[2] is None else int(found[2])))
    if not parts:
        raise InputError("--heads names no head; write L2H3 for a head, L4 for a layer")
    return parts

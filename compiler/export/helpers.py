"""Helpers: the small functions that exported sources call, written once for all kinds of arrays.

They stand inside the function that computes the matrix, and see its variables: ``q`` and ``k``, the
positions of queries and keys, ``n``, the length, ``end``, the last key that a query sees, and
``others``, which keys a quantifier searches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attn_dsl.dsl.limits import TERM_LIMIT

HELPERS = {
    "at": '''
def at(column, position, pad):
    """Read a column as the query sees it: `pad` where the position is not visible."""
    inside = (0 <= position) & (position <= end)
    return xp.where(inside, column[xp.clip(position, 0, n - 1)], pad)
''',
    "known_at": '''
def known_at(settled, known, opened, position, pad):
    """Read a column some of whose values the query may not know yet; it has `opened` for them."""
    inside = (0 <= position) & (position <= end)
    position = xp.clip(position, 0, n - 1)
    value = xp.where(known[position] <= q, settled[position], opened[q])
    return xp.where(inside, value, pad)
''',
    "match_at": '''
def match_at(table, i, j):
    """Read how many tokens ending at two positions are the same: 0 where one is not visible."""
    inside = (0 <= i) & (i <= end) & (0 <= j) & (j <= end)
    return xp.where(inside, table[xp.clip(i, 0, n - 1), xp.clip(j, 0, n - 1)], 0)
''',
    "between": '''
def between(value, low, high):
    """Say where a value is within bounds, both included."""
    return (low <= value) & (value <= high)
''',
    "minimum": '''
def minimum(value, other):
    """Return the smaller of two numbers."""
    return xp.clip(value, None, other)
''',
    "maximum": '''
def maximum(value, other):
    """Return the larger of two numbers."""
    return xp.clip(value, other, None)
''',
    "nearest": '''
def nearest(found):
    """Return the nearest other key where something holds, of two the one before; -1 for none."""
    distance = xp.where(found & others, 2 * abs(q - k) + (k > q), 2 * n)
    key = xp.argmin(distance, -1, KEEP)
    return xp.where(xp.amin(distance, -1, KEEP) < 2 * n, key, -1)
''',
    "first": '''
def first(found):
    """Return the first other key where something holds; -1 for none."""
    key = xp.amin(xp.where(found & others, k, n), -1, KEEP)
    return xp.where(key < n, key, -1)
''',
    "last": '''
def last(found):
    """Return the last other key where something holds; -1 for none."""
    return xp.amax(xp.where(found & others, k, -1), -1, KEEP)
''',
    "count": '''
def count(found):
    """Count the other keys where something holds."""
    return xp.sum(found & others, -1, KEEP)
''',
    "exists": '''
def exists(found):
    """Say whether something holds for any other key."""
    return xp.any(found & others, -1, KEEP)
''',
    "log": '''
def log(value):
    """Return the logarithm of max(value, 1)."""
    return xp.log(xp.clip(value, 1, None)TO)
''',
    "sqrt": '''
def sqrt(value):
    """Return the root of max(value, 0)."""
    return xp.sqrt(xp.clip(value, 0, None)TO)
''',
    "inv": '''
def inv(value):
    """Return 1 / max(value, 1)."""
    return 1.0 / xp.clip(value, 1, None)TO
''',
    "decay": '''
def decay(value, rate):
    """Return the rate to the power of max(value, 0)."""
    return rate ** xp.clip(value, 0, None)TO
''',
    "hundredths": '''
def hundredths(value):
    """Return weights that are given in hundredths."""
    return (value)TO / 100.0
''',
    "table": '''
def table(value, bounds, weights):
    """Return the weight of the last bound that a value has reached; 0 below the first."""
    found = xp.zeros_like(value, dtype=DTYPE)
    for bound, weight in zip(bounds, weights):
        found = xp.where(value >= bound, weight, found)
    return found
''',
    "bounded": '''
def bounded(value):
    """Return what a term adds, within its bounds."""
    return xp.clip(value, LOW, LIMIT)
''',
    "real": '''
def real(value):
    """Return a truth value or whole number as a number of the scores' kind."""
    return value.to(dtype)
''',
}
"""The helpers by name; ``xp`` and the words in capitals are filled in for each target."""

_ELEMENT = re.compile(r"\b(column|settled|known|opened|table)\[")


def helpers(names: Iterable[str], target: str, linear: bool = False) -> str:
    """Write helper functions for a target.

    Args:
        names: which ones.
        target: ``numpy``, ``torch``, or ``flex``, whose columns have the text as first index.
        linear: whether what a term adds is a mass.
    """
    source = "\n".join(HELPERS[name].lstrip("\n") for name in names)
    numpy = target == "numpy"
    if target == "flex":
        source = _ELEMENT.sub(r"\1[b, ", source)
    source = source.replace("xp.", "np." if numpy else "torch.")
    words = {
        "KEEP": "keepdims=True" if numpy else "keepdim=True",
        "TO": "" if numpy else ".to(dtype)",
        "DTYPE": "float" if numpy else "dtype",
        "LOW": "0.0" if linear else repr(-TERM_LIMIT),
        "LIMIT": repr(TERM_LIMIT),
    }
    for word, replacement in words.items():
        source = re.sub(rf"(?<![A-Za-z]){word}\b", replacement, source)
    return source + "\n" if source else ""


def needs_end(names: Iterable[str]) -> bool:
    """Say whether any of some helper functions asks for the last key that a query sees."""
    return any(re.search(r"\bend\b", HELPERS[name]) for name in names)

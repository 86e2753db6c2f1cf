"""Runtime: what exported sources import, the features of a text as plain lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES, Column, Value
from attn_dsl.dsl.tokens import Tokens


def features(tokens: Sequence[str] | Tokens, names: Iterable[str]) -> dict[str, list[Value]]:
    """Compute features of one position on a text, a list for each.

    >>> features(["Un", "do", " it"], ["word_index", "word"])["word"]
    ['undo', 'undo', 'it']

    Args:
        tokens: decoded token strings, in which a leading space starts a word.
        names: of features, as programs write them.

    Returns:
        per feature its n values. One that tells of what follows the position has two lists more:
        ``word_known``, the token from which on each value is known, and ``word_open``, what a
        causal query takes for all values that are not known to it.
    """
    text = tokens if isinstance(tokens, Tokens) else Tokens.from_strings(tokens)
    analysis = Analysis(text)
    lists: dict[str, list[Value]] = {}
    for name in names:
        column = FEATURES[name].compute(analysis)
        if not isinstance(column, Column):
            raise ValueError(f"`{name}` is a feature of two positions")
        lists[name] = column.settled
        if column.known is not None and column.open is not None:
            lists[f"{name}_known"] = list(column.known)
            lists[f"{name}_open"] = column.open
    return lists

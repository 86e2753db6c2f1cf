"""The predicates of a position that scores weigh, and their values on texts."""

from collections import Counter

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.eval.scores import predicate_values

SHIFTS = {True: (0, -1, -2), False: (0, -1, 1)}
"""Which positions beside its own a score looks at, in causal models and in others."""
FREQUENT = 128  # how many of the most frequent tokens are told by name
ENDINGS = "ed", "ing", "ly", "s", "er"
BROAD = "alpha", "seen", "space", "upper", "word_inside", "word_start"
"""Features that hold of tokens with little in common, which scores do not weigh."""
PROSE = "english.toml", "punctuation.toml"  # the files of the lexicon whose sets are looked at
RARE = 1e-3
"""A predicate that holds at a smaller share of the positions, or at all but that, is left out."""
AT_ONCE = 64  # how many predicates are evaluated at once, which bounds the memory


def candidates(batch: Batch, causal: bool) -> list[t.Predicate]:
    """Return the predicates that scores are made of: tokens by name, word sets, features, endings."""
    counts = Counter(string for text in batch.texts for string in text.strings)
    here = t.Position("i")
    token, lower = t.Call("token", (here,)), t.Call("lower", (here,))
    base: list[t.Predicate] = [t.Compare("==", token, t.Text(string))
                               for string, _ in counts.most_common(FREQUENT)]  # fmt: skip
    base += [t.Member(lower, t.SetName(name)) for name, entry in lexicon().items()
             if entry.file in PROSE]  # fmt: skip
    base += [t.Call(f.name, (here,)) for f in FEATURES.values() if f.type == "bool" and f.reads == "left"
             and f.arity == 1 and not f.extra and f.name not in BROAD]  # fmt: skip
    base += [t.Affix("ends", lower, ending) for ending in ENDINGS]
    return [shifted(one, shift) for shift in SHIFTS[causal] for one in base]


def shifted(node: t.Predicate, shift: int) -> t.Predicate:
    """Return a predicate of the position that is ``shift`` tokens further."""

    def move(part: t.Node) -> t.Node:
        return t.Position("i", part.shift + shift) if isinstance(part, t.Position) else part

    return t.rewrite(node, move) if shift else node


def chosen(batch: Batch, causal: bool) -> tuple[list[t.Predicate], np.ndarray]:
    """Return the candidates that hold neither too rarely nor nearly always, once each.

    Returns:
        The predicates, and their values at every token: float32 (tokens, predicates).
    """
    found: dict[bytes, tuple[t.Predicate, np.ndarray]] = {}
    every = candidates(batch, causal)
    for low in range(0, len(every), AT_ONCE):
        some = every[low : low + AT_ONCE]
        for one, values in zip(some, predicate_values(some, batch).T != 0, strict=True):
            if RARE < values.mean() < 1 - RARE:
                found.setdefault(np.packbits(values).tobytes(), (one, values))
    columns = [values for _, values in found.values()]
    matrix = np.ascontiguousarray(np.array(columns, dtype=np.float32).T)
    return [one for one, _ in found.values()], matrix.reshape(int(batch.starts[-1]), len(columns))

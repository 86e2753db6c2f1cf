"""The vocabulary of a run: the predicates that shared scores weigh, and the scores as named definitions."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.definitions import parse_definitions
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.limits import MAX_ELEMENT_WEIGHT
from attn_dsl.dsl.printer import expression, number
from attn_dsl.eval.scores import predicate_values
from attn_dsl.synth.design import Design
from attn_dsl.synth.scores.dictionary import ROLES, find_dictionary
from attn_dsl.synth.scores.rows import RowsOfHeads

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
LEAST_HEADS, MOST_HEADS = 32, 400  # on how many heads scores are found, at least and at most
PLACES = {0: "At", -1: "After", 1: "Before", -2: "SecondAfter"}
"""How names begin, by the shift at which predicates look."""
SIGNS = {".": "period", ",": "comma", "!": "exclamation", "?": "question", '"': "quote", "'": "apostrophe",
         ":": "colon", ";": "semicolon", "-": "dash", "\n": "newline", "(": "bracket", ")": "bracket",
         "": "blank"}  # fmt: skip
"""What names call tokens without letters."""
LEAST = 0.05
"""Members that add less than this to the standard deviation of a score, which is about 1, are left out."""


def candidates(batch: Batch, causal: bool) -> list[t.Predicate]:
    """Return the predicates that scores are made of: tokens by name, word sets, features, endings."""
    counts = Counter(string for text in batch.texts for string in text.strings)
    here = t.Position("i")
    token, lower = t.Call("token", (here,)), t.Call("lower", (here,))
    base: list[t.Predicate] = [t.Compare("==", token, t.Text(string))
                               for string, _ in counts.most_common(FREQUENT)]  # fmt: skip
    base += [t.Member(lower, t.SetName(name)) for name, entry in lexicon().items() if entry.file in PROSE]
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
    """Return candidates that hold neither too rarely nor nearly always, and their values at every token."""
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


def definitions(dictionary: Mapping[str, np.ndarray], predicates: Sequence[t.Predicate],
                spread: np.ndarray) -> t.Definitions:  # fmt: skip
    """Write the scores that heads use as definitions, those that most use first.

    Args:
        spread: float32 (predicates): the standard deviation of each, which says what members tell.
    """
    counts = np.sum([(dictionary[role] != 0).sum(0) for role in ROLES], axis=0)
    lines: list[str] = []
    taken: dict[str, Sequence[t.Predicate]] = dict.fromkeys(lexicon(), ())
    for s in np.argsort(-counts, kind="stable"):
        weights = np.clip(np.round(dictionary["weights"][s].astype(np.float64), 1), -MAX_ELEMENT_WEIGHT,
                          MAX_ELEMENT_WEIGHT)  # fmt: skip
        telling = np.abs(weights) * spread
        order = [j for j in np.argsort(-telling, kind="stable") if telling[j] >= LEAST]
        if not counts[s] or not order:
            continue
        telling_most = [predicates[j] for j in order]
        name = _name(telling_most, taken)
        taken[name] = telling_most
        lines.append(f"score {name}:")
        lines += [f"    {number(float(weights[j]))} where {expression(predicates[j])}" for j in order]
    return parse_definitions("\n".join(lines) + "\n", "the vocabulary")


def _name(telling: Sequence[t.Predicate], taken: Mapping[str, Sequence[t.Predicate]]) -> str:
    """Name a score after its most telling members, and what tells it from the score with these."""
    place, word = _named(telling[0])
    first = f"{place}_{word}"
    own = sorted(telling[1:], key=lambda one: one in taken.get(first, ()))
    others = [(f"{at}_" * (at != place), what) for at, what in map(_named, own)]
    names = first, *(f"{first}_or_{at}{what}" for at, what in others)
    numbered = (f"{first}_{i}" for i in range(2, 1000))
    return next(name for name in (*names, *numbered) if name not in taken)


def _named(predicate: t.Predicate) -> tuple[str, str]:
    """Return what names call the place at which a predicate looks, and what it looks for."""
    (shift,) = {x.shift for x in predicate.walk() if isinstance(x, t.Position)}
    match predicate:
        case t.Compare("==", _, t.Text(text)):
            bare = text.strip(" ")
            word = re.sub(r"\W", "", bare, flags=re.ASCII) or SIGNS.get(bare, "sign")
        case t.Affix(kind, _, text):
            word = f"{kind[:-1]}ing_{text}"
        case t.Member(_, t.SetName(word)) | t.Call(word):
            pass
        case _:
            raise TypeError(f"not a predicate of scores: {predicate!r}")
    return PLACES[shift], word


def find_vocabulary(design: Design, held_out: Design, heads: Sequence[int], seed: int, threads: int,
                    seconds: float = math.inf,
                    tick: Callable[[int, int], None] = lambda i, n: None) -> t.Definitions:  # fmt: skip
    """Find the scores that the heads of a model share.

    Args:
        design: the rows that they are found on.
        held_out: rows of other texts, which decide how many scores there are.
        heads: the heads that are to be searched, by number; others are looked at besides where they
            are few, and some are left out where they are many.
        threads: the result does not depend on them.
        seconds: about how long it may take.
        tick: called with how much is done, and how much will be.
    """
    predicates, values = chosen(design.batch, design.causal)
    sample = _sample(heads, design.capture.n_heads)
    rows = RowsOfHeads(design, design.rows_of_heads(sample), values)
    other_values = predicate_values(predicates, held_out.batch)
    others = RowsOfHeads(held_out, held_out.rows_of_heads(sample), other_values)
    places = np.array([_named(one)[0] for one in predicates])
    found = find_dictionary(rows, others, places, seed, threads, seconds, tick)
    return definitions(found, predicates, values.std(0))


def _sample(heads: Sequence[int], count: int) -> list[int]:
    """Take the heads that scores are found on: those that are searched, neither too few nor too many."""
    if len(heads) > MOST_HEADS:
        return [heads[i * len(heads) // MOST_HEADS] for i in range(MOST_HEADS)]
    others = [i * count // LEAST_HEADS for i in range(LEAST_HEADS)] if len(heads) < LEAST_HEADS else []
    return sorted({*heads, *others})

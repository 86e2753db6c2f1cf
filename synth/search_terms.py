"""The vocabulary of the search: the terms that it builds programs from.

They are written in the language itself. Every true-or-false feature is among them, and features and
functions that no line names are tried in one way; to let the search try more, add a line.
"""

from functools import lru_cache

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.parser import parse_term

_OFFSETS = [f"k == q-{d}" for d in range(1, 9)]
_CAUSAL_DISTANCE = ["q - k in 1..2", "q - k in 1..4", "q - k in 2..3", "q - k in 2..8", "q - k in 1..16",
                    "q - k in 4..16", "k <= q-16", "k <= q-32", "k <= q-64"]  # fmt: skip
_CAUSAL_VALUES = ["log(1 + q - k)", "(q - k)", "sqrt(q - k)", "inv(1 + q - k)", "decay(q - k, 0.5)",
                  "decay(q - k, 0.8)", "decay(q - k, 0.95)", "match(k-1, q)", "log(1 + k)"]  # fmt: skip
_BOTH_DISTANCE = [*(f"k == q+{d}" for d in range(1, 9)), "abs(q - k) in 1..1", "abs(q - k) in 1..2",
                  "abs(q - k) in 1..4", "abs(q - k) in 2..8", "abs(q - k) >= 16", "k < q", "k > q",
                  "q - k in 1..4", "k - q in 1..4", "k == n - q", "k == n - 1 - q", "text_final(k)",
                  "from_end(k) == 1", "from_end(k) == 2"]  # fmt: skip
_BOTH_VALUES = ["log(1 + abs(q - k))", "abs(q - k)", "inv(1 + abs(q - k))", "decay(abs(q - k), 0.5)",
                "decay(abs(q - k), 0.8)", "decay(abs(q - k), 0.95)", "match(k-1, q)"]  # fmt: skip
_POSITIONS = ["k == 0", "k == 1", "k == 2", "k in 0..3", "k == q", "k == word_first(q)",
              "k == word_first(q) - 1", "k == word_last(word_first(q) - 1)", "k == sentence_first(q)",
              "k == sentence_first(q) - 1", "k == line_first(q)", "k == opener(q)", "k == quote_first(q)",
              "k >= sentence_first(q)", "k >= word_first(q)", "k == previous(q)", "k == previous(q) + 1",
              "k == word_previous(q)", "k == word_previous(q) + 1", "k == previous(q-1) + 1",
              "k == first(text(k) == text(q))", "k == nearest(punct(k))", "k == nearest(capital(k))",
              "k == nearest(newline(k))", "k == nearest(word(k) in FunctionWord)",
              "k == nearest(word_start(k))", "k > nearest(punct(k))"]  # fmt: skip
_SAME = ["text(k) == text(q)", "text(k) == text(q) and k != q", "token(k) == token(q)", "word(k) == word(q)",
         "word(k) == word(q) and k != q", "shape(k) == shape(q)", "text(k-1) == text(q)",
         "text(k-1) == text(q-1)", "text(k) == text(q-1)", "text(k+1) == text(q)", "text(k-2) == text(q)",
         "text(k-1) == text(q) and text(k-2) == text(q-1)", "word_before(k) == word_before(q)",
         "word_before(k) == word(q)", "word(k) == word_before(q)", "match(k-1, q) >= 2", "match(k-1, q) >= 3",
         "match(k, q) >= 2", "word_index(k) == word_index(q)", "word_index(k) == word_index(q) - 1",
         "word_index(k) == word_index(q) - 2", "sentence(k) == sentence(q)", "sentence(k) == sentence(q) - 1",
         "line(k) == line(q)", "line(k) == line(q) - 1", "paragraph(k) == paragraph(q)",
         "depth(k) == depth(q)", "indent(k) == indent(q)", "repeats(k) == repeats(q)",
         "length(k) == length(q)", "piece(k) == piece(q)",
         *(f"number(k) >= 0 and number(k) {order} number(q)" for order in ("==", "<", ">"))]  # fmt: skip
_COUNTS = ["word_number(k) >= 0", "length(k) >= 3", "length(k) >= 5", "piece(k) == 1", "word_repeats(k) == 0",
           "repeats(k) >= 2", "depth(k) > 0"]  # fmt: skip


def _truths(variable: str, shift: str = "") -> list[str]:
    """Every true-or-false feature that needs no extra, at a position."""
    return [f"{f.name}({variable}{shift})" for f in FEATURES.values()
            if f.type == "bool" and f.reads != "full" and not f.extra]  # fmt: skip


def _classes(variable: str) -> list[str]:
    """Every word set of the lexicon that is about prose or punctuation."""
    return [f"{'word' if entry.file == 'english.toml' else 'text'}({variable}) in {name}"
            for name, entry in lexicon().items()
            if entry.file in ("english.toml", "punctuation.toml")]  # fmt: skip


def _others(listed: list[str]) -> list[str]:
    """Equality at query and key, for features of numbers and symbols that no line here names."""
    named = " ".join([*listed, *_BOTH_DISTANCE])
    return [f"{f.name}(k) == {f.name}(q)" for f in FEATURES.values() if f.type != "bool" and f.arity == 1
            and f.reads != "full" and not f.extra and f"{f.name}(" not in named]  # fmt: skip


@lru_cache(maxsize=2)
def terms(causal: bool) -> tuple[t.Term, ...]:
    """Return the terms to choose from, each with a hole for its weight."""
    predicates = [*_POSITIONS, *_OFFSETS, *_SAME, *_COUNTS]
    predicates += _CAUSAL_DISTANCE if causal else _BOTH_DISTANCE
    predicates += [*_truths("k"), *_truths("k", "-1"), *_classes("k"), *_others(predicates)]
    values = [*(_CAUSAL_VALUES if causal else _BOTH_VALUES)]
    named = " ".join([*_CAUSAL_VALUES, *_BOTH_VALUES])
    values += [f.example for f in FUNCTIONS.values() if f"{f.name}(" not in named]
    sources = [f"? where {p}" for p in predicates] + [f"? * {v}" for v in values]
    return tuple(parse_term(source) for source in sources)


@lru_cache(maxsize=2)
def truths(causal: bool) -> np.ndarray:
    """Say for each term whether its plane is 0 or 1 everywhere."""
    return np.array([isinstance(term, t.Where) for term in terms(causal)])

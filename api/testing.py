"""Property testing of attention programs: strategies, assertions and counterexamples.

A *program* is anything that maps tokens to an n by n matrix: an ``attn_dsl.Program``, a function of
your own, or a syntax tree, which the reference semantics evaluates.

    from hypothesis import given
    from attn_dsl.testing import assert_causal, programs, tokens

    @given(programs(visibility="causal"), tokens())
    def test_no_program_sees_the_future(program, text):
        assert_causal(program, text)

All assertions have these arguments: ``program``, see above; ``tokens``, one text; ``tolerance``, the
largest allowed error of a weight or of the sum of a row. They raise an ``AssertionError`` that shows
the wrong row, or says that the result is not an n by n matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.definitions import self_contained
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.printer import quote, show_property
from attn_dsl.dsl.reference import Interpreter, Places
from attn_dsl.dsl.scope import Scope
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.failure_report import (
    Program,
    Text,
    assert_same,
    failure,
    is_close,
    largest_difference,
    matrix_of,
    matrix_table,
    row_of,
)
from attn_dsl.shrink import failing_text, smallest
from attn_dsl.strategies import features, pieces, programs, texts, tokens, weights

PROPERTIES = ("total", "finite", "row-stochastic", "deterministic", "causal")
"""The properties of every program that ``check_properties`` tests, in this order."""
MOST = 20  # the most elements of one set of a program that its texts are drawn from
CONTINUATIONS = ((" the", " end", "."), ("s", '"', "\n\n"), (")", "ing", "."), ("<0x94>", "<0xA9>"))
"""The texts by which ``assert_causal`` replaces the text after a query."""


def assert_row_stochastic(program: Program, tokens: Text, tolerance: float = 1e-5) -> None:
    """Assert that every row is a distribution: finite weights in [0, 1] that sum to 1.

    >>> assert_row_stochastic(lambda text: [[1.0, 0.0], [0.7, 0.7]], ["a", " b"])
    Traceback (most recent call last):
    AssertionError: not row-stochastic: the row of query 1 sums to 1.4
      text:  "a b"
      query: 1 " b"
      key     token    row
      0       "a"      0.7
      1       " b"     0.7
    """
    _assert_rows("row-stochastic", program, tokens, tolerance)


def assert_causal(program: Program, tokens: Text, tolerance: float = 1e-5) -> None:
    """Assert that no row gives weight to keys after its query, or depends on them.

    Row q is compared with row q on two other texts: one ends after q, the other has a different text
    after q.

    >>> assert_causal(lambda text: [[1 / len(text)] * len(text)] * len(text), ["a", " b"])
    Traceback (most recent call last):
    AssertionError: not causal: query 0 gives 0.5 to key 1, which follows it
      text:  "a b"
      query: 0 "a"
      key:   1 " b"
      key     token    row
      0       "a"      0.5
      1       " b"     0.5
    """
    text = Tokens.from_strings(tokens)
    whole = matrix_of(program, text)
    ahead = np.argwhere(np.triu(np.abs(whole), 1) > tolerance)
    if len(ahead):
        q, k = map(int, ahead[0])
        weight = f"query {q} gives {whole[q, k]:.6g} to key {k}, which follows it"
        raise failure(f"not causal: {weight}", text, q, k, row=whole[q])
    for q in range(len(text)):
        prefix, more = text.prefix(q + 1), CONTINUATIONS[q % len(CONTINUATIONS)]
        for other, then in ((prefix, "the end"), (_append(prefix, more), quote("".join(more)))):
            row, again = whole[q, : q + 1], row_of(program, other, q)[: q + 1]
            if not is_close(row, again, tolerance):
                message = f"not causal: the row of query {q} changes with what follows it"
                note = f"  changed: the same up to the query, then {then}"
                k = largest_difference(row, again)
                raise failure(message, text, q, k, note, row=row, changed=again)


def assert_equivalent(a: Program, b: Program, tokens: Text | None = None, tolerance: float = 1e-5) -> None:
    """Assert that two programs have the same matrix on a text, or on a hundred random texts.

    Without ``tokens``, the error shows the smallest text found on which the matrices differ.

    >>> from attn_dsl.dsl.parser import parse
    >>> assert_equivalent(parse("head a causal:\\n 1 where k == 0"),
    ...                   parse("head b causal:\\n 1 where k < 1"))
    """
    if tokens is None:
        if found := failing_text(lambda text: assert_equivalent(a, b, text, tolerance), 100, 0, 24):
            raise found[1]
        return
    text = Tokens.from_strings(tokens)
    left, right = matrix_of(a, text), matrix_of(b, text)
    assert_same("not equivalent", text, left, right, tolerance, "second")


def assert_invariant(program: Program, transform: Callable[[Tokens], Text], tokens: Text,
                     tolerance: float = 1e-5) -> None:  # fmt: skip
    """Assert that a program has the same matrix on a text and on the transformed text.

    >>> from attn_dsl.dsl.parser import parse
    >>> by_copies = parse("head a causal:\\n 3 where text(k) == text(q)")
    >>> assert_invariant(by_copies, each(str.upper), ["a", " b", " a"])

    ``transform`` maps tokens to tokens of the same number, as the result of ``each`` does.

    Raises:
        ValueError: the transformed text has a different number of tokens.
    """
    text = Tokens.from_strings(tokens)
    other = Tokens.from_strings(transform(text))
    if len(other) != len(text):
        raise ValueError(f"the transform made {len(other)} tokens of {len(text)}")
    left, right, note = matrix_of(program, text), matrix_of(program, other), quote(other.text)
    assert_same("not invariant", text, left, right, tolerance, "changed", f"  changed: {note}")


def each(function: Callable[[str], str]) -> Callable[[Tokens], Tokens]:
    """Return a transform that applies a function to each token string, except special tokens.

    >>> each(str.upper)(Tokens.from_strings(["<s>", "hi", " you"])).text
    'HI YOU'
    """

    def transform(text: Tokens) -> Tokens:
        marked = zip(text.strings, text.special, strict=True)
        return Tokens.from_strings([s if m else function(s) for s, m in marked], text.special)

    return transform


@dataclass(frozen=True, slots=True)
class Counterexample:
    """The smallest text found on which a program violates a property.

    ``property`` is one of ``PROPERTIES``, or one that the program claims, as it is written: ``"mass >= 0.5
    on k == 0"``. ``query`` is the wrong row, or None; ``message`` says what is wrong. ``matrix`` is the
    result of the program on the text, or None if it has no matrix.
    """

    property: str
    tokens: Tokens
    query: int | None
    message: str
    matrix: tuple[tuple[float, ...], ...] | None

    def __str__(self) -> str:
        return self.message

    def report(self) -> str:
        """Return the message, and the matrix of the program on the text if that is short."""
        table = matrix_table(self.tokens, self.matrix) if self.matrix else ""
        return f"{self.message}\n{table}".rstrip()


def check_properties(program: Program, max_examples: int = 100, seed: int = 0, causal: bool | None = None,
                     max_size: int = 12,
                     only: Collection[str] | None = None) -> list[Counterexample]:  # fmt: skip
    """Search for texts on which a program violates a property, and shrink them.

    The properties are ``PROPERTIES`` and those that the program claims by lines ``property …``.

    >>> from attn_dsl.dsl.parser import parse
    >>> check_properties(parse("head a causal:\\n 2 where k == 0"), max_examples=20)
    []

    Args:
        program: a tree (holes count as weights of 1), an ``attn_dsl.Program``, or a function.
        max_examples: the number of texts to try for each property.
        seed: the seed of the random texts.
        causal: whether to test causality. None: only if the program is a causal one of this language
            without features that read the whole text.
        max_size: the largest number of tokens of a text.
        only: the properties to test; None: all.

    Returns:
        for each property that is violated, the smallest text found. If ``total`` (there is a matrix)
        is violated, the properties after it are not tested.
    """
    tree = program if isinstance(program, t.Head) else getattr(program, "tree", None)
    if isinstance(program, t.Head):
        program = program.with_weights([1.0 if w is None else w for w in program.weights])
    if causal is None:
        causal = isinstance(tree, t.Head) and tree.causal and not _looks_ahead(tree)
    tests = dict(_TESTS) if causal else {name: _TESTS[name] for name in PROPERTIES[:-1]}
    if isinstance(tree, t.Head):
        tests |= {show_property(one): _test_of(one, tree) for one in tree.properties}
    tests = {name: test for name, test in tests.items() if only is None or name in only}
    bounds = max_examples, seed, max_size, _strings(tree) if isinstance(tree, t.Head) else ()
    first = failing_text(lambda text: [test(program, text) for test in tests.values()], *bounds)
    if first is None:
        return []
    found: list[Counterexample] = []
    for name, test in tests.items():
        if result := failing_text(partial(test, program), *bounds):
            found.append(_counterexample(name, program, *result))
            if name == "total":
                break
    return found or [_counterexample("deterministic", program, *first)]


def _assert_rows(name: str, program: Program, tokens: Text, tolerance: float) -> None:
    text = Tokens.from_strings(tokens)
    for q, row in enumerate(matrix_of(program, text)):
        if fault := _not_a_distribution(row, tolerance):
            raise failure(f"not {name}: the row of query {q} {fault}", text, q, row=row)


def _deterministic(program: Program, text: Tokens) -> None:
    first, second = matrix_of(program, text), matrix_of(program, text)
    assert_same("not deterministic", text, first, second, 0.0, "again")


_TESTS: dict[str, Callable[[Program, Tokens], object]] = {
    "total": matrix_of, "finite": lambda program, text: _assert_rows("finite", program, text, np.inf),
    "row-stochastic": assert_row_stochastic, "deterministic": _deterministic, "causal": assert_causal
}  # fmt: skip


def _test_of(one: t.Property | t.MassProperty, tree: t.Head) -> Callable[[Program, Tokens], object]:
    """Return the test of a property that a program claims."""
    if isinstance(one, t.MassProperty):
        return partial(_assert_mass, one, tree)
    if one.name == "causal":
        return assert_causal
    return lambda program, text: assert_invariant(program, each(_swap_case), text)


def _assert_mass(one: t.MassProperty, tree: t.Head, program: Program, text: Tokens) -> None:
    """Assert a bound on the attention that queries give to keys."""
    interpreter, matrix = (
        Interpreter(tree.with_weights([0.0] * len(tree.weights)), Analysis(text)),
        None,
    )
    slack = 1e-5 if one.op[0] == ">" else -1e-5
    for q in range(len(text)):
        if one.condition is None or interpreter.holds(one.condition, Places(q, q, q)):
            matrix = matrix_of(program, text) if matrix is None else matrix
            keys = [k for k in interpreter.visible(q) if interpreter.holds(one.keys, Places(q, q, k))]
            mass = float(matrix[q, keys].sum())
            if not t.COMPARE[one.op](mass + slack, one.bound):
                given = f"query {q} gives {mass:.6g} to " + (f"the keys {keys}" if keys else "no key")
                raise failure(f"not {show_property(one)}: {given}", text, q, row=matrix[q])


def _swap_case(string: str) -> str:
    """Change the case of the letters of a token, where changing it back gives the same token."""
    changed = string.swapcase()
    fits = len(changed) == len(string) and changed.swapcase() == string and not string.startswith("<0x")
    return changed if fits else string


def _strings(tree: t.Head) -> list[str]:
    """Return the strings that a program and its properties name, some of each set, also as words."""
    found, scope = dict[str, None](), Scope.of(tree)
    for node in chain(tree.walk(), *(one.walk() for one in tree.properties)):
        if isinstance(node, t.SetName | t.SetLiteral):
            found |= dict.fromkeys(scope.literal(node).elements[:MOST])
        elif isinstance(node, t.Text | t.Affix):
            found[node.value if isinstance(node, t.Text) else node.text] = None
    return [start + one for one in found if one for start in ("", " ") if not start or one[0].isalnum()]


def _counterexample(name: str, program: Program, text: Tokens, error: Exception) -> Counterexample:
    message = str(error)
    if not isinstance(error, AssertionError):
        message = f"not {name}: {type(error).__name__}: {error}\n  text:  {quote(text.text)}\n"
        message += f"  tokens: {list(text.strings)}"
    query = next((s.split()[1] for s in message.splitlines() if s.startswith("  query: ")), None)
    try:
        rows = tuple(tuple(map(float, row)) for row in matrix_of(program, text))
    except Exception:
        rows = None
    return Counterexample(name, text, None if query is None else int(query), message, rows)


def _looks_ahead(tree: t.Head) -> bool:
    calls = (node.name for node in self_contained(tree).walk() if isinstance(node, t.Call))
    return any(name in FEATURES and FEATURES[name].reads == "full" for name in calls)


def _append(text: Tokens, strings: Sequence[str]) -> Tokens:
    more, at = Tokens.from_strings(strings), len(text.text)
    spans = tuple((start + at, end + at) for start, end in more.spans)
    return Tokens(text.strings + more.strings, text.text + more.text, text.spans + spans,
                  text.special + more.special)  # fmt: skip


def _not_a_distribution(row: np.ndarray, tolerance: float) -> str:
    if not np.isfinite(row).all():
        return "has weights that are no numbers"
    if (row < -tolerance).any() or (row > 1 + tolerance).any():
        return "has weights outside 0..1"
    total = float(row.sum())
    return f"sums to {total:.6g}" if abs(total - 1) > tolerance * max(1, len(row) / 100) else ""


__all__ = ["CONTINUATIONS", "PROPERTIES", "Counterexample", "assert_causal", "assert_equivalent",
           "assert_invariant", "assert_row_stochastic", "check_properties", "each", "features", "matrix_of",
           "pieces", "programs", "smallest", "texts", "tokens", "weights"]  # fmt: skip

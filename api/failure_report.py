"""Failure reports: error messages that show the row of an attention matrix that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.printer import quote
from attn_dsl.dsl.reference import Interpreter, evaluate
from attn_dsl.dsl.tokens import Tokens

Program = Callable[[Any], Any] | t.Head
"""A syntax tree, or a callable of tokens that returns an n by n array."""
Text = Sequence[str]
"""``Tokens``, or a list of token strings."""

SHOWN = 12
"""The most keys of a row that a message shows, those with the largest values or differences."""


def matrix_of(program: Program, tokens: Text) -> np.ndarray:
    """Return the matrix of a program on a text, float64 (n, n).

    >>> from attn_dsl.dsl.parser import parse
    >>> matrix_of(parse("head a causal:"), ["a", " b"]).tolist()
    [[1.0, 0.0], [0.5, 0.5]]

    Raises:
        AssertionError: the result is not an n by n matrix of numbers.
    """
    text = Tokens.from_strings(tokens)
    result = evaluate(program, text) if isinstance(program, t.Head) else program(text)
    matrix, n = np.asarray(result, dtype=np.float64), len(text)
    if matrix.shape != (n, n) and not (n == 0 and matrix.size == 0):
        shape = f"the result on {n} tokens has the shape {matrix.shape}, not ({n}, {n})"
        raise AssertionError(f"no matrix: {shape}\n  text:  {quote(text.text)}")
    return matrix.reshape(n, n)


def row_of(program: Program, tokens: Text, query: int) -> np.ndarray:
    """Return the row of one query of a program on a text, float64 (n)."""
    if isinstance(program, t.Head):
        return np.asarray(Interpreter(program, Analysis(Tokens.from_strings(tokens))).row(query))
    return np.asarray(matrix_of(program, tokens)[query])


def assert_same(what: str, text: Tokens, left: np.ndarray, right: np.ndarray, tolerance: float, label: str,
                note: str = "") -> None:  # fmt: skip
    """Assert that two matrices are equal up to a tolerance; the error shows the row that differs most."""
    if not is_close(left, right, tolerance):
        q, k = divmod(largest_difference(left, right), len(text))
        entries = f"at query {q}, key {k} has {left[q, k]:.6g} and then {right[q, k]:.6g}"
        raise failure(f"{what}: {entries}", text, q, k, note, row=left[q], **{label: right[q]})


def is_close(left: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    """Return whether two arrays are equal up to a tolerance; NaN equals NaN."""
    return bool(np.allclose(left, right, rtol=0, atol=tolerance, equal_nan=True))


def largest_difference(left: np.ndarray, right: np.ndarray) -> int:
    """Return the flat index where two arrays differ most; NaN counts as the largest difference."""
    with np.errstate(invalid="ignore"):
        return int(np.argmax(np.nan_to_num(np.abs(left - right), nan=np.inf)))


def failure(message: str, text: Tokens, query: int, key: int | None = None, note: str = "",
            **rows: np.ndarray) -> AssertionError:  # fmt: skip
    """Make the error for a wrong row: a message, the text, the query, the key, and a table.

    ``rows`` are one or two rows of weights with their labels. The table shows the keys where one row
    is largest, or where two rows differ most. ``note`` is the last line.
    """
    columns = list(rows.values())
    size = np.abs(columns[0] - columns[1]) if len(columns) > 1 else np.abs(columns[0])
    keys = sorted(np.argsort(-np.nan_to_num(size, nan=np.inf), kind="stable")[:SHOWN].tolist())
    lines = [message, f"  text:  {quote(text.text)}", f"  query: {query} {quote(text[query])}"]
    if key is not None:
        lines.append(f"  key:   {key} {quote(text[key])}")
    lines.append("  key     token    " + "  ".join(f"{name:<9}" for name in rows).rstrip())
    for k in keys:
        cells = "  ".join(f"{row[k]:<9.6g}" for row in columns).rstrip()
        lines.append(f"  {k:<7} {quote(text[k]):<8} {cells}")
    if len(size) > len(keys):
        lines.append(f"  ({len(size) - len(keys)} more keys)")
    return AssertionError("\n".join([*lines, note] if note else lines))


def matrix_table(text: Tokens, matrix: Sequence[Sequence[float]]) -> str:
    """Write the matrix of a short text as a table of queries and keys; empty for more than ``SHOWN`` tokens.

    >>> print(matrix_table(Tokens.from_strings(["a", " b"]), [[1, 0], [0.25, 0.75]]))
      matrix  "a"     " b"
      "a"     1       0
      " b"    0.25    0.75
    """
    if not 0 < len(text) <= SHOWN:
        return ""
    rows = [["matrix", *map(quote, text)]]
    rows += [[quote(one), *(f"{x:.3g}" for x in row)] for one, row in zip(text, matrix, strict=True)]
    width = max(6, *(len(cell) for row in rows for cell in row))
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell in row).rstrip() for row in rows)

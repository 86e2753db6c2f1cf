"""Evidence: runs any kind of program on a text, and shows in a few lines where a row is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.reference import Interpreter, evaluate
from attn_dsl.dsl.tokens import Tokens

Program = Callable[[Any], Any] | t.Head
"""A syntax tree, or a callable of tokens that returns an n by n array."""
Text = Sequence[str]
"""``Tokens``, or a list of token strings."""

SHOWN = 12
"""How many keys of a row a message shows, those that differ most."""


def matrix_of(program: Program, tokens: Text) -> np.ndarray:
    """Run a program on a text and return its matrix, in double precision.

    >>> from attn_dsl.dsl.parser import parse
    >>> matrix_of(parse("head a causal:"), ["a", " b"]).tolist()
    [[1.0, 0.0], [0.5, 0.5]]

    Raises:
        AssertionError: the result is not an n by n matrix of numbers.
    """
    text = tokens_of(tokens)
    result = evaluate(program, text) if isinstance(program, t.Head) else program(text)
    matrix, n = np.asarray(result, dtype=np.float64), len(text)
    if matrix.shape != (n, n) and not (n == 0 and matrix.size == 0):
        raise AssertionError(
            f"no matrix: the result on {n} tokens has the shape {matrix.shape}, not ({n}, {n})\n"
            f"  text:  {quoted(text.text)}"
        )
    return matrix.reshape(n, n)


def row_of(program: Program, tokens: Text, query: int) -> np.ndarray:
    """Run a program on a text and return the row of one query."""
    if isinstance(program, t.Head):
        return np.asarray(Interpreter(program, Analysis(tokens_of(tokens))).row(query))
    return np.asarray(matrix_of(program, tokens)[query])


def tokens_of(text: Text) -> Tokens:
    """Make tokens of token strings."""
    return text if isinstance(text, Tokens) else Tokens.from_strings(text)


def assert_same(
    what: str, text: Tokens, left: np.ndarray, right: np.ndarray, tolerance: float,
    label: str, note: str = "",
) -> None:  # fmt: skip
    """Assert that two matrices are the same; else show the row that differs most."""
    if close(left, right, tolerance):
        return
    q, k = divmod(worst(left, right), len(text))
    message = f"{what}: at query {q}, key {k} has {left[q, k]:.6g} and then {right[q, k]:.6g}\n"
    raise AssertionError(message + evidence(text, q, k, row=left[q], **{label: right[q]}) + note)


def close(left: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    """Say whether two arrays are the same up to a tolerance."""
    return bool(np.allclose(left, right, rtol=0, atol=tolerance, equal_nan=True))


def worst(left: np.ndarray, right: np.ndarray) -> int:
    """Return the flat index where two arrays differ most; what is no number differs most."""
    with np.errstate(invalid="ignore"):
        return int(np.argmax(np.nan_to_num(np.abs(left - right), nan=np.inf)))


def quoted(string: str) -> str:
    """Write a string on one line, whatever is in it."""
    return json.dumps(string, ensure_ascii=False)


def situation(text: Tokens) -> str:
    """Show a text and its tokens."""
    return f"  text:  {quoted(text.text)}\n  tokens: {list(text.strings)}"


def evidence(text: Tokens, query: int, key: int | None = None, **rows: np.ndarray) -> str:
    """Show the text, the query, the key, and the rows at the keys that matter most."""
    shown = list(rows.values())
    weight = np.abs(shown[0] - shown[1]) if len(shown) > 1 else np.abs(shown[0])
    keys = sorted(np.argsort(-np.nan_to_num(weight, nan=np.inf), kind="stable")[:SHOWN].tolist())
    lines = [f"  text:  {quoted(text.text)}", f"  query: {query} {quoted(text[query])}"]
    if key is not None:
        lines.append(f"  key:   {key} {quoted(text[key])}")
    lines.append("  key     token    " + "  ".join(f"{name:<9}" for name in rows).rstrip())
    for k in keys:
        cells = "  ".join(f"{row[k]:<9.6g}" for row in shown).rstrip()
        lines.append(f"  {k:<7} {quoted(text[k]):<8} {cells}")
    if len(weight) > len(keys):
        lines.append(f"  ({len(weight) - len(keys)} more keys)")
    return "\n".join(lines)

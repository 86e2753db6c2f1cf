"""The interpreter: compiled loops that run the graph of any program for one query at a time.

Each node has a register: an int32 array with one entry per key that the query sees. The registers of
one query fit in the cache, and a new program needs no compiling. The loops work on the arrays of
``code.Code`` and of the columns of a text:

    instructions    int32 (nodes, 5): operation, operands a and b, constants x and y
    planes          int32 (planes, 5): node of the first factor, node of the condition (-1: none),
                    function of the first factor, node (-1: none) and function of the second
    functions       float64 (functions, 2 + length): number in ``REALS``, rate, values at 0, 1, …
    columns         a tuple of five arrays:
        settled, known, opened   int32 (columns, tokens + 16), see ``dsl.features.Column``
        marks       int32 (columns, 2): padding value, and whether ``known`` is read
        tables      int32 (tables, n, n), see ``match_table`` and ``extend_searches``
"""

import math
from typing import Any

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED, LEAN
from attn_dsl.compiler.operations import CODES, REALS, ROWS
from attn_dsl.compiler.simd import WIDTH, settle
from attn_dsl.dsl.limits import LEAST_MASS, MATCH_LIMIT, TERM_LIMIT

END = np.int32(np.iinfo(np.int32).max)  # a number after all positions

CONST, QUERY, KEY = CODES["constant"], CODES["query"], CODES["key"]
COLUMN_QUERY, COLUMN_KEY, COLUMN = CODES["column_query"], CODES["column_key"], CODES["column"]
TABLE, ANY, COUNT = CODES["table"], CODES["any"], CODES["count"]
NEAREST, FIRST, LAST = CODES["nearest"], CODES["first"], CODES["last"]
OVER = ("", "<", "<=", ">", ">=")
"""What the searched position may be compared to the other one, by number; "": any."""
_PLAIN, _HUNDREDTHS = map([*REALS].index, ("", "hundredths"))
_CHAINED: dict[str, Any] = {**LEAN, "cache": False}
"""For functions made from the table: Numba caches them with the functions that call them."""


def _dispatch(arguments: str, branches: dict[int, str], functions: dict[str, Any]) -> Any:
    """Compile a function of ``kind`` and other arguments that runs one statement for each kind.

    Its source is one chain of ``if``, which LLVM turns into a jump table.
    """
    chain = "".join(f" if kind == {kind}:\n  {text}\n" for kind, text in branches.items())
    source = f"def dispatched(kind, {arguments}):\n{chain}"
    names = {name: njit(**_CHAINED)(function) for name, function in functions.items()}
    exec(source, names)
    return njit(**_CHAINED)(names["dispatched"])


_VALUES = {code: row.value for code, row in enumerate(ROWS) if row.value is not None}
_ROW = "for k in range(wide):\n   registers[i, k] = f{0}(registers[a, k], registers[b, k], x, y)\n  return"
apply_operation = _dispatch(
    "registers, i, a, b, x, y, wide", {code: _ROW.format(code) for code in _VALUES},
    {f"f{code}": value for code, value in _VALUES.items()})  # fmt: skip
real_value = _dispatch(
    "x, rate", {kind: f"return f{kind}(x, rate)" for kind in range(len(REALS))},
    {f"f{kind}": function.value for kind, function in enumerate(REALS.values())})  # fmt: skip


@njit(**COMPILED)
def match_table(tokens):
    """Return the lengths of the equal runs of tokens that end at each pair of positions, int32 (n, n)."""
    n = tokens.shape[0]
    table = np.zeros((n, n), dtype=np.int32)
    for i in range(n):
        extend_match(tokens, table, i)
    return table


@njit(**LEAN)
def extend_match(tokens, table, i):
    """Fill row and column ``i`` of a table of ``match_table``, given those before."""
    for j in range(i + 1):
        found = 0
        if tokens[j] == tokens[i]:
            before = table[i - 1, j - 1] if i > 0 and j > 0 else 0
            found = min(MATCH_LIMIT, before + 1)
        table[i, j] = found
        table[j, i] = found


@njit(**LEAN)
def _found(op, before, i, j):
    """Return what a search for ``i`` finds with ``j`` besides what it found before."""
    if op == COUNT:
        return before + 1
    if op == ANY:
        return 1
    if op == LAST or before < 0:
        return j
    if op == NEAREST and abs(i - j) < abs(i - before):
        return j
    return before


@njit(**LEAN)
def _search(op, row, i, low, high, itself):
    """Search the truth values of a row from ``low`` to ``high`` for position ``i``, or all others."""
    found = 0 if op in (ANY, COUNT) else -1
    for j in range(low, high):
        if row[j] != 0 and (itself or j != i):
            found = _found(op, found, i, j)
    return found


@njit(**LEAN)
def _range(over, i, keys):
    """Return the first position and the end of a search for ``i``; ``over``: a number of ``OVER``."""
    low = i if over == 4 else i + 1 if over == 3 else 0
    high = i if over == 1 else i + 1 if over == 2 else keys
    return low, high


@njit(**COMPILED)
def search_rows(instructions, node, op, over, causal, first, n, start, columns, out):
    """Write what a search finds for the positions from ``first`` on, as queries there see the text."""
    registers = room(instructions, n)
    every = np.arange(instructions.shape[0])
    for i in range(first, n):
        keys = i + 1 if causal else n
        run_row(instructions, every, registers, i, keys, start, columns)
        low, high = _range(over, i, keys)
        out[i] = _search(op, registers[node], i, low, high, True)


@njit(**COMPILED)
def extend_searches(instructions, node, swapped, swapped_node, op, over, first, n, start, columns, others,
                    table):  # fmt: skip
    """Fill the rows of a table from ``first`` on: what a search finds for each position, by query.

    Args:
        instructions, node: compute the body with ``i`` as query and ``j`` as key; ``swapped`` the other
            way round.
        columns, others: those of ``instructions``, and of ``swapped``.
        table: int32 (n or more, n or more), with the rows before ``first``.
    """
    registers, turned = room(instructions, n), room(swapped, n)
    every, each = np.arange(instructions.shape[0]), np.arange(swapped.shape[0])
    for q in range(first, n):
        run_row(swapped, each, turned, q, q + 1, start, others)
        for i in range(q):
            before = table[q - 1, i]
            table[q, i] = _found(op, before, i, q) if turned[swapped_node, i] != 0 else before
        run_row(instructions, every, registers, q, q + 1, start, columns)
        low, high = _range(over, q, q + 1)
        table[q, q] = _search(op, registers[node], q, low, high, True)


@njit(**COMPILED)
def room(instructions, n):
    """Allocate registers for rows of up to ``n`` keys, int32 (nodes, n rounded up to vectors + 1)."""
    width = (n + 2 * WIDTH - 1) // WIDTH * WIDTH
    return np.zeros((instructions.shape[0], width), dtype=np.int32)


@njit(**LEAN)
def run_row(instructions, chosen, registers, q, keys, start, columns):
    """Compute the chosen nodes for query ``q``: the values of node i go to ``registers[i, :keys]``.

    Loops run over whole vectors, so entries after ``keys`` are overwritten too.
    """
    settled, known, opened, marks, tables = columns
    wide = (keys + WIDTH - 1) // WIDTH * WIDTH
    for i in chosen:
        op, a, b = instructions[i, 0], instructions[i, 1], instructions[i, 2]
        x, y = instructions[i, 3], instructions[i, 4]
        out = registers[i]
        if op == COLUMN_KEY:
            pad = marks[y, 0]
            low = min(max(0, -x), keys)
            high = max(min(keys, keys - x), low)
            now, open_value = END, pad
            if marks[y, 1] != 0:
                now, open_value = np.int32(q), opened[y, start + q]
            to = i * registers.shape[1] + low
            begin = y * settled.shape[1] + start + low + x
            for k in range(0, high - low, WIDTH):
                settle(registers, to + k, settled, known, begin + k, now, open_value)
            for k in range(low):
                out[k] = pad
            for k in range(high, keys):
                out[k] = pad
        elif op == COLUMN_QUERY:
            p = q + x
            value = marks[y, 0]
            if 0 <= p < keys:
                if marks[y, 1] == 0 or known[y, start + p] <= q:
                    value = settled[y, start + p]
                else:
                    value = opened[y, start + q]
            out[:wide] = value
        elif op == CONST:
            out[:wide] = x
        elif op == QUERY:
            out[:wide] = q + x
        elif op == KEY:
            for k in range(wide):
                out[k] = k + x
        elif op == COLUMN:
            pad = marks[y, 0]
            for k in range(keys):
                p = registers[a, k]
                if p < 0 or p >= keys:
                    out[k] = pad
                elif marks[y, 1] == 0 or known[y, start + p] <= q:
                    out[k] = settled[y, start + p]
                else:
                    out[k] = opened[y, start + q]
        elif op == TABLE:
            for k in range(keys):
                p = registers[a, k]
                r = registers[b, k]
                inside = p >= 0 and p < keys and r >= 0 and r < keys
                out[k] = tables[y, p, r] if inside else x
        elif op >= ANY:
            out[:wide] = _search(op, registers[a], q, 0, keys, False)
        else:
            apply_operation(op, registers, i, a, b, x, y, wide)


@njit(**LEAN)
def _apply(function, row, keys, multiply, out):
    """Apply a function to a register: write the values to ``out``, or multiply ``out`` by them."""
    kind = int(function[0])
    if kind in (_PLAIN, _HUNDREDTHS):
        unit = 1.0 if kind == _PLAIN else 0.01
        if multiply:
            for k in range(keys):
                out[k] *= row[k] * unit
        else:
            for k in range(keys):
                out[k] = row[k] * unit
        return
    rate, values = function[1], function[2:]
    for k in range(keys):
        at = row[k]
        value = values[at] if 0 <= at < values.shape[0] else real_value(kind, at, rate)
        out[k] = out[k] * value if multiply else value


@njit(**LEAN)
def fill_plane(plane, functions, registers, keys, out):
    """Compute one row of a plane: the product of its factors where its condition holds, else 0."""
    condition = plane[1]
    _apply(functions[plane[2]], registers[plane[0]], keys, False, out)
    if plane[3] >= 0:
        _apply(functions[plane[4]], registers[plane[3]], keys, True, out)
    if condition >= 0:
        for k in range(keys):
            if registers[condition, k] == 0:
                out[k] = 0.0


@njit(**LEAN)
def normalise(scores, keys, linear, out):
    """Turn a row of scores (logits, or masses if ``linear``) into weights that sum to 1."""
    if not linear:
        top = scores[0]
        for k in range(1, keys):
            top = max(top, scores[k])
        for k in range(keys):
            scores[k] = math.exp(scores[k] - top)
    total = 0.0
    for k in range(keys):
        total += scores[k]
    for k in range(keys):
        out[k] = scores[k] / total if total != 0.0 else 1.0 / keys


@njit(**LEAN)
def score_row(used, weights, linear, planes, functions, registers, keys, values, scores):
    """Compute a row of scores of one program: the sum of its weighted planes, each clipped."""
    scores[:keys] = 0.0
    for i in range(used.shape[0]):
        w = weights[i]
        fill_plane(planes[used[i]], functions, registers, keys, values)
        for k in range(keys):
            part = min(max(w * values[k], -TERM_LIMIT), TERM_LIMIT)
            if not linear or part >= LEAST_MASS:
                scores[k] += part


@njit(**COMPILED)
def evaluate_rows(instructions, planes, functions, used, weights, offsets, linear, causal, n, start, columns,
                  wanted, first, out):  # fmt: skip
    """Evaluate chosen rows of programs on one text in float64.

    Args:
        used, weights, offsets: as in ``code.Code``.
        n, start: the number of tokens, and the index of the first one in the columns.
        wanted: bool (programs, rows), which of the rows from ``first`` on to evaluate.
        out: (programs, entries), the visible entries of these rows, row by row; others stay.
    """
    registers = room(instructions, n)
    every = np.arange(instructions.shape[0])
    values = np.empty(n, dtype=np.float64)
    scores = np.empty(n, dtype=np.float64)
    at = 0
    for q in range(first, first + wanted.shape[1]):
        keys = q + 1 if causal else n
        if wanted[:, q - first].any():
            run_row(instructions, every, registers, q, keys, start, columns)
        for p in range(offsets.shape[0] - 1):
            if not wanted[p, q - first]:
                continue
            low, high = offsets[p], offsets[p + 1]
            score_row(used[low:high], weights[low:high], linear[p], planes, functions, registers, keys,
                      values, scores)  # fmt: skip
            normalise(scores, keys, linear[p], out[p, at : at + keys])
        at += keys


@njit(**COMPILED)
def planes_of_rows(instructions, planes, functions, causal, rows, n, start, columns, out):
    """Write some rows of all planes to ``out``, (planes, visible entries of these rows)."""
    registers = room(instructions, n)
    every = np.arange(instructions.shape[0])
    at = 0
    for q in rows:
        keys = q + 1 if causal else n
        run_row(instructions, every, registers, q, keys, start, columns)
        for p in range(planes.shape[0]):
            fill_plane(planes[p], functions, registers, keys, out[p, at : at + keys])
        at += keys

"""The machine: one Numba-compiled evaluator that runs the bytecode of any programs, row by row.

A row is one query; each register holds one 32-bit integer per key that the query sees, so that
a row of all registers stays in cache and nothing of size n x n is kept but the result.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from attn_dsl.compiler.bytecode import Op, Real
from attn_dsl.compiler.jit import COMPILED, LEAN
from attn_dsl.compiler.lanes import WIDTH, settle
from attn_dsl.dsl.limits import MATCH_LIMIT, TERM_LIMIT

END = np.int32(np.iinfo(np.int32).max)
"""After all positions."""


# Numba sees enum members as globals only when they are plain integers.
CONST, QUERY, KEY = int(Op.CONST), int(Op.QUERY), int(Op.KEY)
COLUMN_QUERY, COLUMN_KEY, COLUMN = int(Op.COLUMN_QUERY), int(Op.COLUMN_KEY), int(Op.COLUMN)
MATCH, ADD, SUB, ABS, MIN, MAX = (
    int(Op.MATCH), int(Op.ADD), int(Op.SUB), int(Op.ABS), int(Op.MIN), int(Op.MAX),
)  # fmt: skip
EQ, NE, LT, LE, BETWEEN = int(Op.EQ), int(Op.NE), int(Op.LT), int(Op.LE), int(Op.BETWEEN)
AND, OR, NOT = int(Op.AND), int(Op.OR), int(Op.NOT)
ANY, COUNT, NEAREST, FIRST, LAST = (
    int(Op.ANY), int(Op.COUNT), int(Op.NEAREST), int(Op.FIRST), int(Op.LAST),
)  # fmt: skip
PLAIN, LOG, SQRT, INV, DECAY, WEIGHT = (
    int(Real.PLAIN), int(Real.LOG), int(Real.SQRT), int(Real.INV), int(Real.DECAY),
    int(Real.WEIGHT),
)  # fmt: skip


@njit(**COMPILED)
def match_table(tokens, limit):
    """Count for all pairs of positions how many tokens ending there are the same."""
    n = tokens.shape[0]
    table = np.zeros((n, n), dtype=np.int32)
    for i in range(n):
        for j in range(n):
            if tokens[i] == tokens[j]:
                before = table[i - 1, j - 1] if i > 0 and j > 0 else 0
                table[i, j] = min(limit, before + 1)
    return table


@njit(**LEAN)
def _search(op, row, q, keys):
    """Evaluate a quantifier over a row of truth values, the query's own position left out."""
    count = 0
    first = -1
    last = -1
    nearest = -1
    for k in range(keys):
        if row[k] != 0 and k != q:
            count += 1
            if first < 0:
                first = k
            last = k
            if nearest < 0 or abs(q - k) < abs(q - nearest):
                nearest = k
    if op == ANY:
        return 1 if count > 0 else 0
    if op == COUNT:
        return count
    if op == NEAREST:
        return nearest
    return first if op == FIRST else last


@njit(**COMPILED)
def room(code, n):
    """Make registers for rows of up to ``n`` keys."""
    return np.zeros((code.shape[0], (n + 2 * WIDTH - 1) // WIDTH * WIDTH), dtype=np.int32)


@njit(**LEAN)
def run_row(code, chosen, registers, q, keys, start, settled, known, opened, marks, match):
    """Run some instructions for one query; afterwards ``registers[i, :keys]`` holds their values.

    Rows have room for whole lanes, and for as many again: they are worked on to their end.
    """
    wide = (keys + WIDTH - 1) // WIDTH * WIDTH
    for i in chosen:
        op = code[i, 0]
        a = code[i, 1]
        b = code[i, 2]
        x = code[i, 3]
        out = registers[i]
        if op == COLUMN_KEY:
            pad = marks[a, 0]
            low = min(max(0, -x), keys)
            high = max(min(keys, keys - x), low)
            now, open_value = END, pad
            if marks[a, 1] != 0:
                now, open_value = np.int32(q), opened[a, start + q]
            to = i * registers.shape[1] + low
            begin = a * settled.shape[1] + start + low + x
            for k in range(0, high - low, WIDTH):
                settle(registers, to + k, settled, known, begin + k, now, open_value)
            for k in range(low):
                out[k] = pad
            for k in range(high, keys):
                out[k] = pad
        elif op == COLUMN_QUERY:
            p = q + x
            value = marks[a, 0]
            if 0 <= p < keys:
                if marks[a, 1] == 0 or known[a, start + p] <= q:
                    value = settled[a, start + p]
                else:
                    value = opened[a, start + q]
            out[:wide] = value
        elif op == EQ:
            for k in range(wide):
                out[k] = registers[a, k] == registers[b, k]
        elif op == AND:
            for k in range(wide):
                out[k] = registers[a, k] & registers[b, k]
        elif op == CONST:
            out[:wide] = x
        elif op == QUERY:
            out[:wide] = q + x
        elif op == KEY:
            for k in range(wide):
                out[k] = k + x
        elif op == SUB:
            for k in range(wide):
                out[k] = registers[a, k] - registers[b, k]
        elif op == BETWEEN:
            y = code[i, 4]
            for k in range(wide):
                out[k] = (registers[a, k] >= x) & (registers[a, k] <= y)
        elif op == NOT:
            for k in range(wide):
                out[k] = 1 - registers[a, k]
        elif op == OR:
            for k in range(wide):
                out[k] = registers[a, k] | registers[b, k]
        elif op == NE:
            for k in range(wide):
                out[k] = registers[a, k] != registers[b, k]
        elif op == LT:
            for k in range(wide):
                out[k] = registers[a, k] < registers[b, k]
        elif op == LE:
            for k in range(wide):
                out[k] = registers[a, k] <= registers[b, k]
        elif op == ADD:
            for k in range(wide):
                out[k] = registers[a, k] + registers[b, k]
        elif op == ABS:
            for k in range(wide):
                out[k] = abs(registers[a, k])
        elif op == MIN:
            for k in range(wide):
                out[k] = min(registers[a, k], registers[b, k])
        elif op == MAX:
            for k in range(wide):
                out[k] = max(registers[a, k], registers[b, k])
        elif op == COLUMN:
            pad = marks[a, 0]
            for k in range(keys):
                p = registers[b, k]
                if p < 0 or p >= keys:
                    out[k] = pad
                elif marks[a, 1] == 0 or known[a, start + p] <= q:
                    out[k] = settled[a, start + p]
                else:
                    out[k] = opened[a, start + q]
        elif op == MATCH:
            for k in range(keys):
                p = registers[a, k]
                r = registers[b, k]
                inside = p >= 0 and p < keys and r >= 0 and r < keys
                out[k] = match[p, r] if inside else 0
        else:
            out[:keys] = _search(op, registers[a], q, keys)


@njit(**LEAN)
def plane_value(kind, value, rate):
    """Apply the function of a plane to a register's value."""
    if kind == PLAIN:
        return np.float64(value)
    if kind == LOG:
        return math.log(max(value, 1))
    if kind == SQRT:
        return math.sqrt(max(value, 0))
    if kind == INV:
        return 1.0 / max(value, 1)
    if kind == WEIGHT:
        return value / 100.0
    return math.pow(rate, np.float64(max(value, 0)))


@njit(**LEAN)
def _apply(function, row, keys, multiply, out):
    """Apply a function to a row of registers: put its values into ``out``, or multiply by them."""
    kind = int(function[0])
    if kind in (PLAIN, WEIGHT):
        unit = 1.0 if kind == PLAIN else 0.01
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
        value = values[at] if 0 <= at < values.shape[0] else plane_value(kind, at, rate)
        out[k] = out[k] * value if multiply else value


@njit(**LEAN)
def fill_plane(plane, functions, registers, keys, out):
    """Compute one plane on a row; ``functions`` as in ``Code.plane_arrays``."""
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
    """Turn a row of scores (logits or masses) into weights that sum to 1."""
    total = 0.0
    if linear:
        for k in range(keys):
            total += scores[k]
        if total == 0.0:
            for k in range(keys):
                out[k] = 1.0 / keys
            return
        for k in range(keys):
            out[k] = scores[k] / total
        return
    top = scores[0]
    for k in range(1, keys):
        top = max(top, scores[k])
    for k in range(keys):
        scores[k] = math.exp(scores[k] - top)
        total += scores[k]
    for k in range(keys):
        out[k] = scores[k] / total


@njit(**LEAN)
def score_row(used, weights, linear, planes, functions, registers, keys, values, scores):
    """Sum the weighted planes of one program on a row."""
    scores[:keys] = 0.0
    for i in range(used.shape[0]):
        w = weights[i]
        j = used[i]
        fill_plane(planes[j], functions, registers, keys, values)
        for k in range(keys):
            part = min(max(w * values[k], -TERM_LIMIT), TERM_LIMIT)
            scores[k] += max(part, 0.0) if linear else part


@njit(**COMPILED)
def evaluate_rows(
    code, planes, functions, used, weights, offsets, linear, causal,
    n, start, settled, known, opened, marks, tokens, needs_match, wanted, first, out,
):  # fmt: skip
    """Evaluate those rows of programs on one text that are wanted, in float64.

    Args:
        used, weights, offsets: the planes of each program and their weights.
        wanted: bool (programs, rows), the rows from ``first`` on.
        out: (programs, entries), the visible entries of those rows, row by row.
    """
    registers = room(code, n)
    every = np.arange(code.shape[0])
    values = np.empty(n, dtype=np.float64)
    scores = np.empty(n, dtype=np.float64)
    match = match_table(tokens[start : start + n] if needs_match else tokens[:0], MATCH_LIMIT)
    at = 0
    for q in range(first, first + wanted.shape[1]):
        keys = q + 1 if causal else n
        if wanted[:, q - first].any():
            run_row(code, every, registers, q, keys, start, settled, known, opened, marks, match)
        for p in range(offsets.shape[0] - 1):
            if not wanted[p, q - first]:
                continue
            low, high = offsets[p], offsets[p + 1]
            score_row(
                used[low:high], weights[low:high], linear[p], planes, functions, registers, keys,
                values, scores,
            )  # fmt: skip
            normalise(scores, keys, linear[p], out[p, at : at + keys])
        at += keys


@njit(**COMPILED)
def planes_texts(
    code, planes, functions, causal, rows, row_starts, sizes, starts, settled, known, opened, marks,
    tokens, needs_match, out,
):  # fmt: skip
    """Compute all planes on some rows of every text into ``out`` (planes, entries of the rows)."""
    longest = sizes.max() if sizes.shape[0] > 0 else 0
    registers = room(code, longest)
    every = np.arange(code.shape[0])
    at = 0
    for text in range(sizes.shape[0]):
        n, start = sizes[text], starts[text]
        match = match_table(tokens[start : start + n] if needs_match else tokens[:0], MATCH_LIMIT)
        for i in range(row_starts[text], row_starts[text + 1]):
            q = rows[i]
            keys = q + 1 if causal else n
            run_row(code, every, registers, q, keys, start, settled, known, opened, marks, match)
            for p in range(planes.shape[0]):
                fill_plane(planes[p], functions, registers, keys, out[p, at : at + keys])
            at += keys

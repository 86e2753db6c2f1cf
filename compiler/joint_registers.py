"""Registers of joint plans: what an instruction gives for one query, as a number or key by key."""

from __future__ import annotations

from numba import njit

from attn_dsl.compiler.jit import LEAN
from attn_dsl.compiler.machine import (
    ABS,
    ADD,
    AND,
    BETWEEN,
    COLUMN,
    COLUMN_KEY,
    COLUMN_QUERY,
    EQ,
    KEY,
    LE,
    LT,
    MATCH,
    MAX,
    MIN,
    NE,
    NOT,
    OR,
    QUERY,
    SUB,
    _search,
    plane_value,
)  # fmt: skip

AT_CONST, AT_QUERY, AT_KEY, AT_DISTANCE, AT_PAIR = 0, 1, 2, 3, 4
"""What a register reads; see ``kernel_graph.Stage``."""


@njit(**LEAN)
def scalar_value(code, i, q, keys, pads, columns, v, rows, match):
    """Compute a register that does not depend on the key."""
    op, a, b, x, y = code[i, 0], code[i, 1], code[i, 2], code[i, 3], code[i, 4]
    if op == QUERY:
        return q + x
    if op in (COLUMN_QUERY, COLUMN):
        p = q + x if op == COLUMN_QUERY else v[b]
        return columns[a, p] if 0 <= p < keys else pads[a]
    if op == MATCH:
        inside = 0 <= v[a] < keys and 0 <= v[b] < keys
        return match[v[a], v[b]] if inside else 0
    if op == BETWEEN:
        return 1 if x <= v[a] <= y else 0
    if op == NOT:
        return 1 - v[a]
    if op == ABS:
        return abs(v[a])
    if op == EQ:
        return 1 if v[a] == v[b] else 0
    if op == NE:
        return 1 if v[a] != v[b] else 0
    if op == LT:
        return 1 if v[a] < v[b] else 0
    if op == LE:
        return 1 if v[a] <= v[b] else 0
    if op == AND:
        return v[a] & v[b]
    if op == OR:
        return v[a] | v[b]
    if op == ADD:
        return v[a] + v[b]
    if op == SUB:
        return v[a] - v[b]
    if op == MIN:
        return min(v[a], v[b])
    if op == MAX:
        return max(v[a], v[b])
    return _search(op, rows[a], q, keys)


@njit(**LEAN)
def values_by_key(code, i, low, keys, pads, columns, rows, match):
    """Compute a register for the keys from ``low`` on."""
    op, a, b, x, y = code[i, 0], code[i, 1], code[i, 2], code[i, 3], code[i, 4]
    out = rows[i, low:keys]
    n = keys - low
    if op == KEY:
        for k in range(n):
            out[k] = low + k + x
        return
    if op == COLUMN_KEY:
        for k in range(n):
            p = low + k + x
            out[k] = columns[a, p] if 0 <= p < keys else pads[a]
        return
    if op == COLUMN:
        for k in range(n):
            p = rows[b, low + k]
            out[k] = columns[a, p] if 0 <= p < keys else pads[a]
        return
    left, right = rows[a, low:keys], rows[b, low:keys]
    if op == EQ:
        for k in range(n):
            out[k] = left[k] == right[k]
    elif op == AND:
        for k in range(n):
            out[k] = left[k] & right[k]
    elif op == BETWEEN:
        for k in range(n):
            out[k] = (left[k] >= x) & (left[k] <= y)
    elif op == NOT:
        for k in range(n):
            out[k] = 1 - left[k]
    elif op == OR:
        for k in range(n):
            out[k] = left[k] | right[k]
    elif op == NE:
        for k in range(n):
            out[k] = left[k] != right[k]
    elif op == LT:
        for k in range(n):
            out[k] = left[k] < right[k]
    elif op == LE:
        for k in range(n):
            out[k] = left[k] <= right[k]
    elif op == ADD:
        for k in range(n):
            out[k] = left[k] + right[k]
    elif op == SUB:
        for k in range(n):
            out[k] = left[k] - right[k]
    elif op == ABS:
        for k in range(n):
            out[k] = abs(left[k])
    elif op == MIN:
        for k in range(n):
            out[k] = min(left[k], right[k])
    elif op == MAX:
        for k in range(n):
            out[k] = max(left[k], right[k])
    else:
        for k in range(n):
            p, r = left[k], right[k]
            inside = p >= 0 and p < keys and r >= 0 and r < keys
            out[k] = match[p, r] if inside else 0


@njit(**LEAN)
def need_row(
    code, stage, slot, i, q, keys, pads, distance, columns, scalars, rows, stamps, match
):  # fmt: skip
    """Have a register as a row, whatever it reads; each is made once for a query."""
    if stage[i] == AT_KEY or stamps[i] == q:
        return
    stamps[i] = q
    if stage[i] == AT_PAIR:
        values_by_key(code, i, 0, keys, pads, columns, rows, match)
    elif stage[i] == AT_DISTANCE:
        zero = distance.shape[1] // 2 - q
        near = distance[slot[i], zero : zero + keys]
        for k in range(keys):
            rows[i, k] = near[k]
    else:
        for k in range(keys):
            rows[i, k] = scalars[i]


@njit(**LEAN)
def plane_row(plane, rates, conditions, rows, low, keys, out):
    """Compute what a weight multiplies: functions of registers, where all conditions hold."""
    n = keys - low
    for k in range(n):
        out[k] = 1.0
    for factor in range(2):
        register, kind = plane[2 + 2 * factor], plane[3 + 2 * factor]
        if register < 0:
            break
        values = rows[register, low:keys]
        if kind == 0:
            for k in range(n):
                out[k] *= values[k]
        else:
            for k in range(n):
                out[k] *= plane_value(kind, values[k], rates[factor])
    for c in range(plane[0], plane[1]):
        holds = rows[conditions[c], low:keys]
        for k in range(n):
            out[k] = out[k] if holds[k] != 0 else 0.0

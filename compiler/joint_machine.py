"""The joint machine: many programs on one text, row by row, each part as rarely as it can be.

What reads the query alone is one number a row. What reads the key alone is a vector that grows
with the text and changes only where a feature was not settled yet. What reads the distance alone
is a vector known before any text. So most of a row's scores are a sum of two vectors, and terms
whose condition on the query fails cost nothing. A row needs only what the rows before it left, so
that generation computes each row once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from attn_dsl.compiler.machine import (
    ABS, ADD, AND, BETWEEN, COLUMN, COLUMN_KEY, COLUMN_QUERY, EQ, KEY, LE, LT, MATCH, MAX, MIN, NE,
    NOT, OR, QUERY, SUB, _search, match_table, plane_value,
)  # fmt: skip
from attn_dsl.compiler.masses import exponentials
from attn_dsl.dsl.features import MATCH_LIMIT
from attn_dsl.dsl.reference import TERM_LIMIT

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
_LEAN = {**_OPTIONS, "_nrt": False}
"""Without counting references: views are made by the million, and nothing is allocated."""
_FAST = {**_LEAN, "fastmath": {"reassoc", "contract", "nsz", "arcp", "nnan"}}

WIDTH = 32
"""Rows are worked on in multiples of so many keys, so that no loop has a slow end."""
FAR_OFF = -1e30
"""The score of what lies behind the keys of a row."""

AT_CONST, AT_QUERY, AT_KEY, AT_DISTANCE, AT_PAIR = 0, 1, 2, 3, 4
"""What a register reads; see ``kernel_graph.Stage``."""


class Tables(NamedTuple):
    """Programs of one visibility, ready for the machine; made by ``joint_tables.tables``.

    Attributes:
        code: int32 (registers, 5), as in the bytecode.
        stage, slot: int32 (registers): what each reads; for those that read the distance, the row
            of ``distance`` that holds it.
        eager: int32, the registers to compute for every query, in order: those that read the query
            or the key; -1 - register: what else is wanted as a row, for a quantifier looks at it.
        pads: int32 (columns): the value outside of what is visible.
        key_planes: int32 (planes, 6): conditions' start and end, and up to two factors, register
            (-1: none) and function each.
        key_rates: float64 (planes, 2): of decays.
        pair_planes, pair_rates: the same for planes of pairs.
        conditions: int32, registers that must be true.
        pair_needs: int32 (planes, 2): start and end in ``needs``.
        needs: int32, the registers that a plane of pairs needs as rows, in order.
        distance: int32 (registers that read the distance, 2 * capacity), backwards.
        distance_planes: float64 (planes, 2 * capacity), backwards.
        sums: float64 (programs, 2 * capacity): all that a program adds by distance, backwards.
        key_terms: int32 (terms, 2): program, key plane.
        key_weights: float64 (terms).
        terms: int32 (terms, 9): planes by distance, key and pair (-1: none), start and end of the
            conditions on the query, and up to two factors that read the query; each program's
            behind those of the one before.
        rates: float64 (terms, 2): of decays among these factors.
        weights: float64 (terms).
        starts: int32 (programs + 1): the terms of each program.
        linear: bool (programs).
        bounded: bool (programs): whether no score is positive, and the largest of a row never so
            far below zero that float32 could not hold its exponential.
    """

    code: np.ndarray
    stage: np.ndarray
    slot: np.ndarray
    eager: np.ndarray
    pads: np.ndarray
    key_planes: np.ndarray
    key_rates: np.ndarray
    pair_planes: np.ndarray
    pair_rates: np.ndarray
    conditions: np.ndarray
    pair_needs: np.ndarray
    needs: np.ndarray
    distance: np.ndarray
    distance_planes: np.ndarray
    sums: np.ndarray
    key_terms: np.ndarray
    key_weights: np.ndarray
    terms: np.ndarray
    rates: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    linear: np.ndarray
    bounded: np.ndarray


class State(NamedTuple):
    """What the rows of a text so far have left, up to a capacity of tokens.

    Attributes:
        columns: int32 (columns, capacity): the features as the newest query sees them.
        scalars: int32 (registers): values that do not depend on the key.
        rows: int32 (registers, capacity): values by key.
        key_rows, pair_rows: float64 (planes, capacity).
        key_sums: float64 (programs, capacity): all that a program adds by key; ``FAR_OFF`` behind
            the newest key.
        stamps: int64 (registers + planes of pairs): for which row each was computed last.
        match: int32 (capacity, capacity), or (0, 0) where no program needs it.
        scores: float64 (capacity).
        masses: float32 (2, capacity).
        bits: int32 (capacity).
    """

    columns: np.ndarray
    scalars: np.ndarray
    rows: np.ndarray
    key_rows: np.ndarray
    pair_rows: np.ndarray
    key_sums: np.ndarray
    stamps: np.ndarray
    match: np.ndarray
    scores: np.ndarray
    masses: np.ndarray
    bits: np.ndarray


@njit(**_LEAN)
def _scalar(code, i, q, keys, pads, columns, v, rows, match):
    """Compute a register that does not depend on the key."""
    op, a, b, x, y = code[i, 0], code[i, 1], code[i, 2], code[i, 3], code[i, 4]
    if op == QUERY:
        return q + x
    if op == COLUMN_QUERY or op == COLUMN:
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


@njit(**_LEAN)
def _by_key(code, i, low, keys, pads, columns, rows, match):
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


@njit(**_LEAN)
def _need(
    code, stage, slot, i, q, keys, pads, distance, columns, scalars, rows, stamps, match
):  # fmt: skip
    """Have a register as a row, whatever it reads; each is made once for a query."""
    if stage[i] == AT_KEY or stamps[i] == q:
        return
    stamps[i] = q
    if stage[i] == AT_PAIR:
        _by_key(code, i, 0, keys, pads, columns, rows, match)
    elif stage[i] == AT_DISTANCE:
        zero = distance.shape[1] // 2 - q
        near = distance[slot[i], zero : zero + keys]
        for k in range(keys):
            rows[i, k] = near[k]
    else:
        for k in range(keys):
            rows[i, k] = scalars[i]


@njit(**_LEAN)
def _plane(plane, rates, conditions, rows, low, keys, out):
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


@njit(**_FAST)
def _add(scores, weight, floor, plane):
    """Add a weighted plane to a row of scores, each term within the language's limits."""
    for k in range(scores.shape[0]):
        scores[k] += min(max(weight * plane[k], floor), TERM_LIMIT)


@njit(**_FAST)
def _add_product(scores, weight, floor, left, right):
    """Add a weighted product of two planes."""
    for k in range(scores.shape[0]):
        scores[k] += min(max(weight * left[k] * right[k], floor), TERM_LIMIT)


@njit(**_FAST)
def _sum(left, right, out):
    """Add two rows."""
    for k in range(out.shape[0]):
        out[k] = left[k] + right[k]


@njit(**_FAST)
def _largest(scores):
    top = scores[0]
    for k in range(1, scores.shape[0]):
        top = max(top, scores[k])
    return top


@njit(**_FAST)
def _shift(scores, top, out):
    """Take the largest score out and write what is left as float32; e^-80 counts as nothing."""
    for k in range(scores.shape[0]):
        out[k] = np.float32(max(scores[k] - top, -80.0))


@njit(**_FAST)
def _scale(masses, out):
    """Divide masses by their sum; behind the keys they are next to nothing."""
    total = np.float32(0.0)
    for k in range(masses.shape[0]):
        total += masses[k]
    scale = np.float32(1.0) / total
    for k in range(out.shape[0]):
        out[k] = masses[k] * scale


@njit(**_LEAN)
def _linear_row(scores, out):
    """Divide masses by their sum; a row without any mass is uniform."""
    total = 0.0
    for k in range(scores.shape[0]):
        total += scores[k]
    for k in range(scores.shape[0]):
        out[k] = 1.0 / scores.shape[0] if total == 0.0 else scores[k] / total


@njit(**_LEAN)
def _prepare(
    code, stage, slot, eager, pads, key_planes, key_rates, conditions, distance, key_terms,
    key_weights, linear, columns, scalars, rows, key_rows, key_sums, stamps, match, q, keys, low,
):  # fmt: skip
    """Compute what reads the query alone, and what reads the key alone from ``low`` on."""
    for e in range(eager.shape[0]):
        i = eager[e]
        if i < 0:
            _need(
                code, stage, slot, -1 - i, q, keys, pads, distance, columns, scalars, rows, stamps,
                match,
            )  # fmt: skip
        elif stage[i] == AT_QUERY:
            scalars[i] = _scalar(code, i, q, keys, pads, columns, scalars, rows, match)
        elif low < keys:
            _by_key(code, i, low, keys, pads, columns, rows, match)
    if low == keys:
        return
    for p in range(key_planes.shape[0]):
        _plane(key_planes[p], key_rates[p], conditions, rows, low, keys, key_rows[p, low:keys])
    for program in range(key_sums.shape[0]):
        for k in range(low, keys):
            key_sums[program, k] = 0.0
    for e in range(key_terms.shape[0]):
        program, plane = key_terms[e, 0], key_terms[e, 1]
        floor = 0.0 if linear[program] else -TERM_LIMIT
        for k in range(low, keys):
            part = key_weights[e] * key_rows[plane, k]
            key_sums[program, k] += min(max(part, floor), TERM_LIMIT)


@njit(**_LEAN)
def compute_row(
    code, stage, slot, eager, pads, key_planes, key_rates, pair_planes, pair_rates, conditions,
    pair_needs, needs, distance, distance_planes, sums, key_terms, key_weights, terms, rates, weights,
    starts, linear, bounded, columns, scalars, rows, key_rows, pair_rows, key_sums, stamps, match,
    scores, masses, bits, q, keys, low, out, row,
):  # fmt: skip
    """Compute a query's row of all programs into ``out[:, row, :keys]``.

    ``columns`` holds the features as the query sees them; what keys from ``low`` on read of them
    may have changed since the row before.
    """
    _prepare(
        code, stage, slot, eager, pads, key_planes, key_rates, conditions, distance, key_terms,
        key_weights, linear, columns, scalars, rows, key_rows, key_sums, stamps, match, q, keys,
        low,
    )  # fmt: skip
    zero = sums.shape[1] // 2 - q
    # loops over whole vectors: what lies behind the keys has a score of FAR_OFF
    wide = (keys + WIDTH - 1) // WIDTH * WIDTH
    s, m, b, x = scores[:wide], masses[0, :wide], bits[:wide], masses[1, :wide]
    for program in range(out.shape[0]):
        _sum(sums[program, zero : zero + wide], key_sums[program, :wide], s)
        floor = 0.0 if linear[program] else -TERM_LIMIT
        for e in range(starts[program], starts[program + 1]):
            skip = False
            for c in range(terms[e, 3], terms[e, 4]):
                skip |= scalars[conditions[c]] == 0
            if skip:
                continue
            weight = weights[e]
            for factor in range(2):
                register = terms[e, 5 + 2 * factor]
                if register >= 0:
                    kind = terms[e, 6 + 2 * factor]
                    weight *= plane_value(kind, scalars[register], rates[e, factor])
            if weight == 0.0:
                continue
            near, key, pair = terms[e, 0], terms[e, 1], terms[e, 2]
            if pair >= 0:
                stamp = code.shape[0] + pair
                if stamps[stamp] != q:
                    stamps[stamp] = q
                    for j in range(pair_needs[pair, 0], pair_needs[pair, 1]):
                        _need(
                            code, stage, slot, needs[j], q, keys, pads, distance, columns, scalars,
                            rows, stamps, match,
                        )  # fmt: skip
                    _plane(
                        pair_planes[pair], pair_rates[pair], conditions, rows, 0, keys,
                        pair_rows[pair],
                    )  # fmt: skip
                _add(s, weight, floor, pair_rows[pair, :wide])
            elif near >= 0 and key >= 0:
                part = distance_planes[near, zero : zero + wide]
                _add_product(s, weight, floor, part, key_rows[key, :wide])
            elif near >= 0:
                _add(s, weight, floor, distance_planes[near, zero : zero + wide])
            elif key >= 0:
                _add(s, weight, floor, key_rows[key, :wide])
            else:
                for k in range(wide):
                    s[k] += min(max(weight, floor), TERM_LIMIT)
        if linear[program]:
            _linear_row(s[:keys], out[program, row, :keys])
            continue
        _shift(s, 0.0 if bounded[program] else _largest(s), m)
        exponentials(m, b, x)
        _scale(x, out[program, row, :keys])


@njit(**_LEAN)
def extend_match(tokens, match, q):
    """Count for the newest token which contexts end like it."""
    for j in range(q + 1):
        found = 0
        if tokens[j] == tokens[q]:
            before = match[q - 1, j - 1] if q > 0 and j > 0 else 0
            found = min(MATCH_LIMIT, before + 1)
        match[q, j] = found
        match[j, q] = found


@njit(**_LEAN)
def _settle(partial, columns, q, settled, known, opened, unsettled, counts):
    """Bring the features of a causal text to what query ``q`` sees; return the first change."""
    low = q
    for c in range(columns.shape[0]):
        if partial[c] == 0:
            columns[c, q] = settled[c, q]
            continue
        kept = 0
        for u in range(counts[c]):
            p = unsettled[c, u]
            value = settled[c, p]
            if known[c, p] > q:
                value = opened[c, q]
                unsettled[c, kept] = p
                kept += 1
            if columns[c, p] != value:
                columns[c, p] = value
                low = min(low, p)
        if known[c, q] <= q:
            columns[c, q] = settled[c, q]
        else:
            columns[c, q] = opened[c, q]
            unsettled[c, kept] = q
            kept += 1
        counts[c] = kept
    return low


@njit(**_OPTIONS)
def evaluate_text(
    code, stage, slot, eager, pads, key_planes, key_rates, pair_planes, pair_rates, conditions,
    pair_needs, needs, distance, distance_planes, sums, key_terms, key_weights, terms, rates, weights,
    starts, linear, bounded, columns, scalars, rows, key_rows, pair_rows, key_sums, stamps, match,
    scores, masses, bits, partial, reach, token, causal, n, settled, known, opened, clean, out,
):  # fmt: skip
    """Evaluate all programs on one text into ``out`` float32 (programs, rows, rows).

    Args:
        partial: int32 (columns): whether a feature may be settled later.
        reach: by how many positions a key looks to the right.
        token: the column of token strings, for ``match``; -1 if not needed.
        causal: whether a query sees the keys up to itself only.
        n: how many tokens the text has.
        settled, known, opened: int32 (columns, n), see ``dsl.features.Column``.
        clean: whether ``out`` is zero where no query sees a key; else it is set to zero there.
    """
    stamps[:] = -1
    key_sums[:] = FAR_OFF
    unsettled = np.empty((settled.shape[0], n), dtype=np.int32)
    counts = np.zeros(settled.shape[0], dtype=np.int64)
    if not causal:
        columns[:, :n] = settled
        if token >= 0:
            match[:n, :n] = match_table(settled[token], MATCH_LIMIT)
    for q in range(n):
        keys, low = n, n
        if causal:
            first = _settle(partial, columns, q, settled, known, opened, unsettled, counts)
            keys, low = q + 1, max(first - reach, 0)
            if token >= 0:
                extend_match(columns[token], match, q)
        elif q == 0:
            low = 0
        compute_row(
            code, stage, slot, eager, pads, key_planes, key_rates, pair_planes, pair_rates,
            conditions, pair_needs, needs, distance, distance_planes, sums, key_terms, key_weights,
            terms, rates, weights, starts, linear, bounded, columns, scalars, rows, key_rows, pair_rows, key_sums,
            stamps, match, scores, masses, bits, q, keys, low, out, q,
        )  # fmt: skip
        if not clean:
            out[:, q, keys:] = 0.0
    if not clean:
        out[:, n:, :] = 0.0

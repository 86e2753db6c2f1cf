"""The joint machine: many programs on one text, row by row, each part as rarely as it can be.

What reads the query alone is one number a row. What reads the key alone is a vector that grows
with the text and changes only where a feature was not settled yet. What reads the distance alone
is a vector known before any text. So most of a row's scores are a sum of two vectors, and terms
whose condition on the query fails cost nothing. A row needs only what the rows before it left, so
that generation computes each row once. The arguments are those of ``joint_tables.Tables`` and
``joint_tables.State``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import COMPILED, FINITE, LEAN
from attn_dsl.compiler.joint_registers import (
    AT_QUERY,
    need_row,
    plane_row,
    scalar_value,
    values_by_key,
)  # fmt: skip
from attn_dsl.compiler.machine import match_table, plane_value
from attn_dsl.compiler.masses import exponentials
from attn_dsl.dsl.limits import MATCH_LIMIT, TERM_LIMIT

WIDTH = 32
"""Rows are worked on in multiples of so many keys, so that no loop has a slow end."""
FAR_OFF = -1e30
"""The score of what lies behind the keys of a row."""


@njit(**FINITE)
def _add(scores, weight, floor, plane):
    """Add a weighted plane to a row of scores, each term within the language's limits."""
    for k in range(scores.shape[0]):
        scores[k] += min(max(weight * plane[k], floor), TERM_LIMIT)


@njit(**FINITE)
def _add_product(scores, weight, floor, left, right):
    """Add a weighted product of two planes."""
    for k in range(scores.shape[0]):
        scores[k] += min(max(weight * left[k] * right[k], floor), TERM_LIMIT)


@njit(**FINITE)
def _sum(left, right, out):
    """Add two rows."""
    for k in range(out.shape[0]):
        out[k] = left[k] + right[k]


@njit(**FINITE)
def _largest(scores):
    top = scores[0]
    for k in range(1, scores.shape[0]):
        top = max(top, scores[k])
    return top


@njit(**FINITE)
def _shift(scores, top, out):
    """Take the largest score out and write what is left as float32; e^-80 counts as nothing."""
    for k in range(scores.shape[0]):
        out[k] = np.float32(max(scores[k] - top, -80.0))


@njit(**FINITE)
def _scale(masses, out):
    """Divide masses by their sum; behind the keys they are next to nothing."""
    total = np.float32(0.0)
    for k in range(masses.shape[0]):
        total += masses[k]
    scale = np.float32(1.0) / total
    for k in range(out.shape[0]):
        out[k] = masses[k] * scale


@njit(**LEAN)
def _linear_row(scores, out):
    """Divide masses by their sum; a row without any mass is uniform."""
    total = 0.0
    for k in range(scores.shape[0]):
        total += scores[k]
    for k in range(scores.shape[0]):
        out[k] = 1.0 / scores.shape[0] if total == 0.0 else scores[k] / total


@njit(**LEAN)
def _prepare(
    code, stage, slot, eager, pads, key_planes, key_rates, conditions, distance, key_terms,
    key_weights, linear, columns, scalars, rows, key_rows, key_sums, stamps, match, q, keys, low,
):  # fmt: skip
    """Compute what reads the query alone, and what reads the key alone from ``low`` on."""
    for e in range(eager.shape[0]):
        i = eager[e]
        if i < 0:
            need_row(
                code, stage, slot, -1 - i, q, keys, pads, distance, columns, scalars, rows, stamps,
                match,
            )  # fmt: skip
        elif stage[i] == AT_QUERY:
            scalars[i] = scalar_value(code, i, q, keys, pads, columns, scalars, rows, match)
        elif low < keys:
            values_by_key(code, i, low, keys, pads, columns, rows, match)
    if low == keys:
        return
    for p in range(key_planes.shape[0]):
        plane_row(key_planes[p], key_rates[p], conditions, rows, low, keys, key_rows[p, low:keys])
    for program in range(key_sums.shape[0]):
        for k in range(low, keys):
            key_sums[program, k] = 0.0
    for e in range(key_terms.shape[0]):
        program, plane = key_terms[e, 0], key_terms[e, 1]
        floor = 0.0 if linear[program] else -TERM_LIMIT
        for k in range(low, keys):
            part = key_weights[e] * key_rows[plane, k]
            key_sums[program, k] += min(max(part, floor), TERM_LIMIT)


@njit(**LEAN)
def compute_row(
    code, stage, slot, eager, pads, key_planes, key_rates, pair_planes, pair_rates, conditions,
    pair_needs, needs, distance, distance_planes, sums, key_terms, key_weights, terms, rates, weights,
    starts, linear, bounded, columns, scalars, rows, key_rows, pair_rows, key_sums, stamps, match,
    scores, masses, q, keys, low, out, row,
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
    s, m, x = scores[:wide], masses[0, :wide], masses[1, :wide]
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
                        need_row(
                            code, stage, slot, needs[j], q, keys, pads, distance, columns, scalars,
                            rows, stamps, match,
                        )  # fmt: skip
                    plane_row(
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
        exponentials(m, x)
        _scale(x, out[program, row, :keys])


@njit(**LEAN)
def extend_match(tokens, match, q):
    """Count for the newest token which contexts end like it."""
    for j in range(q + 1):
        found = 0
        if tokens[j] == tokens[q]:
            before = match[q - 1, j - 1] if q > 0 and j > 0 else 0
            found = min(MATCH_LIMIT, before + 1)
        match[q, j] = found
        match[j, q] = found


@njit(**LEAN)
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


@njit(**COMPILED)
def evaluate_text(
    code, stage, slot, eager, pads, key_planes, key_rates, pair_planes, pair_rates, conditions,
    pair_needs, needs, distance, distance_planes, sums, key_terms, key_weights, terms, rates, weights,
    starts, linear, bounded, columns, scalars, rows, key_rows, pair_rows, key_sums, stamps, match,
    scores, masses, partial, reach, token, causal, n, settled, known, opened, clean, out,
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
            terms, rates, weights, starts, linear, bounded, columns, scalars, rows, key_rows,
            pair_rows, key_sums, stamps, match, scores, masses, q, keys, low, out, q,
        )  # fmt: skip
        if not clean:
            out[:, q, keys:] = 0.0
    if not clean:
        out[:, n:, :] = 0.0

"""Loops over terms: their scores on one text, and the gradient of their weights and elements."""

from __future__ import annotations

import numpy as np
from numba import njit

from attn_dsl.compiler.jit import LEAN, SUMS
from attn_dsl.dsl.limits import TERM_LIMIT

_SUMS = {**LEAN, "fastmath": SUMS}
LIMIT = np.float32(TERM_LIMIT)


@njit(**LEAN)
def _look(place, elements, reads, n, out):
    """Put into ``out`` what a place reads at each token; return whether any is in the set."""
    if place < 0:
        out[:n] = np.float32(1.0)
        return True
    some = False
    for k in range(n):
        number = reads[place, k]
        some |= number > 0
        out[k] = elements[number]
    return some


@njit(**_SUMS)
def term_scores(terms, weights, elements, reads, planes, low, n, causal, right, out):
    """Add the scores of all terms on one text; ``right`` (n) is room to work in."""
    for j in range(terms.shape[0]):
        query, weight = terms[j, 3], weights[terms[j, 2]]
        if not _look(terms[j, 4], elements, reads, n, right):
            continue
        at = low
        for q in range(n):
            count = q + 1 if causal else n
            left = weight if query < 0 else weight * elements[reads[query, q]]
            if left != 0:
                row = out[terms[j, 0], at : at + count]
                plane = planes[terms[j, 1], at : at + count]
                for k in range(count):
                    row[k] += min(max(left * plane[k] * right[k], -LIMIT), LIMIT)
            at += count


@njit(**_SUMS)
def term_gradients(
    terms, weights, elements, reads, planes, low, n, causal, right, given, back, out
):  # fmt: skip
    """Add what the weights and the elements have of a gradient of one text's scores.

    Args:
        given: float32 (programs, entries of all texts).
        back: float64 (at least n), room to work in.
        out: float64 (weights, a place for tokens in no set, and elements).
    """
    first = weights.shape[0]
    for j in range(terms.shape[0]):
        query, key, weight = terms[j, 3], terms[j, 4], weights[terms[j, 2]]
        if not _look(key, elements, reads, n, right):
            continue
        back[:n] = 0.0
        at = low
        for q in range(n):
            count = q + 1 if causal else n
            number = 0 if query < 0 else reads[query, q]
            if query < 0 or number > 0:
                left = np.float32(1.0) if query < 0 else elements[number]
                most = LIMIT / max(abs(weight * left), np.float32(1e-30))
                row = given[terms[j, 0], at : at + count]
                plane = planes[terms[j, 1], at : at + count]
                total = np.float32(0.0)
                for k in range(count):
                    # a term that is at its limit does not change with its weight
                    part = (
                        row[k] * plane[k] if abs(plane[k] * right[k]) <= most else np.float32(0.0)
                    )
                    total += part * right[k]
                    back[k] += part * left
                out[terms[j, 2]] += left * total
                if query >= 0:
                    out[first + number] += weight * total
            at += count
        if key >= 0:
            for k in range(n):
                out[first + reads[key, k]] += weight * back[k]

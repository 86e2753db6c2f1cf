"""Distance bins: they cover every distance once, and every interval of them can be written."""

import numpy as np
import pytest

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.dsl.tree import Head, Where
from attn_dsl.synth.distance_bins import bins, condition


@pytest.mark.parametrize("causal", [True, False])
def test_bins_cover_every_distance_once(causal: bool) -> None:
    for distance in range(0 if causal else -200, 201):
        assert sum(first <= distance <= last for first, last in bins(causal)) == 1


@pytest.mark.parametrize("causal", [True, False])
def test_every_interval_of_bins_can_be_written(causal: bool) -> None:
    tokens = Tokens.from_strings([f" w{i}" for i in range(90)])
    gap = np.subtract.outer(np.arange(90), np.arange(90))
    visible = gap >= 0 if causal else np.ones_like(gap, dtype=bool)
    found = bins(causal)
    for first in range(len(found)):
        for last in range(first, len(found)):
            predicate = condition(first, last + 1, causal)
            if predicate is None:
                assert (first, last) == (0, len(found) - 1)
                continue
            kind = "causal" if causal else "bidirectional"
            program = Head("x", kind, terms=(Where(50.0, predicate),))
            rows = Program.from_tree(program)(tokens)
            held = visible & (found[first][0] <= gap) & (gap <= found[last][1])
            some = held.any(1)
            expected = held[some] / held[some].sum(1, keepdims=True)
            np.testing.assert_allclose(rows[some], expected, atol=1e-5)

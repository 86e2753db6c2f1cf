"""What a process that searches keeps for its searches, and what it puts back afterwards."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.synth.runs.worker import Place, at_hand, versions
from attn_dsl.synth.session import Session, Settings


def threads() -> set[int]:
    """Return how many threads the libraries of matrix products may use."""
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


@pytest.mark.skipif(not threads(), reason="numpy's matrix products are of an unknown library")
def test_matrix_products_have_one_thread_while_there_are_searches() -> None:
    tokens = [Tokens.from_strings(["a", " b", f" {i}"]) for i in range(10)]
    capture = Capture.from_arrays(tokens, [np.eye(3)[None, None] for _ in tokens])
    session = Session(capture, Settings(("library",)))
    one, other = (Place(None, name, session.settings, versions()) for name in "ab")
    with threadpool_limits(2, user_api="blas"):
        assert threads() == {2}
        with at_hand(one, session):
            with at_hand(other, session):
                assert threads() == {1}
            assert threads() == {1}
        assert threads() == {2}

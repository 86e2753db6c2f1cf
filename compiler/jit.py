"""Options of compiled functions: what all of them have, and the liberties that some take."""

from __future__ import annotations

from typing import Any

COMPILED: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
"""Kept on disk, run beside other threads, and no exception where a number is divided by 0."""
LEAN = {**COMPILED, "_nrt": False}
"""For functions that make no arrays: without counting references, for views are made by the million
and each count is an atomic operation."""
SUMS = {"reassoc", "contract", "nsz"}
"""What lets sums be taken in any order."""
FAST = {**COMPILED, "fastmath": SUMS}
FINITE = {**LEAN, "fastmath": {*SUMS, "arcp", "nnan"}}
"""Lean, with sums in any order and division by multiplying, where no number is NaN."""

"""Options of the functions that Numba compiles."""

from typing import Any

COMPILED: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
"""Machine code is cached on disk, the GIL is released, and division by 0 raises no exception."""
LEAN = {**COMPILED, "_nrt": False}
"""For functions that allocate no arrays: no reference counts, which cost an atomic operation per view."""
SUMS = {"reassoc", "contract", "nsz"}  # the fast-math flags that allow sums in any order
FAST = {**COMPILED, "fastmath": SUMS}
FINITE = {**LEAN, "fastmath": {*SUMS, "arcp", "nnan"}}
"""``LEAN`` with sums in any order and division by reciprocals; the numbers must not be NaN."""

"""How Numba compiles functions here, and where it keeps machine code."""

import warnings
from contextlib import suppress
from typing import Any

from numba.core import dispatcher
from numba.core.caching import FunctionCache, NullCache

COMPILED: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
"""Machine code is cached on disk, the GIL is released, and division by 0 raises no exception."""
LEAN = {**COMPILED, "_nrt": False}
"""For functions that allocate no arrays: no reference counts, which cost an atomic operation per view."""
SUMS = {"reassoc", "contract", "nsz"}  # the fast-math flags that allow sums in any order
FAST = {**COMPILED, "fastmath": SUMS}
FINITE = {**LEAN, "fastmath": {*SUMS, "arcp", "nnan"}}
"""``LEAN`` with sums in any order and division by reciprocals; the numbers must not be NaN."""


class Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of machine code, whose files may be damaged, or find no room on the disk."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load machine code; None where there is none, or its files are empty or damaged."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what unpickling raises
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save machine code, if the disk takes it."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            warnings.warn(f"compiled functions are not kept in {self.cache_path}: {error.strerror}; "
                          "NUMBA_CACHE_DIR names another place", stacklevel=1)  # fmt: skip


def cache_of(function: Any) -> Any:
    """Return the cache of a function; one that keeps nothing where Numba finds no place to write."""
    if not function.__module__.startswith("attn_dsl."):
        return FunctionCache(function)
    try:
        return Cache(function)
    except RuntimeError:
        warnings.warn("neither the directory of attn-dsl nor HOME can be written, so every command compiles "
                      "its functions again; NUMBA_CACHE_DIR names another place", stacklevel=1)  # fmt: skip
        return NullCache()


dispatcher.FunctionCache = cache_of  # type: ignore[attr-defined]

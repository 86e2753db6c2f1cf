"""Kernels: programs that Numba compiles to a machine-code function each.

Compiling takes 0.3 s and more, 30 ms for each term, in each process: nothing is kept on disk.
Calling a ``Program`` needs no compiling; a kernel is for callers that need a compiled function.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from attn_dsl.compiler.columns import SLACK, Batch, stack
from attn_dsl.compiler.export.numba import KernelWriter
from attn_dsl.compiler.export.source import execute
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.tokens import Tokens

KEPT = 64
"""The number of compiled functions that are kept. Numba never frees one (about 1 MiB each)."""


class Kernel:
    """A program as a function compiled by Numba; a call returns its attention matrix on a text.

    Compiling takes 0.3 s and more in each process; calling a ``Program`` needs none.

    >>> from attn_dsl.compiler.program import parse
    >>> kernel = Kernel(parse("head first causal:\\n    1000 where k == 0"))
    >>> kernel(["a", " b"])
    array([[1., 0.],
           [1., 0.]], dtype=float32)

    ``source`` is the function as Python source, whose docstring describes the arguments of
    ``function``; ``columns`` are the columns that it reads, and ``tables`` the
    searches whose tables it reads.

    Raises:
        InputError: a weight is still a hole.
    """

    def __init__(self, program: Program) -> None:
        writer = KernelWriter(program)
        self.program, self.source, self.columns = program, writer.source(), tuple(writer.arrays)
        self.tables = tuple(writer.seen)
        self.function = compiled(self.source)

    def __call__(self, tokens: Sequence[str] | Tokens) -> np.ndarray:
        """Compute the attention matrix on a text, as ``Program`` does."""
        n, batch = len(tokens), Batch([Tokens.from_strings(tokens)])
        columns = stack(self.columns, batch, self.program.causal)
        settled, known, opened = (np.ascontiguousarray(part[:, :-SLACK]) for part in columns[:3])
        out = np.zeros((n, n), dtype=np.float32)
        self.function(n, 0, 0, n, settled, known, opened, batch.tables(self.tables, 0), out.reshape(-1))
        return out


@lru_cache(maxsize=KEPT)
def compiled(source: str) -> Callable[..., None]:
    """Compile the function of a source by ``KernelWriter``. It is executed: never pass any other."""
    from numba import njit, types

    table, number = types.Array(types.int32, 2, "C"), types.int64
    tables = types.Array(types.int32, 3, "C")
    signature = types.void(*[number] * 4, *[table] * 3, tables, types.Array(types.float32, 1, "C"))
    fast = {"nnan", "nsz", "reassoc", "contract"}
    made: Callable[..., None] = njit(signature, nogil=True, error_model="numpy",
                                     fastmath=fast)(execute(source, "kernel")["kernel"])  # fmt: skip
    return made

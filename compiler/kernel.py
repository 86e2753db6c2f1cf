"""Kernels: programs in use, each compiled to machine code of its own.

    >>> from attn_dsl.compiler.program import parse
    >>> kernel = Kernel(parse("head previous causal:\\n    1000 where k == q-1"))
    >>> kernel(["The", " cat", " sat"])
    array([[1., 0., 0.],
           [1., 0., 0.],
           [0., 1., 0.]], dtype=float32)

Compiling takes about half a second, once for a program on a machine; search, which tries
thousands of programs once each, goes through ``compiler/evaluate.py`` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from attn_dsl.compiler.batch import Batch
from attn_dsl.compiler.kernel_cache import KERNELS, KernelCache
from attn_dsl.compiler.kernel_graph import ColumnKey
from attn_dsl.compiler.kernel_source import kernel_source
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.tokens import Tokens

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class Kernel:
    """A program compiled to one function.

    >>> from attn_dsl.compiler.program import parse
    >>> kernel = Kernel(parse("head first causal:\\n    1000 where k == 0"))
    >>> kernel.packed(Batch([Tokens.from_strings(["a", " b"])]), 0)
    array([1., 1., 0.], dtype=float32)

    Attributes:
        program: what it computes.
        source: the function as Python text.
        columns: the features that it reads.
        function: the compiled function.

    Args:
        program: without holes.
        cache: where compiled functions are kept.

    Raises:
        InputError: a weight is still a hole.
    """

    def __init__(self, program: Program, cache: KernelCache = KERNELS) -> None:
        if program.facts.holes:
            raise InputError(
                f"the program {program.name} has {program.facts.holes} weights to be fitted (`?`); "
                "write numbers, or fit them to a head with `attn-dsl fit`"
            )
        made = kernel_source(program.tree)
        self.program, self.source = program, made.text
        self.columns: tuple[ColumnKey, ...] = made.columns
        self.function = cache.function(made.text)
        self._arrays: WeakKeyDictionary[Batch, Arrays] = WeakKeyDictionary()

    def __call__(self, tokens: Sequence[str] | Tokens) -> np.ndarray:
        """Compute the attention matrix on a text.

        Args:
            tokens: decoded token strings, in which a leading space starts a word.

        Returns:
            float32 (n, n), one row per query; each row sums to 1.
        """
        if not isinstance(tokens, Tokens):
            tokens = Tokens.from_strings(tokens)
        n = len(tokens)
        out = np.zeros((n, n), dtype=np.float32)
        self.run(n, 0, 0, n, self.arrays(Batch([tokens])), out.reshape(-1))
        return out

    def packed(self, batch: Batch, text: int) -> np.ndarray:
        """Compute the visible entries on one text of a batch.

        Args:
            batch: texts whose features are computed once for all kernels.
            text: its number in the batch.

        Returns:
            float32 (entries,): what each query sees, row by row.
        """
        n = int(batch.sizes[text])
        out = np.empty(n * (n + 1) // 2 if self.program.causal else n * n, dtype=np.float32)
        self.run(n, 0, int(batch.starts[text]), 0, self.arrays(batch), out)
        return out

    def run(
        self, n: int, first: int, start: int, width: int, arrays: Arrays, out: np.ndarray
    ) -> None:
        """Compute the rows from ``first`` on of a text of ``n`` tokens.

        Args:
            n: how many tokens the text has.
            first: the first query to compute.
            start: where the text's tokens start in the columns.
            width: how far apart the rows lie in ``out``; 0: each behind the one before.
            arrays: settled, known and opened values, int32 (columns, tokens) each.
            out: float32, written to.
        """
        self.function(n, first, start, width, *arrays, out)

    def arrays(self, batch: Batch) -> Arrays:
        """Stack the columns of a batch, once for a batch."""
        found = self._arrays.get(batch)
        if found is None:
            columns = [key.arrays(batch) for key in self.columns]
            shape = (len(columns), int(batch.starts[-1]))
            settled, known, opened = (
                np.array([getattr(c, part) for c in columns], dtype=np.int32).reshape(shape)
                for part in ("settled", "known", "open")
            )
            found = self._arrays[batch] = (settled, known, opened)
        return found

    def __repr__(self) -> str:
        return f"<Kernel {self.program.name}>"

"""torch: a program as a module whose weights can be trained, on any device and on many texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_dsl.compiler.export.expressions import Writer
from attn_dsl.compiler.export.source import execute, render, wrapped
from attn_dsl.compiler.program import Program

if TYPE_CHECKING:
    import torch


class _TorchWriter(Writer):
    trained = True

    def _weight(self, place: int, alone: bool) -> str:
        return f"{'m' if alone and self.linear else 'w'}[{place}]"

    def _table(self, one: int, bounds: tuple[int, ...], weights: list[str]) -> str:
        last = int(weights[-1][2:-1]) + 1
        chosen = f"{weights[0][:-1]}:{last}]"
        return self._call("table", self.write(one).text, str(list(bounds)), chosen)


def to_torch(program: Program) -> str:
    """Write a program as a torch module.

    >>> from attn_dsl.compiler.program import parse
    >>> source = to_torch(parse("head first causal:\\n ? where k == 0"))
    >>> "class Attention(torch.nn.Module):" in source
    True

    Args:
        program: a hole starts at 0; of a linear program at 1, for a row without any mass has no
            gradient to leave it by.

    Returns:
        a module with a class ``Attention``. It needs torch alone where the program reads nothing
        but tokens and positions, else attn_dsl too, for the features.
    """
    writer = _TorchWriter(program, "torch")
    start = 1.0 if writer.linear else 0.0
    weights = [repr(start if w is None else w + 0.0) for w in program.tree.weights]
    written = wrapped("WEIGHTS = [", weights, "]")
    return render("torch.py", program, **writer.values(weights=written))


def torch_module(program: Program, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Make a torch module of a program: what its exported source defines.

    >>> from attn_dsl.compiler.program import parse
    >>> head = torch_module(parse("head first causal:\\n 1000 where k == 0"))
    >>> head(head.columns(["a", " b"])).tolist()
    [[1.0, 0.0], [1.0, 0.0]]

    Args:
        program: holes start as in ``to_torch``.
        dtype: of the weights, the scores and the matrix; float32 by default, whose rounding shows
            where scores are in the hundreds, as everywhere in torch. Masses are float64 always.

    Returns:
        a module with the parameter ``weights``, in source order. ``module(columns)`` is the (n, n)
        matrix for ``columns = module.columns(tokens)``, and ``module(columns, lengths)`` the
        (texts, n, n) matrices for ``columns, lengths = module.batch(texts)``.
    """
    namespace = execute(to_torch(program), program.name)
    module: torch.nn.Module = namespace["Attention"](*([] if dtype is None else [dtype]))
    return module

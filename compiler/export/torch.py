"""torch: writes a program as a module with trainable weights, for any device and batches of texts."""

from attn_dsl.compiler.export.expressions import Writer
from attn_dsl.compiler.export.source import render, wrapped
from attn_dsl.compiler.program import Program


class _TorchWriter(Writer):
    trained, addition = True, "score = score + {}"

    def _weight(self, place: int, alone: bool) -> str:
        return f"{'m' if alone and self.linear else 'w'}[{place}]"

    def _table(self, one: int, bounds: tuple[int, ...], weights: list[str]) -> str:
        last = int(weights[-1][2:-1]) + 1
        chosen = f"{weights[0][:-1]}:{last}]"
        return self._call("table", self.write(one).text, str(list(bounds)), chosen)


def to_torch(program: Program) -> str:
    """Write a program as source of a torch module.

    >>> from attn_dsl.compiler.program import parse
    >>> source = to_torch(parse("head first causal:\\n ? where k == 0"))
    >>> "class Attention(torch.nn.Module):" in source
    True

    Its class ``Attention`` has the parameter ``weights``, in source order. A hole starts at 0, and in
    a linear program at 1: weights of 0 have no gradient in a row whose masses are all 0. The module
    imports attn_dsl only for features that are more than a line of Python.
    """
    writer = _TorchWriter(program, "torch")
    start = 1.0 if writer.linear else 0.0
    weights = [repr(start if w is None else w + 0.0) for w in program.tree.weights]
    written = wrapped("WEIGHTS = [", weights, "]")
    return render("torch.py", program, **writer.values(weights=written))

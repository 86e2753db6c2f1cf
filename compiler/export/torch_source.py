"""torch: a program as a module whose weights can be trained, on any device and on many texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attn_dsl.compiler.export.columns import Columns
from attn_dsl.compiler.export.expressions import Dialect, Writer
from attn_dsl.compiler.export.helpers import helpers
from attn_dsl.compiler.export.numpy_source import limits, search, unpack
from attn_dsl.compiler.export.source import comment, execute, header, indented, wrapped
from attn_dsl.compiler.program import Program

if TYPE_CHECKING:
    import torch

USAGE = """\
`Attention()` is a module with one parameter, `weights`, in the order of the program. It turns the
columns of one text into a matrix, or those of several texts at once:

    head = Attention()
    head(head.columns(["a", " b"]))                # (2, 2)
    head(*head.batch([["a", " b"], ["c"]]))        # (2, 2, 2), zeros after the end of a text"""

BEGINNING = '''\
    """Return the attention matrix of one text: (n, n), each row sums to 1.

    Rows and keys from `size` on are padding: they get zeros.
    """
    position = columns["position"]
    n = position.shape[-1]
    dtype = w.dtype
    if n == 0:
        return w.new_zeros((0, 0))
    q = position[:, None]
    k = position[None, :]
'''
SOFTMAX = """\
    score = torch.where(visible, score, -torch.inf)
    return torch.where(q < size, torch.softmax(score, -1), 0.0)
"""
LINEAR = """\
    mass = torch.where(visible, mass, 0.0)
    mass = torch.where(mass.sum(-1, keepdim=True) == 0.0, visible.to(dtype), mass)
    return torch.where(q < size, mass / mass.sum(-1, keepdim=True), 0.0)
"""
BATCH = '''\
def stacked(texts: list[dict[str, torch.Tensor]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Stack the columns of texts, the short ones filled up with zeros; return the lengths too."""
    sizes = [len(text["position"]) for text in texts]
    longest = texts[sizes.index(max(sizes))]
    columns = {}
    for name, column in longest.items():
        columns[name] = column.new_zeros((len(texts), *column.shape))
        for filled, text, size in zip(columns[name], texts, sizes):
            if size > 0:
                filled[tuple(map(slice, text[name].shape))] = text[name]
    position = longest["position"]
    columns["position"] = position.expand(len(texts), -1)
    return columns, torch.tensor(sizes, device=position.device)
'''
TENSORS = '''\
def tensors(tokens: list[str], device: torch.device | str | None = None) -> dict[str, torch.Tensor]:
    """Return the columns of one text as tensors, and the positions of its tokens."""
    columns = {name: torch.tensor(values, device=device) for name, values in read(tokens).items()}
    return columns | {"position": torch.arange(len(tokens), device=device)}
'''
MODULE = '''\
class Attention(torch.nn.Module):
    """The attention head; differentiable in `weights`."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(WEIGHTS, dtype=dtype))

    def columns(self, tokens: list[str]) -> dict[str, torch.Tensor]:
        """Return what the program reads of a text, on the device of the weights."""
        return tensors(tokens, self.weights.device)

    def batch(self, texts: list[list[str]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return what the program reads of several texts, padded, and their lengths."""
        return stacked([self.columns(tokens) for tokens in texts])

    def forward(
        self, columns: dict[str, torch.Tensor], lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the matrix (n, n) of a text, or (texts, n, n) of a batch."""
        position = columns["position"]
        if position.dim() == 1:
            size = position.shape[0] if lengths is None else lengths
            return attention(columns, self.weights, size)
        if lengths is None:
            lengths = torch.full(position.shape[:1], position.shape[1], device=position.device)
        return torch.vmap(attention, in_dims=(0, None, 0))(columns, self.weights, lengths)
'''


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
    tree = program.tree
    linear = tree.normaliser == "linear"
    columns = Columns(tree)
    writer = Writer(tree, columns, Dialect(weights="w"))
    score = "mass" if linear else "score"
    terms = "".join(
        f"    # {comment(shown)}\n" + (f"    {score} = {score} + {added}\n" if added else "")
        for shown, added in writer.terms()
    )
    body = [
        BEGINNING,
        "    w = w.clamp(min=0.0)  # masses\n" if linear else "",
        limits(writer, "size"),
        indented(helpers(writer.helpers, "torch", linear)),
        unpack(writer),
        search(writer),
        f"    {score} = torch.zeros((n, n), dtype=dtype, device=position.device)\n",
        terms,
        LINEAR if linear else SOFTMAX,
    ]
    start = 1.0 if linear else 0.0
    weights = [repr(start if w is None else w + 0.0) for w in tree.weights]
    return (
        f"{header(program, 'a torch module', USAGE)}\nimport torch\n{columns.imports}\n"
        + "\n".join(wrapped("WEIGHTS = [", weights, "]"))
        + f"\n\n{columns.source()}\n\n{TENSORS}\n\n{BATCH}\n\n"
        "def attention(\n"
        "    columns: dict[str, torch.Tensor], w: torch.Tensor, size: int | torch.Tensor\n"
        f") -> torch.Tensor:\n{''.join(body)}\n\n{MODULE}"
    )


def torch_module(program: Program, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Make a torch module of a program: what its exported source defines.

    >>> from attn_dsl.compiler.program import parse
    >>> head = torch_module(parse("head first causal:\\n 1000 where k == 0"))
    >>> head(head.columns(["a", " b"])).tolist()
    [[1.0, 0.0], [1.0, 0.0]]

    Args:
        program: holes start as in ``to_torch``.
        dtype: of the weights, the scores and the matrix; float32 by default, whose rounding shows
            where scores are in the hundreds, as everywhere in torch.

    Returns:
        a module with the parameter ``weights``, in source order. ``module(columns)`` is the (n, n)
        matrix for ``columns = module.columns(tokens)``, and ``module(columns, lengths)`` the
        (texts, n, n) matrices for ``columns, lengths = module.batch(texts)``.
    """
    namespace = execute(to_torch(program), program.name)
    module: torch.nn.Module = namespace["Attention"](*([] if dtype is None else [dtype]))
    return module

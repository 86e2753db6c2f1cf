"""NumPy: a program as a function that a researcher can read, change and run anywhere."""

from __future__ import annotations

from collections.abc import Iterable

from attn_dsl.compiler.export.columns import Columns
from attn_dsl.compiler.export.expressions import Dialect, Writer, describe
from attn_dsl.compiler.export.helpers import helpers, needs_end
from attn_dsl.compiler.export.source import comment, header, indented, refuse_holes
from attn_dsl.compiler.program import Program

USAGE = """\
`attention(tokens)` takes token strings, in which a leading space starts a word, and returns a
float64 matrix: a row of weights for each query."""

BEGINNING = '''\
    """Return the attention matrix of a text: float64 (n, n), each row sums to 1."""
    n = len(tokens)
    if n == 0:
        return np.zeros((0, 0))
    columns = {name: np.array(values) for name, values in read(tokens).items()}
    q = np.arange(n)[:, None]
    k = np.arange(n)[None, :]
'''
SOFTMAX = """\
    score = np.where(visible, score, -np.inf)
    mass = np.exp(score - score.max(-1, keepdims=True))
    return mass / mass.sum(-1, keepdims=True)
"""
LINEAR = """\
    mass = np.where(visible, mass, 0.0)
    mass = np.where(mass.sum(-1, keepdims=True) == 0.0, visible, mass)
    return mass / mass.sum(-1, keepdims=True)
"""


def to_numpy(program: Program) -> str:
    """Write a program as NumPy source.

    >>> from attn_dsl.compiler.program import parse
    >>> from attn_dsl.compiler.export.source import execute
    >>> source = to_numpy(parse("head first causal:\\n 1000 where k == 0"))
    >>> execute(source, "first")["attention"](["a", " b"])
    array([[1., 0.],
           [1., 0.]])

    Args:
        program: without holes.

    Returns:
        a module with a function ``attention(tokens)``. It needs NumPy alone where the program
        reads nothing but tokens and positions, else attn_dsl too, for the features.

    Raises:
        InputError: a weight is a hole.
    """
    refuse_holes(program, "NumPy")
    tree = program.tree
    columns = Columns(tree)
    writer = Writer(tree, columns, Dialect())
    terms = writer.terms()
    score = "mass" if tree.normaliser == "linear" else "score"
    body = [
        BEGINNING,
        limits(writer, "n"),
        indented(helpers(writer.helpers, "numpy", tree.normaliser == "linear")),
        unpack(writer),
        search(writer),
        f"    {score} = np.zeros((n, n))\n",
        *(
            f"    # {comment(shown)}\n" + (f"    {score} += {added}\n" if added else "")
            for shown, added in terms
        ),
        LINEAR if tree.normaliser == "linear" else SOFTMAX,
    ]
    return (
        f"{header(program, 'NumPy', USAGE)}\nimport numpy as np\n{columns.imports}\n"
        f"{columns.source()}\n\n"
        f"def attention(tokens: list[str]) -> np.ndarray:\n{''.join(body)}"
    )


def limits(writer: Writer, size: str) -> str:
    """Write which keys a query sees, and the last of them if anything asks for it."""
    if writer.program.causal:
        visible, end = "k <= q", "q"
    else:
        visible = "k < n" if size == "n" else f"(k < {size}) | (q >= {size})"
        end = f"{size} - 1"
    line = f"    end = {end}\n" if needs_end(writer.helpers) else ""
    return f"    visible = {visible}\n{line}\n"


def unpack(writer: Writer, source: str = "columns") -> str:
    """Write one variable for each column that the expressions read."""
    return "".join(f'    {name} = {source}["{name}"]\n' for name in writer.used)


def search(writer: Writer) -> str:
    """Write the quantifiers, one variable each, the inner ones first."""
    lines: Iterable[str] = (
        f"    # {comment(describe(node))}\n    {name} = {source}\n"
        for name, (node, source) in writer.quantifiers.items()
    )
    return "    others = visible & (k != q)\n" + "".join(lines) if writer.quantifiers else ""

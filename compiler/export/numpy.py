"""NumPy: writes a program as a function from token strings to an attention matrix."""

from attn_dsl.compiler.export.expressions import Writer
from attn_dsl.compiler.export.source import FIT, render
from attn_dsl.compiler.program import Program


def to_numpy(program: Program) -> str:
    """Write a program as NumPy source.

    >>> from attn_dsl.compiler.program import parse
    >>> from attn_dsl.compiler.export.source import execute
    >>> source = to_numpy(parse("head first causal:\\n 1000 where k == 0"))
    >>> execute(source, "first")["attention"](["a", " b"])
    array([[1., 0.],
           [1., 0.]])

    The module imports attn_dsl only for features that are more than a line of Python.

    Raises:
        InputError: a weight is a hole.
    """
    program.refuse_holes(FIT)
    return render("numpy.py", program, **Writer(program, "np").values())

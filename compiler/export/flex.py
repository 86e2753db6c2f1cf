"""FlexAttention: a softmax program as the ``score_mod`` and ``mask_mod`` of a fused kernel."""

from attn_dsl.compiler.export.expressions import Code, Writer
from attn_dsl.compiler.export.source import render
from attn_dsl.compiler.graph import Node
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError


class _PairWriter(Writer):
    """Writes the score of one pair; the writer ``rows`` writes quantifiers, for all queries at once."""

    row, addition = "b, ", "total = total + {}"

    def __init__(self, program: Program) -> None:
        super().__init__(program, "torch")
        self.rows = Writer(program, "torch")
        self.columns, self.taken = self.rows.columns, self.rows.taken

    def _search(self, one: int, node: Node) -> Code:
        return Code(f"{self.rows.write(one).text}[b, q]")


def to_flex(program: Program) -> str:
    """Write a softmax program as source for FlexAttention.

    >>> from attn_dsl.compiler.program import parse
    >>> "def score_mod(score, b, h, q, k):" in to_flex(parse("head a causal:\\n 1 where k == 0"))
    True

    Its ``buffers(texts)`` computes the columns of texts and the values of quantifiers, and its
    ``functions(buffers)`` returns ``score_mod`` and ``mask_mod``.

    Raises:
        InputError: FlexAttention cannot compute it; the message says why.
    """
    reasons = []
    if program.tree.normaliser == "linear":
        reasons.append("it is linear, and FlexAttention normalises rows by softmax; export it to torch or "
                       "numpy, or write it with softmax")  # fmt: skip
    if program.facts.holes:
        reasons.append(
            f"{program.facts.holes} of its weights are to be fitted (`?`), and score_mod needs "
            "numbers; fit them with `attn-dsl fit`, or export it to torch to train them")  # fmt: skip
    if reasons:
        raise InputError(
            f"the program {program.name} cannot be exported to FlexAttention: {'; and '.join(reasons)}"
        )
    pairs = _PairWriter(program)
    return render("flex.py", program, **pairs.values(rows=pairs.rows))

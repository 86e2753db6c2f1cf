"""FlexAttention: a softmax program as the ``score_mod`` and ``mask_mod`` of a fused kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from attn_dsl.compiler.export.expressions import Code, Writer
from attn_dsl.compiler.export.source import execute, render
from attn_dsl.compiler.graph import Node
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    import torch

    from attn_dsl.dsl.tokens import Tokens


class FlexFunctions(NamedTuple):
    """The functions that make FlexAttention compute a program on a batch of texts.

    Attributes:
        score_mod: returns the score of the program, whatever score it is given.
        mask_mod: returns whether a query sees a key; for ``create_block_mask``.
        buffers: the tensors that both functions read; the first index is the text.
    """

    score_mod: Callable[..., torch.Tensor]
    mask_mod: Callable[..., torch.Tensor]
    buffers: dict[str, torch.Tensor]


class _PairWriter(Writer):
    """Writes the score of one pair; the writer ``rows`` writes quantifiers, for all queries at once."""

    row = "b, "

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

    Args:
        program: a softmax program without holes.

    Returns:
        the source of a module with ``buffers(texts)``, which computes the columns of the texts and the
        values of quantifiers, and ``functions(buffers)``, which returns ``score_mod`` and ``mask_mod``.

    Raises:
        InputError: FlexAttention cannot compute it; the message says why.
    """
    reasons = []
    if program.tree.normaliser == "linear":
        reasons.append(
            "it is linear, and FlexAttention normalises rows by softmax; export it to torch or "
            "numpy, or write it with softmax"
        )
    if program.facts.holes:
        reasons.append(
            f"{program.facts.holes} of its weights are to be fitted (`?`), and score_mod needs "
            "numbers; fit them with `attn-dsl fit`, or export it to torch to train them"
        )
    if reasons:
        raise InputError(
            f"the program {program.name} cannot be exported to FlexAttention: {'; and '.join(reasons)}"
        )
    pairs = _PairWriter(program)
    return render("flex.py", program, **pairs.values(rows=pairs.rows))


def flex_functions(
    program: Program,
    texts: Sequence[Sequence[str] | Tokens],
    device: torch.device | str | None = None,
) -> FlexFunctions:
    """Return the functions that make FlexAttention compute a program on a batch of texts.

    >>> import torch
    >>> from attn_dsl.compiler.program import parse
    >>> made = flex_functions(parse("head first causal:\\n 3 where k == 0"), [["a", " b"]])
    >>> b, q, k = torch.tensor(0), torch.tensor(1), torch.tensor([0, 1])
    >>> made.score_mod(torch.zeros(2), b, 0, q, k).tolist(), made.mask_mod(b, 0, q, k).tolist()
    ([3.0, 0.0], [True, True])

    Args:
        program: a softmax program without holes.
        texts: the token strings of each text; no text may be empty.
        device: the device of the tensors.

    Returns:
        the functions, and the tensors that they read. Scores have the dtype of the scores that
        ``score_mod`` is given, which is float32 in a fused kernel.

    Raises:
        InputError: FlexAttention cannot compute the program, or a text has no tokens.
    """
    source = to_flex(program)
    if not texts or not all(map(len, texts)):
        raise InputError("FlexAttention needs texts of at least one token each")
    namespace = execute(source, program.name)
    buffers = namespace["buffers"](texts, device)
    score_mod, mask_mod = namespace["functions"](buffers)
    return FlexFunctions(score_mod, mask_mod, buffers)

"""FlexAttention: a softmax program as the ``score_mod`` and ``mask_mod`` of a fused kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from attn_dsl.compiler.export.columns import Columns
from attn_dsl.compiler.export.expressions import Dialect, Writer
from attn_dsl.compiler.export.helpers import helpers, needs_end
from attn_dsl.compiler.export.numpy_source import limits, search, unpack
from attn_dsl.compiler.export.source import comment, execute, header, indented
from attn_dsl.compiler.export.torch_source import BATCH, TENSORS
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    import torch

    from attn_dsl.dsl.tokens import Tokens

USAGE = """\
The program's score takes the place of the query-key product, which is ignored:

    tensors = buffers([["a", " b"], ["c"]])        # of a batch of texts, padded to n = 2
    score_mod, mask_mod = functions(tensors)
    mask = create_block_mask(mask_mod, B=2, H=None, Q_LEN=2, KV_LEN=2)
    flex_attention(query, key, value, score_mod=score_mod, block_mask=mask)

Rows after the end of a text mean nothing."""

QUANTIFIERS = '''\
def quantifiers(columns: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what the quantifiers of the program find for each query of one text."""
    position = columns["position"]
    n = position.shape[-1]
    q = position[:, None]
    k = position[None, :]
'''
BUFFERS = '''\
def buffers(
    texts: list[list[str]], device: torch.device | str | None = None
) -> dict[str, torch.Tensor]:
    """Return what the program reads of texts: tensors with the text as first index."""
    columns = [tensors(tokens, device) for tokens in texts]
FOUND    stack, lengths = stacked(columns)
    return stack | {"lengths": lengths}
'''
FOUND = "    columns = [text | quantifiers(text) for text in columns]\n"
FUNCTIONS = '''\
def functions(buffers: dict[str, torch.Tensor]) -> tuple:
    """Return `score_mod` and `mask_mod` for texts whose `buffers` are given."""
    n = buffers["position"].shape[-1]
    lengths = buffers["lengths"]
'''
SCORE = '''\
def score_mod(score, b, h, q, k):
    """Return the program's score of a query and a key."""
    dtype = score.dtype
'''
MASK = '''\
def mask_mod(b, h, q, k):
    """Say whether a query sees a key."""
'''


class FlexFunctions(NamedTuple):
    """What FlexAttention takes for a program on a batch of texts.

    Attributes:
        score_mod: the program's score, which replaces the one it is given.
        mask_mod: which keys a query sees; for ``create_block_mask``.
        buffers: the tensors that both read, the text as first index.
    """

    score_mod: Callable[..., torch.Tensor]
    mask_mod: Callable[..., torch.Tensor]
    buffers: dict[str, torch.Tensor]


def to_flex(program: Program) -> str:
    """Write a softmax program for FlexAttention.

    >>> from attn_dsl.compiler.program import parse
    >>> "def score_mod(score, b, h, q, k):" in to_flex(parse("head a causal:\\n 1 where k == 0"))
    True

    Args:
        program: softmax, without holes.

    Returns:
        a module with ``buffers(texts)``, which reads the texts and searches what the program's
        quantifiers find, and ``functions(buffers)``, which returns ``score_mod`` and ``mask_mod``.

    Raises:
        InputError: FlexAttention cannot compute it; the message says why.
    """
    refuse(program)
    tree = program.tree
    columns = Columns(tree)
    rows = Writer(tree, columns, Dialect())
    pairs = Writer(tree, columns, Dialect("{}[b, {}]", "{}[b, q]", "real({})"), rows)
    terms = pairs.terms()
    if any("real(" in added for _, added in terms):
        pairs.helpers["real"] = None
    found = "".join(f'    {name} = buffers["{name}"]\n' for name in rows.quantifiers)
    score = [
        SCORE,
        f"    end = {'q' if tree.causal else 'lengths[b] - 1'}\n"
        if needs_end(pairs.helpers)
        else "",
        "\n" if pairs.helpers else "",
        indented(helpers(pairs.helpers, "flex")),
        "    total = torch.zeros_like(score)\n",
        *(
            f"    # {comment(shown)}\n" + (f"    total = total + {added}\n" if added else "")
            for shown, added in terms
        ),
        "    return total\n",
    ]
    mask = f"{MASK}    return {'(k <= q) & ' if tree.causal else ''}(k < lengths[b])\n"
    parts = [
        f"{header(program, 'functions for FlexAttention', USAGE)}\nimport torch\n{columns.imports}",
        columns.source(),
        TENSORS,
        BATCH,
        _quantifiers(rows) if rows.quantifiers else "",
        BUFFERS.replace("FOUND", FOUND if rows.quantifiers else ""),
        f"{FUNCTIONS}{unpack(pairs, 'buffers')}{found}\n{indented(''.join(score))}\n"
        f"{indented(mask)}\n    return score_mod, mask_mod\n",
    ]
    return "\n\n".join(part for part in parts if part)


def flex_functions(
    program: Program,
    texts: Sequence[Sequence[str] | Tokens],
    device: torch.device | str | None = None,
) -> FlexFunctions:
    """Make the functions that FlexAttention takes for a program on a batch of texts.

    >>> import torch
    >>> from attn_dsl.compiler.program import parse
    >>> made = flex_functions(parse("head first causal:\\n 3 where k == 0"), [["a", " b"]])
    >>> b, q, k = torch.tensor(0), torch.tensor(1), torch.tensor([0, 1])
    >>> made.score_mod(torch.zeros(2), b, 0, q, k).tolist(), made.mask_mod(b, 0, q, k).tolist()
    ([3.0, 0.0], [True, True])

    Args:
        program: softmax, without holes.
        texts: token strings of each text, none of them empty.
        device: where the tensors are kept.

    Returns:
        the functions, and the tensors that they read. Scores have the kind of the scores that
        ``score_mod`` is given, float32 in a fused kernel.

    Raises:
        InputError: FlexAttention cannot compute the program, or a text has no tokens.
    """
    refuse(program)
    if not texts or not all(map(len, texts)):
        raise InputError("FlexAttention needs texts of at least one token each")
    namespace = execute(to_flex(program), program.name)
    buffers = namespace["buffers"](texts, device)
    score_mod, mask_mod = namespace["functions"](buffers)
    return FlexFunctions(score_mod, mask_mod, buffers)


def refuse(program: Program) -> None:
    """Refuse what FlexAttention cannot compute, with every reason.

    Raises:
        InputError: it cannot compute the program.
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


def _quantifiers(rows: Writer) -> str:
    """Write the function that searches what all quantifiers find, row by row."""
    returned = ", ".join(f'"{name}": {name}[:, 0]' for name in rows.quantifiers)
    return (
        f"{QUANTIFIERS}{limits(rows, 'n')}{indented(helpers(rows.helpers, 'torch'))}"
        f"{unpack(rows)}{search(rows)}    return {{{returned}}}\n"
    )

"""What exported sources look like: what they need, fold, refuse, and how the command prints them."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from exporting import (
    EVERYTHING,
    TARGETS,
    TOKENS,
    TOLERANCE,
    assert_agreement,
    assert_balanced,
    flex_functions,
    reference,
    torch_module,
)
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attn_dsl
from attn_dsl import testing
from attn_dsl.cli.main import cli
from attn_dsl.compiler.export.flex import to_flex
from attn_dsl.compiler.export.latex import to_latex
from attn_dsl.compiler.export.numpy import to_numpy
from attn_dsl.compiler.export.source import comment, execute
from attn_dsl.compiler.export.torch import to_torch
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.parser import parse as parse_tree
from attn_dsl.dsl.tokens import Tokens


def test_a_program_of_tokens_and_positions_needs_no_attn_dsl() -> None:
    source = """head alone causal:
        3 where text(k-1) == text(q) and not seen(q)
        1 where token(k) in {" cat", "."} or ends(text(k), "p")
        0.5 * length(k) where repeats(k) == repeats(q) or k == previous(q)
        1 * match(k, q)
    """
    program = attn_dsl.parse(source)
    for written in (to_numpy(program), to_torch(program), to_flex(program)):
        imported = [n for n in ast.walk(ast.parse(written)) if isinstance(n, ast.ImportFrom)]
        assert not imported
    tokens = Tokens.from_strings(TOKENS)
    assert_agreement(program, tokens)
    bidirectional = attn_dsl.parse("head b bidirectional:\n 1 * from_end(k)\n 2 where text_final(q)")
    assert_agreement(bidirectional, tokens)
    assert "attn_dsl" not in to_numpy(bidirectional).split('"""')[2]


def test_constants_are_folded() -> None:
    program = attn_dsl.parse(
        "head a causal:\n 2 where true\n 1 where not true\n 3 where k == 1 and 2 < 1\n"
        " 1 where text(k-1) == text(0 - 1)\n 2 * (3 + 4)\n by 5 [0: 1, 4: 2, 6: 3]\n"
        " by 0 - 9 [0: 1]\n 1 where match(0 - 1, k) == 0\n 3 where max(2, 3) == min(3, 4)\n"
        " 2 where text(3) == text(q)\n 1 where k >= max(1, q - 1)"
    )
    added = [line.strip() for line in to_numpy(program).splitlines() if "score += " in line]
    assert added == [
        "score += 2.0", "score += 1.0 * (at(text, k - 1, 0) == at(text, 0 * q - 1, 0))",
        "score += 14.0", "score += 2.0", "score += 1.0 * (table_at(match, 0 * q - 1, k, 0) == 0)",
        "score += 3.0", "score += 2.0 * (at(text, 0 * q + 3, 0) == text[q])",
        "score += 1.0 * (k >= np.clip(q - 1, 1, None))",
    ]  # fmt: skip
    tokens = Tokens.from_strings(TOKENS)
    assert_agreement(program, tokens)


@given(st.text(alphabet=st.characters(exclude_characters="\n"), max_size=8))
@example("\r\x0c\x85\u2028\0")
def test_comments_cannot_break_out_of_a_source(words: str) -> None:
    remarks = t.Remarks((words,), words)
    where = t.Where(1.0, t.Compare("==", t.Position("k"), t.Integer(0)), remarks=remarks)
    written = to_numpy(Program.from_tree(t.Head("a", "causal", "softmax", (where,))))
    written.encode("utf-8")
    assert execute(written, "a")["attention"](["a", " b"]).shape == (2, 2)
    assert "\n" not in comment(words)


def test_weights_stand_in_source_order_and_holes_start_at_nothing() -> None:
    program = attn_dsl.parse("head a causal:\n 2 where k == 0\n by q - k [0: ?, 1: 3]\n ? * k")
    assert torch_module(program).weights.tolist() == [2.0, 0.0, 3.0, 0.0]
    masses = attn_dsl.parse("head a causal linear:\n 2 where k == 0\n ? where k == q")
    assert torch_module(masses).weights.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("normaliser", ["softmax", "linear"])
def test_gradients_are_those_of_finite_differences(normaliser: str) -> None:
    tree = parse_tree(EVERYTHING)
    tree = dataclasses.replace(tree, name="g", visibility="causal", normaliser=normaliser)  # type: ignore[arg-type]
    tree = tree.with_weights([0.3 + 0.1 * i for i in range(len(tree.weights))])
    module = torch_module(Program.from_tree(tree), torch.float64)
    columns, lengths = module.batch([list(TOKENS), list(TOKENS[:4])])
    probe = torch.rand((2, len(TOKENS), len(TOKENS)), dtype=torch.float64)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        matrices = torch.func.functional_call(module, {"weights": weights}, (columns, lengths))
        return (matrices * probe).sum()

    weights = module.weights.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, weights)
    loss(weights).backward()
    assert weights.grad is not None and weights.grad.abs().min() > 0


@given(testing.programs(holes=True), testing.tokens(max_size=8))
def test_gradients_are_always_finite(program: t.Head, tokens: Tokens) -> None:
    module = torch_module(Program.from_tree(program), torch.float64)
    matrices = module(*module.batch([tokens, Tokens.from_strings(["a", " b"]), tokens.prefix(0)]))
    if matrices.requires_grad:  # else no term adds anything
        (matrices * torch.rand_like(matrices)).sum().backward()
    assert module.weights.grad is None or module.weights.grad.isfinite().all()


@pytest.mark.parametrize("visibility", ["causal", "bidirectional"])
def test_flex_attention_gives_the_matrix(visibility: str) -> None:
    program = attn_dsl.parse(EVERYTHING.replace("causal", visibility))
    texts = [Tokens.from_strings(TOKENS), Tokens.from_strings(TOKENS[:5])]
    score_mod, mask_mod, buffers = flex_functions(program, texts)
    assert buffers["lengths"].tolist() == [12, 5]
    n = len(TOKENS)
    mask = create_block_mask(mask_mod, 2, None, n, n, device="cpu")
    query, key = torch.rand((2, 2, 3, n, 16))
    identity = torch.eye(n).expand(2, 3, n, n).contiguous()
    out = flex_attention(query, key, identity, score_mod=score_mod, block_mask=mask)
    for matrices, tokens in zip(out, texts, strict=True):
        expected, size = reference(program.tree, tokens), len(tokens)
        for matrix in matrices[:, :size, :size]:
            np.testing.assert_allclose(matrix, expected, atol=TOLERANCE)


def test_refusals_give_every_reason() -> None:
    program = attn_dsl.parse("head a causal linear:\n ? where k == 0")
    with pytest.raises(InputError) as error:
        to_flex(program)
    assert "a cannot be exported to FlexAttention" in str(error.value)
    assert "it is linear" in str(error.value) and "1 of its weights" in str(error.value)
    with pytest.raises(InputError, match=r"1 weights to be fitted .* export it to torch"):
        to_numpy(program)


@given(testing.programs(holes=True))
def test_latex_of_random_programs_is_balanced(program: t.Head) -> None:
    assert_balanced(to_latex(Program.from_tree(program)))


def test_latex_shows_every_construct() -> None:
    latex = to_latex(attn_dsl.parse(EVERYTHING))
    for part in (
        r"a_{qk} &= \frac{\exp s_{qk}}{\sum_{j \leq q} \exp s_{qj}}",
        r"s_{qk} &= 6.1 \, [\mathrm{text}(k - 1) = \mathrm{text}(q)] \\",
        r"&\quad {} - 0.8 \cdot \ln \max(1 + q - k, 1) \\",
        r"\begin{cases} 0 & \text{if } q - k < 0, \\ 2.1 & \text{if } 0 \leq q - k < 1, \\",
        r"[k > \operatorname{nearest}_{j}(\mathrm{word}(j) = \text{``\texttt{the}''})]",
        r"0.5^{\max(\lvert q - k \rvert, 0)} \, [\mathrm{match}(k - 1, q) \geq 1]",
        r"\mathrm{Stop} &= \{\text{``\texttt{!{}}''}, \text{``\texttt{.}''}\}",
        r"\text{``\texttt{.}''} \mapsto -0.7, \text{``\texttt{she}''} \mapsto 2\}",
        r"+ 0.9 \cdot \operatorname{weight}(\mathrm{token}(q), \mathrm{Graded}) \cdot "
        r"\operatorname{weight}(\mathrm{word}(k - 1), \{\text{``\texttt{}''} \mapsto 0.5, ",
        r"+ 0.6 \cdot (q - k) \, [\mathrm{word}(k) \in \mathrm{Pronoun}]",
        "% weight(s, S) is the weight of s in S: 0 outside it.",
    ):
        assert part in latex
    linear = to_latex(attn_dsl.parse("head a bidirectional linear:\n ? * (k - 1)\n ? where k == 0"))
    assert r"1 / n & \text{otherwise}" in linear
    assert r"m_{qk} &= \theta_{1} \cdot \max(k - 1, 0) \\" in linear
    assert r"{} + \theta_{2} \, [k = 0]" in linear
    signed = to_latex(attn_dsl.parse('head a causal linear:\n 1 * log(k) * weight(word(k), {"a": -1})'))
    assert r"1 \cdot \max(\ln \max(k, 1) \cdot \operatorname{weight}" in signed
    program = attn_dsl.parse(r"head a causal:" "\n" r' 1 where text(k) in {"\\", "{", "é", "_%\n"}')
    for part in (r"\textbackslash{}", r"\{", r"\textbackslash{}u00e9", r"\_\%\textbackslash{}n"):
        assert rf"\texttt{{{part}}}" in to_latex(program)


@pytest.mark.parametrize("target", TARGETS)
def test_the_command_prints_each_target(target: str, tmp_path: Path) -> None:
    file = tmp_path / "p.attn"
    file.write_text(EVERYTHING, encoding="utf-8")
    result = CliRunner().invoke(cli, ["export", str(file), "--to", target])
    assert result.exit_code == 0, result.output
    assert result.output == TARGETS[target](attn_dsl.load(file))
    out = tmp_path / "out.txt"
    result = CliRunner().invoke(cli, ["export", str(file), "--to", target, "--out", str(out)])
    assert result.output.strip() == str(out)
    assert out.read_text(encoding="utf-8") == TARGETS[target](attn_dsl.load(file))


def test_the_command_asks_for_leave_to_look_ahead(tmp_path: Path) -> None:
    file = tmp_path / "p.attn"
    file.write_text("head a causal:\n 1 where text_final(k)\n", encoding="utf-8")
    arguments = ["export", str(file), "--to", "numpy"]
    assert isinstance(CliRunner().invoke(cli, arguments).exception, attn_dsl.ProgramError)
    result = CliRunner().invoke(cli, [*arguments, "--allow-lookahead"])
    assert "It looks ahead: a causal head could not see text_final." in result.output


def test_sources_are_written_without_torch() -> None:
    code = f"""import importlib, sys
from attn_dsl.compiler.program import parse
for target in {list(TARGETS)}:
    module = importlib.import_module("attn_dsl.compiler.export." + target)
    getattr(module, "to_" + target)(parse("head a causal:\\n 1 where k == 0"))
print({{"torch", "numba", "numpy"}} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

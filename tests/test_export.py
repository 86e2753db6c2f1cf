"""Exports compute what the reference means, and say clearly what they cannot express."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attn_dsl
from attn_dsl import testing
from attn_dsl.cli.export import export
from attn_dsl.compiler.export.flex_source import flex_functions, to_flex
from attn_dsl.compiler.export.latex import to_latex
from attn_dsl.compiler.export.numpy_source import to_numpy
from attn_dsl.compiler.export.source import comment, execute
from attn_dsl.compiler.export.torch_source import to_torch, torch_module
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.library import library
from attn_dsl.dsl.parser import parse as parse_tree
from attn_dsl.dsl.reference import Interpreter, evaluate
from attn_dsl.dsl.tokens import Tokens

TOLERANCE = 1e-5
SINGLE = 4 * float(np.finfo(np.float32).eps)
TARGETS = {"numpy": to_numpy, "torch": to_torch, "flex": to_flex, "latex": to_latex}
TOKENS = ("The", " cat", " sat", ".", " She", " saw", " the", " cat", "nap", " (", "x", ")")
EVERYTHING = """\
# All kinds of expressions.
set Stop = {".", "!"}
set Graded = {" cat": 1.25, ".": -0.7, "she": 2}

head everything causal softmax:
    6.1 where text(k-1) == text(q)
    1.3 where text(k) in Stop and not punct(q) or starts(text(k), "s")
    -0.8 * log(1 + q - k)
    by q - k [0: 2.1, 1: 1.3, 4: -0.2] where k > nearest(word(k) == "the")
    0.5 * (q - k) where word(k) in Pronoun
    2 * decay(abs(q - k), 0.5) where match(k-1, q) >= 1
    0.3 * min(count(text(k) == text(q)), 2) where k == last(word(k) == "cat")
    0.9 * weight(token(q), Graded) * weight(word(k-1), {"": 0.5, "the": -2})
    0.4 * weight(word(k), Graded) * log(1 + q - k) where text(k) not in Graded
    0.6 * weight(word(k), Pronoun) * (q - k)
"""
CORNERS = [
    "2 where word(k) == word(q)", '2 where word(k-1) == ""', '2 where word(k+1) == ""',
    "2 where k == word_last(k-1)", "2 where word_last(k+1) == 0 - 1", "1 * word_last(0)",
    "1 * sqrt(q - k)", "3 * inv(q - k)", "2 * decay(k - 1, 0.5)", "1 * max(q - k, 2)",
    "1 * min(q - k, 2)", "1000 * (k + 8)", "-1000 * (k + 10)", "1000 * k where k < 2",
    '1 * weight(text(k+1), {"": 2, "sat": -1})', '2 * weight(text(0), {"The": 0.75}) * k',
    '1 * weight(text(0 - 1), {"": 1.5}) * k', "1000 * k * (k + 8)", "1 * 2 * k",
    '100 * weight(word(k), {"sat": 100, "cat": -99.99}) * weight(word(q), {"sat": 2, "x": -2})',
    '1 * weight(word(k), {"cat"}) * weight(word(q), {"she", "the"})',
]  # fmt: skip


def reference(program: t.Head, tokens: Tokens) -> np.ndarray:
    return np.array(evaluate(program, tokens)).reshape(len(tokens), len(tokens))


def by_numpy(program: Program, tokens: Tokens) -> np.ndarray:
    return execute(to_numpy(program), program.name)["attention"](tokens)


def by_torch(program: Program, tokens: Tokens, dtype: torch.dtype = torch.float64) -> np.ndarray:
    module = torch_module(program, dtype)
    return module(module.columns(tokens)).detach().numpy()


def by_flex(program: Program, texts: list[Tokens]) -> list[np.ndarray]:
    """Evaluate score_mod and mask_mod on all pairs at once, as FlexAttention does one by one."""
    score_mod, mask_mod, _ = flex_functions(program, texts)
    n = max(map(len, texts))
    b = torch.arange(len(texts))[:, None, None]
    q, k = torch.arange(n)[:, None], torch.arange(n)[None, :]
    ignored = torch.rand((len(texts), n, n), dtype=torch.float64)
    seen = mask_mod(b, 0, q, k).expand(len(texts), n, n)
    score = score_mod(ignored, b, 0, q, k)
    assert score.dtype == torch.float64
    matrix = torch.softmax(torch.where(seen, score, -torch.inf), -1).numpy()
    return [m[: len(x), : len(x)] for m, x in zip(matrix, texts, strict=True)]


def largest_sum(program: t.Head, tokens: Tokens) -> float:
    """Return the largest sum of the magnitudes of what terms add, which rounding scales with."""
    interpreter, n = Interpreter(program, Analysis(tokens)), len(tokens)
    return max(
        (sum(abs(interpreter.term(x, q, k)) for x in program.terms)
         for q, k in itertools.product(range(n), range(n)) if k <= q or not program.causal),
        default=0.0,
    )  # fmt: skip


def assert_agreement(program: Program, tokens: Tokens, expected: np.ndarray | None = None) -> None:
    """Compare every export of a program with the reference."""
    expected = reference(program.tree, tokens) if expected is None else expected
    matrices = [by_numpy(program, tokens), by_torch(program, tokens)]
    if program.tree.normaliser == "softmax" and len(tokens):
        matrices += by_flex(program, [tokens])
    for matrix in matrices:
        assert matrix.shape == expected.shape
        np.testing.assert_allclose(matrix, expected, atol=TOLERANCE)


def assert_balanced(latex: str) -> None:
    """Check braces and environments of a display, and that nothing in it needs an escape."""
    body = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    assert body.isascii() and not re.findall(r"(?<!\\)[%#$~]", body)
    opened: list[str] = []
    for found in re.finditer(r"\\[{}\\]|\\(?:begin|end)\{\w+\}|\\[\[\]]|[{}]", body):
        match found.group():
            case "{" | "\\[":
                opened.append(found.group())
            case "}":
                assert opened.pop() == "{"
            case "\\]":
                assert opened.pop() == "\\["
            case mark if mark.startswith("\\begin"):
                opened.append(mark[len("\\begin") :])
            case mark if mark.startswith("\\end"):
                assert opened.pop() == mark[len("\\end") :]
    assert not opened


# Agreement.


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.id)
def test_every_case_of_the_table(case: cases.Case) -> None:
    program, tokens = attn_dsl.parse(case.source), Tokens.from_strings(case.tokens)
    assert_agreement(program, tokens)
    single = by_torch(program, tokens, torch.float32)
    assert single.dtype == np.float32
    for (q, k), weight in case.expected.items():
        assert single[q, k] == pytest.approx(weight, abs=TOLERANCE), (q, k)


@given(testing.programs(), testing.tokens(max_size=14, gaps=True))
def test_random_programs_agree_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    assert_agreement(Program.from_tree(program), tokens)


@pytest.mark.parametrize("visibility", ["causal", "bidirectional"])
def test_long_texts(visibility: str) -> None:
    program = attn_dsl.parse(EVERYTHING.replace("causal", visibility))
    tokens = Tokens.from_strings((TOKENS * 50)[:600])
    assert_agreement(program, tokens, program(tokens))


@pytest.mark.parametrize("visibility", ["causal", "bidirectional"])
@pytest.mark.parametrize("term", CORNERS)
def test_corners_of_the_helpers(term: str, visibility: str) -> None:
    program = attn_dsl.parse(f"head corner {visibility}:\n {term}")
    assert_agreement(program, Tokens.from_strings([" un", "do", "ne", " un", "do", *("a",) * 6]))


def test_names_do_not_collide() -> None:
    program = attn_dsl.parse(
        'set None = {"cat"}\nset Attention = {"a"}\nset Set = {"."}\n\nhead names causal:\n'
        " 1 where text(k) in None\n 2 where text(k) in Attention\n 3 where text(k) in Set\n"
        ' 4 where text(k) in {"the"}\n 5 where text(k) in {"She"}\n 6 where text(k) == "a b"\n'
        ' 7 where text(k) == "c d"\n 8 where word(k) == "cat"\n 9 where word(k) == "cat_open"\n'
        " 1.5 where length(k) == 2"
    )
    assert_agreement(program, Tokens.from_strings(TOKENS))


@given(testing.programs(), testing.tokens(max_size=12))
def test_single_precision_is_as_exact_as_its_scores(program: t.Head, tokens: Tokens) -> None:
    softmax = program.normaliser == "softmax"
    # Masses of less than 1e-38 have no number in single precision.
    assume(softmax or not any(isinstance(node, t.Decay) for node in program.walk()))
    matrix = by_torch(Program.from_tree(program), tokens, torch.float32)
    tolerance = TOLERANCE + (SINGLE * largest_sum(program, tokens) if softmax else 0)
    np.testing.assert_allclose(matrix, reference(program, tokens), atol=tolerance)


@settings(max_examples=20)
@given(testing.programs(visibility="causal", lookahead=True), testing.tokens(max_size=8))
def test_lookahead_agrees_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    checked = Program.from_tree(program, allow_lookahead=True)
    assert_agreement(checked, tokens)
    for written in (to_numpy(checked), to_torch(checked), to_latex(checked)):
        assert ("It looks ahead" in written) == bool(checked.facts.lookahead)


@given(testing.programs(), st.lists(testing.tokens(max_size=8), min_size=1, max_size=3))
def test_torch_on_a_batch_is_each_text_alone(program: t.Head, texts: list[Tokens]) -> None:
    module = torch_module(Program.from_tree(program), torch.float64)
    columns, lengths = module.batch(texts)
    assert lengths.tolist() == list(map(len, texts))
    n = max(map(len, texts))
    batch = module(columns, lengths).detach().numpy()
    assert batch.shape == (len(texts), n, n)
    for matrix, tokens in zip(batch, texts, strict=True):
        size = len(tokens)
        np.testing.assert_allclose(matrix[:size, :size], reference(program, tokens), atol=TOLERANCE)
        assert not matrix[size:].any() and not matrix[:, size:].any()


@given(
    testing.programs(normaliser="softmax"),
    st.lists(testing.tokens(min_size=1, max_size=12), min_size=1, max_size=3),
)
def test_flex_agrees_with_the_reference(program: t.Head, texts: list[Tokens]) -> None:
    matrices = by_flex(Program.from_tree(program), texts)
    for matrix, tokens in zip(matrices, texts, strict=True):
        np.testing.assert_allclose(matrix, reference(program, tokens), atol=TOLERANCE)


def test_every_program_of_the_library() -> None:
    tokens = Tokens.from_strings(["<s>", *TOKENS, "\n", '"', "Yes", '"', " he", " said", "."])
    for entry in library().values():
        program = Program.from_tree(entry.program, allow_lookahead=True)
        assert_agreement(program, tokens)
        assert_balanced(to_latex(program))


# What sources look like.


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
    bidirectional = attn_dsl.parse(
        "head b bidirectional:\n 1 * from_end(k)\n 2 where text_final(q)"
    )
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
        "score += 2.0", "score += 1.0 * (at(text, k - 1, 0) == 0)", "score += 14.0",
        "score += 2.0", "score += 1.0", "score += 3.0",
        "score += 2.0 * (at(text, 0 * q + 3, 0) == text[q])",
        "score += 1.0 * (k >= maximum(q - 1, 1))",
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
    tree = t.Head("g", "causal", normaliser, tree.terms, tree.sets)  # type: ignore[arg-type]
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
    whole = attn_dsl.parse("head a causal:\n 1 where k == 0")
    with pytest.raises(InputError, match="at least one token"):
        flex_functions(whole, [["a"], []])
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
        r"+ 0.6 \cdot \operatorname{weight}(\mathrm{word}(k), \mathrm{Pronoun}) \cdot (q - k)",
        "% weight(s, S) is the weight of s in S: 0 outside it, 1 in a plain set.",
    ):
        assert part in latex
    linear = to_latex(attn_dsl.parse("head a bidirectional linear:\n ? * (k - 1)\n ? where k == 0"))
    assert r"1 / n & \text{otherwise}" in linear
    assert r"m_{qk} &= \theta_{1} \cdot \max(k - 1, 0) \\" in linear
    assert r"{} + \theta_{2} \, [k = 0]" in linear
    signed = to_latex(
        attn_dsl.parse('head a causal linear:\n 1 * log(k) * weight(word(k), {"a": -1})')
    )
    assert r"1 \cdot \max(\ln \max(k, 1) \cdot \operatorname{weight}" in signed
    program = attn_dsl.parse(r"head a causal:" "\n" r' 1 where text(k) in {"\\", "{", "é", "_%\n"}')
    for part in (r"\textbackslash{}", r"\{", r"\textbackslash{}u00e9", r"\_\%\textbackslash{}n"):
        assert rf"\texttt{{{part}}}" in to_latex(program)


@pytest.mark.parametrize("target", TARGETS)
def test_the_command_prints_each_target(target: str, tmp_path: Path) -> None:
    file = tmp_path / "p.attn"
    file.write_text(EVERYTHING, encoding="utf-8")
    result = CliRunner().invoke(export, [str(file), "--to", target])
    assert result.exit_code == 0, result.output
    assert result.output == TARGETS[target](attn_dsl.load(file))
    out = tmp_path / "out.txt"
    result = CliRunner().invoke(export, [str(file), "--to", target, "--out", str(out)])
    assert result.output.strip() == str(out)
    assert out.read_text(encoding="utf-8") == TARGETS[target](attn_dsl.load(file))


def test_the_command_asks_for_leave_to_look_ahead(tmp_path: Path) -> None:
    file = tmp_path / "p.attn"
    file.write_text("head a causal:\n 1 where text_final(k)\n", encoding="utf-8")
    arguments = [str(file), "--to", "numpy"]
    assert isinstance(CliRunner().invoke(export, arguments).exception, attn_dsl.ProgramError)
    result = CliRunner().invoke(export, [*arguments, "--allow-lookahead"])
    assert "It looks ahead: a causal head could not see text_final." in result.output


def test_sources_are_written_without_torch() -> None:
    code = f"""import sys
from attn_dsl.compiler.program import parse
from attn_dsl.cli.export import write_for
for target in {list(TARGETS)}:
    write_for(target, parse("head a causal:\\n 1 where k == 0"))
print({{"torch", "numba", "numpy"}} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

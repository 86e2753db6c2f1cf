"""Exports compute what the reference means, and say clearly what they cannot express."""

from __future__ import annotations

import ast
import itertools
import re
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
from attn_dsl.compiler.export.expressions import Code, text
from attn_dsl.compiler.export.flex_source import flex_functions, to_flex
from attn_dsl.compiler.export.latex import to_latex
from attn_dsl.compiler.export.numpy_source import to_numpy
from attn_dsl.compiler.export.runtime import features
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
TOKENS = ("The", " cat", " sat", ".", " She", " saw", " the", " cat", "nap", " (", "x", ")")
EVERYTHING = """\
# All kinds of expressions.
set Stop = {".", "!"}

head everything causal softmax:
    6.1 where text(k-1) == text(q)
    1.3 where text(k) in Stop and not punct(q) or starts(text(k), "s")
    -0.8 * log(1 + q - k)
    by q - k [0: 2.1, 1: 1.3, 4: -0.2] where k > nearest(word(k) == "the")
    0.5 * (q - k) where word(k) in Pronoun
    2 * decay(abs(q - k), 0.5) where match(k-1, q) >= 1
    0.3 * min(count(text(k) == text(q)), 2) where k == last(word(k) == "cat")
"""


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


# Agreement.


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.id)
def test_every_case_of_the_table(case: cases.Case) -> None:
    program, tokens = attn_dsl.parse(case.source), Tokens.from_strings(case.tokens)
    expected = reference(program.tree, tokens)
    matrices = [by_numpy(program, tokens), by_torch(program, tokens)]
    matrices += [by_torch(program, tokens, torch.float32)]
    if program.tree.normaliser == "softmax" and len(tokens):
        matrices += by_flex(program, [tokens])
    for matrix in matrices:
        assert matrix.shape == expected.shape
        np.testing.assert_allclose(matrix, expected, atol=TOLERANCE)
        for (q, k), weight in case.expected.items():
            assert matrix[q, k] == pytest.approx(weight, abs=TOLERANCE), (q, k)


@given(testing.programs(), testing.tokens(max_size=14, gaps=True))
def test_numpy_agrees_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    matrix = by_numpy(Program.from_tree(program), tokens)
    np.testing.assert_allclose(matrix, reference(program, tokens), atol=TOLERANCE)


@given(testing.programs(), testing.tokens(max_size=14))
def test_torch_agrees_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    matrix = by_torch(Program.from_tree(program), tokens)
    np.testing.assert_allclose(matrix, reference(program, tokens), atol=TOLERANCE)


@given(testing.programs(normaliser="softmax"), testing.tokens(max_size=12))
def test_torch_of_single_precision_is_as_exact_as_its_scores(
    program: t.Head, tokens: Tokens
) -> None:
    matrix = by_torch(Program.from_tree(program), tokens, torch.float32)
    assert matrix.dtype == np.float32
    tolerance = TOLERANCE + SINGLE * largest_sum(program, tokens)
    np.testing.assert_allclose(matrix, reference(program, tokens), atol=tolerance)


@given(testing.programs(normaliser="linear"), testing.tokens(max_size=12))
def test_linear_programs_are_exact_in_single_precision(program: t.Head, tokens: Tokens) -> None:
    expected = reference(program, tokens)
    interpreter = Interpreter(program, Analysis(tokens))
    for q in range(len(tokens)):
        row = [sum(interpreter.term(x, q, k) for x in program.terms if interpreter.term(x, q, k) > 0)
               for k in interpreter.visible(q)]  # fmt: skip
        assume(sum(row) == 0 or sum(row) > 1e-30)  # less has no number in single precision
    matrix = by_torch(Program.from_tree(program), tokens, torch.float32)
    np.testing.assert_allclose(matrix, expected, atol=TOLERANCE)


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
    assume(all(map(len, texts)))
    matrices = by_flex(Program.from_tree(program), texts)
    for matrix, tokens in zip(matrices, texts, strict=True):
        np.testing.assert_allclose(matrix, reference(program, tokens), atol=TOLERANCE)


@settings(max_examples=20)
@given(testing.programs(visibility="causal", lookahead=True), testing.tokens(max_size=8))
def test_lookahead_agrees_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    checked = Program.from_tree(program, allow_lookahead=True)
    expected = reference(program, tokens)
    np.testing.assert_allclose(by_numpy(checked, tokens), expected, atol=TOLERANCE)
    np.testing.assert_allclose(by_torch(checked, tokens), expected, atol=TOLERANCE)
    if checked.facts.lookahead:
        for written in (to_numpy(checked), to_torch(checked), to_latex(checked)):
            assert "It looks ahead" in written and checked.facts.lookahead[0] in written


@pytest.mark.parametrize("visibility", ["causal", "bidirectional"])
def test_long_texts(visibility: str) -> None:
    program = attn_dsl.parse(EVERYTHING.replace("causal", visibility))
    tokens = Tokens.from_strings((TOKENS * 50)[:600])
    matrix = program(tokens)
    for other in (
        by_numpy(program, tokens),
        by_torch(program, tokens),
        *by_flex(program, [tokens]),
    ):
        np.testing.assert_allclose(other, matrix, atol=TOLERANCE)


CORNERS = [
    "2 where word(k) == word(q)", '2 where word(k-1) == ""', '2 where word(k+1) == ""',
    "2 where k == word_last(k-1)", "2 where word_last(k+1) == 0 - 1", "1 * word_last(0)",
    "1 * sqrt(q - k)", "3 * inv(q - k)", "2 * decay(k - 1, 0.5)", "1 * max(q - k, 2)",
    "1 * min(q - k, 2)", "1000 * (k + 8)", "-1000 * (k + 8)", "1000 * k where k < 2",
]  # fmt: skip


@pytest.mark.parametrize("visibility", ["causal", "bidirectional"])
@pytest.mark.parametrize("term", CORNERS)
def test_corners_of_the_helpers(term: str, visibility: str) -> None:
    program = attn_dsl.parse(f"head corner {visibility}:\n {term}")
    tokens = Tokens.from_strings([" un", "do", "ne", " it", " un", "do", *("a",) * 6])
    expected = reference(program.tree, tokens)
    for matrix in (
        by_numpy(program, tokens),
        by_torch(program, tokens),
        *by_flex(program, [tokens]),
    ):
        np.testing.assert_allclose(matrix, expected, atol=TOLERANCE)


def test_every_program_of_the_library() -> None:
    tokens = Tokens.from_strings(["<s>", *TOKENS, "\n", '"', "Yes", '"', " he", " said", "."])
    for entry in library().values():
        program = Program.from_tree(entry.program, allow_lookahead=True)
        expected = reference(program.tree, tokens)
        np.testing.assert_allclose(by_numpy(program, tokens), expected, atol=TOLERANCE)
        np.testing.assert_allclose(by_torch(program, tokens), expected, atol=TOLERANCE)
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
    np.testing.assert_allclose(
        by_numpy(program, tokens), reference(program.tree, tokens), atol=TOLERANCE
    )
    bidirectional = attn_dsl.parse(
        "head b bidirectional:\n 1 * from_end(k)\n 2 where text_final(q)"
    )
    np.testing.assert_allclose(
        by_numpy(bidirectional, tokens), reference(bidirectional.tree, tokens), atol=TOLERANCE
    )
    assert "attn_dsl" not in to_numpy(bidirectional).split('"""')[2]


def test_numpy_source_reads_like_the_program() -> None:
    source = to_numpy(attn_dsl.parse(EVERYTHING))
    assert "#     # All kinds of expressions." in source
    assert "    score += 6.1 * (at(text, k - 1, 0) == text[q])\n" in source
    assert "    score += -0.8 * log(1 + q - k)\n" in source
    assert "def sqrt" not in source
    assert max(map(len, source.splitlines())) < 130


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
    expected = reference(program.tree, tokens)
    for matrix in (
        by_numpy(program, tokens),
        by_torch(program, tokens),
        *by_flex(program, [tokens]),
    ):
        np.testing.assert_allclose(matrix, expected, atol=TOLERANCE)


def test_names_do_not_collide() -> None:
    program = attn_dsl.parse(
        'set None = {"cat"}\nset Attention = {"a"}\nset Set = {"."}\n\nhead names causal:\n'
        " 1 where text(k) in None\n 2 where text(k) in Attention\n 3 where text(k) in Set\n"
        ' 4 where text(k) in {"the"}\n 5 where text(k) in {"She"}\n 6 where text(k) == "a b"\n'
        ' 7 where text(k) == "c d"\n 8 where word(k) == "cat"\n 9 where word(k) == "cat_open"\n'
        " 1.5 where length(k) == 2"
    )
    tokens = Tokens.from_strings(TOKENS)
    expected = reference(program.tree, tokens)
    for matrix in (
        by_numpy(program, tokens),
        by_torch(program, tokens),
        *by_flex(program, [tokens]),
    ):
        np.testing.assert_allclose(matrix, expected, atol=TOLERANCE)


@given(st.text(alphabet=st.characters(exclude_characters="\n"), max_size=8))
@example("\r\x0c\x85\u2028\0")
def test_comments_cannot_break_out_of_a_source(words: str) -> None:
    remarks = t.Remarks((words,), words)
    where = t.Where(1.0, t.Compare("==", t.Position("k"), t.Integer(0)), remarks=remarks)
    program = Program.from_tree(t.Head("a", "causal", "softmax", (where,)))
    written = to_numpy(program)
    written.encode("utf-8")
    assert execute(written, "a")["attention"](["a", " b"]).shape == (2, 2)
    assert "\n" not in comment(words)


def test_negative_numbers_are_written_safely() -> None:
    assert [text(-2, level) for level in (0, 5, 6)] == ["-2", "-2", "(-2)"]
    assert text(Code("q - k", 3), 4) == "(q - k)"


def test_features_at_run_time() -> None:
    lists = features(["Un", "do", " it"], ["word", "piece"])
    assert lists["word"] == ["undo", "undo", "it"]
    assert lists["word_open"] == ["un", "undo", "it"]
    assert set(lists) == {"word", "word_known", "word_open", "piece"}
    with pytest.raises(ValueError, match="two positions"):
        features(["a"], ["match"])


# Training.


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
    loss(weights).backward()
    assert weights.grad is not None
    step = 1e-6
    for i in range(len(weights)):
        shift = torch.zeros_like(weights)
        shift[i] = step
        with torch.no_grad():
            slope = (loss(weights + shift) - loss(weights - shift)) / (2 * step)
        assert weights.grad[i].item() == pytest.approx(slope.item(), abs=1e-6)
    assert weights.grad.abs().min() > 0


@given(testing.programs(holes=True), testing.tokens(max_size=8))
def test_gradients_are_always_finite(program: t.Head, tokens: Tokens) -> None:
    module = torch_module(Program.from_tree(program), torch.float64)
    matrices = module(*module.batch([tokens, Tokens.from_strings(["a", " b"]), tokens.prefix(0)]))
    if matrices.requires_grad:  # else no term adds anything
        (matrices * torch.rand_like(matrices)).sum().backward()
    assert module.weights.grad is None or module.weights.grad.isfinite().all()


def test_training_finds_the_weights_of_a_head() -> None:
    goal = attn_dsl.parse("head a causal:\n 2 where k == 0\n -1 * log(1 + q - k)")
    module = torch_module(attn_dsl.parse("head a causal:\n ? where k == 0\n ? * log(1 + q - k)"))
    columns, wanted = module.columns(list(TOKENS)), torch.from_numpy(goal(list(TOKENS)))
    optimiser = torch.optim.LBFGS(module.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = -(wanted * (module(columns) + 1e-30).log()).sum()
        value.backward()
        return value

    optimiser.step(loss)
    assert module.weights.tolist() == pytest.approx([2.0, -1.0], abs=1e-3)


# FlexAttention itself.


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
        size = len(tokens)
        for matrix in matrices:
            np.testing.assert_allclose(
                matrix[:size, :size].numpy(), reference(program.tree, tokens), atol=TOLERANCE
            )


def test_flex_refuses_with_every_reason() -> None:
    program = attn_dsl.parse("head a causal linear:\n ? where k == 0")
    with pytest.raises(InputError) as error:
        to_flex(program)
    assert "a cannot be exported to FlexAttention" in str(error.value)
    assert "it is linear" in str(error.value) and "1 of its weights" in str(error.value)
    whole = attn_dsl.parse("head a causal:\n 1 where k == 0")
    with pytest.raises(InputError, match="at least one token"):
        flex_functions(whole, [["a"], []])


def test_numpy_refuses_holes() -> None:
    with pytest.raises(InputError, match=r"1 weights to be fitted .* export it to torch"):
        to_numpy(attn_dsl.parse("head a causal:\n ? where k == 0"))


# LaTeX.


def assert_balanced(latex: str) -> None:
    body = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    assert body.isascii()
    assert re.findall(r"(?<!\\)[%#$~]", body) == []
    plain = re.sub(r"\\[{}]", "", body)
    depth = 0
    for char in plain:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    assert body.count("\\[") == body.count("\\]") == 1


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
    ):
        assert part in latex
    linear = to_latex(attn_dsl.parse("head a bidirectional linear:\n ? * (k - 1)\n ? where k == 0"))
    assert r"1 / n & \text{otherwise}" in linear
    assert r"m_{qk} &= \theta_{1} \cdot \max(k - 1, 0) \\" in linear
    assert r"{} + \theta_{2} \, [k = 0]" in linear


def test_latex_escapes_strings() -> None:
    program = attn_dsl.parse(r"head a causal:" "\n" r' 1 where text(k) in {"\\", "{", "é", "_%\n"}')
    latex = to_latex(program)
    for part in (r"\textbackslash{}", r"\{", r"\textbackslash{}u00e9", r"\_\%\textbackslash{}n"):
        assert rf"\texttt{{{part}}}" in latex
    assert_balanced(latex)


# The command.


@pytest.mark.parametrize("target", ["numpy", "torch", "flex", "latex"])
def test_the_command_prints_each_target(target: str, tmp_path: Path) -> None:
    file = tmp_path / "p.attn"
    file.write_text(EVERYTHING, encoding="utf-8")
    result = CliRunner().invoke(export, [str(file), "--to", target])
    assert result.exit_code == 0, result.output
    program = attn_dsl.load(file)
    makers = {"numpy": to_numpy, "torch": to_torch, "flex": to_flex, "latex": to_latex}
    assert result.output == makers[target](program)
    out = tmp_path / "out.txt"
    result = CliRunner().invoke(export, [str(file), "--to", target, "--out", str(out)])
    assert result.output.strip() == str(out)
    assert out.read_text(encoding="utf-8") == makers[target](program)


def test_the_command_refuses_lookahead_unless_allowed(tmp_path: Path) -> None:
    file = tmp_path / "p.attn"
    file.write_text("head a causal:\n 1 where text_final(k)\n", encoding="utf-8")
    result = CliRunner().invoke(export, [str(file), "--to", "numpy"])
    assert isinstance(result.exception, attn_dsl.ProgramError)
    result = CliRunner().invoke(export, [str(file), "--to", "numpy", "--allow-lookahead"])
    assert "It looks ahead: a causal head could not see text_final." in result.output


def test_the_command_needs_a_target(tmp_path: Path) -> None:
    result = CliRunner().invoke(export, [str(tmp_path / "p.attn")])
    assert result.exit_code == 2 and "--to" in result.output


def test_sources_are_written_without_torch() -> None:
    import subprocess

    code = (
        "import sys\n"
        "from attn_dsl.compiler.program import parse\n"
        "from attn_dsl.cli.export import write_for\n"
        "program = parse('head a causal:\\n 1 where k == 0')\n"
        "[write_for(to, program) for to in ('numpy', 'torch', 'flex', 'latex')]\n"
        "print({'torch', 'numba', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

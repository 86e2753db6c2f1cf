"""Kernels and streams mean what the reference means; compiled kernels are kept, and kept sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attn_dsl
from attn_dsl import testing
from attn_dsl.compiler import kernel_cache
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.bytecode import Op, Real
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.compiler.kernel import Kernel
from attn_dsl.compiler.kernel_cache import KernelCache, python_function
from attn_dsl.compiler.kernel_source import kernel_source
from attn_dsl.compiler.program import Program
from attn_dsl.compiler.stream import Stream
from attn_dsl.compiler.stream_features import Reader
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.features import FEATURES, Column
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.reference import evaluate
from attn_dsl.dsl.tokens import Tokens

TOLERANCE = 1e-5
WORDS = (
    *("The", " cat", " un", "do", ".", " It", " s", "aw", " (", "a", ")", "\n", ' "', '"', "!"),
    *(" caf", "<0xC3>", "<0xA9>", "<s>", " don't", "”", "“", "[", "]", " 42", "\n\n", " e.g", " A"),
)
# Between them they use every operation, in and out of quantifiers and conditions.
COMPILED = {
    "masses": """head masses causal:
        2 where text(k-1) == text(q)
        -1 * log(1 + q - k)
        1.5 where word(k) in Pronoun and k > nearest(sentence_final(k))
        by match(k-1, q) [1: 0.5, 2: 1, 8: 2]
        3 where k == opener(q)
        1.2 * inv(length(k)) where text(k+1) != text(q)
        0.3 * decay(q - k, 0.9) where not punct(q)
        1.5 * weight(text(k), {"the": 1.2, ".": -0.5}) where word(q) != word(k)
        0.5 * weight(token(q), Pronoun) * weight(word(q), {"she": 2, "it": -1.25})""",
    "exponentials": """set Graded = {"the": 1.3, "she": -2, "it": 0.75, ".": 3.01}
    head exponentials causal:
        0.5 * match(k-1, q)
        by length(k) [1: 1, 2: 2, 3: 3, 4: 2, 5: 1, 6: 0.5, 7: 0.25] where q - k in 1..9
        2 * sqrt(abs(q - k - 3)) where k <= previous(q) or word_final(k)
        -1 * min(k, 5) where not any(capital(k) and k > q - 4)
        1 where k == last(word(k) == word(q)) + 1
        0.8 * weight(word(q), Graded) * weight(word(k), Graded)
        -0.7 * log(1 + q - k) * weight(text(k), Graded) where k > 0
        0.4 * weight(word(k), Pronoun) * inv(q - k)
        1 * weight(text(previous(q)), Graded) * weight(word(k-1), {"": 0.5, "it": -3})""",
    "masses both ways": """head masses_both_ways bidirectional:
        2 where text(k+1) == text(q-1)
        1 where k == nearest(text(k) == text(q))
        0.7 where ends(word(k), "o") and from_end(q) > 2
        1.1 where k == first(punct(k)) or k == last(opens(k))
        -0.2 * inv(abs(q - k)) where count(text(k) == text(q)) >= max(1, piece(q))""",
    "linear": """head linear causal linear:
        1 where closed(k)
        0.5 * log(q - k) where word_last(k) != k
        2 * (k - first(newline(k)))
        0.1 * count(text(k) == text(q)) where k < word_first(q)
        3 where text(word_first(k)) == text(q)
        2 * weight(text(k), {"the": 1.5, ".": -2}) * decay(q - k, 0.8)""",
    "linear both ways": """head linear_both_ways bidirectional linear:
        1 where sentence(k) == sentence(q) and q != k
        by q - k [-3: 1, 0: 0, 2: 0.5]
        0.5 * decay(abs(q - k), 0.5)""",
    "nothing": "head nothing causal:\n",
}


def reference(program: t.Head, tokens: Tokens) -> np.ndarray:
    return np.array(evaluate(program, tokens)).reshape(len(tokens), len(tokens))


def run_as_python(program: t.Head, tokens: Tokens) -> np.ndarray:
    """Run the source of a kernel without compiling it."""
    made, batch, n = kernel_source(program), Batch([tokens]), len(tokens)
    columns = [key.arrays(batch) for key in made.columns]
    arrays = [
        np.array([getattr(c, part) for c in columns], dtype=np.int32).reshape(len(columns), n)
        for part in ("settled", "known", "open")
    ]
    out = np.zeros((n, n), dtype=np.float32)
    python_function(made.text)(n, 0, 0, n, *arrays, out.reshape(-1))
    return out


def text(n: int, seed: int = 0) -> Tokens:
    chosen = np.random.default_rng(seed).integers(0, len(WORDS), n)
    return Tokens.from_strings([WORDS[i] for i in chosen])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    return KernelCache(folder=tmp_path_factory.mktemp("kernels"))


# What a kernel computes.


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.id)
def test_every_case_of_the_table(case: cases.Case) -> None:
    tokens = Tokens.from_strings(case.tokens)
    matrix = run_as_python(parse(case.source), tokens)
    for (q, k), weight in case.expected.items():
        assert matrix[q, k] == pytest.approx(weight, abs=TOLERANCE), (q, k)
    np.testing.assert_allclose(matrix, reference(parse(case.source), tokens), atol=TOLERANCE)


@given(testing.programs(lookahead=True), testing.tokens(max_size=14))
def test_random_programs_agree_with_the_reference(program: t.Head, tokens: Tokens) -> None:
    matrix = run_as_python(program, tokens)
    np.testing.assert_allclose(matrix, reference(program, tokens), atol=TOLERANCE)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_kernels_agree_with_the_reference(name: str, cache: KernelCache) -> None:
    program = attn_dsl.parse(COMPILED[name])
    kernel = Kernel(program, cache)
    for n in (0, 1, 2, 3, 8, 17, 40):
        matrix = kernel(text(n, n))
        assert matrix.shape == (n, n)
        assert matrix.dtype == np.float32
        np.testing.assert_allclose(matrix, reference(program.tree, text(n, n)), atol=TOLERANCE)
    batch = Batch([text(5), text(600), text(9)])
    for number in range(3):
        packed = kernel.packed(batch, number)
        plan = Plan([program.tree], batch).packed(number)[0]
        np.testing.assert_allclose(packed, plan, atol=TOLERANCE)
        whole = unpack(packed, len(batch.texts[number]), program.causal)
        np.testing.assert_array_equal(whole, kernel(batch.texts[number]))


def test_the_compiled_kernels_use_every_operation() -> None:
    """A broken operation fails the compiled kernels only if they use it."""
    used: set[int] = set()
    reals: set[int] = set()
    for source in COMPILED.values():
        code = Plan([parse(source)], Batch([text(3)])).code
        used |= set(code.instructions[:, 0].tolist())
        reals |= {int(plane.real) for plane in code.planes}
    assert used == {int(op) for op in Op}
    assert reals == {int(real) for real in Real}


@pytest.mark.parametrize("normaliser", ["softmax", "linear"])
def test_masses_that_are_nearly_nothing_keep_their_proportions(normaliser: str) -> None:
    program = parse(f"head a causal {normaliser}:\n 1 * decay(q - k + 1060, 0.5)")
    tokens = text(4)
    np.testing.assert_allclose(
        run_as_python(program, tokens), reference(program, tokens), atol=TOLERANCE
    )


def test_what_a_part_reads_decides_how_often_it_is_computed() -> None:
    source = kernel_source(
        parse(
            "head a causal:\n 2 where text(k-1) == text(q)\n -1 * log(1 + q - k)\n"
            " 1 where punct(k)\n 5 where punct(q)"
        )
    ).text
    rows, pairs = source.split("for q in range(first, n):")[1].split("for k in range(keys):")[:2]
    assert "math" not in rows + pairs  # no logarithm and no exponential of a pair
    assert pairs.count("if") == 1
    assert kernel_source(parse("head a causal:\n 5 where punct(q)\n 2 * 3")).columns == ()


def test_no_text_of_a_program_gets_into_its_source() -> None:
    nasty = 'head nasty causal:\n 2 where text(k) in {"\'\'\'\\r\\nimport os", "x"}\n'
    assert "nasty" not in kernel_source(parse(nasty)).text
    assert "import os" not in kernel_source(parse(nasty)).text
    other = nasty.replace("nasty", "other").replace('"x"', '"y"')
    assert kernel_source(parse(nasty)).text == kernel_source(parse(other)).text


def test_holes_cannot_be_compiled() -> None:
    with pytest.raises(attn_dsl.InputError, match="1 weights to be fitted"):
        Kernel(attn_dsl.parse("head a causal:\n ? where k == q"))
    with pytest.raises(ValueError, match="holes"):
        kernel_source(parse("head a causal:\n ? where k == q"))


# Where compiled kernels are kept.

compiled = pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
NOTHING = "def kernel(n, first, start, width, settled, known, opened, out):\n    out[0] = {}\n"


def value_of(function: kernel_cache.Function) -> float:
    none, out = np.zeros((0, 0), dtype=np.int32), np.zeros(1, dtype=np.float32)
    function(0, 0, 0, 0, none, none, none, out)
    return float(out[0])


@compiled
def test_memory_holds_the_most_recent_ones(tmp_path: Path) -> None:
    cache = KernelCache(limit=2, folder=tmp_path)
    assert [value_of(cache.function(NOTHING.format(i))) for i in (1, 2, 1, 3)] == [1, 2, 1, 3]
    assert (len(cache), cache.hits, cache.compilations) == (2, 1, 3)
    assert value_of(cache.function(NOTHING.format(1))) == 1
    assert (cache.hits, cache.loads, cache.compilations) == (2, 0, 3)
    assert value_of(cache.function(NOTHING.format(2))) == 2  # dropped, and on the disk
    assert (len(cache), cache.hits, cache.loads, cache.compilations) == (2, 2, 1, 3)
    cache.clear()
    assert len(cache) == 0


@compiled
def test_the_disk_holds_the_most_recent_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_cache, "DISK_LIMIT", 2)
    for i in (1, 2, 3):
        KernelCache(folder=tmp_path).function(NOTHING.format(i))
        newest = tmp_path / f"kernel_{kernel_cache.digest(NOTHING.format(i))}.json"
        os.utime(newest, (i, i))
    names = {kernel_cache.digest(NOTHING.format(i)) for i in (2, 3)}
    assert {path.stem for path in tmp_path.glob("*.py")} == {f"kernel_{name}" for name in names}
    assert len(list(tmp_path.glob("__pycache__/*.nbc"))) == 2


@compiled
def test_a_later_process_loads_from_the_disk(tmp_path: Path) -> None:
    script = (
        "from attn_dsl.compiler.program import parse\n"
        "from attn_dsl.compiler.kernel import Kernel\n"
        "from attn_dsl.compiler.kernel_cache import KERNELS\n"
        "kernel = Kernel(parse('head previous causal:\\n 1000 where k == q-1'))\n"
        "hits = sum(kernel.function._cache_hits.values())\n"
        "print(hits, KERNELS.loads, KERNELS.compilations, kernel(['a', ' b']).tolist())\n"
    )
    environment = {**os.environ, kernel_cache.CACHE_VARIABLE: str(tmp_path / "cache")}
    environment.pop("NUMBA_DISABLE_JIT", None)
    said = [
        subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["0 0 1 [[1.0, 0.0], [1.0, 0.0]]", "1 1 0 [[1.0, 0.0], [1.0, 0.0]]"]


@compiled
@pytest.mark.parametrize("broken", ["code", "index", "source", "list", "one byte", "foreign list"])
def test_what_is_corrupt_on_the_disk_is_compiled_again(broken: str, tmp_path: Path) -> None:
    source = NOTHING.format(7)
    KernelCache(folder=tmp_path).function(source)
    (code,) = tmp_path.glob("__pycache__/*.nbc")
    (index,) = tmp_path.glob("__pycache__/*.nbi")
    (listed,) = tmp_path.glob("*.json")
    (python,) = tmp_path.glob("*.py")
    match broken:
        case "code":
            code.write_bytes(code.read_bytes()[:100])
        case "index":
            index.write_bytes(b"not an index")
        case "source":
            python.write_text(NOTHING.format(8))
        case "list":
            listed.write_text("{")
        case "one byte":
            data = bytearray(code.read_bytes())
            data[len(data) // 2] ^= 1
            code.write_bytes(data)
        case "foreign list":  # a list that vouches for an index that Numba cannot read
            index.write_bytes(b"not an index")
            contents = json.loads(listed.read_text())
            contents[index.name] = kernel_cache._digest(b"not an index")
            listed.write_text(json.dumps(contents))
    cache = KernelCache(folder=tmp_path)
    assert value_of(cache.function(source)) == 7
    assert (cache.loads, cache.compilations) == (0, 1)
    again = KernelCache(folder=tmp_path)
    assert value_of(again.function(source)) == 7
    assert again.loads == (0 if broken == "foreign list" else 1)


def test_without_a_folder_of_its_own_it_works_from_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for folder in (tmp_path / "file", tmp_path / "file" / "below", shared):
        assert kernel_cache.usable(folder) is None
        assert value_of(KernelCache(folder=folder).function(NOTHING.format(9))) == 9
    assert list(shared.iterdir()) == []


def test_the_folder_is_the_variable_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel_cache.CACHE_VARIABLE, "somewhere")
    assert kernel_cache.cache_folder() == Path("somewhere", "kernels")
    monkeypatch.delenv(kernel_cache.CACHE_VARIABLE)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert kernel_cache.cache_folder() == Path("cache", "attn-dsl", "kernels")


# Row at a time.

STREAMED = [f.name for f in FEATURES.values() if f.reads != "full" and f.arity == 1]
CAUSAL = [name for name, source in COMPILED.items() if " causal" in source]


@given(testing.tokens(max_size=24, gaps=True))
def test_streamed_features_are_those_of_the_text_so_far(tokens: Tokens) -> None:
    reader, end = Reader(STREAMED), 0
    view: dict[str, dict[int, object]] = {name: {} for name in STREAMED}
    for i, (start, stop) in enumerate(tokens.spans):
        gap, piece = tokens.text[end:start], tokens.text[start:stop]
        for name, position, value in reader.add(tokens.strings[i], gap, piece, tokens.special[i]):
            view[name][position] = value
        end = stop
        analysis = Analysis(tokens.prefix(i + 1))
        for name in STREAMED:
            column = FEATURES[name].compute(analysis)
            assert isinstance(column, Column)
            seen = [column.at(p, i, True) for p in range(i + 1)]
            assert [view[name][p] for p in range(i + 1)] == seen, (name, i)


@pytest.mark.parametrize("name", CAUSAL)
def test_streamed_rows_are_the_rows_of_the_matrix(name: str, cache: KernelCache) -> None:
    kernel = Kernel(attn_dsl.parse(COMPILED[name]), cache)
    stream = Stream(kernel)

    @given(testing.tokens(max_size=24), st.lists(st.integers(0, 5), max_size=6))
    def agree(tokens: Tokens, sizes: list[int]) -> None:
        matrix, at = kernel(tokens), 0
        stream.reset()
        for size in [*sizes, len(tokens)]:
            chunk = tokens.strings[at : at + size]
            rows = stream.append(chunk, tokens.special[at : at + size])
            at += len(chunk)
            assert rows.shape == (len(chunk), at)
            np.testing.assert_array_equal(rows, matrix[at - len(chunk) : at, :at])
        assert len(stream) == len(tokens)

    agree()


@pytest.mark.parametrize("name", CAUSAL)
def test_long_streams(name: str, cache: KernelCache) -> None:
    kernel, tokens = Kernel(attn_dsl.parse(COMPILED[name]), cache), text(300)
    matrix, one, other = kernel(tokens), Stream(kernel), Stream(kernel)
    np.testing.assert_array_equal(one.append(tokens), matrix)
    for i, string in enumerate(tokens):
        np.testing.assert_array_equal(other.append([string])[0], matrix[i, : i + 1])


def test_characters_whose_bytes_come_one_by_one(cache: KernelCache) -> None:
    program = attn_dsl.parse('head a causal linear:\n 1 where word(k) == "café"')
    stream = Stream(Kernel(program, cache))
    rows = [stream.append([string])[0].tolist() for string in (" caf", "<0xC3>", "<0xA9>", " x")]
    third = pytest.approx(1 / 3)
    assert rows == [[1], [0.5, 0.5], [third] * 3, [third] * 3 + [0]]


def test_special_tokens_are_those_that_are_said_to_be(cache: KernelCache) -> None:
    kernel = Kernel(attn_dsl.parse("head a causal linear:\n 1 where special(k)"), cache)
    stream = Stream(kernel)
    assert stream.append(["<s>", "x"]).tolist() == [[1, 0], [1, 0]]
    stream.reset()
    assert stream.append(["<s>", "x"], [False, True]).tolist() == [[1, 0], [0, 1]]


def test_tokens_with_text_between_them(cache: KernelCache) -> None:
    kernel = Kernel(attn_dsl.parse("head a causal linear:\n 1 where word_index(k) == 0"), cache)
    tokens = Tokens(("a", "b", "c"), "a (b)c", ((0, 1), (3, 4), (5, 6)), (False,) * 3)
    stream = Stream(kernel)
    np.testing.assert_array_equal(stream.append(tokens), kernel(tokens))


def test_only_what_reads_to_the_left_can_be_streamed() -> None:
    with pytest.raises(attn_dsl.InputError, match="bidirectional"):
        Stream(attn_dsl.parse("head a bidirectional:\n 1 where k == q"))
    ahead = Program.from_tree(parse("head a causal:\n 1 where text_final(k)"), allow_lookahead=True)
    with pytest.raises(attn_dsl.InputError, match=r"looks ahead \(text_final\)"):
        Stream(ahead)

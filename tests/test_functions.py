"""Functions of a position: their errors, files of definitions, and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import attn_dsl as run
from command_line import succeed

import attn_dsl
from attn_dsl.dsl.english import explain
from attn_dsl.dsl.errors import AttnDslError, CausalityError, CostError, ProgramError
from attn_dsl.dsl.lint import lint
from attn_dsl.dsl.printer import show

HEAD = "head a causal:\n 1 where "
USES = "head a causal:\n 1 where f(k)\n"
ONCE = "def once(i) = count(j where text(j) == text(i)) == 1\n"
RANK = "def rank(i) = count(j where number(j) < number(i))\n"
DOUBLING = "def f0(i) = length(i)\n" + "".join(
    f"def f{n}(i) = f{n - 1}(i) + f{n - 1}(i-1)\n" for n in range(1, 31)
)
DEEP = "def f0(i) = i\n" + "".join(f"def f{n}(i) = f{n - 1}(i)\n" for n in range(1, 51))
WIDE = "".join(f"def f{n}(i) = {' + '.join([f'f{n - 1}(i)' if n else 'length(i)'] * 20)}\n" for n in range(4))
ONE = "once (the number of tokens where its text is the token's text is 1)"
ORDER = "rank (the number of tokens where its number is below the token's number)"
# Mistakes, with the place where they are told, and parts of the message.
MISTAKES = [
    ("def f(i) = f(i-1)\n" + USES, "1:12", "`f` uses itself", "defined above it"),
    ("def f(i) = count(j where f(j) == 1)\n" + USES, "1:26", "`f` uses itself"),
    ("def f(i) = g(i)\ndef g(i) = f(i)\n" + USES, "1:12", "`g` is defined below, in line 2", "in turn"),
    (HEAD + "opns(k)\n", "2:10", "unknown feature or function `opns`", "`opens`"),
    (ONCE + HEAD + "onse(k)\n", "3:10", "`onse`", "did you mean `once`?"),
    ("def punct(i) = true\n" + USES, "1:5", "`punct` is a built-in feature", "by another name"),
    ("def count(i) = true\n" + USES, "1:5", "`count` is a word of the language"),
    ("def Foo(i) = true\n" + USES, "1:5", "the name of a function begins with a small letter", "`foo`"),
    ("def f(i) = true\ndef f(i) = punct(i)\n" + USES, "2:5", "`f` is defined twice", "rename"),
    ("def f(k) = punct(k)\n" + USES, "1:7", "`k` does not fit", "one position: `def once(i) = …`"),
    ("def f(q, k) = text(q) == text(k)\n" + USES, "1:7", "`def once(i) = …`"),
    ("def f = true\n" + USES, "1:7", "`def once(i) = …`"),
    ("def f(i) =\n" + USES, "1:11", "the line ends too early"),
    (USES + "def f(i) = punct(i)\n", "2:10", "`f` is defined below"),
    (HEAD + "punct(k)\ndef f(i) = punct(i)\n", "3:1", "a function is defined before the head"),
    ("def f(i) = punct(i)\n" + HEAD + "f(k, q)\n", "3:13", "a function of one position", "`f(k)`"),
    ("def f(i) = punct(i)\n" + HEAD + "f\n", "3:11", "the function `f` needs a position"),
    (ONCE + HEAD + "once(k) == 2\n", "3:18", "`once` gives true or false", "`not once(k)`"),
    (ONCE + "head a causal:\n 1 * once(k)\n", "3:6", "`once` gives true or false"),
    (RANK + HEAD + "rank(k) and punct(k)\n", "3:18", "`rank` gives a number", "`rank(k) == 1`"),
    (RANK + HEAD + "rank(k)\n", "3:17", "`rank` gives a number"),
    (RANK + HEAD + 'rank(k) == "a"\n', "3:21", "`rank` gives a number", "with numbers"),
    (RANK + HEAD + 'starts(rank(k), "a")\n', "3:17", "`rank` gives a number"),
    ("def f(i) = lower(i)\n" + HEAD + "f(k)\n", "3:14", "`f` gives a text", '`f(k) == "a"`'),
    ("def f(i) = lower(i)\n" + HEAD + "f(k) == 3\n", "3:18", "`f` gives a text", "with texts"),
    ("def f(i) = weight(token(i), {\"a\": 1})\n" + USES, "1:12", "terms have weights"),
    ("def f(i) = log(i)\n" + USES, "1:12", "terms have weights"),
    ("def f(i) = 2 where punct(i)\n" + USES, "1:14", "terms have weights"),
    ("def f(i) = 2 * length(i)\n" + USES, "1:14", "terms have weights"),
    ("def f(i) = ?\n" + USES, "1:12", "terms have weights"),
    ("def f(i) = count(punct(k)) == 1\n" + USES, "1:12", "keys of a query", "`count(j <= i where …)`"),
    ("def f(i) = q == i\n" + USES, "1:12", "`q` does not fit here", "write `i`"),
    ("def f(i) = token(i) in Nowhere\n" + USES, "1:24", "unknown set `Nowhere`"),
    (HEAD + "count(j where text(j) == text(k) and j < q) == 1\n", "2:51", "`q` does not fit",
     "one position besides"),
    (HEAD + "count(k where punct(k)) == 1\n", "2:18", "a search is `count(j where …)`"),
    (HEAD + "count(j < k-1 where punct(j)) == 1\n", "2:21", "a search is `count(j where …)`"),
    (HEAD + "count(j) == 1\n", "2:17", "a search is `count(j where …)`"),
    (HEAD + "text(j) == text(k)\n", "2:15", "`j` is the position that a search is over"),
    (HEAD + "count(j where word(j) == word(k)) == 1\n", "2:10", "`word` may change", "search `j <= i`"),
    ("".join(f"def f{n}(i) = punct(i)\n" for n in range(1000)) + HEAD + "f1(k)\n", "101:5", "at most 100"),
    (DOUBLING + HEAD + "f30(k) == 1\n", "11:5", "11 levels deep", "at most 10"),
    (DEEP + HEAD + "f50(k) == 1\n", "11:5", "11 levels deep"),
    ("def f(i) = length(i) + length(i-1)\n" + HEAD + 38 * "f(" + "k" + 38 * ")" + " == 1\n", "3:2",
     "more than 10^12 nodes", "20,000 are allowed"),
    (WIDE + HEAD + "f3(k) == 1\n", "3:5", "nodes where functions are written out"),
    ("def f(i) = " + " or ".join(["punct(i)"] * 1000) + "\n" + USES, "1:12", "more than 100 operators"),
    ("def f(i) = " + 60 * "(" + "punct(i)" + 60 * ")" + "\n" + USES, "1:52", "nested deeper than 40"),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda x: f"{x[2][:30]} {x[1]}".replace(" ", "-"))
def test_mistakes_are_told_with_their_place(mistake: tuple[str, ...], tmp_path: Path) -> None:
    source, place, *says = mistake
    (tmp_path / "a.attn").write_text(source)
    found = run("check", tmp_path / "a.attn")
    assert found.code == 2
    assert f"a.attn:{place}: " in found.out
    assert [one for one in says if one not in found.out] == []


@pytest.mark.parametrize(
    ("definitions", "use", "feature"),
    [
        ("def f(i) = text_final(i)\n", "f(k)", "text_final"),
        ("def f(i) = from_end(i)\ndef g(i) = f(i) == 1\n", "g(k)", "from_end"),
        ("def f(i) = i == n - 1\n", "f(k)", "n"),
        ("def f(i) = count(j <= i where from_end(j) == 0)\n", "f(k) == 1", "from_end"),
    ],
)
def test_a_causal_program_has_no_function_that_reads_the_future(
    definitions: str, use: str, feature: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.attn").write_text(definitions)
    for before in (definitions, 'use "mine.attn"\n'):
        (tmp_path / "a.attn").write_text(f"{before}{HEAD}{use}\n")
        with pytest.raises(CausalityError, match=f"`{feature}`.* reads the whole text"):
            attn_dsl.load(tmp_path / "a.attn")
        program = attn_dsl.load(tmp_path / "a.attn", allow_lookahead=True)
        assert program.facts.lookahead == (feature,)


@pytest.mark.parametrize("line", ["f(i)", "h(i+1) == 1", "c(i) == 1", "punct(i+1)"])
def test_a_score_of_a_causal_program_reads_nothing_after_its_position(line: str) -> None:
    functions = (
        "def g(i) = punct(i)\ndef f(i) = g(i+1)\ndef h(i) = count(j < i where punct(j))\n"
        "def c(i) = count(j where punct(j))\n"
    )
    source = f"{functions}score S:\n 1 where {line}\nhead a causal:\n 1 * S(k)\n"
    with pytest.raises(CausalityError, match="reads after its position"):
        attn_dsl.parse(source)
    attn_dsl.parse(source.replace("causal", "bidirectional"))


def test_a_search_over_all_positions_may_not_change_in_a_file_either(tmp_path: Path) -> None:
    (tmp_path / "mine.attn").write_text("def f(i) = count(j where word(j) == word(i)) == 1\n")
    (tmp_path / "a.attn").write_text('use "mine.attn"\n' + USES)
    with pytest.raises(CostError, match="`word` may change"):
        attn_dsl.load(tmp_path / "a.attn")


def test_a_set_in_a_function_of_a_file_means_the_same_in_every_program(tmp_path: Path) -> None:
    (tmp_path / "mine.attn").write_text("def f(i) = word(i) in Article\n")
    own = 'set Article = {"cat"}\n'
    for first in ("", own):
        (tmp_path / "a.attn").write_text('use "mine.attn"\n' + first + USES)
        row = attn_dsl.load(tmp_path / "a.attn")(["the", " cat"])[1]
        assert row[0] > row[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of definitions and two programs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.attn").write_text(f'set Mark = {{"(", ")"}}\n{ONCE}{RANK}')
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "a.attn").write_text(HEAD + "once(k) and text(k) in Mark\n")
    (tmp_path / "b.attn").write_text(HEAD + "punct(k)\n")
    return tmp_path


def test_a_program_that_needs_a_prelude_names_it(folder: Path) -> None:
    program = attn_dsl.load("programs/a.attn", define=["mine.attn"])
    assert program.source.startswith('use "../mine.attn"\n\nhead a causal softmax:\n')
    (folder / "programs" / "c.attn").write_text(program.source)
    assert attn_dsl.load("programs/c.attn").tree == program.tree
    assert "use" not in attn_dsl.load("b.attn", define=["mine.attn"]).source
    assert attn_dsl.parse(HEAD + "once(k)\n", define=["mine.attn"]).source.startswith('use "mine.attn"')
    own = attn_dsl.parse("def once(i) = punct(i)\n" + HEAD + "once(k)\n", define=["mine.attn"])
    assert "use" not in own.source


def test_commands_take_a_prelude(folder: Path) -> None:
    given = "programs/a.attn", "--define", "mine.attn"
    assert "4 nodes" in succeed("check", "b.attn", "--define", "mine.attn")
    assert "ok" in succeed("check", *given)
    assert 'use "../mine.attn"' in succeed("show", *given)
    assert "where once (the number of tokens" in succeed("explain", *given)
    assert "def attention" in succeed("export", *given, "--to", "numpy")
    assert run("fmt", "--check", *given).code == 1
    succeed("fmt", *given)
    assert "ok" in succeed("check", "programs/a.attn")
    assert succeed("fmt", "--check", "programs/a.attn") == ""
    assert "1 sets, 2 functions, 0 scores" in succeed("check", "mine.attn")
    found = json.loads(succeed("check", "mine.attn", "--json"))
    assert found[0]["functions"] == 2


def test_functions_of_a_file_are_listed(folder: Path) -> None:
    (folder / "mine.attn").write_text(
        RANK + "def late(i) = last(j <= i where n == 3)\ndef w(i) = lower(i-1)\n"
    )
    told = " ".join(succeed("features", "--define", "mine.attn").split())
    assert "rank(k) int: the number of tokens where its number is below the token's number (visible)" in told
    assert "late(k) int: the last token up to the token where" in told
    assert "w(k) symbol: the token before the token's lower-cased text (left)" in told


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("no.attn", None, "no.attn: no such file"),
        ("b.attn", None, "b.attn is not a file of definitions"),
        (
            "bad.attn",
            "def f(i) = g(i)\n",
            "bad.attn:1:12: syntax error: unknown feature or function `g`",
        ),
        ("bad.attn", 'use "mine.attn"\nset A = {"a"}\n', "cannot use another one"),
    ],
)
def test_a_prelude_that_cannot_be_used(folder: Path, file: str, content: str | None, says: str) -> None:
    if content:
        (folder / file).write_text(content)
    with pytest.raises(AttnDslError, match="a"):
        attn_dsl.load("b.attn", define=[file])
    for command in (("check",), ("show",), ("explain",), ("export", "--to", "numpy")):
        found = run(command[0], "b.attn", *command[1:], "--define", file)
        assert found.code == 2
        assert says in found.out + found.err


def test_two_files_may_not_define_the_same_function(folder: Path) -> None:
    (folder / "more.attn").write_text("def once(i) = punct(i)\n")
    with pytest.raises(ProgramError, match=r'also defined in "mine.attn"'):
        attn_dsl.parse(HEAD + "once(k)\n", define=["mine.attn", "more.attn"])
    (folder / "c.attn").write_text('use "mine.attn"\n' + ONCE + HEAD + "once(k)\n")
    with pytest.raises(ProgramError, match=r'`once` is also defined in "mine.attn"'):
        attn_dsl.load("c.attn")


def test_a_missing_used_file_is_told_by_fmt_where_its_functions_are_needed(folder: Path) -> None:
    (folder / "c.attn").write_text('use "gone.attn"\nhead a causal:\n  1 * Noun(k)\n')
    succeed("fmt", "c.attn")
    (folder / "c.attn").write_text('use "gone.attn"\n' + USES)
    for command in ("fmt", "check"):
        found = run(command, "c.attn")
        assert found.code == 2
        assert "c.attn:1:5: type error: 'gone.attn' is in neither" in found.out + found.err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1 where once(k-1) and not once(q)",
         f"From any query where once does not hold at it, looks at what follows tokens where {ONE} holds."),
        ("1 where rank(k) == q - 1",
         f"Looks at tokens if the key's {ORDER} is the position of the token before the query."),
        ("1 where start(k) == start(q)", "Looks at tokens with the same start (the first 2 characters of "
         "the token's text) as the query."),
        ("1 where k == copy(q) + 1", "Looks at what follows the query's copy (the last token before the "
         "token where its text is the token's text)."),
        ("1 where not any(j > k where punct(j))", "Looks at any token where no token after the key is such "
         "that it has only punctuation marks and symbols."),
        ("1 * count(j >= k where punct(j))", "Strongly looks at tokens, in proportion to the number of "
         "tokens from the key on where it has only punctuation marks and symbols."),
        ("1 where k == max(nearest(j <= q where once(j)), 0)",
         f"Looks at the nearest token up to the query where {ONE} holds at it, or else the first token."),
        ("by rank(k) [1: 2]", f"Weights tokens, by the key's {ORDER} (2 from 1)."),
    ],
)  # fmt: skip
def test_functions_and_searches_are_told(line: str, told: str) -> None:
    more = "def start(i) = prefix(text(i), 2)\ndef copy(i) = last(j < i where text(j) == text(i))\n"
    program = attn_dsl.parse(f"{ONCE}{RANK}{more}head a bidirectional:\n {line}\n")
    assert explain(program.tree) == told
    assert attn_dsl.parse(show(program.tree)) == program


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(i) = i % 2 < 2\n" + USES, "`i % 2 < 2` always holds"),
        ("def f(i) = count(j < i where j < 0) == 1\n" + USES, "`j < 0` never holds"),
        ("def g(i) = punct(i)\ndef f(i) = alpha(i)\n" + USES, "the function `g` is never used"),
        ('def f(i) = word(i) == "The"\n' + USES, "never gives"),
    ],
)
def test_warnings_look_into_functions(source: str, message: str) -> None:
    assert [one.message for one in lint(attn_dsl.parse(source).tree) if message in one.message]

"""Scores: their errors, what they cost, the files that programs use, and how they are lowered."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from command_line import attn_dsl, succeed
from hypothesis import given
from hypothesis import strategies as st

from attn_dsl.compiler.code import Code, Kind
from attn_dsl.compiler.export.numpy import to_numpy
from attn_dsl.compiler.export.source import execute
from attn_dsl.compiler.lower import lower
from attn_dsl.compiler.program import Program, load, parse
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.cost import cost
from attn_dsl.dsl.definitions import (
    canonical,
    parse_definitions,
    read_definitions,
    self_contained,
    show_definitions,
)
from attn_dsl.dsl.errors import (
    AttnDslError,
    CausalityError,
    InputError,
    ProgramError,
    ProgramTypeError,
)
from attn_dsl.dsl.library import with_visibility
from attn_dsl.dsl.parser import parse as parse_tree
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.reference import evaluate
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.testing import programs, tokens

VOCABULARY = """# What is like a dog.
set Like_dog = {" cat", " dog"}

# Nouns.
score Noun:
    1.4 where token(i) in Like_dog
    0.9 where token(i-1) in Determiner and not capital(i)  # after "the"
    -2 where punct(i)

score Boundary:
    3 where token(i) == "."
    0.7 where sentence_start(i)
# The end.
"""
PROGRAM = """use "vocabulary.attn"

head l05h04 causal softmax:
    1.2 * Noun(k)
    0.8 * Boundary(q) * Noun(k-1) where q - k in 1..12
    -1.3 * Noun(q) where k == 0
    2 where token(k) in Like_dog
"""
TEXT = ["The", " cat", " saw", " the", " dog", ".", " It", " ran"]
HEAD = "head a causal:\n    1 where k == 0\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run: a vocabulary, and a program in the folder ``programs`` that uses it."""
    (tmp_path / "vocabulary.attn").write_text(VOCABULARY)
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "L5H4.attn").write_text(PROGRAM)
    return tmp_path


def used(source: str, vocabulary: str = VOCABULARY, **more: bool):  # type: ignore[no-untyped-def]
    """Parse a program; each file that it uses has the text of the vocabulary."""
    return parse(source, resolve=lambda path: parse_definitions(vocabulary, path), **more)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("score S:\n 100.5 where punct(i)\n" + HEAD, ProgramTypeError, "between -100 and 100"),
        ("score S:\n 1.234 where punct(i)\n" + HEAD, ProgramTypeError, "write 1.23"),
        ("score S:\n 1 where punct(k)\n" + HEAD, ProgramTypeError, "write `i`"),
        ("head a causal:\n 1 where punct(i)\n", ProgramTypeError, "write `q` or `k`"),
        ("score S:\n 1 where true\nhead a causal:\n 1 * S(i)\n", ProgramTypeError, "`q` or `k`"),
        ("score S:\n 1 where any(punct(i))\n" + HEAD, ProgramTypeError, "here is none"),
        ("score S:\n 1 where i > first(true)\n" + HEAD, ProgramTypeError, "searches the keys of a query"),
        ("score S:\n 1 where true\nset S = {\"a\"}\n" + HEAD, ProgramTypeError, "`S` is defined twice"),
        ("score S:\n 1 where word(i) in Nowhere\n" + HEAD, ProgramTypeError, "unknown set `Nowhere`"),
        ("score Noun:\n 1 where true\nhead a causal:\n 1 * Nuon(k)", ProgramTypeError, "`Noun`?"),
        ("head a causal:\n 1 * Xyzzyx(k)", ProgramTypeError, "or `use` a file that does"),
        ("head a causal:\n 1 * Pronoun(q-1)", ProgramTypeError, "`weight(token(q-1), Pronoun)`"),
        ("score S:\n 1 where true\nhead a causal:\n 1 where word(k) in S", ProgramTypeError,
         "`S` is a score, not a set"),
        ("score S:\n 1 where text_final(i)\n" + HEAD, CausalityError, "--allow-lookahead"),
        ("score S:\n 1 where word(i+1) == \"a\"\n" + HEAD, CausalityError, "read at `i` or before"),
        ('use "v.attn"\n' + HEAD, ProgramTypeError, "not read from a file"),
    ],
)  # fmt: skip
def test_what_is_refused(source: str, kind: type[ProgramError], message: str) -> None:
    with pytest.raises(kind) as caught:
        parse(source)
    assert message in str(caught.value)


def test_a_hole_made_by_hand_is_refused() -> None:
    score = t.ScoreDefinition("S", (t.Where(None, t.Always()),))
    with pytest.raises(ProgramTypeError, match="is a hole"):
        parse(show(t.Head("a", "causal"))).from_tree(t.Head("a", "causal", scores=(score,)))


@pytest.mark.parametrize(
    ("line", "message"),
    [("1 where text_final(i)", "has `text_final`"), ('1 where text(i+1) == "a"', "reads after")],
)
def test_a_causal_program_uses_no_score_that_looks_ahead(line: str, message: str) -> None:
    vocabulary = f"score Ahead:\n {line}\n"
    with pytest.raises(CausalityError, match=message):
        used('use "v"\nhead a causal:\n 1 * Ahead(k)\n', vocabulary)
    used('use "v"\nhead a causal:\n 1 where k == 0\n', vocabulary)
    both = used('use "v"\nhead a bidirectional:\n 1 * Ahead(k)\n', vocabulary)
    assert with_visibility(both.tree, "causal") is None


def test_lookahead_may_be_allowed() -> None:
    source, vocabulary = (
        'use "v"\nhead a causal:\n 1 * End(k)\n',
        "score End:\n 1 where text_final(i)\n",
    )
    assert used(source, vocabulary, allow_lookahead=True).facts.lookahead == ("text_final",)


def test_a_use_is_one_node_and_an_operation_for_each_line() -> None:
    program = used(PROGRAM)
    assert program.nodes == t.nodes(program.tree) == 22
    own = t.nodes(self_contained(program.tree))
    assert own == program.nodes - 1 + sum(
        t.nodes(one) for one in self_contained(program.tree).scores
    ) + t.nodes(t.SetDefinition("S", t.SetLiteral((" cat", " dog"))))
    one, two = (used('use "v"\nhead a causal:\n' + n * " 1 * Noun(k)\n").tree for n in (1, 2))
    assert cost(two) - cost(one) == 1 + 3


def test_a_file_is_found_beside_the_program_or_in_the_folder_above(run: Path) -> None:
    path = run / "programs" / "L5H4.attn"
    above = load(path)
    assert above.source == PROGRAM
    assert above(TEXT) == pytest.approx(np.array(evaluate(above.tree, Tokens.from_strings(TEXT))))
    (run / "programs" / "vocabulary.attn").write_text(VOCABULARY.replace("1.4", "-1.4"))
    beside = load(path)
    assert beside != above
    assert not np.allclose(beside(TEXT), above(TEXT))


def test_a_changed_file_is_read_again(run: Path) -> None:
    path = run / "vocabulary.attn"
    first = read_definitions(path)
    assert read_definitions(path) is first
    path.write_text(VOCABULARY + "# A comment.\n")
    assert read_definitions(path) is not first
    assert read_definitions(path) == first
    path.write_text(VOCABULARY.replace("1.4", "1.5"))
    assert read_definitions(path) != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "put the file there"),
        (lambda path: path.write_bytes(b"\xff"), "not UTF-8"),
        (lambda path: path.write_text(""), "the line ends too early"),
        (lambda path: path.write_text("score Noun:\n    1 where punct(k)\n"), "vocabulary.attn:2:19"),
        (lambda path: path.write_text("score Noun:\n    1 where\n"), "vocabulary.attn:2:12"),
        (lambda path: path.write_text('use "a.attn"\n'), "cannot use another one"),
        (lambda path: path.write_text(HEAD), "`head` does not fit here"),
        (lambda path: path.write_text("score Nouns:\n    1 where true\n"), "did you mean `Nouns`"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(run: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    change(run / "vocabulary.attn")
    with pytest.raises(AttnDslError) as caught:
        load(run / "programs" / "L5H4.attn")
    assert message in str(caught.value)
    assert "vocabulary.attn" in str(caught.value) or "L5H4.attn" in str(caught.value)


def test_a_missing_file_of_definitions_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_definitions(tmp_path / "no.attn")


def test_two_files_must_not_define_a_name() -> None:
    with pytest.raises(ProgramTypeError, match=r'is also defined in "a\.attn"'):
        used('use "a.attn"\nuse "b.attn"\n' + HEAD)


def test_own_names_hide_those_of_files_which_hide_the_lexicon() -> None:
    vocabulary = 'set Pronoun = {" dog"}\nscore S:\n 1 where token(i) in Pronoun\n'
    source = 'use "v"\n{}head a causal linear:\n 1 where token(k) in Pronoun\n 2 * S(k)\n'
    program = used(source.format(""), vocabulary)
    assert program(TEXT[:6])[5].tolist() == [0, 0, 0, 0, 1, 0]
    # A score of a file means the same in every program.
    hidden = used(source.format('set Pronoun = {"The"}\n'), vocabulary)
    assert hidden(TEXT[:6])[5] == pytest.approx([1 / 3, 0, 0, 0, 2 / 3, 0])
    hidden = used(source.format('score S:\n 1 where token(i) == "The"\n'), vocabulary)
    assert hidden(TEXT[:6])[5] == pytest.approx([2 / 3, 0, 0, 0, 1 / 3, 0])


@pytest.mark.parametrize("own", ["", 'set Like_dog = {"The"}\n', 'set Determiner = {" dog"}\n'])
def test_a_self_contained_program_means_the_same(own: str) -> None:
    program = used(PROGRAM.replace("\nhead", f"{own}\nhead"))
    alone = parse(show(self_contained(program.tree)))
    assert not alone.tree.uses
    assert np.array_equal(alone(TEXT), program(TEXT))
    assert {one.name for one in alone.tree.scores} == {"Noun", "Boundary"}
    assert self_contained(alone.tree) is alone.tree


def test_an_exported_program_needs_no_file(run: Path) -> None:
    program = load(run / "programs" / "L5H4.attn")
    source = to_numpy(program)
    assert "score Noun:" in source and "use " not in source.split('"""')[2]
    assert execute(source, "a")["attention"](TEXT) == pytest.approx(program(TEXT), abs=1e-6)


def test_definitions_are_printed_and_read_again() -> None:
    definitions = parse_definitions(VOCABULARY)
    assert parse_definitions(show_definitions(definitions)) == definitions
    assert canonical(VOCABULARY, "v") == VOCABULARY
    messy = VOCABULARY.replace(" where", "  where").replace("\n\n", "\n")
    assert canonical(messy, "v") == VOCABULARY


def test_definitions_are_shared_and_pickle() -> None:
    tree = used(PROGRAM).tree
    changed = t.rewrite(tree.with_weights([1.0] * 4), lambda node: node)
    assert changed.uses[0].definitions is tree.uses[0].definitions
    many = pickle.loads(pickle.dumps([tree, changed]))
    assert many == [tree, changed] and many[0].uses[0].definitions is many[1].uses[0].definitions
    assert hash(many[0]) == hash(tree)
    assert tree.uses[0] not in [node for use in tree.uses for node in use.children()]


def test_a_score_is_one_vector_for_each_key() -> None:
    code = Code([used(PROGRAM).tree])
    kinds = [Kind(kind) for kind in code.places[[code.programs[0][0]], 0]]
    assert kinds == [Kind.KEY]
    graph = lower([used('use "v"\nhead a causal:\n 1 * Boundary(k)\n').tree])
    names = [node.operation.name for node in graph.nodes]
    assert names == ["column_key", "column_key", "times", "add"]
    assert graph.bound(graph.programs[0][0]) == pytest.approx(3.7)


def test_a_score_of_many_lines_is_not_deep() -> None:
    lines = "".join(f" 0.01 where i in {j}..{j + 2}\n" for j in range(3000))
    program = used('use "v"\nhead a causal linear:\n 100 * Wide(k)\n', "score Wide:\n" + lines)
    expected = [1 / 6, 2 / 6, 3 / 6]
    assert program(TEXT[:3])[2] == pytest.approx(expected)
    assert execute(to_numpy(program), "a")["attention"](TEXT[:3])[2] == pytest.approx(expected)


@given(programs(), tokens(max_size=8), st.integers(0, 1))
def test_programs_may_share_their_scores_by_a_file(program: t.Head, text: Tokens, sets: int) -> None:
    """A program means the same if its scores, and their sets, stand in a file that it uses."""
    if not program.scores:
        return
    whole = t.Head(
        "v", "bidirectional", sets=program.sets, scores=program.scores, functions=program.functions
    )
    file = parse_definitions(show(whole).split("head ")[0])
    changed = {"uses": (t.Use("v", file),), "scores": (), "sets": program.sets if sets else ()}
    shared = t.Head(program.name, program.visibility, program.normaliser, program.terms, **changed)
    assert parse_tree(show(shared), resolve=lambda path: file) == shared
    assert evaluate(shared, text) == evaluate(program, text)
    assert evaluate(self_contained(shared), text) == evaluate(program, text)
    fast = Program.from_tree(shared)(text)
    assert fast == pytest.approx(np.array(evaluate(program, text)).reshape(fast.shape), abs=1e-5)


def test_commands_take_files_of_definitions(run: Path) -> None:
    program, file = run / "programs" / "L5H4.attn", run / "vocabulary.attn"
    shown = succeed("check", "--examples", 5, program, file)
    assert "22 nodes" in shown and "1 sets, 0 functions, 2 scores" in shown
    succeed("fmt", "--check", program, file)
    assert "\\mathrm{Noun}(i) &= 1.4" in succeed("export", "--to", "latex", program)
    file.unlink()
    succeed("fmt", "--check", program)
    assert attn_dsl("check", program).code == 2

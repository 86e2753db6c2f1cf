"""Properties in programs: how they are written, checked and tested, by the command line and by pytest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import attn_dsl

from attn_dsl import ProgramError, parse
from attn_dsl.dsl.definitions import canonical, self_contained
from attn_dsl.dsl.errors import CausalityError, ProgramSyntaxError, ProgramTypeError
from attn_dsl.dsl.gbnf import to_gbnf
from attn_dsl.dsl.parser import grammar_text
from attn_dsl.synth.rewrite import drop_unused
from attn_dsl.testing import check_properties

HEAD = "head a causal softmax:\n    2 where k == 0\n"
SOURCE = """\
set Odd = {"zebra"}

head a causal softmax:
    2 where k == 0  # a sink
    3 where token(k) == "quagga"

# It sees nothing that follows.
property causal  # really
property invariant_to case
property mass >= 0.5 on k == 0 or token(k) in Odd where punct(q) and q < 3
# the end
"""


def test_properties_are_printed_as_they_are_written() -> None:
    assert canonical(SOURCE, "a.attn") == SOURCE
    loose = SOURCE.replace("property mass >= 0.5 on", "  property   mass>=0.50 on")
    assert canonical(loose, "a.attn") == SOURCE
    assert canonical(HEAD + "property causal\n", "a.attn") == HEAD + "\nproperty causal\n"


def test_properties_are_no_part_of_the_program() -> None:
    program, bare = parse(SOURCE), parse(SOURCE.split("# It sees")[0])
    assert program.tree == bare.tree
    assert program.facts == bare.facts
    assert [one.span and one.span.line for one in program.tree.properties] == [8, 9, 10]
    assert drop_unused(program.tree).properties == ()
    assert "property" not in to_gbnf(grammar_text())
    assert self_contained(program.tree).properties == program.tree.properties


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (HEAD + "property caual\n", ProgramTypeError, "did you mean `causal`"),
        (HEAD + "property sums\n", ProgramTypeError, "unknown property `sums`"),
        (HEAD + "property invariant_to\n", ProgramTypeError, "write `property invariant_to case`"),
        (HEAD + "property invariant_to cas\n", ProgramTypeError, "cannot be followed by `cas`"),
        (HEAD + "property causal case\n", ProgramTypeError, "write `property causal`"),
        (HEAD.replace("causal", "bidirectional") + "property causal\n", CausalityError,
         "a bidirectional head sees what follows"),
        (HEAD + "property mass\n", ProgramSyntaxError, "property mass >= 0.5 on k == 0"),
        (HEAD + "property mass >= on k == 0\n", ProgramSyntaxError, "a weight such as 1.5"),
        (HEAD + "property mass >= 0.5\n", ProgramSyntaxError, "expected: `on`"),
        (HEAD + "property mass >= 50 on k == 0\n", ProgramTypeError, "a mass lies between 0 and 1"),
        (HEAD + "property mass >= 0.5 on text(k) in Foo\n", ProgramTypeError, "unknown set `Foo`"),
        (HEAD + "property mass >= 0.5 on text_final(k)\n", CausalityError, "reads the whole text"),
        (HEAD + "property mass >= 0.5 on text(k)\n", ProgramSyntaxError, "the line ends too early"),
        (HEAD + "property mass >= 0.5 on k == 0 where punct(k)\n", ProgramTypeError, "and has `k`"),
        (HEAD + "property causal\n    1 where k == 1\n", ProgramSyntaxError, "above the properties"),
        ("property causal\n" + HEAD, ProgramSyntaxError, "stands below the terms"),
    ],
)  # fmt: skip
def test_wrong_properties_are_errors_with_a_place(
    source: str, kind: type[ProgramError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        parse(source)
    assert message in str(caught.value)
    assert caught.value.span is not None
    assert source.splitlines()[caught.value.span.line - 1].lstrip()[:3] in ("pro", "1 w")


@pytest.mark.parametrize(
    ("claim", "terms", "holds"),
    [
        ("causal", "2 where k == 0", True),
        ("invariant_to case", '3 where word(k) == "zebra"', True),
        ("invariant_to case", '3 where token(k) == "zebra"', False),
        ("mass >= 0.9 on k == q or k == q - 1", "1000 where k == q - 1", True),
        ("mass >= 0.9 on k == q - 1", "1000 where k == q - 1", False),
        ("mass >= 0.9 on k == q - 1 where q > 0", "1000 where k == q - 1", True),
        ("mass <= 0.3 on k == q where q > 1", "1 where k == 0", True),
        ("mass < 0.3 on k == q", "1 where k == 0", False),
        # A text must have the word that the property names.
        ("mass <= 0.5 on token(k) in Odd where q > 0", '8 where token(k) in Odd', False),
        ("mass > 0 on any(punct(k)) or not any(punct(k))", "1 where k == 0", True),
    ],
)  # fmt: skip
def test_a_property_holds_or_a_small_text_shows_that_it_does_not(claim: str, terms: str, holds: bool) -> None:
    program = parse(f'set Odd = {{"quagga"}}\nhead a causal:\n    {terms}\nproperty {claim}\n')
    found = check_properties(program, 50)
    assert [one.property for one in found] == [] if holds else [claim]
    for one in found:
        assert len(one.tokens) <= 4
        assert one.matrix is not None
        assert one.report().startswith(f"{one.message}\n  matrix")


def test_properties_are_tested_where_the_program_is_bidirectional() -> None:
    claim = "property mass >= 0.9 on k == q + 1 where not text_final(q)\n"
    source = "head a bidirectional:\n    9 where k == q + 1\n" + claim
    assert check_properties(parse(source), 50) == []
    assert [x.query for x in check_properties(parse(source.replace(" where not", " where")), 50)] == [0]


def test_check_reports_properties(tmp_path: Path) -> None:
    file = tmp_path / "a.attn"
    file.write_text(HEAD + "property causal\nproperty mass >= 0.5 on k == 0 where q < 3\n")
    outcome = attn_dsl("check", file, "--examples", "50")
    assert outcome.code == 0
    assert "properties hold, 2 of its own, on 50 texts" in " ".join(outcome.out.split())
    file.write_text(HEAD + "property mass >= 0.5 on k == q\n")
    outcome = attn_dsl("check", file, "--json")
    assert outcome.code == 1
    report = json.loads(outcome.out)[0]
    assert report["properties"] == ["mass >= 0.5 on k == q"]
    (failure,) = report["failures"]
    assert failure.startswith("not mass >= 0.5 on k == q: query 1 gives 0.119203 to the keys [1]")
    assert failure.endswith('\n  matrix  "a"     "a"\n  "a"     1       0\n  "a"     0.881   0.119')


def test_pytest_collects_programs(tmp_path: Path) -> None:
    """In a process of its own, as for a user; without programs nothing heavy is imported."""
    (tmp_path / "good.attn").write_text(HEAD + "property causal\nproperty mass > 0 on k == 0\n")
    (tmp_path / "wrong.attn").write_text(HEAD + "property mass >= 0.5 on k == q\n")
    (tmp_path / "open.attn").write_text(HEAD.replace("2", "?"))
    (tmp_path / "sets.attn").write_text('set Odd = {"zebra"}\n')
    (tmp_path / "broken.attn").write_text(HEAD + "property causl\n")
    (tmp_path / "test_other.py").write_text(
        "import sys\n\ndef test_light():\n"
        "    heavy = {'numba', 'torch', 'numpy', 'lark', 'attn_dsl.compiler'}\n"
        "    assert not heavy & {*sys.modules}\n"
    )

    def pytest_on(*names: str) -> subprocess.CompletedProcess[str]:
        given = (
            "-p",
            "attn_dsl.pytest_plugin",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
        )
        return subprocess.run([sys.executable, "-m", "pytest", "-v", "-rs", *given, *names],
                              cwd=tmp_path, capture_output=True, text=True)  # fmt: skip

    light = pytest_on("test_other.py")
    assert light.returncode == 0, light.stdout
    ran = pytest_on("good.attn", "wrong.attn", "open.attn", "sets.attn")
    assert ran.returncode == 1
    for line in ("good.attn::rows PASSED", "good.attn::causal PASSED", "good.attn::mass > 0 on k == 0 PASSED",
                 "wrong.attn::rows PASSED", "wrong.attn::mass >= 0.5 on k == q FAILED",
                 "open.attn::rows SKIPPED",
                 "not mass >= 0.5 on k == q: query 1 gives 0.119203 to the keys [1]", '"a"     0.881   0.119',
                 "1 failed, 4 passed, 1 skipped"):  # fmt: skip
        assert line in ran.stdout, ran.stdout
    assert "Traceback" not in ran.stdout
    broken = pytest_on("broken.attn")
    assert broken.returncode == 2
    assert "did you mean `causal`?" in broken.stdout

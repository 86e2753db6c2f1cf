"""The commands on programs, captures and runs: what they print, write and exit with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Page, attn_dsl, succeed, write_texts

from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.parser import grammar_text
from attn_dsl.eval.capture import Capture

INDUCTION = "# after the last copy\nhead induction causal softmax:\n    8 where text(k-1) == text(q)\n"
UNTIDY = "# a remark\nhead  untidy causal :\n  2.50 where k==q-1 # beside\n\n\n"
TIDY = "# a remark\nhead untidy causal softmax:\n    2.5 where k == q-1  # beside\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in, with one program in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "induction.attn").write_text(INDUCTION)
    return tmp_path


@pytest.fixture(scope="module")
def captured(
    small_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A capture that the command line made, and what it printed."""
    folder = tmp_path_factory.mktemp("captured")
    texts = write_texts(folder / "texts.jsonl")
    out = folder / "capture"
    args = ("--text", texts, "--out", out, "--max-tokens", "16", "--max-texts", "20")
    return out, succeed("capture", small_model("gpt2"), *args)


def assert_narrow(output: str) -> None:
    wide = [line for line in output.splitlines() if len(line) > 80]
    assert not wide, wide


# diff

OLD = """set Names = {"Tom", "Mia"}
score Loud:
    2 where text(i) == "!"
    1 where capital(i)

head a causal softmax:
    7 where text(k-1) == text(q)
    3 + 0.5 * Loud(q) where k == 0
    1 where text(k) in Names
    by q - k [1: 2, 4: 1]
    2 * log(1 + q - k)
"""
CHANGES = [
    ('"Mia"}', '"Ann"}', ["~ set Names", '      + "Ann"', '      - "Mia"']),
    ("2 where text(i)", "4 where text(i)", ["~ score Loud", "      weight 2 → 4"]),
    ("a causal softmax", "a causal linear", ["~ head a causal linear", "      softmax → linear"]),
    ("text(k-1)", "text(k-2)", ["~ 7 where text(k-2) == text(q)", "      k-1 → k-2"]),
    ("+ 0.5 *", "+ 0.7 *", ["~ 3 + 0.7 * Loud(q) where k == 0", "      weight 0.5 → 0.7 of Loud(q)"]),
    ("4: 1", "4: -1", ["~ by q - k [1: 2, 4: -1]", "      weight 1 → -1 of 4"]),
    ("    2 * log(1 + q - k)\n", "", ["- 2 * log(1 + q - k)"]),
    ("    1 where text(k)", "    9 where second(k)\n    1 where text(k)", ["+ 9 where second(k)"]),
    ("    7 where text(k-1) == text(q)\n    3", "    3", ["- 7 where text(k-1) == text(q)"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "told"), CHANGES)
def test_diff_tells_what_changed_in_the_tree(here: Path, old: str, new: str, told: list[str]) -> None:
    assert old in OLD
    (here / "a.attn").write_text(OLD)
    changed = OLD.replace(old, new).replace("linear:\n", "linear:\n    # an aside\n")
    (here / "b.attn").write_text(changed.replace("second(k)", "capital(k)"))
    out = succeed("diff", "a.attn", "b.attn", "--on", "Tom saw Mia! Then Tom saw Ann.")
    told = [line.replace("second", "capital") for line in told]
    assert out.partition("\n\n")[0].splitlines() == told
    assert_narrow(out)


def test_diff_shows_the_rows_that_differ_most(here: Path) -> None:
    (here / "a.attn").write_text("head a causal:\n    99 where k == 0\n")
    (here / "b.attn").write_text("head a causal:\n    99 where k == 0\n    200 where capital(k) and k > 0\n")
    args = ("diff", "a.attn", "b.attn", "--on", "he saw Tom there")
    assert "2 1.000  he saw[ Tom] there" in succeed(*args)
    found = json.loads(succeed(*args, "--json"))
    assert found["changes"] == [{"mark": "+", "source": "200 where capital(k) and k > 0", "edits": []}]
    assert [row["query"] for row in found["rows"]] == [2, 3]
    assert found["rows"][0]["before"] == pytest.approx([1, 0, 0, 0])
    assert found["rows"][0]["after"] == pytest.approx([0, 0, 1, 0])
    assert found["mean_difference"] == pytest.approx(0.5)
    assert "1.000" in succeed(*args[:3])  # on the story where they differ most
    assert succeed("diff", "a.attn", "a.attn").strip() == "The programs are the same."
    (here / "hole.attn").write_text("head a causal:\n    ? where k == 0\n")
    outcome = attn_dsl("diff", "a.attn", "hole.attn")
    assert outcome.code == 0 and "weights are holes" in outcome.err


def test_diff_takes_heads_of_runs(here: Path, small_run: Path) -> None:
    source = (small_run / "programs/L00H01.attn").read_text()
    (small_run / "programs/edited.attn").write_text(source.rstrip() + "\n    3 where k == 0\n")
    edited = small_run / "programs/edited.attn"
    out = succeed("diff", small_run, "L0H1", edited)
    assert "IoU with the head itself on this text" in out
    assert out == succeed("diff", f"{small_run}:L0H1", edited)
    read = succeed("diff", edited, small_run, "L0H1", "--on", "the cat sat on the mat .")
    assert "\n- 3 where k == 0" in "\n" + read and "[" in read
    edited.unlink()
    for wrong, told in (
        (("diff", "induction.attn"), "name two programs"),
        (("diff", small_run, "induction.attn", "induction.attn"), "has no head induction.attn"),
        (("diff", "induction.attn", "gone.attn"), "gone.attn"),
        (("diff", "induction.attn", "induction.attn", "--on", " "), "--on is empty"),
    ):
        outcome = attn_dsl(*wrong)
        assert outcome.code == 2 and told in outcome.err


# explain


def test_explain_tells_what_terms_do_on_a_text(here: Path, small_run: Path) -> None:
    out = succeed("explain", "induction.attn", "--on", "Tom saw Mia. Then Tom saw")
    assert "    2 tokens: ·saw@6 → ·Mia@2 +0.86; " in out
    assert_narrow(out)
    found = json.loads(succeed("explain", "induction.attn", "--on", "Tom saw Tom", "--json"))
    assert found["tokens"] == ["Tom", " saw", " Tom"]
    assert found["terms"][0]["moved"] == pytest.approx([0, 0, 0.666], abs=1e-3)
    found = json.loads(succeed("explain", small_run, "L0H1", "--on", "the cat sat .", "--json"))
    assert len(found["tokens"]) == 5
    empty = here / "empty.attn"
    empty.write_text("head empty causal:\n")
    assert "On this text" not in succeed("explain", empty, "--on", "Tom saw")


# show


def test_show_draws_the_matrix_of_a_sample(here: Path) -> None:
    out = succeed("show", "induction.attn")
    assert_narrow(out)
    assert "head induction causal softmax:" in out
    assert "7 nodes, 4 operations per pair" in out
    rows = [line for line in out.splitlines() if re.match(r" *·?\S+ +\d+  ", line)]
    assert len(rows) == 27
    # the second `·dog` looks at what follows the first one, and at nothing else
    dog = next(row for row in rows if re.match(r" *·dog 21 ", row))
    assert re.sub(r"^ *·dog 21 ", "", dog).rstrip() == "  " * 13 + " @"


def test_show_draws_the_text_that_is_given(here: Path) -> None:
    rows = succeed("show", "induction.attn", "--on", "a\n\tb a").splitlines()[-4:]
    assert [row.split()[:2] for row in rows] == [["a", "0"], ["↵", "1"], ["⇥b", "2"], ["·a", "3"]]
    assert rows[3].split()[2:] == ["@"]


def test_show_names_the_strongest_keys_of_a_long_text(here: Path) -> None:
    out = succeed("show", "induction.attn", "--on", "one two three four " * 12)
    assert_narrow(out)
    assert "each query with the keys that it attends to most" in out
    assert re.search(r"^ +4 +·one  ·two@1 1\.00$", out, re.MULTILINE), out


def test_show_cuts_the_text_as_a_model_does(here: Path, small_model: Callable) -> None:
    out = succeed("show", "induction.attn", "--on", "the cat", "--tokenizer", small_model("gpt2"))
    rows = [line.split()[0] for line in out.splitlines()[-3:]]
    assert rows == ["<s>", "the", "·cat"]


def test_show_marks_programs_that_look_ahead(here: Path) -> None:
    (here / "ahead.attn").write_text("head ahead causal:\n    2 where text_final(k)\n")
    assert attn_dsl("show", "ahead.attn").code == 2
    assert "looks ahead by text_final" in succeed("show", "ahead.attn", "--allow-lookahead")


def test_show_writes_a_page_that_needs_nothing_else(here: Path) -> None:
    args = ("--html", "page.html", "--on", "<u>the</u> the", "--allow-lookahead")
    assert succeed("show", "induction.attn", *args) == "page.html\n"
    text = (here / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img"}
    assert "u" not in tags, "the text is escaped"
    assert not re.search(r"https?://|@import|url\(", text)
    assert text.count("<rect") >= 8


# check


def test_check_says_what_a_valid_program_costs(here: Path) -> None:
    out = succeed("check", "induction.attn", "--examples", "5")
    assert_narrow(out)
    assert out.splitlines() == [
        "induction.attn: ok",
        "  7 nodes, 4 operations per pair, causal, properties hold on 5 texts",
    ]


def test_check_as_json(here: Path) -> None:
    (here / "hole.attn").write_text("head hole bidirectional:\n    ? where k == 0\n")
    (here / "wrong.attn").write_text("head wrong causal:\n    2 where k = 0\n")
    args = ("induction.attn", "hole.attn", "wrong.attn", "--examples", "0", "--json")
    outcome = attn_dsl("check", *args)
    assert outcome.code == 2
    valid, hole, wrong = json.loads(outcome.out)
    assert valid == {
        "program": "induction.attn", "valid": True, "nodes": 7, "cost": 4, "visibility": "causal",
        "holes": 0, "lookahead": [], "failures": [], "properties": [], "code": 0, "warnings": [],
    }  # fmt: skip
    assert (hole["holes"], hole["visibility"]) == (1, "bidirectional")
    assert wrong["valid"] is False
    assert wrong["error"].startswith("wrong.attn:2:15: syntax error")


def test_check_warns_of_what_never_holds(here: Path) -> None:
    source = 'head a causal:\n    1 where word(k) == "The"\n    2 where k == q\n'
    (here / "the.attn").write_text(source)
    assert succeed("check", "the.attn", "--examples", "0").splitlines()[2:] == [
        'the.attn:2:13: warning: `word` never gives "The"',
        '  2 |     1 where word(k) == "The"',
        "    |             ^^^^^^^^^^^^^^^^",
        '  help: write "the"',
    ]
    (found,) = json.loads(succeed("check", "the.attn", "--json"))[0]["warnings"]
    assert (found["line"], found["column"], found["help"]) == (2, 13, 'write "the"')


def test_check_shows_the_smallest_text_on_which_a_property_fails(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attn_dsl.compiler.program import Program

    def leak(program: Program, tokens: list[str]) -> np.ndarray:
        return np.full((len(tokens), len(tokens)), 1 / max(len(tokens), 1), np.float32)

    monkeypatch.setattr(Program, "__call__", leak)
    outcome = attn_dsl("check", "induction.attn", "--examples", "10")
    assert outcome.code == 1
    assert outcome.out.startswith("induction.attn: FAILS\n")
    assert "not causal" in outcome.out
    (report,) = json.loads(attn_dsl("check", "induction.attn", "--examples", "10", "--json").out)
    assert report["valid"] is True
    assert len(report["failures"]) == 1
    assert report["code"] == 1


# fmt


def test_fmt_rewrites_programs_and_keeps_comments(here: Path) -> None:
    file = here / "untidy.attn"
    file.write_text(UNTIDY)
    outcome = attn_dsl("fmt", "untidy.attn", "induction.attn")
    assert outcome.code == 0
    assert outcome.err == "untidy.attn: rewritten\n"
    assert file.read_text() == TIDY
    assert (here / "induction.attn").read_text() == INDUCTION
    assert attn_dsl("fmt", "untidy.attn").err == ""


def test_fmt_check_changes_nothing(here: Path) -> None:
    file = here / "untidy.attn"
    file.write_text(UNTIDY)
    outcome = attn_dsl("fmt", "--check", "untidy.attn", "induction.attn")
    assert outcome.code == 1
    assert outcome.err == "untidy.attn: would be rewritten\n"
    assert file.read_text() == UNTIDY
    assert attn_dsl("fmt", "--check", "induction.attn").code == 0


def test_fmt_reads_standard_input(here: Path) -> None:
    assert succeed("fmt", "-", stdin=UNTIDY) == TIDY
    assert attn_dsl("fmt", "-", "--check", stdin=UNTIDY).code == 1
    assert attn_dsl("fmt", "-", "--check", stdin=TIDY).code == 0


def test_fmt_rewrites_none_if_one_is_invalid(here: Path) -> None:
    (here / "untidy.attn").write_text(UNTIDY)
    (here / "wrong.attn").write_text("head wrong causal:\n    2 where\n")
    assert attn_dsl("fmt", "untidy.attn", "wrong.attn").code == 2
    assert (here / "untidy.attn").read_text() == UNTIDY


# features, grammar


def test_features_lists_the_whole_vocabulary() -> None:
    out = succeed("features")
    assert_narrow(out)
    for name in FEATURES:
        assert re.search(rf"^  {name}(\(k(, q)?\))? ", out, re.MULTILINE), name
    for name in lexicon():
        assert re.search(rf"\b{name}\b", out), name
    words = set(re.findall(r"\S+", succeed("features", "--sets")))
    assert "they" in words
    assert {f"{name}:" for name in lexicon()} <= words


def test_grammar() -> None:
    assert succeed("grammar") == grammar_text()


def test_grammar_as_gbnf() -> None:
    rules = re.findall(r"^([a-zA-Z0-9-]+) ::=", succeed("grammar", "--gbnf"), re.MULTILINE)
    assert "root" in rules
    assert len(rules) == len(set(rules)) > 20


# capture, score


def test_capture_says_what_it_stored(captured: tuple[Path, str]) -> None:
    folder, printed = captured
    assert re.fullmatch(r"20 texts, 2 layers of 4 heads, \d+ MB in .*capture\n", printed)
    capture = Capture.open(folder)
    assert capture.n_texts == 20
    assert max(len(capture.tokens(i)) for i in range(20)) == 16


def test_score_as_json(captured: tuple[Path, str], here: Path) -> None:
    folder, _ = captured
    (here / "uniform.attn").write_text("head uniform causal:\n")
    args = ("--capture", folder, "--heads", "L0H1,L1", "--json")
    rows = json.loads(succeed("score", "induction.attn", "uniform.attn", *args))
    heads = [(0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert {(r["program"], r["layer"], r["head"]) for r in rows} == {
        (name, *pair) for name in ("induction.attn", "uniform.attn") for pair in heads
    }
    capture = Capture.open(folder)
    texts = capture.split(0)["test"]
    row = next(r for r in rows if (r["program"], r["layer"], r["head"]) == ("uniform.attn", 1, 2))
    assert row.keys() == {
        "program", "nodes", "layer", "head", "iou", "iou_low", "iou_high", "output_r2",
        "output_r2_low", "output_r2_high", "iou_no_sink", "jsd", "tv", "top1", "texts", "lookahead",
    }  # fmt: skip
    by_hand = []
    for text in texts:
        actual = capture.matrix(text, 1, 2)
        n = len(actual)
        uniform = np.tri(n) / np.arange(1, n + 1)[:, None]
        by_hand.append(np.minimum(actual, uniform).sum() / np.maximum(actual, uniform).sum())
    assert row["iou"] == pytest.approx(np.mean(by_hand), abs=1e-5)
    assert row["iou_low"] <= row["iou"] <= row["iou_high"]
    assert (row["texts"], row["nodes"]) == (len(texts), 1)


def test_score_prints_the_best_heads_and_the_sample(captured: tuple[Path, str], here: Path) -> None:
    folder, _ = captured
    out = succeed("score", "induction.attn", "--capture", folder, "--top", "3")
    assert_narrow(out)
    ious = [float(x) for x in re.findall(r"L\dH\d +(\d\.\d{3})", out)]
    assert len(ious) == 3
    assert ious == sorted(ious, reverse=True)
    texts = Capture.open(folder).split(0)["test"]
    assert f"{len(texts)} test texts of" in out


def test_score_of_a_model_is_that_of_its_capture(
    captured: tuple[Path, str], here: Path, small_model: Callable
) -> None:
    folder, _ = captured
    texts = folder.parent / "texts.jsonl"
    args = ("--text", texts, "--max-tokens", "16", "--max-texts", "20", "--json")
    live = json.loads(succeed("score", "induction.attn", small_model("gpt2"), *args))
    stored = json.loads(succeed("score", "induction.attn", "--capture", folder, "--json"))
    assert live == stored


def test_score_on_one_text_gives_no_interval(
    captured: tuple[Path, str], here: Path, small_model: Callable[[str], Path]
) -> None:
    on = ("--on", "the cat sat on the mat .")
    out = succeed("score", "induction.attn", "--capture", captured[0], *on)
    assert "One text of 8 tokens gives no interval." in out and " from" not in out
    args = ("score", "induction.attn", small_model("gpt2"), "--top", "99", *on, "--json")
    rows = json.loads(succeed(*args))
    assert {row["texts"] for row in rows} == {1} and {row["iou_low"] for row in rows} == {None}
    outcome = attn_dsl(*args, "--text", "stories.txt")
    assert outcome.code == 2 and "no --text" in outcome.err


def test_score_marks_programs_that_look_ahead(captured: tuple[Path, str], here: Path) -> None:
    folder, _ = captured
    (here / "ahead.attn").write_text("head ahead causal:\n    2 where from_end(k) == 0\n")
    assert attn_dsl("score", "ahead.attn", "--capture", folder).code == 2
    args = ("--capture", folder, "--allow-lookahead")
    assert "(looks ahead)" in " ".join(succeed("score", "ahead.attn", *args).split())
    (row, *_) = json.loads(succeed("score", "ahead.attn", *args, "--json"))
    assert row["lookahead"] == ["from_end"]


# the group


def test_overview_names_every_command() -> None:
    from attn_dsl.cli.main import COMMANDS

    out = succeed("--help")
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", out, re.MULTILINE), name
    assert succeed("-h") == out


def test_version() -> None:
    import attn_dsl as package

    assert succeed("--version").strip() == f"attn-dsl, version {package.__version__}"


def test_errors_show_their_traceback_on_request(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attn_dsl.dsl.errors import InputError

    monkeypatch.setenv("ATTN_DSL_DEBUG", "1")
    with pytest.raises(InputError):
        attn_dsl("show", "none.attn")

"""The scores that heads of a run share: their values, how people read them, and where they are written."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Page, attn_dsl, succeed
from fitting import assert_same, rows

from attn_dsl import fit
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.program import load, parse
from attn_dsl.dsl.definitions import in_folder, parse_definitions, read_definitions
from attn_dsl.dsl.scope import Scope
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval import report
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.files import sealed
from attn_dsl.eval.run import Run
from attn_dsl.eval.scores import SharedScore, foreign, score_values, shared_scores
from attn_dsl.synth.scores import dictionary
from attn_dsl.synth.scores.vocabulary import _name

VOCABULARY = """set Near = {" cat"}

score Noun:
    1.4 where token(i) in Near
    0.9 where token(i-1) in Near and not capital(i)
    -2 where punct(i)

score Copy:
    0.5 where seen(i)
"""


HEAD = """set Some = {{{}}}
head a causal softmax:
    2 where token(k) in Some
    1.5 where token(k-1) in Some
    {}
"""
TERMS = ("2 where k == 0", "1 where k == q", "3 where k == q-1", "-1 where punct(k)")


@pytest.fixture(scope="module")
def capture() -> Capture:
    """Two layers of two heads that attend to the same words and what follows them."""
    rng = np.random.default_rng(0)
    some = '" cat", " ran", " she", " of"'
    heads = [parse(HEAD.format(some, term)) for term in TERMS]
    words = "the cat saw a dog . Tom and Mia ran to the park of she said hi !".split()
    texts = [Tokens.from_strings([" " + word for word in rng.choice(words, size=24)]) for _ in range(40)]
    attention = [np.stack([head(text) for head in heads]).reshape(2, 2, 24, 24) for text in texts]
    return Capture.from_arrays(texts, attention, causal=True)


@pytest.fixture(scope="module")
def finished(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose programs use scores."""
    out = tmp_path_factory.mktemp("scores") / "run"
    return fit(capture=capture, out=out, proposers=["scores"], max_nodes=40, jobs=1).path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The finished run, which may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def again(run: Path, capture: Capture, **more: bool) -> None:
    """Go on with the run."""
    fit(capture=capture, out=run, proposers=["scores"], max_nodes=40, jobs=1, resume=True, **more)


def test_values_of_scores_on_texts() -> None:
    texts = [
        Tokens.from_strings(text)
        for text in (["The", " cat", " saw", " The", "."], [], ["The", ".", " cat", "The"])
    ]
    values = score_values(parse_definitions(VOCABULARY), Batch(texts))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[:, 0], [0, 1.4, 0.9, 0, -2, 0, -2, 1.4, 0], atol=1e-6)
    np.testing.assert_allclose(values[:, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('2 where token(i) == " the"\n 1 where lower(i) in Article', "“the”, articles"),
        ("1 where lower(i-1) in Article", "what follows articles"),
        ('1 where ends(lower(i-2), "ed")', "the second token after tokens that end with “ed”"),
        ("1 where digit(i+1)\n -1 where capital(i)", "what precedes numbers"),
        ("-1 where digit(i)", "no token"),
    ],
)  # fmt: skip
def test_scores_in_words(lines: str, words: str) -> None:
    assert SharedScore(parse_definitions(f"score S:\n {lines}").scores["S"], {}).words == words


def test_words_of_a_score_with_a_set_of_its_file() -> None:
    file = parse_definitions('set Pets = {" cat", " dog"}\nscore S:\n 1 where token(i) in Pets')
    words = SharedScore(file.scores["S"], {}, Scope.of_file(file)).words
    assert words == "Pets: “cat”, “dog”"


def test_words_of_a_score_with_a_function_of_its_file() -> None:
    file = parse_definitions("def low(i) = depth(i) < 2\nscore S:\n 1 where low(i)")
    assert "low" in SharedScore(file.scores["S"], {}, Scope.of_file(file)).words


def test_scores_of_a_run_and_the_heads_that_use_them(run: Path) -> None:
    scores = shared_scores(Run.open(run))
    sources = {r.name: r.program for r in Run.open(run).results}
    assert list(scores) == list(read_definitions(run / "vocabulary.attn").scores)
    for name, one in scores.items():
        for where, heads in one.users.items():
            use = rf"\b{name}\({where[0]}\b"
            assert list(heads) == [head for head, text in sources.items() if re.search(use, text)]
    assert any(one.heads for one in scores.values())


def test_features_lists_the_scores_of_a_run(run: Path) -> None:
    scores = shared_scores(Run.open(run))
    listed = succeed("features", "--run", run)
    assert all(len(line) <= 80 or str(run) in line for line in listed.splitlines())
    found = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+) ", listed, re.MULTILINE)
    counts = {key: (len(x.definition.terms), *map(len, x.users.values())) for key, x in scores.items()}
    assert {name: tuple(map(int, rest)) for name, *rest in found} == counts
    name, one = max(scores.items(), key=lambda item: item[1].heads)
    shown = succeed("features", "--run", run, name)
    definition = shown[shown.index("score ") :].split("\n\n")[0]
    assert parse_definitions(definition).scores[name] == one.definition
    assert all(head in shown for head in (*one.users["key"], *one.users["query"]))
    told = json.loads(succeed("features", "--run", run, "--json"))
    assert [x["name"] for x in told] == list(scores)
    (mine,) = json.loads(succeed("features", "--run", run, name, "--json"))
    assert mine in told
    assert (mine["source"], mine["words"]) == (one.source, one.words)
    assert mine["heads"] == {at: list(heads) for at, heads in one.users.items()}


def test_errors_name_what_is_wrong_with_the_scores_of_a_run(run: Path) -> None:
    def refused(*args: object) -> str:
        outcome = attn_dsl("features", *args)
        assert outcome.code == 2
        return outcome.err

    assert "--run DIR" in refused("At_the")
    assert "--run DIR" in refused("--json")
    assert "leave one of them out" in refused("--sets", "--run", run)
    assert "no such directory" in refused("--run", run / "nowhere")
    name = next(iter(shared_scores(Run.open(run))))
    assert f"has no score {name}x; did you mean `{name}`" in refused("--run", run, f"{name}x")
    file = run / "vocabulary.attn"
    file.write_text(file.read_text() + "    7 where punct(i)\n")
    assert "vocabulary.attn was changed" in refused("--run", run)
    file.unlink()
    assert "vocabulary.attn is gone" in refused("--run", run)
    info = json.loads((run / "run.json").read_text())
    del info["vocabulary"]
    (run / "run.json").write_text(json.dumps(sealed(info)))
    assert "share no scores" in refused("--run", run)


def test_the_vocabulary_of_a_run_says_what_scores_hold_and_who_uses_them(
    run: Path, finished: Path, capture: Capture
) -> None:
    text = (run / "vocabulary.attn").read_text()
    for name, one in shared_scores(Run.open(run)).items():
        above = text[: text.index(f"score {name}:")].splitlines()[-2:]
        assert above[0] == f"# High at {one.words}."
        for where, heads in one.users.items():
            assert re.search(rf"\b{len(heads)} at the {where}", above[1])
            assert all(head in above[1] for head in heads[:4])
    succeed("fmt", "--check", run / "vocabulary.attn")
    (run / "state" / "L01H01.json").unlink()
    again(run, capture)
    assert (run / "vocabulary.attn").read_text() == text
    assert_same(run, finished)


def test_self_contained_programs_need_no_vocabulary(run: Path, finished: Path, capture: Capture) -> None:
    again(run, capture, self_contained=True)
    assert rows(run) == rows(finished)
    (run / "vocabulary.attn").rename(run / "elsewhere.attn")
    text = capture.tokens(0)
    for file in sorted((run / "programs").iterdir()):
        shared, own = load(finished / "programs" / file.name), load(file)
        assert not own.tree.uses
        assert np.array_equal(own(text), shared(text))
        names = {x.name for x in shared.tree.walk() if hasattr(x, "variable") and hasattr(x, "name")}
        assert {score.name for score in own.tree.scores} == names
        source = succeed("export", "--to", "numpy", finished / "programs" / file.name)
        assert "\nuse " not in source
    (run / "elsewhere.attn").rename(run / "vocabulary.attn")
    again(run, capture)
    assert_same(run, finished)


def test_the_report_shows_scores_their_values_and_the_heads_that_use_them(
    run: Path, capture: Capture
) -> None:
    data = report.report_data(Run.open(run), capture)
    page, scores = Page(report.render(data)), shared_scores(Run.open(run))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    shown = {one["name"]: one for one in page.payload["scores"]}
    assert shown.keys() == scores.keys()
    heads = [scores[name].heads for name in shown]
    assert heads == sorted(heads, reverse=True)
    for name, one in scores.items():
        assert f"score-{name}" in page.ids
        assert one.source in page.text
        assert (shown[name]["key"], shown[name]["query"]) == (
            list(one.users["key"]),
            list(one.users["query"]),
        )
        tokens = Tokens.from_strings(page.payload["texts"][shown[name]["text"]])
        values = score_values(parse_definitions(one.source), Batch([tokens]))[:, 0]
        np.testing.assert_allclose(shown[name]["values"], values, atol=0.006)
    bare = Page(report.render(replace(data, scores=())))
    assert "Shared scores" not in bare.text
    assert not any((a.get("href") or "").startswith("#score") for _, a in bare.elements)


def test_hostile_strings_in_scores_stay_text(run: Path, capture: Capture) -> None:
    evil = "</script><b>x</b>"
    vocabulary = parse_definitions(f'score S:\n 1 where token(i) == "{evil}"\n')
    score = SharedScore(vocabulary.scores["S"], {"key": ("L0H0",), "query": ()})
    data = report.report_data(Run.open(run), capture)
    texts = ((evil, *data.texts[0][1:]), *data.texts[1:])
    data = replace(data, scores=[(score, 0, np.array([1, -1], np.float32))], texts=texts)
    page = Page(report.render(data))
    assert page.open == []
    assert len(page.scripts) == 2
    assert score.source in page.text
    assert page.payload["texts"][page.payload["scores"][0]["text"]][0] == evil


def test_scores_of_another_tokenizer_are_told(tmp_path: Path) -> None:
    lines = "".join(f'    1 where token(i) == " w{n}"\n' for n in range(8))
    (tmp_path / "v.attn").write_text(f"score Words:\n{lines}")
    program = parse('use "v.attn"\nhead a causal:\n 1 * Words(k)', resolve=in_folder(tmp_path))
    own, others = (Tokens.from_strings([f"{mark}w{n}" for n in range(4)]) for mark in (" ", "@@"))
    assert foreign(program.tree, [own]) is None
    told = foreign(program.tree, [others])
    assert told is not None and "v.attn names 8 tokens, and 0 of them occur" in told


def test_held_out_rows_decide_how_many_scores_and_predicates_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, head = np.random.default_rng(0), parse('head a causal:\n 3 where token(k) in {" b", " c"}')
    texts = [Tokens.from_strings([f" {x}" for x in rng.choice([*"abcdefgh"], 24)]) for _ in range(40)]
    noisy = [head(text) * rng.lognormal(0, 0.7, (24, 24)) for text in texts]
    rows = [(x / x.sum(1, keepdims=True)).astype(np.float32)[None, None] for x in noisy]
    capture, counts = Capture.from_arrays(texts, rows, causal=True), []
    for needed in (-1.0, 1e-3):  # everything; what held-out rows need
        monkeypatch.setattr(dictionary, "NEEDED", needed)
        out = tmp_path / str(needed)
        fit(capture=capture, out=out, proposers=["scores"], max_nodes=20, max_evals=20, jobs=1)
        scores = shared_scores(Run.open(out)).values()
        counts.append((len(scores), sum(len(x.definition.terms) for x in scores)))
    (every, elements), (some, fewer) = counts
    assert 1 <= some <= every
    assert fewer < 0.9 * elements


def test_names_say_what_tells_scores_apart() -> None:
    one, comma, other = (
        parse_definitions(f"score S:\n 1 where {x}").scores["S"].terms[0].condition
        for x in ('token(i) == "."', 'token(i) == ","', "digit(i)")
    )
    taken = {"At_period": (one, comma)}
    assert _name([one, comma, other], taken) == "At_period_or_digit"
    assert _name([one, comma], taken) == "At_period_or_comma"
    assert _name([one], taken) == "At_period_2"

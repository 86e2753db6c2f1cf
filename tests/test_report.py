"""The report: one HTML file that holds every head, decodes back, and survives hostile strings."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from attn_dsl.eval import report
from attn_dsl.eval.report import Example, FrontRow, HeadReport, ReportData

HOSTILE = ("</script>", "<b>", '"', "'", "<!--", "&lt;", "\u2028", "{{ 1 }}", "\x00", "\ud800", "")
WORDS = (
    "The| cat| sat| on| the| mat|.| It| was| a| warm| day|,| and| the| other| cat| who| lived|"
    " next| door| came| by|.|\n|“|Where| have| you| been|?|”| asked| Sam|uel|.| The| cat| did| not|"
    " say|;| it| had| un|usual|ly| good| manners|."
).split("|")
CONTROLS = ("uniform", "first token", "previous token", "mean by offset", "positional grid")
KINDS: dict[str, str] = {
    "previous token": "{a} where k == q-1\n    {b} where k == 0\n    -{c} * log(1 + q - k)",
    "induction": "{a} where text(k-1) == text(q)\n    {b} where k == 0\n"
    "    {c} where match(k-1, q) in 2..8\n    -0.4 * log(1 + q - k)",
    "first token": "{a} where k == 0\n    {b} where punct(k)",
    "delimiter": "{a} where text(k) in Stop and not punct(q)\n    {b} where k == 0\n"
    "    by q - k [0: {c}, 1: 1.3, 4: -0.2] where word_start(k)",
    "duplicate token": '{a} where text(k) == text(q)\n    {b} where ends(word(k), "ing")\n'
    "    {c} * decay(q - k, 0.85)",
    "uniform": "",
}


def attention(rng: np.random.Generator, n: int, causal: bool, kind: str) -> npt.NDArray[np.float32]:
    """Row-stochastic matrices with a sink, a diagonal and some noise."""
    q, k = np.indices((n, n))
    logits = rng.gumbel(size=(n, n)) * 0.7 + 3.0 * (k == 0) - 0.04 * abs(q - k)
    logits += {"previous token": 5.0 * (k == q - 1), "first token": 4.0 * (k == 0)}.get(kind, 0.0)
    if kind in ("induction", "duplicate token"):
        logits += 4.5 * ((q - k) % 11 == 3)
    if kind == "delimiter":
        logits += 4.0 * np.isin(k, (6, 12, 22, 28, 34))
    logits = np.where((k <= q) | (not causal), logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    stochastic: npt.NDArray[np.float32] = weights / weights.sum(axis=1, keepdims=True)
    return stochastic.astype(np.float32)


def sample_head(
    rng: np.random.Generator, layer: int, head: int, n: int, causal: bool, tokens: tuple[str, ...]
) -> HeadReport:
    """A head with a program of some kind, its front, its controls and three texts."""
    kind = str(rng.choice(list(KINDS)))
    a, b, c = (f"{x:.2f}" for x in rng.uniform(0.5, 6, 3))
    visible = "causal" if causal else "bidirectional"
    stops = 'set Stop = {"!", ".", "?"}\n\n' if kind == "delimiter" else ""
    body = KINDS[kind].format(a=a, b=b, c=c)
    source = f"{stops}head l{layer}h{head} {visible} softmax:\n" + (f"    {body}\n" if body else "")
    nodes = int(rng.integers(8, 40)) if body else 1
    iou = float(np.clip(0.45 + 0.012 * nodes + rng.normal(0, 0.13), 0.15, 0.97))
    front = tuple(
        FrontRow(size, iou * (1 - 0.5 / (1 + i)) + 0.01, iou * (1 - 0.5 / (1 + i)), source, i == 3)
        for i, size in enumerate(sorted({1, 4, 7, nodes, nodes + 9}))
    )
    examples = []
    for text in range(3):
        real = attention(rng, n, causal, kind)
        mixed = (real + attention(rng, n, causal, kind)) / np.float32(2)
        shifted = (tokens * 3)[5 * text : 5 * text + n]
        examples.append(Example(shifted, real, mixed, float(rng.uniform(0.4, 0.9))))
    controls = {x: float(iou * rng.uniform(0.3, 0.8 + 0.06 * i)) for i, x in enumerate(CONTROLS)}
    return HeadReport(
        *(layer, head, source, nodes, iou + 0.02, iou + 0.01, iou, iou - 0.03, iou + 0.03),
        *(iou * 0.85, 1 - iou, 0.5 + iou / 2, kind, 4.2 + head),
        lookahead=("closed",) if (layer, head) == (1, 2) else (),
        controls=controls,
        front=front,
        examples=tuple(examples),
    )


def sample(
    layers: int = 2, heads: int = 3, n: int = 12, causal: bool = True, words: Any = WORDS
) -> ReportData:
    """A report of random heads that looks like a real one."""
    rng = np.random.default_rng(7)
    tokens = tuple(words) * (n // len(words) + 1)
    return ReportData(
        title="Attention heads of gpt2 as programs",
        model="openai-community/gpt2",
        created="2026-02-11 14:05 UTC",
        settings={"seed": 0, "max_nodes": 60, "proposers": ["grid", "library", "search"]},
        texts={"fit": 360, "select": 120, "test": 120},
        tokens_per_text=n - 0.8,
        causal=causal,
        heads=tuple(
            sample_head(rng, layer, head, n, causal, tokens)
            for layer in range(layers)
            for head in range(heads)
        ),
        notes=("The search of 3 heads was cut short by --timeout.",),
        mean_interval=(0.67, 0.7),
    )


class Page(HTMLParser):
    """What a browser would see: elements in balance, their attributes, the text of scripts."""

    VOID = ("meta", "br", "input", "wbr", "link", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def ids(self) -> list[str | None]:
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]

    @property
    def payload(self) -> dict[str, Any]:
        payload: dict[str, Any] = json.loads(self.scripts[0])
        return payload


def unpack(text: str, n: int, causal: bool) -> npt.NDArray[np.float64]:
    """Read weights as the page's script does."""
    out = np.zeros((n, n))
    weights = (np.frombuffer(base64.b64decode(text), np.uint8) / 255) ** 2
    out[np.tril(np.ones((n, n), bool)) if causal else np.ones((n, n), bool)] = weights
    return out


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample()


@pytest.fixture(scope="module")
def page(data: ReportData) -> Page:
    return Page(report.render(data))


def test_html_is_balanced_and_ids_are_unique(page: Page) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_loaded_from_elsewhere(data: ReportData) -> None:
    html = report.render(data)
    assert re.findall(r"https?:|\bfile:|@import|url\(|\bimport\(|fetch\(", html) == []
    for tag, attrs in Page(html).elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
        assert "src" not in attrs
        assert (attrs.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)


def test_only_the_page_s_own_script_may_run(page: Page) -> None:
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    script = (report.TEMPLATES / "report.js").read_text(encoding="utf-8")
    assert page.scripts[1:] == [script]
    assert "script-src 'sha256-" in policy


def test_all_heads_are_in_map_table_and_sections(data: ReportData, page: Page) -> None:
    for head in data.heads:
        assert page.ids.count(head.name) == 1
        links = [a for tag, a in page.elements if tag == "a" and a.get("href") == f"#{head.name}"]
        assert len(links) >= 3
        assert report.decimal(head.iou_test) in page.text
        assert head.program in page.text
    assert [row["id"] for row in page.payload["heads"]] == [head.name for head in data.heads]


def test_summary_names_sample_sizes_interval_and_best_control(page: Page) -> None:
    text = " ".join(page.text.split())
    assert re.search(r"mean IoU of 0\.\d{3} \[0\.670, 0\.700\] over 6 heads", text)
    assert "120 test texts of 11.2 tokens" in text
    assert re.search(r"the best control, (positional grid|mean by offset), gets 0\.\d{3}", text)
    assert "cut short by --timeout" in text
    assert "lookahead: closed" in text


@pytest.mark.parametrize("causal", [True, False])
def test_matrices_read_back_within_a_level(causal: bool) -> None:
    data = sample(causal=causal)
    payload = Page(report.render(data)).payload
    assert payload["causal"] is causal
    for head, row in zip(data.heads, payload["heads"], strict=True):
        assert len(row["examples"]) == 3
        for example, packed in zip(head.examples, row["examples"], strict=True):
            assert tuple(payload["texts"][packed["text"]]) == example.tokens
            for name, matrix in (("head", example.attention), ("program", example.program)):
                back = unpack(packed[name], packed["n"], causal)
                np.testing.assert_allclose(back, matrix, atol=1 / 255)


def test_packing_keeps_the_visible_entries_in_order() -> None:
    matrix = np.array([[1.0, 0.9], [0.25, 0.75]], dtype=np.float32)
    assert list(base64.b64decode(report.pack(matrix, causal=True))) == [255, 128, 221]
    assert list(base64.b64decode(report.pack(matrix, causal=False))) == [255, 242, 128, 221]


def test_heads_without_a_program_and_cut_short_are_listed() -> None:
    from dataclasses import replace

    usual = sample()
    heads = tuple(replace(head, cut_short=head.layer == 1) for head in usual.heads)
    page = Page(report.render(replace(usual, heads=heads, missing=((2, 0), (2, 2)))))
    assert "2 heads were not reached and have no program: L2H0, L2H2" in page.text
    assert "--resume" in page.text
    assert "The search of 3 heads was cut short" in page.text
    assert "L1H0, L1H1, L1H2" in page.text
    marked = [a for _, a in page.elements if a.get("class") == "missing"]
    assert [a["title"] for a in marked] == ["L2H0 was not reached", "L2H2 was not reached"]
    assert page.text.count("cut short") == 1 + 3 + len(usual.notes)
    many = tuple((layer, head) for layer in range(3, 9) for head in range(8))
    page = Page(report.render(replace(usual, missing=many)))
    assert "L3H0, L3H1, L3H2 and 45 others" in page.text
    assert "L8H7" in page.text


def test_the_plot_of_replacement_is_shown(data: ReportData, page: Page) -> None:
    from dataclasses import replace

    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg"><style>text{fill:red}'
        "@media(x){text,.a{fill:blue}}</style><text>perplexity</text></svg>"
    )
    html = report.render(replace(data, replacement=svg))
    assert "In the model" in html
    assert "In the model" not in page.text
    assert "<svg><style>.replacement text{fill:red}" in html
    assert "@media(x){.replacement text,.replacement .a{fill:blue}}" in html
    assert "https:" not in html
    assert "http:" not in html
    assert Page(html).open == []


def test_the_report_of_a_run_lists_what_is_missing_and_shows_its_replacement(
    small_run: Path, small_capture: Path, tmp_path: Path
) -> None:
    from attn_dsl.eval.metrics import Estimate
    from attn_dsl.eval.replace.outcome import Outcome
    from attn_dsl.eval.replace.plot import draw
    from attn_dsl.eval.run import Run
    from attn_dsl.synth.runs.reporting import write_run_report

    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    whole = write_run_report(Run.open(run), small_capture).read_text(encoding="utf-8")
    assert "not reached" not in whole
    assert "In the model" not in whole
    for file in run.glob("state/**/L01H01.json"):
        file.unlink()
    (run / "state" / "L00H02.json").unlink()  # its first round is there
    (run / "replacement").mkdir()
    outcome = Outcome({}, Estimate(3.0, 2.9, 3.1, 5), 100, ())
    (run / "replacement" / "curve.svg").write_text(draw(outcome))
    page = Page(write_run_report(Run.open(run), small_capture).read_text(encoding="utf-8"))
    assert "1 head was not reached and has no program: L1H1" in page.text
    assert "The search of 1 head was cut short" in page.text
    assert "L0H2" in page.text
    assert "Growth of perplexity with heads replaced" in page.text


def test_hostile_strings_stay_text() -> None:
    data = sample(words=HOSTILE, n=len(HOSTILE))
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\'&amp;'
    source = f'head a causal softmax:\n    2 where text(k) == "{evil}"  # {evil}\n'
    head = replace(
        data.heads[0],
        program=source,
        category=evil,
        controls={evil: 0.99},
        lookahead=(evil,),
        front=(FrontRow(3, 0.5, 0.5, source, True), FrontRow(5, 0.6, 0.6, source)),
    )
    data = replace(data, heads=(head, *data.heads[1:]), title=evil, model=evil, created=evil)
    data = replace(data, notes=(evil,), settings={evil: [evil]})
    page = Page(report.render(data))
    assert page.open == []
    assert len(page.scripts) == 2
    assert not any(tag == "img" or "onerror" in attrs for tag, attrs in page.elements)
    assert page.text.count(evil) >= 8
    assert source in page.text
    texts = page.payload["texts"]
    assert all(set(tokens) <= set(HOSTILE) for tokens in texts)
    assert "<" not in page.scripts[0]


def test_hostile_tokens_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.write_report(sample(words=HOSTILE, n=len(HOSTILE)), path)
    assert Page(path.read_text(encoding="utf-8")).open == []


def test_writing_replaces_the_file_whole(tmp_path: Path, data: ReportData) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(AttributeError):
        report.write_report(replace(data, heads=(None,)), path)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    report.write_report(data, path)
    assert path.read_text(encoding="utf-8") == report.render(data)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("n", "causal"), [(48, True), (64, False)])
def test_size_of_a_report_of_144_heads(n: int, causal: bool) -> None:
    data = sample(12, 12, n, causal)
    html = report.render(data)
    assert len(html.encode()) < 5_000_000
    examples = [example for row in Page(html).payload["heads"] for example in row["examples"]]
    assert {example["n"] for example in examples} == {48 if causal else 50}


def test_missing_figures_and_parts_are_dashes() -> None:
    nan = math.nan
    bare = HeadReport(
        *(3, 1, "head a causal softmax:\n", 1, nan, nan, nan, nan, nan, nan, nan, nan, "", 0.0)
    )
    data = ReportData("t", "m", "now", {}, {}, 0.0, True, (bare,))
    page = Page(report.render(data))
    assert page.open == []
    assert page.payload["heads"][0]["iou"] is None
    assert "no terms: uniform" in page.text
    assert "nan" not in page.text
    empty = Page(report.render(replace(data, heads=())))
    assert "finished no head" in empty.text


def test_an_example_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 tokens need matrices of shape \(3, 3\)"):
        Example(("a", "b", "c"), np.eye(3, dtype="f4"), np.eye(2, dtype="f4"), 1.0)


def test_terms_on_one_line() -> None:
    source = (
        'set Stop = {"."}\n\n# remark\nhead a causal softmax:\n    # note\n    2 where k == 0\n'
    )
    assert report.terms_line(source) == "2 where k == 0"
    assert report.terms_line(source, limit=8) == "2 where…"


def test_highlighting_marks_words_and_leaves_the_text() -> None:
    source = '-0.8 * log(1 + q - k) where text(k) in Stop  # "x"\n'
    html = report.highlight(source)
    assert Page(str(html)).text == source
    assert '<b class="n">-0.8</b>' in html
    assert '<b class="f">log</b>' in html
    assert '<b class="c"># &#34;x&#34;</b>' in html


def test_numbers_are_written_for_people() -> None:
    assert report.decimal(0.71249) == "0.712"
    assert report.decimal(-0.02, 2, sign=True) == "\u22120.02"
    assert report.decimal(-0.0001, 2, sign=True) == "+0.00"
    assert report.decimal(math.inf) == "\u2013"


def test_budget_curve_takes_the_best_selected_within_the_budget() -> None:
    head = sample(1, 1).heads[0]
    a = replace(head, front=(FrontRow(2, 0.3, 0.2, "a"), FrontRow(6, 0.5, 0.6, "b")))
    b = replace(head, front=(FrontRow(4, 0.4, 0.4, "c"), FrontRow(5, 0.3, 0.9, "d")))
    curve = report.budget_curve([a, b])
    assert [nodes for nodes, _ in curve] == [4, 5, 6]
    assert [iou for _, iou in curve] == pytest.approx([0.3, 0.3, 0.5])


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_parses() -> None:
    command = ["node", "--check", str(report.TEMPLATES / "report.js")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0

"""The report: one HTML file that holds every head, decodes back, and survives hostile strings."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import Page

from attn_dsl.compiler.evaluate import pack
from attn_dsl.eval import report, report_text
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.files import sealed
from attn_dsl.eval.metrics import Estimate
from attn_dsl.eval.report import Example, ReportData
from attn_dsl.eval.results import FrontRow, HeadResult
from attn_dsl.eval.run import Run
from attn_dsl.eval.score_matrix import METRICS

HOSTILE = ("</script>", "<b>", '"', "'", "<!--", "&lt;", "\u2028", "{{ 1 }}", "\x00", "\ud800", "")
NAN = Estimate(math.nan, math.nan, math.nan, 0)


@pytest.fixture(scope="module")
def data(small_run: Path, small_capture: Path) -> ReportData:
    return report.report_data(Run.open(small_run), Capture.open(small_capture))


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return report.render(data)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def changed(data: ReportData, **changes: Any) -> ReportData:
    """The report with something else in the result of every head."""
    return with_results(data, [replace(r, **changes) for r in data.results])


def with_results(data: ReportData, results: Sequence[HeadResult]) -> ReportData:
    """The report with other results of its heads, or with more heads."""
    pages = (replace(data.pages[i % len(data.pages)], result=r) for i, r in enumerate(results))
    return replace(data, pages=tuple(pages))


def with_random_text(data: ReportData, n: int, causal: bool) -> ReportData:
    """The report with one text of n tokens, and random attention of heads and programs on it."""
    draw, pages = np.random.default_rng(n), []
    for page in data.pages:
        weights = draw.random((1 + len(page.programs), n, n), dtype=np.float32) ** 4
        weights = np.tril(weights) if causal else weights
        levels = report.levels(pack(weights / weights.sum(-1, keepdims=True), causal))
        example = Example(0, n, (0.5,) * len(page.programs), levels, draw.random(n))
        pages.append(replace(page, examples=(example,)))
    info = {**data.info, "causal": causal}
    return replace(data, texts=(tuple(map(str, range(n))),), pages=tuple(pages), info=info, scores=())


def inflated(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def detail(row: dict[str, Any]) -> dict[str, Any]:
    """What the page of a head shows."""
    found: dict[str, Any] = json.loads(inflated(row["detail"]))
    return found


def maps(row: dict[str, Any], causal: bool) -> list[npt.NDArray[np.uint8]]:
    """The levels of a head and its programs on each of its texts, as the script reads them."""
    data, found = np.frombuffer(inflated(row["maps"]), np.uint8), []
    page = detail(row)
    for example in page["examples"]:
        n, count = example["n"], 1 + len(page["front"])
        entries = n * (n + 1) // 2 if causal else n * n
        one, data = data[: count * entries].reshape(count, -1), data[count * entries :]
        found.append(np.vstack([one[:1], np.cumsum(one[1:], axis=0, dtype=np.uint8)]))
    assert not data.size
    return found


def test_html_is_balanced_and_needs_nothing_from_elsewhere(html: str, page: Page) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert re.findall(r"https?:|\bfile:|@import|url\(|\bimport\(|fetch\(", html) == []
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
        assert "src" not in attrs
        assert (attrs.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)


def test_only_the_page_s_own_script_may_run(page: Page) -> None:
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert page.scripts[1:] == [(report_text.TEMPLATES / "report.js").read_text(encoding="utf-8")]
    assert "script-src 'sha256-" in policy


def test_all_heads_are_in_the_map_and_have_a_page(data: ReportData, page: Page) -> None:
    links = [a["data-id"] for tag, a in page.elements if tag == "a" and "data-id" in a]
    assert links == [r.name for r in data.results] == [row["id"] for row in page.payload["heads"]]
    for r, row in zip(data.results, page.payload["heads"], strict=True):
        assert row["program"] == r.program
        front = detail(row)["front"]
        assert [one["program"] for one in front if one["chosen"]] == [r.program]
        assert {one["program"] for one in front} == {one.program for one in r.front}
        assert [one["nodes"] for one in front] == sorted(one.nodes for one in r.front)
        assert all(one["told"] for one in front)


def test_each_term_has_its_line_and_worth(data: ReportData, page: Page) -> None:
    for r, row in zip(data.results, page.payload["heads"], strict=True):
        terms = detail(row)["terms"]
        assert [share for _, _, share, *_ in terms] == [round(one.share, 4) for one in r.terms]
        lines = [line for line in r.program.split("\nhead ")[-1].split("\n")[1:] if line]
        for (line, told, *_), one in zip(terms, r.terms, strict=True):
            assert told
            assert one.source.lstrip("-")[:3] in lines[line]


def test_summary_names_sample_sizes_interval_and_best_control(data: ReportData, page: Page) -> None:
    text = " ".join(page.text.split())
    number = r"0\.\d{3}"
    assert re.search(rf"mean IoU of {number} \[{number}, {number}\] over 6 heads", text)
    assert f"{data.info['texts']['test']} test texts of" in text
    assert re.search(rf"the best control, [a-z ]+, gets {number}", text)
    assert "look ahead" not in text
    marked = Page(report.render(changed(data, lookahead=("closed",))))
    assert "Programs that look ahead: L0H0, L0H1" in marked.text
    assert marked.payload["heads"][0]["ahead"] == ["closed"]


@pytest.mark.parametrize("causal", [True, False])
def test_matrices_read_back(data: ReportData, causal: bool) -> None:
    shown = with_random_text(data, 7, causal)
    payload = Page(report.render(shown)).payload
    assert payload["causal"] is causal
    for page, row in zip(shown.pages, payload["heads"], strict=True):
        (levels,) = maps(row, causal)
        np.testing.assert_array_equal(levels, page.examples[0].levels)
    weights = np.linspace(0, 1, 50)
    np.testing.assert_allclose((report.levels(weights) / 255) ** 2, weights, atol=1 / 255)


def test_examples_are_what_head_and_programs_do_where_they_fit_best_and_worst(
    data: ReportData, page: Page, small_run: Path, small_capture: Path
) -> None:
    run, capture = Run.open(small_run), Capture.open(small_capture)
    texts = {capture.tokens(i).strings: i for i in capture.split(0)["test"]}
    for own, row in zip(data.pages, page.payload["heads"], strict=True):
        r, (best, worst) = own.result, own.examples
        chosen = next(i for i, one in enumerate(own.front) if one.chosen)
        fits = []
        for strings in data.texts:
            n = min(len(strings), report.TOKENS[1])
            actual, predicted = (
                pack(matrix[:n, :n], True)
                for matrix in (
                    capture.matrix(texts[strings], r.layer, r.head),
                    run.program(r.layer, r.head)(capture.tokens(texts[strings])),
                )
            )
            fits.append(np.minimum(actual, predicted).sum() / np.maximum(actual, predicted).sum())
            for levels, one in zip(maps(row, True), own.examples, strict=True):
                if data.texts[one.text] == strings:
                    np.testing.assert_allclose((levels[0] / 255) ** 2, actual, atol=1 / 255)
                    np.testing.assert_allclose((levels[chosen + 1] / 255) ** 2, predicted, atol=0.005)
        assert best.ious[chosen] == pytest.approx(max(fits), abs=1e-4)
        assert worst.ious[chosen] == pytest.approx(min(fits), abs=1e-4)
        number = r.layer * capture.heads_per_layer + r.head
        norms = np.linalg.norm(capture.contributions(texts[data.texts[best.text]], number), axis=1)
        assert detail(row)["examples"][0]["norms"] == pytest.approx(9999 * norms / max(norms), abs=1)


def test_heads_without_a_program_and_cut_short_are_listed(data: ReportData) -> None:
    results = [replace(r, cut_short=r.name in ("L0H1", "L0H2", "L1H0")) for r in data.results]
    page = Page(report.render(replace(with_results(data, results), missing=("L2H0", "L2H2"))))
    assert "2 heads were not reached and have no program: L2H0, L2H2" in page.text
    assert "--resume" in page.text
    assert "The search of 3 heads was cut short" in page.text
    assert "L0H1, L0H2, L1H0" in page.text
    marked = [a for _, a in page.elements if a.get("class") == "missing"]
    assert [a["title"] for a in marked] == ["L2H0 was not reached", "L2H2 was not reached"]
    assert sum(row["cut"] for row in page.payload["heads"]) == 3
    many = tuple(f"L{layer}H{head}" for layer in range(3, 9) for head in range(8))
    page = Page(report.render(replace(data, missing=many)))
    assert "L3H0, L3H1, L3H2 and 45 others" in page.text
    assert "L8H7" in page.text


def test_the_plot_of_replacement_is_shown(data: ReportData, html: str) -> None:
    shown = Page(report.render(replace(data, replacement="<svg><text>perplexity</text></svg>")))
    assert shown.open == []
    assert "In the model" in shown.text
    assert "In the model" not in html
    assert plots(shown) == ["<svg><text>perplexity</text></svg>"]


def plots(page: Page) -> list[str]:
    """The plots that a page holds as images."""
    images = [a["src"] or "" for tag, a in page.elements if tag == "img"]
    assert all(src.startswith("data:image/svg+xml;base64,") for src in images)
    return [base64.b64decode(src.split(",")[1]).decode() for src in images]


def test_the_report_of_a_run_lists_what_is_missing_and_shows_its_replacement(
    small_run: Path, small_capture: Path, tmp_path: Path
) -> None:
    from attn_dsl.eval.replace.curve import draw
    from attn_dsl.eval.replace.measure import Outcome
    from attn_dsl.eval.run import Run

    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    whole = report.write_run_report(Run.open(run), small_capture).read_text(encoding="utf-8")
    assert "not reached" not in whole
    assert "In the model" not in whole
    for file in run.glob("state/L01H01.json"):
        file.unlink()
    short = run / "state" / "L00H02.json"
    short.write_text(json.dumps(sealed({**json.loads(short.read_text()), "cut_short": True})))
    (run / "replacement").mkdir()
    outcome = Outcome({}, Estimate(3.0, 2.9, 3.1, 5), 100, ())
    (run / "replacement" / "curve.svg").write_text(draw(outcome))
    page = Page(report.write_run_report(Run.open(run), small_capture).read_text(encoding="utf-8"))
    assert "1 head was not reached and has no program: L1H1" in page.text
    assert "The search of 1 head was cut short" in page.text
    assert "L0H2" in page.text
    (plot,) = plots(page)
    assert "Growth of perplexity with heads replaced" in plot


def test_hostile_strings_stay_text(data: ReportData, tmp_path: Path) -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\'&amp;'
    source = f'head a causal softmax:\n    2 where text(k) == "{evil}"  # {evil}\n'
    fronts = ((r, tuple(replace(row, program=source) for row in r.front)) for r in data.results)
    strange = with_results(data, [replace(r, front=front) for r, front in fronts])
    strange = changed(strange, program=source, category=evil, controls={evil: 0.99}, lookahead=(evil,))
    info = {**data.info, "model": evil, "created": evil, "key": {evil: [evil]}}
    entry = dict.fromkeys(("from", "heads", "nodes", "iou_test", "program"), evil)
    strange = replace(strange, info=info, library=[entry])
    strange = replace(with_random_text(strange, len(HOSTILE), True), texts=(HOSTILE,))
    path = tmp_path / "report.html"
    report.write(path, report.render(strange))
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert len(page.scripts) == 2
    assert not any(tag == "img" or "onerror" in attrs for tag, attrs in page.elements)
    assert page.text.count(evil) >= 8
    assert page.payload["heads"][0]["program"] == source
    assert list(HOSTILE) in page.payload["texts"]
    assert "<" not in page.scripts[0]


@pytest.mark.parametrize(("heads", "megabytes"), [(270, 5), (1024, 20)])
def test_size_of_a_report(data: ReportData, heads: int, megabytes: int) -> None:
    """With fronts of 14 programs, random matrices, which compress badly, on as many tokens as fit."""
    page = data.pages[0]
    rows = [(replace(row, chosen=i == 13), page.programs[0]) for i, row in enumerate(page.front[:1] * 14)]
    result = replace(page.result, front=tuple(row for row, _ in rows), terms=())
    n = report.shown_tokens([result] * heads, True)
    assert report.TOKENS[0] <= n < report.TOKENS[1]
    page = replace(page, result=result, programs=tuple(program for _, program in rows))
    shown = with_random_text(replace(data, pages=(page,)), n, True).pages[0]
    shown = replace(shown, examples=shown.examples * 2)
    pages = (replace(shown, result=replace(result, layer=i // 32, head=i % 32)) for i in range(heads))
    assert len(report.render(replace(data, pages=tuple(pages))).encode()) < 1e6 * megabytes


def test_missing_figures_and_parts_are_dashes(data: ReportData) -> None:
    one = replace(data, pages=(replace(data.pages[0], programs=()),))
    bare = changed(
        one, program="head a causal softmax:\n", iou_fit=math.nan, iou_select=math.nan,
        test=dict.fromkeys((*METRICS, "output_r2"), NAN), category="", controls={}, front=(),
    )  # fmt: skip
    summary = replace(data.summary, iou=NAN, output_r2=NAN, output_r2_median=math.nan)
    page = Page(report.render(replace(bare, summary=summary)))
    assert page.open == []
    assert page.payload["heads"][0]["iou"] == [None] * 3
    assert "nan" not in page.text


def test_output_r2_stands_beside_iou(data: ReportData, page: Page) -> None:
    text = " ".join(page.text.split())
    assert f"is {data.summary.output_r2.with_interval} in the mean and" in text
    for r, row in zip(data.results, page.payload["heads"], strict=True):
        r2, (control, best) = r.test["output_r2"], r.best_output_control
        assert row["r2"] == pytest.approx([r2.mean, r2.low, r2.high], abs=1e-4)
        assert row["output"] == [control, pytest.approx(best, abs=1e-4)]
        front = sorted(r.front, key=lambda one: one.nodes)
        found = [one["r2"][1] for one in detail(row)["front"]]
        assert found == pytest.approx([one.output_r2_test for one in front], abs=1e-4)


def test_outputs_far_below_zero_are_short_and_averaged_by_the_median(data: ReportData) -> None:
    low = Estimate(-13_000.0, -20_000.0, -9_000.0, 5)
    test = {**data.results[0].test, "output_r2": low}
    results = [replace(data.results[0], test=test, controls_output_r2={"uniform": -6_000.0})]
    results += [replace(r, controls_output_r2={"uniform": 0.25}) for r in data.results[1:]]
    page = Page(report.render(with_results(data, results)))
    assert page.payload["heads"][0]["r2"] == [-13_000.0, -20_000.0, -9_000.0]
    assert not re.search(r"[-−]\d{3,}", page.text.split("How this was measured")[0])
    assert report.overview(results)["output_bars"][1][:2] == ("uniform", 0.25)
    assert report.overview([results[0]])["explained"] == 0


def test_a_run_without_values_says_so_once_and_shows_no_output_r2(data: ReportData) -> None:
    bare = [replace(r, test={**r.test, "output_r2": NAN}, controls_output_r2={}) for r in data.results]
    page = Page(report.render(replace(with_results(data, bare), lacking="it has no values; do this")))
    shown = page.text.split("How this was measured")[0]
    assert "Output R² is not known: it has no values; do this." in shown
    assert shown.lower().count("output r²") == 1
    assert not any(a.get("data-view") == "r2" for _, a in page.elements)
    assert all(row["r2"] == [None] * 3 for row in page.payload["heads"])
    assert report.overview(bare)["explained"] == 0
    assert page.open == []


def test_runs_from_before_output_r2_was_measured_still_render(
    small_run: Path, small_capture: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    info = json.loads((run / "run.json").read_text())
    del info["lacking"]
    (run / "run.json").write_text(json.dumps(sealed(info)))
    for file in run.glob("state/L*.json"):
        old = json.loads(file.read_text())
        for name in ("test_errors", "test_spreads", "controls_output_r2"):
            del old[name]
        del old["test"]["output_r2"]
        for row in old["front"]:
            del row["output_r2_select"], row["output_r2_test"], row["score"]
        file.write_text(json.dumps(sealed(old)))
    page = Page(report.write_run_report(Run.open(run), small_capture).read_text(encoding="utf-8"))
    assert page.open == []
    assert "Output R² is not known: this run was made before it was measured" in page.text


def test_terms_on_one_line() -> None:
    source = 'set Stop = {"."}\n\n# remark\nhead a causal softmax:\n    # note\n    2 where k == 0\n'
    assert report_text.terms_line(source) == "2 where k == 0"
    assert report_text.terms_line(source, limit=8) == "2 where…"


def test_highlighting_marks_words_and_leaves_the_text() -> None:
    source = '-0.8 * log(1 + q - k) where text(k) in Stop  # "x"\n'
    html = report_text.highlight(source)
    assert Page(str(html)).text == source
    assert '<b class="n">-0.8</b>' in html
    assert '<b class="f">log</b>' in html
    assert '<b class="c"># &#34;x&#34;</b>' in html


def test_budget_curve_takes_the_best_selected_within_the_budget() -> None:
    def row(nodes: int, select: float, test: float) -> FrontRow:
        return FrontRow(nodes, select, select, test, math.nan, math.nan, select, 0.0, False, "", "")

    curve = report.budget_curve([[row(2, 0.3, 0.2), row(6, 0.5, 0.6)], [row(4, 0.4, 0.4), row(5, 0.3, 0.9)]])
    assert [nodes for nodes, _ in curve] == [4, 5, 6]
    assert [iou for _, iou in curve] == pytest.approx([0.3, 0.3, 0.5])

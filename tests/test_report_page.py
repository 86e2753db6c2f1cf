"""The report as people use it: in a browser, and its script in node."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Page

from attn_dsl.eval import report, report_text
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.report import ReportData
from attn_dsl.eval.run import Run

HEADS = 1_000
ROWS = 45
"""The rows of a window 1,000 pixels high, and a few before and after."""


@pytest.fixture(scope="module")
def data(small_run: Path, small_capture: Path) -> ReportData:
    return report.report_data(Run.open(small_run), Capture.open(small_capture))


@pytest.fixture(scope="module")
def file(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report.render(data), encoding="utf-8")
    return path


@pytest.fixture
def browser(browser: Any, wrong: list[str]) -> Any:
    """A page of a browser, which may ask for nothing."""
    browser.on("request", lambda r: wrong.append(r.url) if r.url.startswith("http") else None)
    return browser


def test_a_head_is_found_chosen_and_read(browser: Any, file: Path, data: ReportData) -> None:
    at = max(range(len(data.pages) - 1), key=lambda i: len(data.pages[i].front))
    page, following = data.pages[at : at + 2]
    name = page.result.name
    browser.goto(file.as_uri())
    assert browser.locator("#heads tbody tr[data-id]").count() == len(data.pages)
    browser.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    browser.keyboard.press("/")
    browser.keyboard.type(name.lower())
    assert browser.inner_text("#count") == f"1 of {len(data.pages)}"
    assert browser.locator("#map a.off").count() == len(data.pages) - 1
    browser.fill("#filter", "iou>2")
    assert browser.locator("#heads tbody tr[data-id]").count() == 0
    browser.fill("#filter", "")
    browser.click("#heads th button:text-is('IoU')")
    ious = [float(cell) for cell in browser.locator("#heads tbody td:nth-child(4)").all_inner_texts()]
    assert ious == sorted(ious, reverse=True) and len(ious) == len(data.pages)
    browser.click("#heads th button:text-is('head')")
    browser.click("#views button[data-view=category]")
    assert browser.locator("#map a").first.inner_text() == data.results[0].category
    browser.click(f"#heads tr[data-id={name}] td.terms")
    browser.wait_for_selector(f"#page h2:text-is('{name}')")
    assert browser.locator("#page .frontrows [aria-pressed]").count() == len(page.front)
    chosen = next(i for i, row in enumerate(page.front) if row.chosen)
    other = 1 if chosen == 0 else 0
    for at in (other, chosen):
        before = browser.evaluate("current.frames[1].canvas.toDataURL()")
        browser.locator("#page .frontrows [aria-pressed]").nth(at).click()
        assert f"of {page.front[at].nodes} nodes" in browser.inner_text("#page .bar h3")
        assert browser.inner_text("#page pre.program code >> nth=0").strip() in page.front[at].program
        assert browser.evaluate("current.frames[1].canvas.toDataURL()") != before
        told = browser.inner_text("#page .told")
        assert report_text.decimal(page.front[at].iou_test) in told
    browser.click("text=copy program")
    assert browser.evaluate("navigator.clipboard.readText()").strip() == page.result.program.strip()
    browser.keyboard.press("j")
    browser.wait_for_selector(f"#page h2:text-is('{following.result.name}')")


def test_a_link_opens_a_head_and_hovering_tells_both_weights(
    browser: Any, file: Path, data: ReportData
) -> None:
    name, row = data.pages[5].result.name, data.pages[5].front[0]
    browser.goto(f"{file.as_uri()}#{name}/{row.nodes}")
    browser.wait_for_selector(f"#page h2:text-is('{name}')")
    assert f"of {row.nodes} nodes" in browser.inner_text("#page .bar h3")
    assert browser.evaluate("scrollY") == 0
    canvas = browser.locator("#page canvas").first
    side = canvas.bounding_box()["height"]
    canvas.hover(position={"x": 2, "y": side - 2})
    seen = browser.inner_text(".readout")
    example = data.pages[5].examples[0]
    head, program = ((example.levels[at][-example.n] / 255.0) ** 2 for at in (0, 1))
    assert f"query {example.n - 1}" in seen and "key 0" in seen
    assert re.search(rf"weight: head {head:.3f}\s*program {program:.3f}", seen), seen
    assert "share of output" in seen
    before = browser.evaluate("current.frames[0].canvas.toDataURL()")
    browser.click("text=share of output")
    assert browser.evaluate("current.frames[0].canvas.toDataURL()") != before
    browser.click("text=worst text")
    browser.locator(".frame").first.focus()
    browser.keyboard.press("ArrowDown")
    assert "query 1" in browser.inner_text(".readout")


@pytest.mark.parametrize("place", ["", "#L0H1"])
def test_nothing_is_cut_off_on_a_phone_and_dark_is_dark(browser: Any, file: Path, place: str) -> None:
    browser.set_viewport_size({"width": 390, "height": 844})
    browser.goto(file.as_uri() + place)
    browser.wait_for_selector("#page h2" if place else "#heads td")
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    colour = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(colour)
    browser.emulate_media(color_scheme="dark")
    assert browser.evaluate(colour) != light


def test_a_filter_of_1000_heads_draws_only_the_rows_in_sight(
    browser: Any, data: ReportData, tmp_path: Path
) -> None:
    pages = [
        replace(page, result=replace(page.result, layer=i // 25, head=i % 25))
        for i, page in enumerate(data.pages[i % len(data.pages)] for i in range(HEADS))
    ]
    file = tmp_path / "report.html"
    file.write_text(report.render(replace(data, pages=tuple(pages))), encoding="utf-8")
    browser.goto(file.as_uri())
    for text, count in (("l3", 25), ("l3h9", 1), ("nodes<0", 0), ("", HEADS)):
        browser.fill("#filter", text)
        assert browser.inner_text("#count") == (f"{count} of {HEADS}" if text else "")
        assert browser.locator("#heads tbody tr[data-id]").count() == min(count, ROWS)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_reads_what_the_report_holds(data: ReportData, tmp_path: Path) -> None:
    source = 'head a causal softmax:\n    2 * Low(k)  # "x"\n'
    own = 'score Low:\n    1 where text(i) == "a"\n\nscore High:\n    2 where capital(i)\n'
    used = f'use "vocabulary.attn"\n\n{source}'
    payload = Page(report.render(data)).payload
    payload["definitions"] = own.strip().split("\n\n")
    script = (report_text.TEMPLATES / "report.js").read_text(encoding="utf-8")
    logic = script.split("// --- the page ---")[0]
    (tmp_path / "test.js").write_text(f"""
const document = {{ getElementById: () => ({{ textContent: {json.dumps(json.dumps(payload))} }}) }};
{logic}
(async () => {{
  const pages = await Promise.all(data.heads.map(unpackPage));
  const count = (text) => data.heads.filter(matcher(text)).length;
  console.log(JSON.stringify({{
    maps: pages.map((page) => page.examples.map((one) => one.maps.map((map) => [...map]))),
    counts: ["", "l0", "L1 nodes>0", "l0h1", "iou<-1", "nodes>x"].map(count),
    whole: selfContained({{ program: {json.dumps(used)}, full: null }}),
    pieces: lexemes({json.dumps(source)}), line: terms({json.dumps(source)}),
    shares: [...shares(new Float32Array([1, 0, 0.5, 0.5]), [1, 3])],
    numbers: [number(null), number(-13000), number(-0.001), number(0.5, 1, true)],
  }}));
}})();
""")
    done = subprocess.run(["node", str(tmp_path / "test.js")], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for page, texts in zip(data.pages, found["maps"], strict=True):
        for example, maps in zip(page.examples, texts, strict=True):
            for levels, one in zip(example.levels, maps, strict=True):
                n = example.n
                seen = [one[q * n + k] for q in range(n) for k in range(q + 1)]
                assert seen == pytest.approx((levels / 255.0) ** 2, abs=1e-6)
    assert found["counts"] == [6, 4, 2, 1, 0, 0]
    assert found["whole"] == f"{own.split(chr(10) * 2)[0]}\n\n{source}"
    assert "".join(text for _, text in found["pieces"]) == source
    assert ["c", '# "x"'] in found["pieces"]
    assert found["line"] == '2 * Low(k)  # "x"'
    assert found["shares"] == [1, 0, 0.25, 0.75]
    assert found["numbers"] == ["–", "< −10", "0.00", "+0.5"]

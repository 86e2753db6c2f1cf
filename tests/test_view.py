"""`attn-dsl view`: what the server answers and refuses, and the live page in a browser."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import attn_dsl
from fitting import started

pytest.importorskip("starlette", reason="the extra `view` is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from starlette.testclient import TestClient

from attn_dsl.cli import view_server
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.run import Run

TOKEN, PORT = "secret", 8000
SINK = "head sink causal:\n    5 where k == 0\n"


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "run"))


@pytest.fixture
def client(run: Path, small_capture: Path) -> TestClient:
    live = view_server.LiveRun(Run.open(run), Capture.open(small_capture))
    app = view_server.application(live, "<p>the page</p>", TOKEN, PORT)
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}")


@pytest.fixture
def ask(client: TestClient) -> Callable[..., Any]:
    def post(name: str, status: int = 200, **fields: str) -> Any:
        answer = client.post(f"/{TOKEN}/api/{name}", json=fields)
        assert answer.status_code == status, answer.text
        return answer.json() if status == 200 else answer.json()["error"]

    return post


def test_only_who_knows_the_token_and_comes_from_the_page_is_answered(client: TestClient) -> None:
    page, url = f"/{TOKEN}/", f"/{TOKEN}/api/program"
    assert "the page" in client.get(page).text
    for path in ("/", "/other/", "/api/program", "/secre/", "/secré/"):
        assert client.get(path).status_code == 403
    for wrong in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"host": "evil.example:8000"},
    ):
        assert client.get(page, headers=wrong).status_code == 403
        assert client.post(url, json={}, headers=wrong).status_code == 403
    own = {"origin": f"http://127.0.0.1:{PORT}"}
    assert client.post(url, json={}, headers=own).status_code == 400
    half = r'{"head": "\ud800", "source": "", "text": ""}'
    for body in ("{", "[]", '{"head": 1, "source": "", "text": ""}', half, "[" * 100_000):
        assert "head, source, text" in client.post(url, content=body).json()["error"]
    assert "one of text" in client.post(f"/{TOKEN}/api/loaded", json={}).json()["error"]


@pytest.mark.parametrize("target", ["*", "evil.example:80"])
def test_a_request_that_names_no_path_is_refused(client: TestClient, target: str) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "OPTIONS", "path": target, "headers": []}
    asyncio.run(client.app(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 403


def test_a_program_is_run_on_a_sentence_and_scored_on_the_sample(
    ask: Callable[..., Any], run: Path, small_capture: Path
) -> None:
    own = Run.open(run)["L0H1"].result
    found = ask("program", head="L0H1", source=own.program, text="")
    assert found["program"] == found["run"] and found["nodes"] == own.nodes
    assert found["texts"] > 0 and all(x is not None for x in found["run"])
    capture = Capture.open(small_capture)
    texts = capture.split(0)["select"]
    if len(texts) <= view_server.SAMPLE:
        assert found["program"][0] == pytest.approx(own.iou_select, abs=1e-3)
    assert tuple(found["tokens"]) == capture.tokens(texts[0]).strings
    words = "the cat sat on the mat ."
    read = ask("text", text=words)["tokens"]
    there = ask("program", head="L0H1", source=SINK, text=words)
    assert there["tokens"] == read and "".join(read).endswith(words)
    assert there["program"] != there["run"] == found["run"]


def test_the_model_predicts_with_the_program_in_the_place_of_the_head(
    ask: Callable[..., Any],
) -> None:
    found = ask("model", head="L0H1", source=SINK, text="the cat sat on the mat .")
    assert found["head"] == "L0H1" and len(found["predictions"]) > 3 and found["kl"] > 0


def test_errors_say_what_is_wrong_and_the_next_request_works(ask: Callable[..., Any], run: Path) -> None:
    fine = {"head": "L0H1", "source": SINK, "text": ""}
    for name in ("program", "model"):
        told = ask(name, 422, **fine | {"source": SINK.replace("k ==", "kk ==")})
        assert "5 where kk == 0" in told and "^" in told
        assert "no head L7H7" in ask(name, 422, **fine | {"head": "L7H7"})
        assert "no head L7" in ask(name, 422, **fine | {"head": f"L{'7' * 5000}H7"})
        assert "`?`" in ask(name, 422, **fine | {"source": SINK.replace("5", "?")})
        assert "are causal" in ask(name, 422, **fine | {"source": SINK.replace("causal", "bidirectional")})
    assert "tokens" in ask("text", 422, text="the cat " * 5000)
    shutil.rmtree(run)
    assert ask("program", 422, **fine | {"head": "L9H9"})
    assert ask("program", 422, **fine)


def test_a_program_is_saved_where_it_may_be(
    ask: Callable[..., Any], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    fine = {"head": "L0H1", "source": SINK, "overwrite": ""}
    assert ask("save", **fine, file="mine.attn") == {"file": str(here / "mine.attn")}
    ask("save", **fine, file=f"{run}/programs/mine.attn")
    assert (run / "programs" / "mine.attn").read_text() == SINK
    other = fine | {"source": SINK.replace("5", "6")}
    assert "is there already" in ask("save", 409, **other, file="mine.attn")
    assert "5 where" in (here / "mine.attn").read_text()
    ask("save", **other | {"overwrite": "yes"}, file="mine.attn")
    assert "6 where" in (here / "mine.attn").read_text()
    (here / "out.attn").symlink_to(tmp_path / "elsewhere.attn")
    (here / "loop").symlink_to("loop")
    for file in ("../mine.attn", "/tmp/mine.attn", "mine.txt", "", "out.attn", "no/such.attn", "a\0.attn",
                 "loop/x.attn", f"{run}/vocabulary.attn"):  # fmt: skip
        ask("save", 422, **fine, file=file)
    assert not (tmp_path / "elsewhere.attn").exists()
    assert "^" in ask("save", 422, **fine | {"source": "head"}, file="other.attn")


def test_a_run_that_cannot_be_served_is_an_error(run: Path, small_capture: Path, tmp_path: Path) -> None:
    def told(*more: object) -> str:
        outcome = attn_dsl("view", run, "--no-browser", "--capture", small_capture, *more)
        assert outcome.code == 2 and not outcome.out
        return outcome.err

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}: " in told("--port", port)
    file = run / "run.json"
    whole = file.read_text()
    newer = json.loads(whole) | {"format": 2}
    file.write_text(json.dumps({name: x for name, x in newer.items() if name != "sha256"}))
    assert "another version" in told()
    file.write_text(whole[:99])
    assert "damaged" in told()
    file.write_text(whole)
    shutil.rmtree(run / "state")
    assert "no head is finished yet" in told()
    shutil.rmtree(run)
    assert "no such directory" in told()


@pytest.fixture
def served(run: Path, small_capture: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server in a process of its own."""
    with started("view", run, "--no-browser", "--capture", small_capture) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process


def test_ctrl_c_ends_the_server(served: tuple[str, subprocess.Popen[str]]) -> None:
    address, process = served
    assert address.startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_the_live_page_in_a_browser(
    served: tuple[str, Any], run: Path, browser: Any, wrong: list[str]
) -> None:
    (address, process), page = served, browser
    page.goto(f"{address}#L0H1")
    page.wait_for_selector(".live .matrices canvas")
    page.fill(".live textarea", SINK)
    page.wait_for_selector(".live .told:has-text('; 5 nodes')")
    page.fill(".live [aria-label=Sentence]", "the cat sat on the mat .")
    page.wait_for_selector(".live .caption:text-is('8 tokens')")
    assert page.locator(".live .strip >> nth=0 >> .tok").count() == 8
    page.click("text=put into the model")
    page.wait_for_selector(".live table tbody tr")
    assert "perplexity" in page.inner_text(".live .told >> nth=1")
    page.locator(".live input[name=file]").fill(f"{run}/mine.attn")
    page.click(".live button:text-is('save')")
    page.wait_for_selector("text=saved as")
    assert (run / "mine.attn").read_text() == SINK
    assert wrong == []
    bad = SINK.replace("k ==", "kk ==")
    page.fill(".live textarea", bad)
    page.wait_for_selector(".live pre.wrong:has-text('^')")
    page.reload()
    page.wait_for_selector(".live pre.wrong:has-text('^')")
    assert page.input_value(".live textarea") == bad
    assert page.input_value(".live [aria-label=Sentence]") == "the cat sat on the mat ."
    process.kill()
    process.wait()
    page.fill(".live textarea", SINK)
    page.wait_for_selector("text=The server does not answer")
    assert page.input_value(".live textarea") == SINK
    wrong.clear()

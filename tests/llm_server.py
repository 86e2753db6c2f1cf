"""An OpenAI-compatible server on the loopback, whose answers a small local model writes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from attn_dsl.synth.llm.model import LanguageModel, Request
from attn_dsl.synth.llm.named import open_model

CHAT = "/v1/chat/completions"


@dataclass
class Behaviour:
    """How the server answers.

    Attributes:
        owner: the kind of server that it says to be: ``llamacpp`` takes a grammar.
        status: answers so instead, as if it failed, after so many answers.
        answers: how many answers come before ``status``, ``body`` or ``wait`` take effect.
        body: is sent instead of an answer.
        wait: seconds before an answer.
        drip: seconds between the bytes of an answer that never ends; 0 sends them at once.
        location: where the answer points instead.
        model: is said to have answered.
        wrong: text that is written the first time, instead of a program.
    """

    owner: str = "llamacpp"
    status: int = 200
    answers: int = 0
    body: str | bytes = ""
    wait: float = 0.0
    drip: float | None = None
    location: str = ""
    model: str = ""
    wrong: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    model: LanguageModel
    behaviour: Behaviour
    lock: threading.Lock

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self.send({"error": {"message": "no such page"}}, 404)
            return
        listed = {"id": "small", "object": "model", "created": 0, "owned_by": self.behaviour.owner}
        self.send({"object": "list", "data": [listed]})

    def do_POST(self) -> None:
        how = self.behaviour
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            how.asked.append(asked)
            late = len(how.asked) > how.answers
        if late and how.wait:
            time.sleep(how.wait)
        if late and how.drip is not None:
            self.send_forever(how.drip)
        elif late and how.location:
            self.send_response(307)
            self.send_header("Location", how.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif late and how.body:
            self.send_text(200, how.body)
        elif late and how.status != 200:
            self.send({"error": {"message": "out of order", "type": "server_error"}}, how.status)
        else:
            self.send(self.answer(asked))

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        gbnf = asked.get("grammar") or asked.get("guided_grammar")
        request = Request("A head.", True, 1, asked["seed"], asked["temperature"], asked["max_tokens"])
        with self.lock:
            found = self.model.complete(request, lambda: False)[0]
        text, wrong = found.text, ""
        if not gbnf:
            wrong = self.behaviour.wrong if len(asked["messages"]) == 1 else ""
            text = wrong or f"Here you are:\n```\n{text}```\n"
        return {
            "id": "1", "object": "chat.completion", "created": 0,
            "model": self.behaviour.model or asked["model"],
            "choices": [{
                "index": 0, "finish_reason": "length" if found.truncated and not wrong else "stop",
                "message": {"role": "assistant", "content": text},
            }],
            "usage": {"prompt_tokens": 1, "completion_tokens": found.tokens, "total_tokens": 1},
        }  # fmt: skip

    def send(self, answer: dict[str, Any], status: int = 200) -> None:
        self.send_text(status, json.dumps(answer), "application/json")

    def send_forever(self, drip: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        with suppress(OSError):  # until the client has gone
            while True:
                self.wfile.write(b" " if drip else bytes(1 << 16))
                time.sleep(drip)

    def send_text(self, status: int, text: str | bytes, kind: str = "text/html") -> None:
        data = text.encode() if isinstance(text, str) else text
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            return  # the client has gone


@contextmanager
def serving(folder: Path, behaviour: Behaviour) -> Iterator[str]:
    """Serve a model on a free port of the loopback; give the URL. It ends with the block."""
    handler = type(
        "Handler", (_Handler,),
        {"model": open_model(str(folder)), "behaviour": behaviour, "lock": threading.Lock()},
    )  # fmt: skip
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False  # closing waits for those that still answer
    serve: Callable[[], None] = server.serve_forever
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)

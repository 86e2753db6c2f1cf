"""The local server of `attn-dsl view`: the page of a run, and what it asks for as programs are edited."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from attn_dsl.compiler.columns import batch_of
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import Program, parse
from attn_dsl.dsl.definitions import self_contained
from attn_dsl.dsl.errors import AttnDslError, InputError
from attn_dsl.dsl.printer import show
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.capture_write import TextReader
from attn_dsl.eval.files import write
from attn_dsl.eval.metrics import ious
from attn_dsl.eval.models import LoadedModel
from attn_dsl.eval.report import Example, finite, levels, pack_page
from attn_dsl.eval.run import VOCABULARY, Run
from attn_dsl.eval.split import Split
from attn_dsl.synth.given import checked

HOST = "127.0.0.1"
SAMPLE = 24
"""On how many select texts a program is scored at once."""
CALLS = {
    "text": ("text",), "program": ("head", "source", "text"), "model": ("head", "source", "text"),
    "save": ("head", "source", "file", "overwrite"),
}  # fmt: skip
"""What the page asks for, and the strings that it gives: each is a method of ``LiveRun``.

An empty ``text`` is the first text of the sample.
"""


class LiveRun:
    """A run whose programs can be edited, and tried on sentences; threads may share it.

    Attributes:
        run, capture: the run and its attention.
        place: where its model is, if it has been moved; it is loaded when it is first needed.
    """

    def __init__(self, run: Run, capture: Capture, place: str | None = None) -> None:
        self.run, self.capture, self.place = run, capture, place
        split = capture.split(run.info["key"]["seed"])
        texts = split["select"] or split["fit"]
        picks = np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).astype(int)
        self.sample = Split(capture, [texts[i] for i in picks])
        self.turn = Lock()  # the model does one thing at a time
        self._own: dict[str, Any] = {}  # its own predictions on the last text
        self._replacing: ExitStack | None = None  # keeps the model ready for programs until it reads a text
        self._read = lru_cache(maxsize=4)(self._read_text)
        self._scored = lru_cache(maxsize=256)(self._score)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model of the run."""
        from attn_dsl.eval.replace.predictions import refuse_headless
        from attn_dsl.eval.replace.replaced_model import open_model

        loaded = open_model(self.run, self.capture, self.place)
        refuse_headless(loaded)
        loaded.model.requires_grad_(False)
        return loaded

    @cached_property
    def reader(self) -> TextReader:
        """Reads sentences with the model."""
        return TextReader.of(self.loaded)

    def _read_text(self, text: str) -> Capture:
        if self._replacing is not None:
            self._replacing.close()
            self._replacing = None
        return self.reader.read(text)

    def text(self, text: str) -> dict[str, Any]:
        """Read a sentence with the model.

        Raises:
            InputError: it is too short or too long, or the model is gone.
        """
        return {"tokens": list(self._text(text)[0].tokens(0).strings)}

    def _text(self, text: str) -> tuple[Capture, int]:
        """Return a capture with the text in it, and its number there."""
        if not text.strip():
            return self.capture, self.sample.texts[0]
        with self.turn:
            return self._read(text), 0

    def _parse(self, head: str, source: str) -> tuple[int, Program]:
        """Return the number of a head, and a program for it.

        Raises:
            ProgramError: the program is not valid; the message points at the place.
            InputError: the run has no such head, or the program has holes or another visibility.
        """
        of = self.run[head].result
        ahead = bool(self.run.info["key"].get("allow_lookahead"))
        program = parse(source, of.name, allow_lookahead=ahead, resolve=self.run.resolve)
        checked(program, self.capture, every=False, as_it_is=True)
        return of.layer * self.capture.heads_per_layer + of.head, program

    def program(self, head: str, source: str, text: str) -> dict[str, Any]:
        """Run a program for a head on a text, and score it on the sample.

        Returns:
            ``detail`` and ``maps``: the page of the head with the program as its only one; the
            ``tokens`` of the text; on how many ``texts`` IoU and output R² (None if not known) of the
            program and of the run's own were measured.
        """
        number, program = self._parse(head, source)
        capture, at = self._text(text)
        tokens, norms = capture.tokens(at), None
        actual = capture.attention(at, [number])
        predicted = Plan(program.code, batch_of(tokens)).packed(0)
        if capture.has_outputs:
            norms = np.linalg.norm(capture.contributions(at, number), axis=1)
        fit, weights = ious(actual, predicted)[0].tolist(), np.vstack([actual, predicted])
        row = {"nodes": program.nodes, "chosen": True, "program": source, "iou": [], "r2": []}
        return {
            "tokens": tokens.strings, "texts": len(self.sample), "nodes": program.nodes,
            "program": self._scored(number, program),
            "run": self._scored(*self._parse(head, self.run[head].result.program)),
            **pack_page({"front": [row]}, [Example(0, len(tokens), fit, levels(weights), norms)]),
        }  # fmt: skip

    def _score(self, number: int, program: Program) -> tuple[float | None, float | None]:
        """Return IoU and output R² of a program on the sample."""
        found = self.sample.compare([program.tree], number)
        return finite(found.ious.mean()), finite(found.output_r2[0])

    def model(self, head: str, source: str, text: str) -> dict[str, Any]:
        """Compare what the model predicts with its own head, and with a program in its place."""
        from attn_dsl.eval.replace.compare import Side, compare
        from attn_dsl.eval.replace.context import replace_heads

        number, program = self._parse(head, source)
        capture, at = self._text(text)
        with self.turn:
            sides = Side("the model's own head", None), Side("the program", program)
            place, words = divmod(number, self.capture.heads_per_layer), capture.tokens(at).text
            self._own = {words: self._own[words]} if words in self._own else {}
            if self._replacing is None:
                self._replacing = ExitStack()
                self._replacing.enter_context(replace_heads(self.loaded, {}))
            return compare(self.loaded, place, sides, words, own=self._own).to_json()

    def save(self, head: str, source: str, file: str, overwrite: str) -> dict[str, Any]:
        """Write a program to a file of the working directory, or of the run's.

        Raises:
            FileExistsError: the file is there, and ``overwrite`` is empty.
            InputError: the name is not one of an .attn file there.
        """
        program = self._parse(head, source)[1]
        run, here = self.run.path.resolve(), Path.cwd()
        place = Path(os.path.realpath(here / (file.strip() if file.isprintable() else "")))
        inside = place.is_relative_to(run)
        if not (inside or place.is_relative_to(here)) or place.suffix != ".attn":
            raise InputError(f"{file!r}: give the name of an .attn file in {here} or in {run}")
        if place == run / VOCABULARY:
            raise InputError(f"{place} holds what programs of the run share; give another name")
        if place.exists() and not overwrite:
            raise FileExistsError(f"{place} is there already")
        write(place, source if inside else show(self_contained(program.tree)))
        return {"file": str(place)}


def application(live: LiveRun, page: str, token: str, port: int) -> Callable:
    """Return the ASGI application: the page, and its calls, for who knows the token alone.

    Requests of another host (a name that was made to point here) or another origin get 403.
    """

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})

    async def call(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            given = await request.json()
            fields = {key: given[key] for key in CALLS[name]}
            "".join(fields.values()).encode()  # strings, without halves of surrogate pairs
        except (ValueError, KeyError, TypeError, RecursionError):
            needed = ", ".join(CALLS.get(name, ())) or f"one of {', '.join(CALLS)}"
            return JSONResponse({"error": f"api/{name} needs the strings: {needed}"}, 400)
        try:
            return JSONResponse(await run_in_threadpool(getattr(live, name), **fields))
        except FileExistsError as error:
            return JSONResponse({"error": str(error)}, 409)
        except (AttnDslError, OSError) as error:
            return JSONResponse({"error": str(error)}, 422)

    inner = Starlette(routes=[
        Route(f"/{token}/", show_page), Route(f"/{token}/api/{{name}}", call, methods=["POST"]),
    ])  # fmt: skip
    hosts = [f"{name}:{port}" for name in (HOST, "localhost")]

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        headers, given = Headers(scope=scope), (scope["path"] + "/").split("/")[1]
        known = secrets.compare_digest(given.encode(), token.encode())
        own = headers.get("origin") in (None, f"http://{headers.get('host')}")
        if not (known and own and headers.get("host") in hosts):
            refused = "This page needs the whole address that `attn-dsl view` printed."
            await PlainTextResponse(refused, 403)(scope, receive, send)
        else:
            await inner(scope, receive, send)

    return guarded


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone; an InputError if the port is taken."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind((HOST, port))
    except OSError as error:
        own.close()
        raise InputError(
            f"--port {port}: {error.strerror}; give another, or leave it out to get a free one"
        ) from None
    own.listen()
    return own

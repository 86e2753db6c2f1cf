"""Servers: grammars where they are taken, programs looked for where not, and all that can go wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark
from llm_models import is_proposal
from llm_server import Behaviour, serving

from attn_dsl.synth.llm.model import ModelError, Request
from attn_dsl.synth.llm.named import open_model
from attn_dsl.synth.llm.parse_output import programs, read, whole_terms

pytest.importorskip("openai")
ASKED = Request("A head.", True, 6, 0, max_tokens=120)
Serve = Callable[[Behaviour], str]


def never() -> bool:
    return False


@pytest.fixture
def serve(language_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers for a test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(serving(language_model, behaviour))


@pytest.mark.parametrize("owner", ["llamacpp", "me", "vllm"])
def test_a_server_that_takes_a_grammar(serve: Serve, owner: str) -> None:
    how = Behaviour(owner=owner)
    model = open_model(serve(how))
    assert model.name.endswith("#small") and model.context == 8192
    found = list(model.complete(ASKED, never))
    assert len(found) == len({c.text for c in found}) == 6
    for completion in found:
        text = whole_terms(completion.text) if completion.truncated else completion.text
        assert text == "" or is_proposal(text)
    asked = how.asked[0]
    gbnf = asked["grammar"] if owner != "vllm" else asked["structured_outputs"]["grammar"]
    matcher = LLMatcher(LLTokenizer("byte"), gbnf_to_lark(gbnf))
    program = b"head proposed causal softmax:\n    ? where k == 0\n"
    assert matcher.try_consume_tokens(list(program)) == len(program)
    assert list(model.complete(ASKED, never)) == found


def test_a_server_without_grammars(serve: Serve) -> None:
    how = Behaviour(owner="library")
    model = open_model(serve(how) + "#small")
    found = list(model.complete(dataclasses.replace(ASKED, count=6, max_tokens=700), never))
    whole = [c for c in found if not c.truncated]
    assert whole
    for completion in whole:
        read(completion.text, causal=True)
    assert not any("grammar" in asked for asked in how.asked)


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (Behaviour(status=500), "500.*out of order"),
        (Behaviour(status=401), "AuthenticationError.*401"),
        (Behaviour(body="<html>welcome</html>"), "no answer of an OpenAI-compatible server"),
        (Behaviour(body='{"choices": []}'), "no answer of an OpenAI-compatible server"),
        (Behaviour(body=b'{"choices": "\xff\xfe"}'), "no answer of an OpenAI-compatible server"),
        (Behaviour(wait=3.0), r"APITimeoutError.* It had 0\.5 s"),
        (Behaviour(drip=0.1), r"does not end: \d+ bytes came"),
        (Behaviour(drip=0.0), r"does not end: 1,\d+,\d+ bytes came"),
        (Behaviour(location="http://127.0.0.1:9/v1"), "points elsewhere, to http://127.0.0.1:9/v1"),
        (Behaviour(model="parrot"), "answered with the model parrot instead of small"),
    ],
)
def test_a_server_that_fails_on_the_way(
    serve: Serve, behaviour: Behaviour, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = behaviour.wait or behaviour.drip
    monkeypatch.setattr("attn_dsl.synth.llm.server.TIMEOUT", 0.5 if late else 20)
    behaviour.answers = 0 if late else 3
    model = open_model(serve(behaviour))
    done = []
    with pytest.raises(ModelError, match=says):
        done.extend(model.complete(ASKED, never))
    assert len(done) <= 3


def test_what_does_not_parse_is_sent_back_once(serve: Serve) -> None:
    how = Behaviour(owner="library", wrong="head proposed causal softmax:\n    ? where k = 0\n")
    one = dataclasses.replace(ASKED, count=1, max_tokens=700)
    (found,) = open_model(serve(how)).complete(one, never)
    assert "k = 0" not in found.text
    first, second = how.asked
    question, answer, again = second["messages"]
    assert [question] == first["messages"] and answer["content"] == how.wrong
    assert "k = 0" in again["content"] and "==" in again["content"]  # the parser's own words


@pytest.mark.parametrize("owner", ["llamacpp", "library"])
def test_odd_completions_are_left_out(serve: Serve, owner: str) -> None:
    for text in (
        "<|im_end|>",
        "```",
        "head proposed causal softmax:\n    ? where k == 0 <|im_end|>",
        "",
    ):
        message = {"role": "assistant", "content": text}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "small",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}  # fmt: skip
        found = open_model(serve(Behaviour(owner=owner, body=json.dumps(body)))).complete(ASKED, never)
        assert list(programs(found, causal=True, name="a")) == []


def test_an_answer_must_come_in_the_time_that_is_left(serve: Serve) -> None:
    model = open_model(serve(Behaviour(wait=5.0)))
    with pytest.raises(ModelError, match="APITimeoutError"):
        list(model.complete(dataclasses.replace(ASKED, count=1), never, 0.5))


def test_it_stops_when_told(serve: Serve) -> None:
    how = Behaviour()
    found = list(open_model(serve(how)).complete(ASKED, lambda: True))
    assert all(c.truncated for c in found) and how.asked == []


def test_a_server_that_is_not_there(serve: Serve) -> None:
    url = serve(Behaviour())
    with pytest.raises(ModelError, match="no model large; it has small"):
        open_model(f"{url}#large")
    with pytest.raises(ModelError, match=r"404.*end in /v1\?"):
        open_model(f"{url}/elsewhere")
    with pytest.raises(ModelError, match=r"APIConnectionError.*is it running"):
        open_model("http://127.0.0.1:9/v1")

"""Servers: grammars where they are taken, corrections where not, and all that can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from llm_server import Behaviour, serving

from attn_dsl.dsl.gbnf import GrammarError
from attn_dsl.synth.llm.grammar import is_proposal, proposal_grammar
from attn_dsl.synth.llm.model import ModelError, Sampling
from attn_dsl.synth.llm.named import open_model
from attn_dsl.synth.llm.reading import read, whole_terms

pytest.importorskip("openai")
GRAMMAR = proposal_grammar(True, numbers=False)
SAMPLING = Sampling(max_tokens=100)
Serve = Callable[[Behaviour], str]


@pytest.fixture
def serve(language_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers for a test."""
    from contextlib import ExitStack

    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ExitStack() as stack:
        yield lambda behaviour: stack.enter_context(serving(language_model, behaviour))


def test_a_server_that_takes_a_grammar(serve: Serve) -> None:
    how = Behaviour()
    model = open_model(serve(how))
    assert model.prompt == "page" and model.name.endswith("#small")
    found = model.complete("A head.", GRAMMAR, 6, 0, SAMPLING)
    assert len(found) == 6
    for completion in found:
        text = whole_terms(completion.text) if completion.truncated else completion.text
        assert text is None or is_proposal(text, causal=True)
        assert completion.logprob is not None
    assert len({c.text for c in found}) == 6
    assert all("root ::=" in asked["grammar"] for asked in how.asked)
    assert model.complete("A head.", GRAMMAR, 6, 0, SAMPLING) == found


def test_a_server_without_grammars_is_told_of_its_errors(serve: Serve) -> None:
    how = Behaviour(owner="library", slips=1, logprobs=False)
    model = open_model(serve(how) + "#small")
    found = model.complete("A head.", GRAMMAR, 4, 0, Sampling(max_tokens=300))
    whole = [c for c in found if not c.truncated]
    assert whole
    for completion in whole:
        read(completion.text, causal=True)
        assert completion.logprob is None
    corrected = [asked for asked in how.asked if len(asked["messages"]) == 3]
    assert corrected
    told = corrected[0]["messages"][-1]["content"]
    assert "your program:2" in told and "Write the whole program again" in told
    assert not any("grammar" in asked for asked in how.asked)


def test_a_server_that_never_writes_a_program(serve: Serve) -> None:
    how = Behaviour(owner="library", slips=9)
    model = open_model(serve(how))
    found = model.complete("A head.", GRAMMAR, 2, 0, Sampling(max_tokens=300))
    assert all(c.truncated for c in found)
    assert len(how.asked) > 2


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (Behaviour(status=500), r"the server refused \(500\): .*out of order"),
        (Behaviour(status=401), r"the server refused \(401\)"),
        (Behaviour(body="<html>welcome</html>"), "not one of an OpenAI-compatible server"),
        (Behaviour(body='{"choices": []}'), "not one of an OpenAI-compatible server"),
        (Behaviour(wait=3.0), r"no answer within 0\.5 s; .*ATTN_DSL_LLM_TIMEOUT"),
    ],
)
def test_a_server_that_fails_on_the_way(
    serve: Serve, behaviour: Behaviour, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTN_DSL_LLM_TIMEOUT", "20" if not behaviour.wait else "0.5")
    behaviour.answers = 0 if behaviour.wait else 3
    model = open_model(serve(behaviour))
    with pytest.raises(ModelError, match=says) as caught:
        model.complete("A head.", GRAMMAR, 8, 0, SAMPLING)
    assert len(caught.value.done) <= 3


def test_a_server_that_is_not_there(serve: Serve) -> None:
    url = serve(Behaviour())
    with pytest.raises(ModelError, match="no model large; it has small"):
        open_model(f"{url}#large")
    with pytest.raises(ModelError, match=r"refused \(404\)"):
        open_model(f"{url}/elsewhere")
    with pytest.raises(ModelError, match="cannot be reached"):
        open_model("http://127.0.0.1:9/v1")


def test_a_grammar_is_tried_in_another_process() -> None:
    pytest.importorskip("llama_cpp")
    from attn_dsl.synth.llm.server import tried, try_gbnf

    assert "root ::=" in tried(GRAMMAR)
    for bad in ("root ::= other\n", 'other ::= "a"\n', 'root ::= root "a"\n'):
        with pytest.raises(GrammarError, match=r"llama\.cpp"):
            try_gbnf(bad)

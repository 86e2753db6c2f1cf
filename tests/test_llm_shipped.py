"""The proposer that ships: it works out of the box, in both formats, and finds simple heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import succeed

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.shipped import model_dir, proposer_dir, stories_path
from attn_dsl.synth.llm.grammar import proposal_grammar
from attn_dsl.synth.llm.model import Sampling
from attn_dsl.synth.llm.named import open_model
from attn_dsl.synth.llm.proposer import Llm, Options, counts
from attn_dsl.synth.proposer import HeadTask
from attn_dsl.synth.proposers.registry import DEFAULT
from attn_dsl.synth.session import Session, Settings

FOLDER = proposer_dir()
GGUF = FOLDER.with_suffix(".gguf")
PROGRAMS = {
    "previous token": "2.5 where k == q-1\n 1 where k == 0",
    "first token": "4 where k == 0\n -0.5 * log(1 + q - k)",
    "induction": "5 where text(k-1) == text(q)\n 2 where k == 0",
    "distance": "-1.2 * log(1 + q - k)",
    "punctuation": "3 where punct(k)\n 1 where k == q",
}


@pytest.fixture(scope="module")
def session() -> Session:
    """A model whose heads are known programs, on the demo model's stories."""
    from attn_dsl.eval.capture_write import choose_windows
    from attn_dsl.eval.models import load_tokenizer
    from attn_dsl.eval.texts import read_texts
    from attn_dsl.eval.vocabulary import Vocabulary

    vocabulary = Vocabulary(load_tokenizer(str(model_dir())))
    stories = read_texts(str(stories_path()))
    texts = [record.tokens for record in choose_windows(vocabulary, stories, 64, 60)]
    heads = [parse(f"head a causal:\n {source}") for source in PROGRAMS.values()]
    plan = Plan(heads, Batch(texts))
    rows = [np.stack([unpack(plan.packed(i), len(text), True)]) for i, text in enumerate(texts)]
    return Session(Capture.from_arrays(texts, rows, causal=True, name="known"), Settings(DEFAULT))


def test_both_formats_are_small() -> None:
    files = [*FOLDER.iterdir(), GGUF]
    assert sum(file.stat().st_size for file in files) <= 10_000_000
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["attn_dsl_prompt"] == "compact"


def test_it_is_the_default_of_the_command_line(small_capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = ("--capture", small_capture, "--heads", "L0H0", "--proposers", "llm", "--samples", 8)
    told = json.loads(succeed("fit", *args, "--out", out, "--json"))
    assert told["llm"]["completions"] == 8
    assert "proposer" in told["llm"]["models"][0]
    assert '"proposer": "llm"' in (out / "candidates.jsonl").read_text()


def best(session: Session, head: int, samples: int, model: str | None = None) -> float:
    """Return the best IoU of the samples on the fit split, with fitted weights."""
    task = HeadTask(session.design, 0, head, seed=0, max_nodes=200, max_evals=500)
    for _ in Llm(Options(model=model, samples=samples)).propose(task):
        pass
    return max(f.iou for f in task.tried)


@pytest.mark.parametrize("head", range(len(PROGRAMS)), ids=list(PROGRAMS))
def test_it_finds_heads_that_are_simple_programs(session: Session, head: int) -> None:
    assert best(session, head, 16) > 0.97


@pytest.mark.parametrize("causal", [True, False])
def test_all_completions_are_programs(session: Session, causal: bool) -> None:
    model = open_model(None)
    task = HeadTask(session.design, 0, 0, seed=0, max_nodes=200, max_evals=1)
    prompt = Llm(Options(), model=model).prompt(task)
    found = model.complete(prompt, proposal_grammar(causal, numbers=False), 48, 0, Sampling())
    told = counts(found, causal=causal)
    assert told.invalid == 0
    assert told.truncated <= 2
    assert told.distinct > 1
    assert (
        model.complete(prompt, proposal_grammar(causal, numbers=False), 48, 0, Sampling()) == found
    )


def test_the_gguf_is_the_same_model(session: Session) -> None:
    pytest.importorskip("llama_cpp")
    one, other = open_model(None), open_model(str(GGUF))
    assert other.prompt == "compact"
    task = HeadTask(session.design, 0, 0, seed=0, max_nodes=200, max_evals=1)
    prompt = Llm(Options(), model=one).prompt(task)
    assert one.count(prompt) == other.count(prompt)
    grammar = proposal_grammar(True, numbers=False)
    a, b = (m.complete(prompt, grammar, 16, 0, Sampling()) for m in (one, other))
    same = [(x, y) for x, y in zip(a, b, strict=True) if x.text == y.text]
    assert len(same) >= 10  # a draw near the border of two tokens may go either way
    for x, y in same:
        assert x.logprob == pytest.approx(y.logprob, abs=0.2)
    assert best(session, 0, 16, str(GGUF)) > 0.97

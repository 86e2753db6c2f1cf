"""The proposer that ships: its two exports are one model, it is small, and it finds planted programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan, unpack
from attn_dsl.dsl.parser import parse, parse_term
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.shipped import proposer_dir, stories_path
from attn_dsl.synth.design import Design
from attn_dsl.synth.llm.compact import compact_prompt
from attn_dsl.synth.llm.grammar import is_proposal
from attn_dsl.synth.llm.proposer import Llm, Options
from attn_dsl.synth.proposer import Fitted, HeadTask

FOLDER = proposer_dir()
GGUF = FOLDER.with_suffix(".gguf")
PLANTED = (
    'head a causal:\n 3 where k == q-1\n 2 where text(k) in {"the", "a"}\n',
    "head b causal:\n 4 where text(k-1) == text(q)\n 2 where k == 0\n",
    "head c causal:\n -0.3 * (q - k)\n 2 where punct(k)\n 2 where word(k) in Pronoun and q >= 8\n",
)
PROMPT = (
    "causal uniform 3 found 9 clean\n"
    "self 5 prev 7 near 4 far 3 first 2 same 4 next 1 mark 2\n"
    "8+    ? where k == q-1\n"
    '5+    ? where token(k) in {" the", " zyxw", "caf\u00e9"} and word(q) in Pronoun\n'
    "or 0 6-    ? * log(1 + q - k)\n"
)
pytest.importorskip("llama_cpp", reason="without the extra llm")


@pytest.fixture(scope="module")
def texts() -> list[Tokens]:
    """Stories in words."""
    lines = stories_path().read_text(encoding="utf-8").splitlines()[:60]
    found = []
    for line in lines:
        strings = re.findall(r" ?\w+|\n| ?[^\w\s]+", json.loads(line)["text"])
        found.append(Tokens.from_strings(strings[:64]))
    return found


def capture_of(texts: list[Tokens], sources: tuple[str, ...]) -> Capture:
    """Make the attention of programs: the heads of one layer."""
    plan = Plan([parse(source) for source in sources], Batch(texts))
    squares = [unpack(plan.packed(i), len(text), True)[None] for i, text in enumerate(texts)]
    return Capture.from_arrays(texts, squares, causal=True, name="planted")


@pytest.fixture(scope="module")
def design(texts: list[Tokens]) -> Design:
    return Design(capture_of(texts, PLANTED), range(40), 20_000, seed=0)


def task_of(design: Design, head: int) -> HeadTask:
    return HeadTask(design, 0, head, seed=0, max_nodes=200, max_evals=200)


@pytest.fixture(scope="module")
def llama() -> Iterator[Any]:
    """The GGUF file, opened by llama.cpp alone."""
    import llama_cpp

    model = llama_cpp.Llama(str(GGUF), n_ctx=512, logits_all=True, n_threads=1, verbose=False)
    yield model
    model.close()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


def test_it_is_small() -> None:
    files = [*FOLDER.iterdir(), GGUF]
    assert sum(file.stat().st_size for file in files) <= 10e6


def test_both_exports_say_which_prompt_they_were_trained_on(llama: Any) -> None:
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["attn_dsl_prompt"] == "compact"
    assert llama.metadata["attn_dsl.prompt"] == "compact"


def test_the_training_is_written_down() -> None:
    facts = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))
    assert facts["step"] > 0 and facts["loss"] > 0 and facts["legs"]


def assert_same_tokens(text: str, tokenizer: Any, llama: Any) -> None:
    ours = tokenizer(text).input_ids
    theirs = llama.tokenize(text.encode(), add_bos=True, special=False)
    assert ours == theirs, text
    assert tokenizer.decode(ours, skip_special_tokens=True) == text


@pytest.mark.parametrize("head", range(len(PLANTED)))
def test_both_tokenizers_cut_prompts_alike(
    design: Design, head: int, tokenizer: Any, llama: Any
) -> None:
    assert_same_tokens(compact_prompt(task_of(design, head)), tokenizer, llama)


PIECES = st.sampled_from([
    "? where ", "    ? * ", "k == q", "-1", "q - k", " >= 4", " <= 12", " in 2..8", "text(k)",
    "word_repeats(k)", "repeats(k)", " == ", " and ", " in {", " the", ", ", "Lily", "}", "\n",
    "k == quote_first(q)", "abs(q - k)", "8+", "or 1 ", "add ", "not ", "punct(q-1)", " in Pronoun",
    "caf\u00e9", "\u65e5", " in ", "3", "..", "17", "k - q", "k <= 12", "word_previous(k)",
])  # fmt: skip
STRINGS = st.text(
    st.characters(exclude_characters='"\\\u2581', exclude_categories=["Cs", "Cc"]), max_size=12
)


def written(text: str) -> bool:
    """Say whether a prompt may hold a text: it has ``k == q-3`` for ``q - k == 3``.

    There llama.cpp takes ``k == `` first, and the other tokenizer what stands first, ``q - k``.
    """
    return "q - k == " not in text


@given(st.lists(PIECES, max_size=30).map("".join).filter(written), STRINGS)
def test_both_tokenizers_cut_any_text_alike(
    tokenizer: Any, llama: Any, pieces: str, string: str
) -> None:
    assert_same_tokens(f'{PROMPT}add 3+    ? where token(k) == "{string}"\n', tokenizer, llama)
    assert_same_tokens(PROMPT + pieces, tokenizer, llama)


def test_both_exports_compute_the_same(design: Design, tokenizer: Any, llama: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    for head in range(len(PLANTED)):
        ids = tokenizer(compact_prompt(task_of(design, head))).input_ids[:300]
        with torch.inference_mode():
            ours = model(torch.tensor([ids])).logits[0].numpy()
        llama.reset()
        llama.eval(ids)
        theirs = np.array(llama.scores[: len(ids)])
        assert np.abs(ours - theirs).max() < 1e-2 * max(1.0, np.abs(ours).max() / 10)


@pytest.mark.parametrize("head", range(len(PLANTED)))
def test_prompts_list_only_what_can_be_proposed(design: Design, head: int) -> None:
    lines = compact_prompt(task_of(design, head)).splitlines()
    terms = [line[line.index("    ") :] for line in lines[2:]]
    assert 1 <= len(terms) <= 16
    for term in terms:
        parse_term(term.strip())
        assert is_proposal(f"head proposed causal softmax:\n{term}\n", causal=True)


def test_prompts_read_the_fit_split_alone(texts: list[Tokens], design: Design) -> None:
    other = capture_of(texts, PLANTED)
    changed = capture_of(texts, (PLANTED[1],) * len(PLANTED))
    mixed = [(other if i < 40 else changed).packed(i) for i in range(len(texts))]
    squares = [unpack(rows, len(text), True)[None] for rows, text in zip(mixed, texts, strict=True)]
    capture = Capture.from_arrays(texts, squares, causal=True, name="planted")
    again = Design(capture, range(40), 20_000, seed=0)
    for head in range(len(PLANTED)):
        assert compact_prompt(task_of(again, head)) == compact_prompt(task_of(design, head))


@pytest.mark.parametrize("head", range(len(PLANTED)))
@pytest.mark.parametrize("model", [str(FOLDER), str(GGUF)], ids=["transformers", "gguf"])
def test_it_finds_planted_programs(design: Design, head: int, model: str) -> None:
    task, found = task_of(design, head), []
    for proposal in Llm(Options(model=model, samples=24), alone=False).propose(task):
        program = proposal.program if isinstance(proposal, Fitted) else proposal
        found.append(task.fit(program).iou)
    assert max(found) > 0.98

"""Bad input: one clear message with the remedy, exit code 2, no traceback, results untouched."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_input import (
    FIT,
    SCORE,
    SHORT,
    VALID,
    Case,
    cut,
    damaged,
    file,
    fit,
    fit_text,
    gguf,
    model,
    no_preparation,
    remove,
    setting,
    tensor,
    tensors,
)
from command_line import Outcome, attn_dsl, snapshot, succeed, write_texts

FIT_MODEL = ("fit", "./model", *fit()[2:])
FIT_GGUF = ("fit", "model.gguf", *fit()[2:])
TEXTS = [
    Case(
        "text misspelt", fit_text("story.txt"), ("story.txt does not exist", "`stories.txt`"),
        file("stories.txt", "a b"),
    ),
    Case("text empty", fit_text("a.txt"), ("a.txt holds no text", "empty"), file("a.txt", " \n")),
    Case(
        "text binary", fit_text("a.txt"), ("a.txt is not UTF-8", "byte 2", "iconv"),
        file("a.txt", b"ab\xff\x00\x01"),
    ),
    Case("text a directory without texts", fit_text("a"), ("a is a directory", "no texts", ".jsonl"),
         file("a/b.svg", "a")),
    Case("text of another kind", fit_text("a.csv"), ("a.csv", ".txt", ".jsonl"), file("a.csv", "a")),
    Case(
        "JSONL line broken", fit_text("a.jsonl"), ("a.jsonl:2", "not a JSON object", '{"text":'),
        file("a.jsonl", '{"text": "a b"}\n{"text": \n'),
    ),
    Case(
        "JSONL without text", fit_text("a.jsonl"), ("a.jsonl:1", "the field `text`", '{"txt"'),
        file("a.jsonl", '{"txt": "a b"}\n'),
    ),
    Case(
        "half of a surrogate pair", fit_text("a.jsonl"), ("a.jsonl:1", "\\ud800", "UTF-8"),
        file("a.jsonl", '{"text": "a \\ud800 b"}\n'),
    ),
    Case(
        "deep JSON", fit_text("a.jsonl"), ("a.jsonl:1", "not a JSON object"),
        file("a.jsonl", "[" * 1_000_000 + "\n"),
    ),
    Case(
        "too few texts", fit_text("a.txt"), ("2 texts are too few", "at least 10"),
        file("a.txt", "the cat sat\n\nthe dog ran"), leaves=("out",),
    ),
    Case("model without text", ("fit", "{model}", "--out", "out"), ("needs a text", "--text FILE")),
]  # fmt: skip
MODELS = [
    Case(
        "model misspelt", ("fit", "./modell", *fit()[2:]),
        ("./modell is not a directory", "did you mean `model`?"), model(),
    ),
    Case("model a file", ("fit", "{texts}", *fit()[2:]), ("is a file", "FILE.gguf", "config.json")),
    Case(
        "GGUF misspelt", FIT_GGUF, ("no such GGUF file", "did you mean `modle.gguf`?"),
        file("modle.gguf", ""),
    ),
    Case(
        "GGUF cut short", FIT_GGUF, ("model.gguf", "cut short", "download it again"),
        gguf(lambda whole: whole[: len(whole) // 2]),
    ),
    Case(
        "GGUF that is text", FIT_GGUF, ("is no GGUF file", "download it again"),
        file("model.gguf", "a b c"),
    ),
    Case(
        "GGUF of an unknown architecture", FIT_GGUF,
        ("has the architecture gptX", "give the model's directory", "GGUF of", "gpt2, ", "llama, "),
        gguf(lambda whole: whole.replace(b"gpt2", b"gptX")),
    ),
    Case(
        "GGUF without its tokenizer", FIT_GGUF,
        ("no tokenizer", "the GGUF file", "directory or hub id"),
        gguf(lambda whole: whole.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenX")),
    ),
    Case(
        "directory of a GGUF", ("fit", ".", *fit()[2:]), ("no config.json", "give model.gguf"),
        gguf(lambda whole: whole),
    ),
    Case("GGUF of the hub malformed", ("fit", "hf:a/b", *fit()[2:]), ("write hf:REPO:FILE.gguf",)),
    Case("dtype", fit("--dtype", "int4"), ("--dtype int4", "float32, bfloat16, float16")),
    Case("device", fit("--device", "moon"), ("--device moon cannot be used", "try cpu")),
    Case(
        "model without configuration", FIT_MODEL, ("model holds no config.json",),
        model(config__json=None),
    ),
    Case(
        "model without weights", FIT_MODEL, ("model holds no weights", "model.safetensors"),
        model(model__safetensors=None),
    ),
    Case(
        "model with pickled weights only", FIT_MODEL,
        ("pytorch_model.bin", "a pickle", "save_pretrained"),
        model(model__safetensors=None, pytorch_model__bin=b"\x80\x02"),
    ),
    Case(
        "weights cut off", FIT_MODEL, ("model", "cut off", "again"),
        model(model__safetensors=b"\x80\x02\x00\x00\x00\x00\x00\x00{"),
    ),
    Case(
        "index of weights that names a pickle", FIT_MODEL,
        ("model.safetensors.index.json names weights.bin", "no safetensors file", "save_pretrained"),
        model(model__safetensors=None, weights__bin=b"\x80\x02", other__safetensors=b"",
              model__safetensors__index__json=b'{"weight_map": {"a": "weights.bin"}}'),
    ),
    Case(
        "index of weights that leaves the directory", FIT_MODEL, ("names ../a.safetensors", "again"),
        model(model__safetensors__index__json=b'{"weight_map": {"a": "../a.safetensors"}}'),
    ),
    Case(
        "pickle by the name of safetensors", FIT_MODEL, ("model/model.safetensors: ", "damaged", "again"),
        model(model__safetensors=pickle.dumps({"a": [0] * 100})),
    ),
    Case(
        "tensors that overlap", FIT_MODEL, ("model/model.safetensors", "tensor `b`", "again"),
        model(model__safetensors=tensors(a=tensor(0, 8, 2), b=tensor(4, 16, 3))),
    ),
    Case(
        "tensor outside of its file", FIT_MODEL, ("model.safetensors", "`a` lies outside", "again"),
        model(model__safetensors=tensors(a=tensor(0, 32, 8))),
    ),
    Case(
        "tensor of another size than its shape", FIT_MODEL, ("`a` has 16 bytes", "needs 12", "again"),
        model(model__safetensors=tensors(a=tensor(0, 16, 3))),
    ),
    Case(
        "code of its own", FIT_MODEL, ("needs code of its own", "attn-dsl does not do"),
        model(config__json={"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}},
              mine__py=b"raise SystemExit(3)"),
    ),
    Case(
        "a billion layers", FIT_MODEL, ("asks for 1000000000 layers", "at most 1000"),
        model(config__json={"model_type": "gpt2", "n_layer": 10**9}),
    ),
    Case(
        "a model without heads", FIT_MODEL, ("model: its weights cannot be loaded",),
        model(config__json={"model_type": "gpt2", "n_head": 0, "architectures": 5}),
    ),
    Case(
        "weights whose name is a number", FIT_MODEL, ("model: its weights cannot be loaded",),
        model(config__json={"model_type": "gpt2", "transformers_weights": 5}),
    ),
    Case(
        "an adapter", FIT_MODEL, ("adapter_config.json", "merge_and_unload"),
        model(adapter_config__json=b"{}"),
    ),
    Case(
        "encoder-decoder", FIT_MODEL, ("encoder-decoder model (t5)", "GPT-2", "BERT"),
        model(config__json={"model_type": "t5", "is_encoder_decoder": True}),
    ),
    Case(
        "unknown architecture", FIT_MODEL, ("config.json cannot be used", "`nonesuch`"),
        model(config__json={"model_type": "nonesuch"}),
    ),
    Case(
        "no tokenizer", FIT_MODEL, ("no tokenizer", "tokenizer.save_pretrained"),
        model(tokenizer__json=None, tokenizer_config__json=None),
    ),
    Case(
        "window longer than the model's context", fit("--max-tokens", "65"),
        ("has 65 tokens, and", "--max-tokens"),
    ),
]  # fmt: skip
BROKEN = {
    "syntax": ("head a causal:\n    2 where k = 0\n", ("a.attn:2:15", "syntax error", "`==`")),
    "unknown feature": (
        "head a causal:\n    2 where txt(k) == text(q)\n",
        ("a.attn:2:13", "`txt`", "did you mean `text`?"),
    ),
    "type": (
        "head a causal:\n    2 where text(k) in Pronun\n",
        ("a.attn:2:24", "type error: unknown set `Pronun`", "`Pronoun`"),
    ),
    "weight out of range": (
        "head a causal:\n    5000 where k == 0\n",
        ("a.attn:2:5", "the weight 5000 is out of range", "between -1000 and 1000"),
    ),
    "causality": (
        "head a causal:\n    2 where text_final(k)\n",
        ("a.attn:2:13", "causality error: `text_final`", "--allow-lookahead"),
    ),
    "cost": (
        "head a causal:\n" + '    1 where any(text(k) == "x" and k < q)\n' * 1700,
        ("a.attn:1:6", "cost error", "nodes; at most 5,000", "operations per query and key"),
    ),
    "empty": ("", ("a.attn:1:1", "syntax error", "`head`")),
}
COMMANDS_ON_PROGRAMS = (("check", ()), ("show", ()), ("score", SCORE))
PROGRAMS = [
    Case(f"{command}: {name}", (command, "a.attn", *more), says, file("a.attn", source))
    for command, more in COMMANDS_ON_PROGRAMS
    for name, (source, says) in BROKEN.items()
]
PROGRAMS += [
    Case(f"{command}: {name}", (command, "a.attn", *more), says, prepare)
    for command, more in (*COMMANDS_ON_PROGRAMS, ("fmt", ()))
    for name, says, prepare in (
        ("missing", ("a.attn: no such file", ".attn"), no_preparation),
        ("a directory", ("a.attn is a directory", "a.attn/*.attn"), file("a.attn/b", "")),
        ("not UTF-8", ("a.attn: not UTF-8", "byte 2"), file("a.attn", b"# \xe9\n")),
    )
]
HOLE = file("a.attn", "head a causal:\n    ? where k == 0\n")
OK = file("a.attn", VALID)
PROGRAMS += [
    Case("fmt: syntax", ("fmt", "a.attn"), BROKEN["syntax"][1], file("a.attn", BROKEN["syntax"][0])),
    Case("show: holes", ("show", "a.attn"), ("to be fitted (`?`)", "write numbers"), HOLE),
    Case("score: holes", ("score", "a.attn", *SCORE), ("a.attn: ", "holes (`?`)", "write"), HOLE),
    Case(
        "score: other visibility", ("score", "a.attn", *SCORE),
        ("a.attn: the model is causal", "`head a causal`"),
        file("a.attn", "head a bidirectional:\n    1 where k == 0\n"),
    ),
    Case("score: nothing to score", ("score", "{model}", *SCORE), ("name programs (.attn)",)),
    Case("score: against nothing", ("score", "a.attn"), ("--capture DIR", "--text FILE"), OK),
    Case(
        "score: against two things", ("score", "a.attn", "{model}", *SCORE),
        ("either --capture, or MODEL",), OK,
    ),
    Case("show: empty text", ("show", "a.attn", "--on", ""), ("--on is empty",), OK),
    Case(
        "show: no tokenizer", ("show", "a.attn", "--tokenizer", "./none"),
        ("./none is not a directory",), OK,
    ),
]  # fmt: skip
SCORE_DAMAGED = ("score", ".given/first.attn", "--capture", "capture")
AGAIN = ("capture", "attn-dsl capture")
CAPTURES = [
    Case("capture missing", SCORE_DAMAGED, ("capture does not exist", "attn-dsl capture")),
    Case(
        "capture misspelt", SCORE_DAMAGED, ("capture does not exist", "did you mean `captur`"),
        file("captur/a", ""),
    ),
    Case("capture a file", SCORE_DAMAGED, ("capture is a file",), file("capture", "")),
    Case(
        "capture without its description", SCORE_DAMAGED, ("capture.json is missing", *AGAIN),
        damaged("capture", remove("capture.json")),
    ),
    Case(
        "capture's description cut off", SCORE_DAMAGED, ("capture.json is damaged", *AGAIN),
        damaged("capture", cut("capture.json")),
    ),
    Case(
        "capture of another format", SCORE_DAMAGED, ("capture.json", "format version 9", *AGAIN),
        damaged("capture", setting("capture.json", version=9)),
    ),
    Case(
        "capture's shard cut off", SCORE_DAMAGED,
        ("capture/attention-00000.safetensors is cut off", *AGAIN),
        damaged("capture", cut("attention-*.safetensors")),
    ),
    Case(
        "capture's shard missing", SCORE_DAMAGED, ("attention-00000.safetensors is missing", *AGAIN),
        damaged("capture", remove("attention-00000.safetensors")),
    ),
    Case(
        "capture's texts cut off", SCORE_DAMAGED, ("capture/texts.jsonl is cut off", *AGAIN),
        damaged("capture", cut("texts.jsonl")),
    ),
    Case(
        "capture into other files", ("capture", *FIT[1:4], "--out", "notes", "--max-tokens", "32"),
        ("notes holds other things (a.md)", "new directory"), file("notes/a.md", "my notes"),
    ),
    Case(
        "capture into a file", ("capture", *FIT[1:4], "--out", "notes", "--max-tokens", "32"),
        ("notes is a file", "directory"), file("notes", "my notes"),
    ),
]  # fmt: skip
RUNS = [
    Case(
        "out holds a run", fit("--out", "{run}"), ("already holds a run", "--resume", "--out")
    ),
    Case("out is a file", fit("--out", "notes"), ("notes is a file", "--out"), file("notes", "")),
    Case(
        "out holds other files", fit("--out", "notes"),
        ("notes holds other things (a.md)", "--out"), file("notes/a.md", "my notes"),
    ),
    Case("nothing to resume", fit("--resume"), ("out: there is no run to resume", "--resume")),
    Case(
        "resume with another model", (*FIT_MODEL, "--out", "{run}", "--resume"),
        ("capture holds a capture of other settings", "the model's weights", "another directory"),
        model(config__json={"layer_norm_epsilon": 1e-3}),
    ),
    Case(
        "resume with another capture",
        ("fit", "--capture", "capture", "--out", "{run}", "--resume", *SHORT),
        ("holds a run with other settings", "capture: ", "--out"),
        damaged("capture", setting("capture.json", family="other")),
    ),
    Case(
        "resume with another seed", fit("--out", "{run}", "--resume", "--seed", "7"),
        ("other settings", "seed: 0 there, 7 now", "choose another --out"),
    ),
    Case("report of nothing", ("report", "none"), ("none: no such directory", "attn-dsl fit")),
    Case("report of no run", ("report", "."), (".: not a run", "run.json", "attn-dsl fit")),
    Case(
        "report of a damaged run", ("report", "run"), ("run.json: damaged", "attn-dsl fit"),
        damaged("run", cut("run.json")),
    ),
    Case(
        "report of a run that lacks settings", ("report", "run"),
        ("run.json: damaged (it lacks key)", "attn-dsl fit"),
        damaged("run", setting("run.json", key=None)),
    ),
    Case(
        "report of a run of another version", ("report", "run"),
        ("run.json: format 99", "pip install --upgrade attn-dsl"),
        damaged("run", setting("run.json", format=99)),
    ),
    Case("show of a run that is gone", ("show", "none", "L0H0"), ("none: no such directory",)),
    Case("show of a run without a head", ("show", "{run}"), ("name a head", "run L5H1`")),
    Case("show of a head that is not there", ("show", "{run}", "L9H9"), ("has no head L9H9", "L0H0")),
    Case(
        "show of a damaged run", ("show", "run", "L0H0"), ("run.json: damaged",),
        damaged("run", cut("run.json")),
    ),
    Case(
        "show of a run that lacks a program", ("show", "run", "L0H0"),
        ("L00H00.attn: no such file",), damaged("run", remove("programs/L00H00.attn")),
    ),
    Case(
        "resume of a run of another version", ("fit", "--resume", "run"), ("run.json: format 99",),
        damaged("run", setting("run.json", format=99)),
    ),
    Case("a sentence longer than the context", ("show", "{run}", "L0H0", "--on", "dog " * 600),
         ("--on has", "takes", "shorten it")),
    Case("no sentence", ("show", "{run}", "L0H0", "--on", " "), ("--on is too short",)),
    Case("a tokenizer for a run", ("show", "{run}", "L0H0", "--tokenizer", "demo"),
         ("--tokenizer is for a program",)),
    Case(
        "report of a run with a damaged head", ("report", "run"),
        ("L00H00.json: damaged", "--resume"), damaged("run", cut("state/L00H00.json")),
    ),
    Case(
        "report of a run without heads", ("report", "run"), ("no head is finished", "--resume"),
        damaged("run", remove("state")),
    ),
    Case(
        "report without the capture", ("report", "run"), ("its attention is not in", "--capture"),
        damaged("run", lambda run: [remove("capture")(run), setting("run.json", capture="x")(run)]),
    ),
]  # fmt: skip
OPTIONS = [
    Case("unknown head", fit("--heads", "L2H0"), ("--heads: there is no L2H0", "layers 0 to 1"),
         leaves=("out",)),
    Case("heads of 5,000 digits", fit("--heads", f"L{'1' * 5000}"), ("--heads: cannot read", "L2H3")),
    Case("heads malformed", fit("--heads", "3.1"), ("--heads: cannot read '3.1'", "L2H3")),
    Case("no heads", fit("--heads", ","), ("--heads names no head", "L2H3")),
    Case("unknown proposer", fit("--proposers", "magic"),
         ("--proposers: unknown magic", "library, selectors, scores")),
    Case("no proposer", fit("--proposers", ","), ("--proposers names none", "library, selectors, scores")),
    Case("zero seconds", fit("--timeout", "0"), ("'--timeout'", "x>0")),
    Case("no evaluations", fit("--max-evals", "0"), ("'--max-evals'", "x>=1")),
    Case("capture and model", fit("--capture", "x"), ("either --capture, or MODEL",)),
    Case("unknown command", ("fitt",), ("no command `fitt`", "did you mean `fit`?")),
    Case("unknown option", ("fit", "--txt", "x"), ("'--txt'", "'--text'")),
    Case("missing argument", ("show",), ("Missing argument 'PROGRAM'", "attn-dsl show --help")),
]  # fmt: skip
CASES = [*TEXTS, *MODELS, *PROGRAMS, *CAPTURES, *RUNS, *OPTIONS]


@pytest.fixture(scope="module")
def given(small_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its texts, a program and a finished run, which nothing may change."""
    folder = tmp_path_factory.mktemp("given")
    shutil.copytree(small_model("gpt2"), folder / "model")
    (folder / "first.attn").write_text(VALID)
    texts = write_texts(folder / "texts.jsonl", 16)
    args = ("--text", texts, "--max-tokens", "32", *SHORT)
    succeed("fit", folder / "model", *args, "--out", folder / "run")
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".given").symlink_to(given)
    case.prepare(tmp_path)
    before = snapshot(given), snapshot(tmp_path)
    places = {name: given / name for name in ("model", "run")} | {"texts": given / "texts.jsonl"}

    outcome = attn_dsl(*(arg.format(**places) for arg in case.args))

    assert outcome.code == 2, outcome
    told = _message(case, outcome)
    for part in case.says:
        assert part in told, told
    assert "Traceback" not in outcome.out + outcome.err
    assert snapshot(given) == before[0], "existing results were changed"
    after = snapshot(tmp_path)
    assert before[1].items() <= after.items(), "existing files were changed"
    new = {Path(name).parts[0] for name in after.keys() - before[1].keys()}
    assert new <= set(case.leaves)


def _message(case: Case, outcome: Outcome) -> str:
    """Return the one message of a command; `check` reports invalid programs as its result."""
    if case.args[0] == "check":
        assert not outcome.err
        return outcome.out
    assert not outcome.out
    lines = outcome.err.splitlines()
    begins = [line for line in lines if line.startswith(("attn-dsl: ", "Error: "))]
    assert len(begins) == 1, outcome.err
    return outcome.err


def test_the_valid_forms_of_the_cases_are_accepted(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cases change is all that is wrong with them."""
    monkeypatch.chdir(tmp_path)
    places = {name: given / name for name in ("model", "run")} | {"texts": given / "texts.jsonl"}
    succeed(*(arg.format(**places) for arg in fit()))
    program = given / "first.attn"
    succeed("check", program, "--examples", "0")
    succeed("show", program)
    succeed("score", program, "--capture", given / "run" / "capture")
    shutil.copytree(given / "run", tmp_path / "run")
    succeed("report", "run")

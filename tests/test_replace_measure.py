"""Measures of replacement: perplexity, KL and agreement, orders, curves, and what is kept on disk."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import signal
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import replace_models
import torch
from command_line import attn_dsl, snapshot, succeed, write_texts
from fitting import started, wait_for
from llm_models import save_gguf
from replacing import masked_model, small_run
from small_models import save_model

from attn_dsl.compiler.program import parse
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.locate import embedded
from attn_dsl.eval.models import load_model
from attn_dsl.eval.replace import curve as curves
from attn_dsl.eval.replace import experiment, measure
from attn_dsl.eval.replace.context import replace_heads
from attn_dsl.eval.replace.experiment import Options, replace_run
from attn_dsl.eval.replace.measure import HeldOut, Sums
from attn_dsl.eval.replace.measurements import Measurements
from attn_dsl.eval.replace.programs import BASELINES
from attn_dsl.eval.replace.replaced_model import ReplacedModel, open_replaced_model
from attn_dsl.eval.tokenizer import Vocabulary

UNIFORM = parse("head uniform causal:\n")
TEXTS = ["the cat sat on the mat .", "she saw a bird", "one day the boy and the girl went"]


@pytest.fixture(scope="module")
def run(small_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(small_model, tmp_path_factory.mktemp("replace"))


@pytest.fixture(scope="module")
def opened(run: Path) -> ReplacedModel:
    return open_replaced_model(run)


@pytest.fixture(scope="module")
def llama(small_model: Callable[[str], Path]):
    return load_model(str(small_model("llama")))


def ids_of(loaded, texts=TEXTS) -> list[list[int]]:
    return [loaded.tokenizer(text).input_ids for text in texts]


def tell(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def by_hand(loaded, ids, heads) -> tuple[float, float, int]:
    """Run one text alone and add up what HeldOut does: nll, KL to the original, agreement."""
    row = torch.tensor([ids])
    with torch.inference_mode():
        before = torch.log_softmax(loaded.model(input_ids=row).logits[0, :-1], -1)
        with replace_heads(loaded, heads):
            after = torch.log_softmax(loaded.model(input_ids=row).logits[0, :-1], -1)
    nll = -after.gather(-1, row[0, 1:, None]).sum()
    kl = (before.exp() * (before - after)).sum()
    return float(nll), float(kl), int((before.argmax(-1) == after.argmax(-1)).sum())


# sums and intervals


def test_pairing_takes_out_what_both_models_find_hard() -> None:
    draw = np.random.default_rng(1)
    tokens = np.full(50, 20.0)
    nll = 20 * draw.normal(2.0, 0.5, 50)
    zero = np.zeros(50)
    before = Sums(tokens, nll, zero, tokens)
    after = Sums(tokens, nll + 20 * 0.1, zero, tokens)
    found = measure.effect(after, before, seed=0)
    assert found.ratio.mean == pytest.approx(math.exp(0.1))
    assert found.ratio.high - found.ratio.low < 1e-9
    assert found.perplexity.high - found.perplexity.low > 0.5


@pytest.mark.parametrize("heads", [{}, {(0, 1): UNIFORM, (1, 2): UNIFORM}])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_sums_are_those_of_each_text_alone(llama, heads, batch_size: int) -> None:
    ids = ids_of(llama)
    found = HeldOut(llama, ids, batch_size=batch_size).measure(heads)
    for text, one in enumerate(ids):
        nll, kl, agree = by_hand(llama, one, heads)
        assert found.tokens[text] == len(one) - 1
        assert found.nll[text] == pytest.approx(nll, rel=1e-4)
        assert found.kl[text] == pytest.approx(kl, rel=1e-3, abs=1e-5)
        assert found.agree[text] == agree
    assert (found.kl.sum() > 0.01) == bool(heads)


# encoders


def test_predictions_need_room_and_leave_no_file_behind(
    llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = HeldOut(llama, ids_of(llama))
    _ = held.original
    assert not [*tmp_path.iterdir()]  # also where the process is killed
    with pytest.raises(InputError, match=r"room for [\d.]+ GB, and .* of 3 texts take .*TMPDIR"):
        held._allocate(10**13)


def test_masked_perplexity_of_an_encoder(tmp_path: Path) -> None:
    loaded = load_model(str(masked_model(tmp_path / "bert")))
    ids = [loaded.tokenizer(text).input_ids for text in TEXTS]
    held_out = HeldOut(loaded, ids, seed=3)
    counts = held_out.original.tokens
    assert counts.tolist() == [max(1, round(0.15 * (len(one) - 2))) for one in ids]
    # each text alone, masked at the same places
    for text, one in enumerate(ids):
        at = held_out._places(tuple(one))
        row = torch.tensor([one])
        row[0, at] = loaded.tokenizer.mask_token_id
        with torch.inference_mode():
            logs = torch.log_softmax(loaded.model(input_ids=row).logits[0, at], -1)
        nll = -logs.gather(-1, torch.tensor(one)[at][:, None]).sum()
        assert held_out.original.nll[text] == pytest.approx(float(nll), rel=1e-4)
    program = parse("head near bidirectional:\n    3 where k == q-1")
    replaced = held_out.measure({(0, 0): program, (1, 3): program})
    assert replaced.kl.sum() > 0.001
    assert HeldOut(loaded, ids, seed=4).hash != held_out.hash


def test_models_and_texts_that_cannot_be_measured_are_refused(
    small_model: Callable[[str], Path], llama
) -> None:
    for loaded, ids, message in [
        (load_model(str(small_model("roberta"))), [1, 2, 3], "has no language-model head"),
        (load_model(str(small_model("bert"))), [1, 2, 3], "no mask token"),
        (llama, [3] * 65, "65 tokens, and small-llama takes 64"),
    ]:
        with pytest.raises(InputError, match=message):
            HeldOut(loaded, [ids])


# measurements on disk


def test_what_is_measured_is_not_measured_again(
    opened: ReplacedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "measurements.jsonl"
    test, heads, kinds = opened.held_out("test"), opened.heads[:2], ("programs", *BASELINES)
    first = Measurements(opened, file)
    sums = [first.measure(test, kind, heads) for kind in kinds]
    written = file.read_bytes()
    assert written.count(b"\n") == 5
    file.write_bytes(written + b'{"key": "b", "su')  # a line that was cut off does not count
    again = Measurements(opened, file)
    monkeypatch.setattr(HeldOut, "measure", None)
    for kind, known in zip(kinds, sums, strict=True):
        assert again.measure(test, kind, heads).nll.tolist() == known.nll.tolist()
    assert file.read_bytes() == written
    for held_out, chosen in ((test, heads[1:]), (opened.held_out("select"), heads)):
        with pytest.raises(TypeError):  # other heads and other texts are another measurement
            again.measure(held_out, "zero", chosen)


def held_out_of(family: str, folder: Path) -> HeldOut:
    if family == "bert":
        loaded = load_model(str(masked_model(folder / family)))
    else:
        loaded = load_model(str(save_model(folder / family, family)))
    return HeldOut(loaded, ids_of(loaded), batch_size=2)


# orders


@pytest.mark.parametrize("family", ["llama", "bloom", "bert"])
def test_damage_comes_from_the_gradient_of_each_row(family: str, tmp_path: Path) -> None:
    if family == "bloom":
        llama = load_model(str(save_model(tmp_path, "llama")))
        parts = {"model": replace_models.model(family), "tokenizer": replace_models.tokenizer()}
        loaded = dataclasses.replace(llama, **parts)
        held_out = HeldOut(loaded, ids_of(loaded), batch_size=2)
    else:
        held_out = held_out_of(family, tmp_path)
    loaded, causal = held_out.loaded, held_out.loaded.causal
    source = "head near {}:\n    3 where k == q-1\n    1 where k == 0"
    program = parse(source.format("causal" if causal else "bidirectional"))
    heads = [(0, 1), (1, 0), (1, 3)]
    expected = dict.fromkeys(heads, 0.0)
    loaded.model.get_input_embeddings().weight.requires_grad_(True)
    vocabulary = Vocabulary(loaded.tokenizer)
    for text, one in enumerate(held_out.ids):
        at = np.array(held_out._predicted[text])
        row = torch.tensor([one])
        if not causal:
            row[0, at] = loaded.tokenizer.mask_token_id
        matrix = torch.from_numpy(program(vocabulary.tokens_of(row[0].tolist())))
        out = loaded.model(input_ids=row, output_attentions=True)
        logs = torch.log_softmax(out.logits[0, at - causal], -1)
        loss = -logs.gather(-1, torch.tensor(one)[at][:, None]).sum()
        for (layer, head), attention in ((h, out.attentions[h[0]]) for h in heads):
            (gradient,) = torch.autograd.grad(loss, attention, retain_graph=True)
            change = (gradient * (matrix - attention))[0, head].sum(-1)
            expected[layer, head] += float(change.detach().square().sum())
    loaded.model.requires_grad_(False)
    found = held_out.damages(dict.fromkeys(heads, program))
    assert found == pytest.approx({h: x / 2 for h, x in expected.items()}, rel=2e-3)


def test_damage_is_that_of_the_model_with_the_heads_that_are_taken(opened: ReplacedModel) -> None:
    select = opened.held_out("select")
    taken = opened.heads[1:4]
    expected = select.measure({head: opened.programs[head] for head in taken}).loss
    with replace_heads(opened.loaded, opened.programs) as replaced:
        controller = replaced.controller
        controller.taken, controller.shares = frozenset(taken), {}
        assert select.sums().loss == pytest.approx(expected, rel=1e-5)


def test_orders_come_from_the_select_texts(opened: ReplacedModel) -> None:
    measurements = Measurements(opened)
    select = opened.held_out("select")
    heads = opened.heads
    by_iou = curves.order_heads("iou", measurements, select, heads, tell)
    assert [opened.ious[h] for h in by_iou] == sorted(opened.ious.values(), reverse=True)
    by_damage = curves.order_heads("damage", measurements, select, heads, tell)
    losses = [measurements.measure(select, "programs", [h]).loss for h in by_damage]
    assert losses == sorted(losses)
    by_gradient = curves.order_heads("gradient", measurements, select, heads, tell)
    damages = measurements.damages(select, heads)
    assert [damages[h] for h in by_gradient] == sorted(damages.values())
    by_greedy = curves.order_heads("greedy", measurements, select, heads, tell)
    assert set(by_greedy) == set(heads) and by_greedy[0] == by_gradient[0]
    damages = measurements.damages(select, heads, by_greedy[:1])
    assert by_greedy[1] == min(heads[:], key=lambda h: (h in by_greedy[:1], damages[h]))
    assert curves.spearman(heads, heads) == pytest.approx(1)
    assert curves.spearman(heads, heads[::-1]) == pytest.approx(-1)


def test_larger_models_are_measured_on_fewer_texts(
    opened: ReplacedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = len(opened.splits["test"])
    assert own > 3
    monkeypatch.setattr(experiment, "FEWEST", 2)
    lengths = [len(one) for one in opened.ids("test")]
    monkeypatch.setattr(experiment, "WORK", sum(lengths[:3]) * opened.loaded.model.num_parameters())
    for asked, count in ((None, 3), (2, 2), (own, own)):
        options = Options(heads="L0", max_texts=asked, out=tmp_path / str(count))
        outcome, _ = replace_run(opened, options)
        assert outcome.original.texts == count
        assert (f"{count} of {own} windows" in " ".join(outcome.notes)) == (count < own)


# the curve and its files


def test_the_command_measures_the_whole_curve(run: Path) -> None:
    outcome = attn_dsl("replace", run, "--order", "iou,gradient,damage")
    out, told = outcome.out, outcome.err
    assert "measuring 0 of 105" in told  # a line now and then, as there is no terminal
    assert "Spearman correlation of the orders gradient, damage: " in out
    assert "Growth of perplexity in percent, heads taken by IoU:" in out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith(str(run)))
    folder = run / "replacement"
    with (folder / "curve.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 3 * len(curves.FRACTIONS) * 5
    assert {row["source"] for row in rows} == {"programs", *BASELINES}
    ElementTree.fromstring((folder / "curve.svg").read_text())
    assert "<svg" in (curves.figure(run) or "")
    # the same again measures nothing and changes nothing
    before = snapshot(folder)
    data = json.loads(succeed("replace", run, "--order", "iou,gradient,damage", "--json"))
    assert snapshot(folder) == before
    assert data["original"]["texts"] == len(open_replaced_model(run).splits["test"])
    # all heads replaced are the same whatever the order
    whole = [row for row in rows if row["fraction"] == "1.000000"]
    for source in ("programs", *BASELINES):
        assert len({row["ratio"] for row in whole if row["source"] == source}) == 1


def test_an_interrupted_command_ends_soon_keeps_what_it_has_and_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    args = ("replace", run, "--order", "damage,gradient", "--out")
    with started(*args, tmp_path / "cut") as process:
        wait_for(process, tmp_path / "cut/replacement", "measurements.jsonl")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert f"Go on with:\nattn-dsl replace {run}" in told and "Traceback" not in told
    assert not list(tmp_path.glob("attn-dsl-*"))  # the original's predictions
    kept = (tmp_path / "cut/replacement/measurements.jsonl").read_bytes()
    assert [file.name for file in (tmp_path / "cut/replacement").glob("[!.]*")] == ["measurements.jsonl"]
    for name in ("cut", "whole"):
        succeed(*args, tmp_path / name)
    assert snapshot(tmp_path / "cut") == snapshot(tmp_path / "whole")
    assert (tmp_path / "cut/replacement/measurements.jsonl").read_bytes().startswith(kept)


def test_heads_by_hand_on_own_texts_without_those_that_the_run_has_seen(run: Path, tmp_path: Path) -> None:
    seen = run.parent / "texts.jsonl"
    options = ("--heads", "L0H1,L1", "--text", seen, "--out", tmp_path, "--json")
    data = json.loads(succeed("replace", run, *options))
    assert data["original"]["texts"] == len(open_replaced_model(run).splits["test"])
    assert "texts were left out" in " ".join(data["notes"])
    chosen = [[0, 1], *([1, head] for head in range(4))]
    assert all(point["heads"] == chosen for point in data["points"])
    assert {point["order"] for point in data["points"]} == {"by hand"}


# bad input


def test_bad_input(run: Path, small_model: Callable[[str], Path], tmp_path: Path) -> None:
    before = snapshot(run)
    texts = write_texts(tmp_path / "texts.jsonl", 3)
    for args, message in [
        (("--fraction", "0"), "--fraction is a share"),
        (("--order", "size"), "there is no size; known: greedy, gradient, damage, iou"),
        (("--heads", "L7H0"), "there is no L7H0"),
        (("--heads", "x"), "cannot read 'x'"),
        (("--model", small_model("gpt2")), "was fitted to small-llama with other weights"),
        (("--model", tmp_path / "none"), "none is not a directory"),
        (("--capture", tmp_path), "capture"),
        (("--device", "nosuch"), "--device nosuch cannot be used"),
        (("--dtype", "int4"), "--dtype int4: write one of float32"),
        (("--text", texts, "--max-tokens", "65"), "--max-tokens has 65 tokens"),
        (("--text", tmp_path / "none.jsonl"), "does not exist"),
        (("--out", texts), "is a file"),
    ]:
        outcome = attn_dsl("replace", run, *args)
        assert outcome.code == 2 and message in outcome.err, (args, outcome.err)
        assert "Traceback" not in outcome.err
    assert attn_dsl("replace", tmp_path / "nothing").code == 2
    assert snapshot(run) == before


def test_a_run_of_a_gguf_file_in_half_precision(tmp_path: Path) -> None:
    gguf = save_gguf(embedded("demo"), tmp_path / "demo.gguf")
    texts = write_texts(tmp_path / "texts.jsonl", 16)
    given = ("--text", texts, "--max-tokens", "32", "--dtype", "bfloat16", "--heads", "L0")
    succeed("fit", gguf, *given, "--max-evals", "2", "--out", tmp_path / "run")
    loaded = open_replaced_model(tmp_path / "run").loaded
    assert (loaded.source, loaded.model.dtype) == (str(gguf), torch.bfloat16)
    found = json.loads(succeed("replace", tmp_path / "run", "--fraction", "1", "--json"))
    assert all(math.isfinite(point["effect"]["perplexity"]["mean"]) for point in found["points"])


def test_programs_of_a_size_come_from_the_fronts(run: Path) -> None:
    from attn_dsl.eval.run import Run

    results = {(r.layer, r.head): r for r in Run.open(run).results}
    small = open_replaced_model(run, nodes=12)
    for pair, program in small.programs.items():
        rows = [row for row in results[pair].front if row.nodes <= 12]
        best = max(rows, key=lambda row: row.output_r2_select)
        assert parse(best.program).source == program.source
        assert small.ious[pair] == best.iou_select
    least = min(row.nodes for row in Run.open(run).results[0].front)
    with pytest.raises(InputError, match="--nodes: the smallest program"):
        open_replaced_model(run, nodes=least - 1)

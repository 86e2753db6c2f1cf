"""Tuning: weights move so that the model predicts as before; structure, sets and model stay."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import attn_dsl, snapshot, succeed, write_texts
from replacing import small_run

from attn_dsl.compiler.program import Program, load, parse
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.replace.context import replace_heads
from attn_dsl.eval.replace.experiment import Options, further_texts
from attn_dsl.eval.replace.measure import HeldOut
from attn_dsl.eval.replace.programs import HeadSource, Programs
from attn_dsl.eval.replace.replaced_model import ReplacedModel, open_replaced_model
from attn_dsl.eval.replace.tunable import Tunable
from attn_dsl.eval.replace.tune import Epoch, TuneSettings, tune, with_first_token
from attn_dsl.eval.split import Split
from attn_dsl.synth.rewrite import bare

QUICK = TuneSettings(epochs=4, rate=0.1, patience=9)


@pytest.fixture(scope="module")
def run(small_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(small_model, tmp_path_factory.mktemp("tune"))


@pytest.fixture(scope="module")
def opened(run: Path) -> ReplacedModel:
    return open_replaced_model(run)


def weighted(opened: ReplacedModel, most: int = 8) -> list[tuple[int, int]]:
    """Heads whose programs have something to tune."""
    return [head for head in opened.heads if opened.programs[head].tree.weights][:most]


def structure(program: Program) -> tuple[object, ...]:
    """The terms of a program without their weights, and with a term for the first token."""
    tree = with_first_token(program).tree
    parts = (part for term in tree.terms for part in t.parts_of(term))
    return tree.name, Counter(map(bare, parts)), tree.sets


def test_predictions_come_nearer_and_structure_sets_and_the_model_stay_as_they_are(
    run: Path,
) -> None:
    opened = open_replaced_model(run)
    model = opened.loaded.model
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    flags = [p.requires_grad for p in model.parameters()]
    heads = weighted(opened)
    # weights that are far too small, so that there is something to win on few texts
    for head in heads:
        tree = opened.programs[head].tree
        small = tree.with_weights([0.2 * (weight or 0.0) for weight in tree.weights])
        opened.programs[head] = Program.from_tree(small)
    tuned = tune(opened, heads, QUICK)
    # the best weights on the select texts are kept
    losses = [epoch.select_kl for epoch in tuned.history]
    assert tuned.best == int(np.argmin(losses)) > 0
    before, after = (
        opened.held_out("test").measure({h: programs[h] for h in heads}).kl.sum()
        for programs in (opened.programs, tuned.programs)
    )
    assert after < before
    for head, program in tuned.programs.items():
        assert structure(program) == structure(opened.programs[head])
        assert program.name == opened.programs[head].name
        for weight in program.tree.weights:
            assert float(f"{weight:.3g}") == weight and abs(weight) <= 1000  # type: ignore[arg-type]
    assert flags == [p.requires_grad for p in model.parameters()]
    assert torch.get_float32_matmul_precision() == "highest"
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[name]) and parameter.grad is None


GRADED = """set Queries = {{"{0}": 1.5, "{1}": -0.5}}
set Keys = {{"{1}": 2, "{2}": 0.75, "{3}": -1}}
head graded causal:
    1.2 * weight(token(q), Queries) * weight(token(k), Keys) where q - k <= 3
    0.6 * weight(token(q), Queries) * weight(token(k), Keys) where q - k > 3
    -0.5 * log(1 + q - k) * weight(token(k-1), Keys)
    1 where k == q-1
"""


def graded(opened: ReplacedModel) -> Program:
    common = Counter(s for i in range(20) for s in opened.capture.tokens(i).strings)
    return parse(GRADED.format(*(s for s, _ in common.most_common(4))))


def test_weights_of_terms_are_tuned_and_sets_stay(opened: ReplacedModel) -> None:
    program = graded(opened)
    tunable = Tunable([program])
    assert len(tunable.weights) == 4
    texts = [opened.capture.tokens(i) for i in range(3)]
    expected = Programs([program]).bundle(texts).numpy()
    np.testing.assert_allclose(tunable.bundle(texts).detach().numpy(), expected, atol=2e-5)
    changed = tunable.weights.detach().double().numpy() + np.linspace(-0.5, 0.5, 4).round(2)
    [other] = tunable.written(changed)
    assert structure(other) == structure(program)
    with torch.no_grad():
        tunable.weights.copy_(torch.from_numpy(changed).round(decimals=2))
    expected = Programs([other]).bundle(texts).numpy()
    np.testing.assert_allclose(tunable.bundle(texts).detach().numpy(), expected, atol=0.02)


SCORED = """score Common:
    1.2 where token(i) in {{"{0}", "{1}"}}
    -0.5 where token(i-1) == "{2}"
    0.7 where seen(i)
score Other:
    2 where token(i) == "{3}"
score Fixed:
    1 where token(i) == "{1}"
head scored causal:
    0.8 * Common(k)
    0.5 * Common(q) * Other(k) where q - k <= 3
    -0.4 * log(1 + q - k) * Common(k)
    1 + 0.3 * Other(q) where k == 0
    0.2 * Fixed(k-1)
"""


def scored(opened: ReplacedModel) -> Program:
    common = Counter(s for i in range(20) for s in opened.capture.tokens(i).strings)
    return parse(SCORED.format(*(s for s, _ in common.most_common(4))))


def test_a_program_gets_scores_of_its_own_whose_lines_are_tuned(opened: ReplacedModel) -> None:
    program = scored(opened)
    tunable = Tunable([graded(opened), program, program])
    own = tunable.weights.detach().double().numpy()[-10:]
    assert own.tolist() == pytest.approx([0.8, 0.5, -0.4, 1, 0.3, 0.2, 1.2, -0.5, 0.7, 2])
    texts = [opened.capture.tokens(i) for i in range(3)]
    expected = Programs([program]).bundle(texts).numpy()[0]
    for matrices in tunable.bundle(texts).detach().numpy()[1:]:
        np.testing.assert_allclose(matrices, expected, atol=2e-5)
    changed = tunable.weights.detach().double().numpy() + np.linspace(-0.5, 0.5, 24).round(2)
    changed[-3] = 0.0
    other = tunable.written(changed)[2]
    assert [len(one.terms) for one in other.tree.scores] == [2, 1, 1]
    assert other.tree.scores[2] == program.tree.scores[2]  # the shift keeps it as it is
    with torch.no_grad():
        tunable.weights.copy_(torch.from_numpy(changed).round(decimals=2))
    expected = Programs([other]).bundle(texts).numpy()[0]
    np.testing.assert_allclose(tunable.bundle(texts).detach().numpy()[2], expected, atol=0.02)
    none = changed.copy()
    none[-1] = 0.0
    assert tunable.written(none)[2].tree.scores[1].terms[0].weight == 0


@pytest.mark.parametrize("make", [graded, scored])
def test_gradients_reach_weights_through_the_model(
    opened: ReplacedModel, make: Callable[[ReplacedModel], Program]
) -> None:
    tunable = Tunable([make(opened)])
    fit = HeldOut(opened.loaded, opened.ids("fit")[:4])
    _ = fit.original
    with replace_heads(opened.loaded, {(0, 1): HeadSource(tunable, 0)}):
        (gradient,) = torch.autograd.grad(fit.loss(fit.batches[0]), [tunable.weights])
        for at in range(min(9, len(gradient))):
            losses = []
            for side in (1, -1):
                with torch.no_grad():
                    tunable.weights[at] += side * 0.02
                    losses.append(float(fit.loss(fit.batches[0])))
                    tunable.weights[at] -= side * 0.02
            assert (losses[0] - losses[1]) / 0.04 == pytest.approx(float(gradient[at]), rel=0.05, abs=2e-4)


def test_programs_get_a_weight_on_the_first_token_that_goes_if_it_stays_small(
    opened: ReplacedModel,
) -> None:
    source = "head a causal:\n    1 where k == q-1"
    heads = [(0, 0), (1, 0)]
    programs = {
        **opened.programs,
        (0, 0): parse(source),
        (1, 0): parse(f"{source}\n 0 where k == 0"),
    }
    start = dataclasses.replace(opened, programs=programs)
    still = tune(start, heads, dataclasses.replace(QUICK, epochs=1, rate=1e-4))
    assert [len(still.programs[head].tree.terms) for head in heads] == [1, 2]
    moved = tune(start, heads, dataclasses.replace(QUICK, epochs=1, rate=0.5))
    if moved.best:
        assert all(len(moved.programs[head].tree.terms) == 2 for head in heads)


def test_linear_programs_stay_as_they_are(opened: ReplacedModel) -> None:
    linear = parse("head a causal linear:\n    1 where k == q-1")
    mixed = dataclasses.replace(opened, programs={**opened.programs, (0, 0): linear})
    heads = weighted(opened, 4)
    assert tune(mixed, [(0, 0), *heads[1:]], QUICK).programs[0, 0] is linear
    with pytest.raises(InputError, match="nothing to tune"):
        tune(mixed, [(0, 0)], QUICK)
    with pytest.raises(InputError, match="linear programs are not tuned: a"):
        Tunable([linear])


def test_an_interrupted_tuning_goes_on_where_it_was(opened: ReplacedModel, tmp_path: Path) -> None:
    start, heads = opened, weighted(opened, 4)
    whole = tune(start, heads, QUICK)

    def stop(done: int, total: int, history: Sequence[Epoch]) -> None:
        if len(history) == 2 and done == total - moment:
            raise KeyboardInterrupt

    seen: list[int] = []
    tune(start, heads, QUICK, tick=lambda done, total, history: seen.append(total - done))
    assert seen == sorted(seen, reverse=True) and seen[-1] == 0
    per_epoch = len(seen) // (QUICK.epochs + 1)
    moment = (QUICK.epochs - 1) * per_epoch - 2  # within the second epoch
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        tune(start, heads, QUICK, state=state, tick=stop)
    told: list[int] = []
    resumed = tune(start, heads, QUICK, state=state, tick=lambda done, total, _: told.append(total))
    assert told[0] == per_epoch * QUICK.epochs - 2 and len(told) == told[0]
    assert resumed.history == whole.history
    assert [p.source for p in resumed.programs.values()] == [p.source for p in whole.programs.values()]


def test_the_command_writes_tuned_programs_and_the_trade_off(run: Path, tmp_path: Path) -> None:
    arguments = ("replace", run, "--fraction", "0.5", "--order", "iou", "--tune")
    out = succeed(*arguments)
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith(str(run)))
    fit_texts = len(open_replaced_model(run).splits["fit"])
    assert f"Tuned on {fit_texts} texts in" in out
    opened = open_replaced_model(run)
    data = json.loads((run / "replacement" / "fraction-0.5-tuned.json").read_text())
    chosen = [tuple(head) for head in data["points"][0]["heads"]]
    assert {point["source"] for point in data["points"]} > {"programs", "tuned"}
    folder = run / data["extra"]["tuning"]["folder"]
    programs = {h: load(folder / f"L{h[0]:02d}H{h[1]:02d}.attn") for h in chosen}
    # the figures are those of the files
    sums = opened.held_out("test").measure(programs)
    tuned = next(point for point in data["points"] if point["source"] == "tuned")
    assert tuned["effect"]["kl"]["mean"] == pytest.approx(sums.kl.sum() / sums.tokens.sum(), rel=1e-6)
    split = Split(opened.capture, opened.splits["test"])
    numbers = {head: head[0] * opened.loaded.n_heads + head[1] for head in programs}
    ious = np.array([split.compare([programs[h].tree], numbers[h]).ious[0] for h in programs])
    told = data["extra"]["tuning"]["mean_iou_after"]
    assert told["mean"] == pytest.approx(ious.mean(), rel=1e-6)
    table = (folder / "tuned.csv").read_text().splitlines()
    assert len(table) == 1 + len(chosen) and table[0].startswith("layer,head,program,iou_before")
    # finished programs are read, not tuned again; those of other settings stay
    before = snapshot(run / "tuned")
    succeed(*arguments)
    assert snapshot(run / "tuned") == before
    succeed("replace", run, "--heads", "L0", "--tune")
    assert before.items() < snapshot(run / "tuned").items()


def test_further_texts_are_tuned_on_but_never_those_that_are_picked_or_measured_on(
    run: Path, tmp_path: Path
) -> None:
    opened = open_replaced_model(run)
    every = run.parent / "texts.jsonl"
    more = write_texts(tmp_path / "more.jsonl", 20, seed=5)
    options = Options(tune=True, tune_text=str(every), text=str(more))
    with pytest.raises(InputError, match="give others"):
        further_texts(opened, options)
    both = tmp_path / "both.jsonl"
    both.write_text(every.read_text() + more.read_text())
    options = dataclasses.replace(options, tune_text=str(both), text=None)
    assert len(further_texts(opened, options)) == 20
    assert len(further_texts(opened, dataclasses.replace(options, tune_texts=7))) == 7
    arguments = ("--fraction", "0.5", "--order", "iou", "--tune-text", both)
    outcome = attn_dsl("replace", run, *arguments)
    assert outcome.code == 2 and "give --tune as well" in outcome.err
    out = succeed("replace", run, *arguments, "--tune", "--out", tmp_path / "out")
    assert f"Tuned on {len(opened.splits['fit']) + 20} texts in" in out

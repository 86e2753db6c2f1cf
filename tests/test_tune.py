"""Tuning: weights move so that the model predicts as before; structure, sets and model stay."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import attn_dsl, snapshot, succeed, write_texts
from replacing import small_run

from attn_dsl.compiler.program import Program, load, parse
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.replace.context import replace_heads
from attn_dsl.eval.replace.element_weights import ElementWeights
from attn_dsl.eval.replace.measure import HeldOut
from attn_dsl.eval.replace.options import Options
from attn_dsl.eval.replace.programs import Programs
from attn_dsl.eval.replace.subject import Subject, open_subject
from attn_dsl.eval.replace.tunable import Tunable
from attn_dsl.eval.replace.tune import (
    DIGITS,
    PATH,
    Trainer,
    TuneSettings,
    _replaced,
    frozen,
    scales,
    tune,
)
from attn_dsl.eval.replace.tuned import _further, program_ious

QUICK = TuneSettings(epochs=4, rate=0.2)


@pytest.fixture(scope="module")
def run(small_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(small_model, tmp_path_factory.mktemp("tune"))


@pytest.fixture(scope="module")
def subject(run: Path) -> Subject:
    return open_subject(run)


def steep(subject: Subject) -> Subject:
    """The same run with every weight far from where the fit put it."""
    programs = {
        head: Program.from_tree(p.tree.with_weights([6 * w for w in p.tree.weights]))  # type: ignore[operator]
        for head, p in subject.programs.items()
    }
    return dataclasses.replace(subject, programs=programs)


def weighted(subject: Subject, most: int = 8) -> list[tuple[int, int]]:
    """Heads whose programs have something to tune."""
    return [head for head in subject.heads if subject.programs[head].tree.weights][:most]


def without_weights(program: Program) -> object:
    return program.tree.with_weights([0.0] * len(program.tree.weights))


def test_known_weights_are_found_again(subject: Subject) -> None:
    truth = {
        (0, 1): parse("head a causal:\n    2 where k == q-1\n    -0.3 * (q - k)"),
        (1, 2): parse("head b causal:\n    3 where text(k) == text(q)\n    1.5 where k == q-1"),
    }
    wrong = np.array([-1.0, 0.1, 0.5, 4.0])
    heads = list(truth)
    fit, select = (HeldOut(subject.loaded, subject.ids(part)) for part in ("fit", "select"))
    with replace_heads(subject.loaded.model, truth, tokenizer=subject.loaded.tokenizer):
        _ = fit.reference, select.reference
    tunable = Tunable(Tunable(list(truth.values())).written(wrong, DIGITS))
    settings = TuneSettings(epochs=40, rate=0.5, patience=99)
    trainer = Trainer(tunable, scales(subject, tunable), settings)
    with frozen(subject.loaded.model), _replaced(subject, heads, tunable):
        while not trainer.finished:
            trainer.epoch(fit, select)
    losses = [epoch.select_kl for epoch in trainer.history]
    assert min(losses) < 0.01 * losses[0]
    right = [w for program in truth.values() for w in program.tree.weights]
    assert trainer.best.numpy() == pytest.approx(np.array(right, dtype=float), abs=0.2)


def test_the_best_weights_on_the_select_texts_are_kept(subject: Subject) -> None:
    start, heads = steep(subject), weighted(subject)
    tuned = tune(start, heads, QUICK)
    losses = [epoch.select_kl for epoch in tuned.history]
    assert tuned.best == int(np.argmin(losses)) > 0
    test = start.held_out("test")
    before = test.measure({h: start.programs[h] for h in heads})
    assert test.measure(tuned.programs).mean_kl < before.mean_kl


def test_structure_sets_and_the_model_stay_as_they_are(subject: Subject) -> None:
    model = subject.loaded.model
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    flags = [p.requires_grad for p in model.parameters()]
    tuned = tune(subject, weighted(subject, 3), QUICK)
    assert list(tuned.programs) == weighted(subject, 3)
    for head, program in tuned.programs.items():
        assert without_weights(program) == without_weights(subject.programs[head])
        assert program.name == subject.programs[head].name
        for weight in program.tree.weights:
            assert float(f"{weight:.3g}") == weight and abs(weight) <= 1000  # type: ignore[arg-type]
    assert flags == [p.requires_grad for p in model.parameters()]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[name]) and parameter.grad is None


def test_gradients_reach_the_weights_through_the_model(subject: Subject) -> None:
    heads = weighted(subject, 3)
    programs = [subject.programs[h] for h in heads]
    tunable = Tunable(programs)
    fit = HeldOut(subject.loaded, subject.ids("fit")[:4])
    _ = fit.reference
    with frozen(subject.loaded.model), _replaced(subject, heads, tunable):
        (gradient,) = torch.autograd.grad(fit.loss(0), [tunable.weights])
        size = scales(subject, tunable)
        for at in np.argsort(-np.abs(gradient.numpy() / size))[:3]:
            step = 0.02 / float(size[at])
            losses = []
            for side in (1, -1):
                with torch.no_grad():
                    tunable.weights[at] += side * step
                    losses.append(float(fit.loss(0)))
                    tunable.weights[at] -= side * step
            slope = (losses[0] - losses[1]) / (2 * step)
            assert slope == pytest.approx(float(gradient[at]), rel=0.05, abs=2e-4 / step)


GRADED = """set Queries = {{"{0}": 1.5, "{1}": -0.5}}
set Keys = {{"{1}": 2, "{2}": 0.75, "{3}": -1}}
head graded causal:
    1.2 * weight(token(q), Queries) * weight(token(k), Keys) where q - k <= 3
    0.6 * weight(token(q), Queries) * weight(token(k), Keys) where q - k > 3
    -0.5 * log(1 + q - k) * weight(token(k-1), Keys)
    1 where k == q-1
"""


def graded(subject: Subject) -> Program:
    common = Counter(s for i in range(20) for s in subject.capture.tokens(i).strings)
    return parse(GRADED.format(*(s for s, _ in common.most_common(4))))


def test_elements_of_sets_are_tuned_and_stay_in_their_sets(subject: Subject) -> None:
    program = graded(subject)
    tunable = Tunable([program])
    assert len(tunable.elements.values) == 5
    texts = [subject.capture.tokens(i) for i in range(3)]
    expected = Programs([program]).bundle(texts).numpy()
    np.testing.assert_allclose(tunable.bundle(texts).detach().numpy(), expected, atol=2e-5)
    changed = tunable.weights.detach().double().numpy() + np.linspace(-0.5, 0.5, 9).round(2)
    [other] = tunable.written(changed)
    assert [d.value.elements for d in other.tree.sets] == [
        d.value.elements for d in program.tree.sets
    ]
    with torch.no_grad():
        tunable.weights.copy_(torch.from_numpy(changed))
    expected = Programs([other]).bundle(texts).numpy()
    np.testing.assert_allclose(tunable.bundle(texts).detach().numpy(), expected, atol=2e-5)


def test_gradients_reach_the_elements_through_the_model(subject: Subject) -> None:
    tunable = Tunable([graded(subject)])
    fit = HeldOut(subject.loaded, subject.ids("fit")[:4])
    _ = fit.reference
    with frozen(subject.loaded.model), _replaced(subject, [(0, 1)], tunable):
        (gradient,) = torch.autograd.grad(fit.loss(0), [tunable.weights])
        for at in range(4, 9):
            losses = []
            for side in (1, -1):
                with torch.no_grad():
                    tunable.weights[at] += side * 0.02
                    losses.append(float(fit.loss(0)))
                    tunable.weights[at] -= side * 0.02
            assert (losses[0] - losses[1]) / 0.04 == pytest.approx(
                float(gradient[at]), rel=0.05, abs=2e-4
            )


def test_a_set_that_a_predicate_uses_is_not_tuned() -> None:
    def tuned(source: str) -> list[tuple[str, ...]]:
        return [literal.elements for _, literal in ElementWeights.of([parse(source).tree]).sets]

    both = GRADED.format("a", "b", "c", "d")
    assert tuned(both) == [("a", "b"), ("b", "c", "d")]
    assert tuned(both.replace("k == q-1", "token(k) in Keys")) == []
    other = both.replace("k == q-1", "token(k) in Queries")
    assert tuned(other) == []
    assert tuned(other.replace(" * weight(token(k), Keys) where", " where")) == [("b", "c", "d")]
    inline = 'head a causal:\n    1 * weight(token(k), {"a": 1, "b": 2})'
    assert tuned(inline) == [("a", "b")]
    tunable = Tunable([parse(inline)])
    [changed] = tunable.written(np.array([2.0, 0.5, -1.234]))
    assert changed.tree == parse(inline.replace("1 * ", "2 * ").replace(
        '"a": 1, "b": 2', '"a": 0.5, "b": -1.23')).tree  # fmt: skip


def test_the_same_seed_gives_the_same_weights(subject: Subject) -> None:
    heads = weighted(subject, 2)
    first, again = (tune(subject, heads, QUICK) for _ in range(2))
    assert first.history == again.history
    assert [p.source for p in first.programs.values()] == [
        p.source for p in again.programs.values()
    ]


def test_an_interrupted_tuning_goes_on_where_it_was(subject: Subject, tmp_path: Path) -> None:
    start, heads = steep(subject), weighted(subject, 4)
    whole = tune(start, heads, QUICK)

    def stop(epoch, total: int) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        tune(start, heads, QUICK, state=state, tick=stop)
    seen: list[int] = []
    resumed = tune(start, heads, QUICK, state=state, tick=lambda e, total: seen.append(e.number))
    assert seen[0] == 3
    # a state of other texts is passed over
    seen.clear()
    further = subject.ids("fit")[:3]
    with pytest.raises(KeyboardInterrupt):
        tune(start, heads, QUICK, state=(fewer := tmp_path / "fewer.safetensors"), tick=stop)
    tune(start, heads, QUICK, further, state=fewer, tick=lambda e, total: seen.append(e.number))
    assert seen[0] == 1
    assert resumed.history == whole.history
    assert [p.source for p in resumed.programs.values()] == [
        p.source for p in whole.programs.values()
    ]
    # a state of other settings is passed over
    other = tune(start, heads, dataclasses.replace(QUICK, epochs=1), state=state)
    assert [epoch.number for epoch in other.history] == [0, 1]


def test_an_anchor_holds_the_weights_near_the_fitted_ones(subject: Subject) -> None:
    start, heads = steep(subject), weighted(subject)
    size = scales(start, Tunable([start.programs[h] for h in heads]))

    def moved(anchor: float) -> float:
        found = tune(start, heads, dataclasses.replace(QUICK, anchor=anchor, patience=99))
        gaps = [
            np.array(found.programs[h].tree.weights, float)
            - np.array(start.programs[h].tree.weights, float)
            for h in heads
        ]
        return float(np.abs(np.concatenate(gaps) * size).mean())

    assert moved(100.0) < 0.5 * moved(0.0)


def test_the_path_goes_from_the_fitted_to_the_tuned_weights(subject: Subject) -> None:
    heads = subject.heads
    found = tune(subject, heads, QUICK)
    assert tuple(found.path) == PATH
    tunable = Tunable([subject.programs[h] for h in heads])
    fitted = tunable.written(tunable.weights.detach().numpy(), DIGITS)
    assert [p.source for p in found.path[0.0].values()] == [p.source for p in fitted]
    assert found.path[1.0] == found.programs


def test_scales_are_one_for_truth_values_and_the_size_of_values(subject: Subject) -> None:
    program = parse("head a causal:\n    1 where k == 0\n    -0.1 * (q - k)")
    truth, distance = scales(subject, Tunable([program]), texts=2)
    assert truth == 1.0
    lengths = [len(subject.capture.tokens(i)) for i in subject.splits["fit"][:2]]
    squares = [(q - k) ** 2 for n in lengths for q in range(n) for k in range(q)]
    assert distance == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)


def test_the_command_writes_tuned_programs_and_the_trade_off(run: Path, tmp_path: Path) -> None:
    arguments = ("replace", run, "--fraction", "0.5", "--order", "iou", "--tune")
    out = succeed(*arguments)
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith(str(run)))
    fit_texts = len(open_subject(run).splits["fit"])
    assert f"Tuned on {fit_texts} texts in" in out and "On the way from the fitted weights" in out
    subject = open_subject(run)
    data = json.loads((run / "replacement" / "fraction-0.5-tuned.json").read_text())
    chosen = [tuple(head) for head in data["points"][0]["heads"]]
    assert {point["source"] for point in data["points"]} > {"programs", "tuned"}
    programs = {h: load(run / "tuned" / f"L{h[0]:02d}H{h[1]:02d}.attn") for h in chosen}
    # the figures are those of the files
    sums = subject.held_out("test").measure(programs)
    tuned = next(point for point in data["points"] if point["source"] == "tuned")
    assert tuned["effect"]["kl"]["mean"] == pytest.approx(sums.mean_kl, rel=1e-6)
    ious = program_ious(subject.capture, subject.splits["test"], programs)
    trade = data["extra"]["tuning"]["tradeoff"]
    assert [row["share"] for row in trade] == list(PATH)
    assert trade[-1]["iou"]["mean"] == pytest.approx(ious.mean(), rel=1e-6)
    assert trade[-1]["ratio"]["mean"] == pytest.approx(tuned["effect"]["ratio"]["mean"])
    table = (run / "tuned" / "tuned.csv").read_text().splitlines()
    assert len(table) == 1 + len(chosen) and table[0].startswith("layer,head,program,iou_before")
    # finished programs are read, not tuned again; those of other settings stay
    before = snapshot(run / "tuned")
    succeed(*arguments)
    assert snapshot(run / "tuned") == before
    outcome = attn_dsl("replace", run, "--heads", "L0", "--tune")
    assert outcome.code == 2 and "tuned with other settings" in outcome.err
    assert snapshot(run / "tuned") == before


def test_further_texts_are_tuned_on_but_never_those_that_are_picked_or_measured_on(
    run: Path, tmp_path: Path
) -> None:
    subject = open_subject(run)
    every = run.parent / "texts.jsonl"
    more = write_texts(tmp_path / "more.jsonl", 20, seed=5)
    options = Options(tune=True, tune_text=str(every), text=str(more))
    with pytest.raises(InputError, match="give others"):
        _further(subject, options)
    both = tmp_path / "both.jsonl"
    both.write_text(every.read_text() + more.read_text())
    options = dataclasses.replace(options, tune_text=str(both), text=None)
    assert len(_further(subject, options)) == 20
    assert len(_further(subject, dataclasses.replace(options, tune_texts=7))) == 7
    arguments = ("--fraction", "0.5", "--order", "iou", "--tune-text", both)
    outcome = attn_dsl("replace", run, *arguments)
    assert outcome.code == 2 and "give --tune as well" in outcome.err
    out = succeed("replace", run, *arguments, "--tune", "--out", tmp_path / "out")
    assert f"Tuned on {len(subject.splits['fit']) + 20} texts in" in out

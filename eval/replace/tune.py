"""Tuning: the weights of all replaced programs adjusted through the model, structure untouched.

The weights of sets' elements move as well; which elements a set has, does not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import write_bytes
from attn_dsl.eval.replace.context import replace_heads
from attn_dsl.eval.replace.layers import interruptible
from attn_dsl.eval.replace.measure import HeldOut
from attn_dsl.eval.replace.predictions import Ids
from attn_dsl.eval.replace.replaced_model import ReplacedModel
from attn_dsl.eval.replace.source import Head, Part
from attn_dsl.eval.replace.tunable import Tunable

DIGITS = 3
"""Significant digits of the weights that are written."""


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How weights are tuned; equal settings give equal weights.

    Attributes:
        epochs: passes over the fit texts; the rate falls to zero over them by a cosine.
        rate: the first step of a weight, in logits: divided by the size of what it multiplies.
        patience: epochs without a better KL on the select texts after which it stops.
        batch_size: texts of a step.
        seed: decides the order of the batches.
    """

    epochs: int = 6
    rate: float = 0.05
    patience: int = 3
    batch_size: int = 8
    seed: int = 0


class Epoch(NamedTuple):
    """One pass over the fit texts: the mean KL of a prediction on fit and on select, nats."""

    number: int
    fit_kl: float
    select_kl: float


Tick = Callable[[int, int, Sequence[Epoch]], None]


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What tuning found.

    Attributes:
        programs: with their tuned weights, by head.
        history: all epochs; epoch 0 is before any step.
        best: the epoch whose weights were kept.
    """

    programs: dict[Head, Program]
    history: tuple[Epoch, ...]
    best: int


def tune(
    model: ReplacedModel, heads: Sequence[Head], settings: TuneSettings, further: Sequence[Ids] = (),
    *, state: Path | None = None, tick: Tick = lambda done, total, history: None,
) -> Tuned:  # fmt: skip
    """Adjust the weights of some heads' programs so that the model predicts as it did before.

    All heads are replaced at once, the model's own parameters stay as they are, and the mean
    KL(original || replaced) of a prediction is minimised on the fit texts by Adam. The weights
    of the epoch that is best on the select texts are kept.

    >>> tuned = tune(model, model.heads, TuneSettings())
    >>> tuned.history[0].select_kl, tuned.history[tuned.best].select_kl
    (0.31, 0.14)

    Args:
        further: texts to tune on beside the fit texts.
        state: a file that keeps what an interrupted tuning has done. The same tuning goes on
            from there; another one must be given another file.
        tick: called after each batch with how many are read, how many will be, and the epochs so far.

    Raises:
        InputError: there is nothing to tune: no program has a weight.
    """
    programs = [model.programs[head] for head in heads]
    if not any(program.tree.weights for program in programs):
        raise InputError("there is nothing to tune: the programs have no weights")
    tunable = Tunable(programs).to(model.loaded.model.device)
    texts = [*model.ids("fit"), *further]
    fit = HeldOut(model.loaded, texts, batch_size=settings.batch_size, seed=model.seed)
    select = model.held_out("select")
    trainer = Trainer(tunable, scales(model, tunable), settings)
    if state is not None and state.exists():
        trainer.restore(state)
    passes = len(fit.batches) + len(select.batches)
    left = settings.epochs + 1 - max(0, len(trainer.history) - 1) + (not trainer.history)
    total, done = left * passes - len(trainer.losses), count(1)
    fit.watch = select.watch = lambda: tick(next(done), total, trainer.history)
    _ = fit.original, select.original
    parts = {head: Part(tunable, number) for number, head in enumerate(heads)}
    with interruptible(model.loaded.model), replace_heads(model.loaded, parts):
        if not trainer.history:
            trainer.keep(fit.sums().mean_kl, select)
        while not trainer.finished:
            trainer.epoch(fit, select, state)
    tuned = dict(zip(heads, tunable.written(trainer.best.numpy(), DIGITS), strict=True))
    return Tuned(tuned, tuple(trainer.history), trainer.best_epoch)


class Trainer:
    """Adam on the weights of a group of programs, with early stopping.

    Attributes:
        history: the epochs so far.
        losses: in the epoch in progress, the summed KL of each batch.
        start, best: the fitted weights, and those of the best epoch.
    """

    def __init__(self, tunable: Tunable, scale: np.ndarray, settings: TuneSettings) -> None:
        self.tunable, self.settings, self.weights = tunable, settings, tunable.weights
        self.scale = torch.from_numpy(scale).to(self.weights)
        self.start = self.best = self.weights.detach().cpu().clone()
        self.moments = torch.zeros(2, len(self.start))
        self.history: list[Epoch] = []
        self.losses: list[float] = []

    @property
    def best_epoch(self) -> int:
        """The first epoch that is best on the select texts."""
        return min(self.history, key=lambda epoch: epoch.select_kl).number

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the select texts say that it is enough."""
        done = len(self.history) - 1
        return done >= self.settings.epochs or done - self.best_epoch >= self.settings.patience

    def keep(self, fit_kl: float, select: HeldOut) -> None:
        """Record an epoch, and its weights if they are the best so far."""
        self.history.append(Epoch(len(self.history), fit_kl, select.sums().mean_kl))
        if self.best_epoch == self.history[-1].number:
            self.best = self.weights.detach().cpu().clone()

    def epoch(self, fit: HeldOut, select: HeldOut, state: Path | None = None) -> None:
        """Pass over the fit texts once, or to the end, and measure on the select texts.

        Args:
            state: a file that keeps what is done, step by step.
        """
        draw = np.random.default_rng([self.settings.seed, len(self.history)])
        start = (len(self.history) - 1) * len(fit.batches)
        for number in draw.permutation(len(fit.batches))[len(self.losses) :]:
            loss = fit.loss(fit.batches[number])
            step = start + len(self.losses)
            self._step(loss, step, self.settings.epochs * len(fit.batches))
            self.losses.append(float(loss.detach()) * len(fit.batches[number].targets))
            if state is not None:
                self.save(state)
            fit.watch()
        self.keep(sum(self.losses) / sum(len(batch.targets) for batch in fit.batches), select)
        self.losses = []
        if state is not None:
            self.save(state)

    def _step(self, loss: torch.Tensor, step: int, total: int) -> None:
        """Take one step of Adam in logits: a weight moves by the rate divided by its scale."""
        (gradient,) = torch.autograd.grad(loss, [self.weights])
        with torch.no_grad():
            gradient = (gradient / self.scale).cpu()
            self.moments[0].mul_(0.9).add_(0.1 * gradient)
            self.moments[1].mul_(0.99).add_(0.01 * gradient**2)
            mean = self.moments[0] / (1 - 0.9 ** (step + 1))
            size = (self.moments[1] / (1 - 0.99 ** (step + 1))).sqrt() + 1e-10
            rate = self.settings.rate * 0.5 * (1 + math.cos(math.pi * step / total))
            self.weights.sub_((rate * mean / size).to(self.weights) / self.scale)
            limits = self.tunable.limits.to(self.weights)
            self.weights.clamp_(-limits, limits)

    def save(self, file: Path) -> None:
        """Write all that is needed to go on."""
        from safetensors.torch import save

        tensors = {"weights": self.weights.detach().cpu(), "best": self.best}
        for name in ("history", "losses"):
            tensors[name] = torch.tensor(getattr(self, name), dtype=torch.float64)
        write_bytes(file, save({**tensors, "moments": self.moments}))

    def restore(self, file: Path) -> None:
        """Go on from what ``save`` wrote of a tuning with the same settings and texts."""
        from safetensors.torch import load_file

        found = load_file(file)
        with torch.no_grad():
            self.weights.copy_(found["weights"])
        self.best, self.moments = found["best"], found["moments"]
        self.history = [Epoch(int(number), *kl) for number, *kl in found["history"].tolist()]
        self.losses = found["losses"].tolist()


def scales(model: ReplacedModel, tunable: Tunable, texts: int = 8) -> np.ndarray:
    """Return the size of what each weight multiplies: its root mean square where it is not 0.

    Returns:
        float32 (weights of all programs and elements,), 1 for a truth value.
    """
    trees = [p.tree for p in tunable.originals]
    chosen = model.splits["fit"][:texts]
    plan = Plan(trees, Batch([model.capture.tokens(i) for i in chosen]))
    sums = np.zeros((2, len(plan.code.planes)))
    truths = plan.code.truths
    for text in range(len(chosen)):
        for here, planes in zip((truths, ~truths), plan.typed_planes(text), strict=True):
            values = planes.astype(np.float64)
            sums[:, here] += (values**2).sum(1), (values != 0).sum(1)
    size = np.sqrt(sums[0] / np.maximum(sums[1], 1.0))
    own = np.where(size > 0, size, 1.0)[plan.code.used]
    return np.concatenate([own, tunable.elements.scales(trees, own)]).astype(np.float32)

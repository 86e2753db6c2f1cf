"""Tuning: the weights of all replaced programs adjusted through the model, structure untouched.

The weights of sets' elements move as well; which elements a set has, does not change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.replace.measure import HeldOut
from attn_dsl.eval.replace.source import Head, Part
from attn_dsl.eval.replace.tunable import Tunable

if TYPE_CHECKING:
    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.replace.subject import Subject

Texts = Sequence[tuple[int, ...]]
"""The token ids of some texts."""
DIGITS = 3
"""Significant digits of the weights that are written."""
PATH = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The shares of the way from the fitted to the tuned weights that the trade-off curve shows."""


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How weights are tuned; equal settings give equal weights.

    Attributes:
        epochs: passes over the fit texts; the rate falls to zero over them by a cosine.
        rate: the first step of a weight, in logits: it is divided by the size of what the weight
            multiplies, so that a weight on a distance moves less than one on a truth value.
        anchor: pull back to the fitted weights: penalty on half the mean squared change, in logits.
        patience: epochs without a better KL on the select texts after which it stops.
        batch_size: texts of a step.
        seed: decides the order of the batches.
    """

    epochs: int = 6
    rate: float = 0.05
    anchor: float = 0.0
    patience: int = 3
    batch_size: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the fit texts: the mean KL of a prediction on fit and on select, nats."""

    number: int
    fit_kl: float
    select_kl: float


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What tuning found.

    Attributes:
        programs: by head, the programs with tuned weights.
        path: by share of the way, 0 the fitted weights and 1 the tuned ones.
        history: all epochs; epoch 0 is before any step.
        best: the epoch whose weights were kept.
    """

    programs: dict[Head, Program]
    path: dict[float, dict[Head, Program]]
    history: tuple[Epoch, ...]
    best: int


def tune(
    subject: Subject, heads: Sequence[Head], settings: TuneSettings | None = None,
    further: Texts = (), *,
    state: Path | None = None, tick: Callable[[Epoch, int], None] | None = None,
) -> Tuned:  # fmt: skip
    """Adjust the weights of some heads' programs so that the model predicts as it did before.

    All heads are replaced at once, the model's own parameters are frozen, and the mean
    KL(original || replaced) of a prediction is minimised on the fit texts by Adam. The weights
    of the epoch that is best on the select texts are kept.

    >>> tuned = tune(subject, subject.heads)
    >>> tuned.history[0].select_kl, tuned.history[tuned.best].select_kl
    (0.31, 0.14)

    Args:
        subject: the run.
        heads: the heads that are replaced.
        further: texts to tune on beside the fit texts: large programs have more weights than a
            few hundred texts can tell.
        state: a file that keeps what an interrupted tuning has done; it goes on from there.
        tick: called after each epoch with it and the number of epochs in all.

    Raises:
        InputError: there is nothing to tune: no program has a weight.
    """
    settings = settings or TuneSettings()
    programs = [subject.programs[head] for head in heads]
    if not any(program.tree.weights for program in programs):
        raise InputError("there is nothing to tune: the programs have no weights")
    tunable = Tunable(programs).to(subject.loaded.model.device)
    texts = [*subject.ids("fit"), *further]
    fit = HeldOut(subject.loaded, texts, batch_size=settings.batch_size, seed=subject.seed)
    select = subject.held_out("select")
    trainer = Trainer(tunable, scales(subject, tunable), settings, fit.hash)
    if state is not None and state.exists():
        trainer.restore(state)
    _ = fit.reference, select.reference
    with frozen(subject.loaded.model), _replaced(subject, heads, tunable):
        if not trainer.history:
            start = _mean_loss(select)
            trainer.keep(Epoch(0, _mean_loss(fit), start))
        while not trainer.finished:
            trainer.epoch(fit, select)
            if state is not None:
                trainer.save(state)
            if tick is not None:
                tick(trainer.history[-1], settings.epochs)
    first, last = trainer.start.numpy(), trainer.best.numpy()
    path = {
        share: dict(
            zip(heads, tunable.written(first + share * (last - first), DIGITS), strict=True)
        )
        for share in PATH
    }
    return Tuned(path[1.0], path, tuple(trainer.history), trainer.best_epoch)


class Trainer:
    """Adam on the weights of a bundle of programs, with early stopping; can be put on disk.

    Attributes:
        history: the epochs so far.
        start, best: the fitted weights, and those of the best epoch.
        best_epoch: its number.

    Args:
        texts: the hash of what is tuned on: a state goes on with the same texts only.
    """

    def __init__(
        self, tunable: Tunable, scale: np.ndarray, settings: TuneSettings, texts: str = ""
    ) -> None:
        self.tunable, self.settings, self.texts = tunable, settings, texts
        self.weights = tunable.weights
        self.scale = torch.from_numpy(scale).to(self.weights)
        self.start = self.weights.detach().cpu().clone()
        self.best, self.best_epoch = self.start.clone(), 0
        self.moments = torch.zeros(2, len(self.start))
        self.steps = 0
        self.history: list[Epoch] = []

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the select texts say that it is enough."""
        done = len(self.history) - 1
        return done >= self.settings.epochs or done - self.best_epoch >= self.settings.patience

    def keep(self, epoch: Epoch) -> None:
        """Record an epoch, and its weights if they are the best so far."""
        known = [e.select_kl for e in self.history]
        self.history.append(epoch)
        if not known or epoch.select_kl < min(known):
            self.best, self.best_epoch = self.weights.detach().cpu().clone(), epoch.number

    def epoch(self, fit: HeldOut, select: HeldOut) -> None:
        """Pass over the fit texts once, and measure on the select texts."""
        number = len(self.history)
        order = np.random.default_rng([self.settings.seed, number]).permutation(len(fit.batches))
        losses, sizes = [], []
        total = self.settings.epochs * len(fit.batches)
        for batch in order:
            loss = fit.loss(int(batch))
            losses.append(float(loss.detach()))
            sizes.append(len(fit.batches[batch].targets))
            self._step(loss, min(self.steps / total, 1.0))
        mean = float(np.average(losses, weights=sizes))
        self.keep(Epoch(number, mean, _mean_loss(select)))

    def _step(self, loss: torch.Tensor, done: float) -> None:
        """Take one step of Adam in logits: a weight moves by the rate divided by its scale."""
        (gradient,) = torch.autograd.grad(loss, [self.weights])
        with torch.no_grad():
            gradient = (gradient / self.scale).cpu()
            moved = (self.weights.detach().cpu() - self.start) * self.scale.cpu()
            gradient = gradient + self.settings.anchor * moved / len(moved)
            self.steps += 1
            self.moments[0].mul_(0.9).add_(0.1 * gradient)
            self.moments[1].mul_(0.99).add_(0.01 * gradient**2)
            mean = self.moments[0] / (1 - 0.9**self.steps)
            size = (self.moments[1] / (1 - 0.99**self.steps)).sqrt() + 1e-10
            rate = self.settings.rate * 0.5 * (1 + math.cos(math.pi * done))
            self.weights.sub_((rate * mean / size).to(self.weights) / self.scale)
            limits = self.tunable.limits.to(self.weights)
            self.weights.clamp_(-limits, limits)

    def save(self, file: Path) -> None:
        """Write all that is needed to go on, whole or not at all."""
        from safetensors.torch import save

        from attn_dsl.eval.files import write_bytes

        tensors = {
            "weights": self.weights.detach().cpu(), "start": self.start, "best": self.best,
            "moments": self.moments,
        }  # fmt: skip
        told = {
            "settings": asdict(self.settings), "texts": self.texts,
            "steps": self.steps, "best_epoch": self.best_epoch,
            "history": [asdict(epoch) for epoch in self.history],
        }  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, save(tensors, {"trainer": json.dumps(told)}))

    def restore(self, file: Path) -> None:
        """Go on from what ``save`` wrote; another tuning's file is passed over."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as found:
                told = json.loads(found.metadata()["trainer"])
                tensors = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            return
        known = told["settings"], told.get("texts", "")
        if known != (asdict(self.settings), self.texts):
            return
        if not torch.equal(tensors["start"], self.start):
            return
        with torch.no_grad():
            self.weights.copy_(tensors["weights"])
        self.best, self.moments = tensors["best"], tensors["moments"]
        self.steps, self.best_epoch = told["steps"], told["best_epoch"]
        self.history = [Epoch(**one) for one in told["history"]]


def scales(subject: Subject, tunable: Tunable, texts: int = 8) -> np.ndarray:
    """Return the size of what each weight multiplies: its root mean square where it is not 0.

    Returns:
        float32 (weights of all programs and elements,), 1 for a truth value.
    """
    from attn_dsl.compiler.columns import Batch
    from attn_dsl.compiler.evaluate import Plan

    trees = [p.tree for p in tunable.originals]
    chosen = subject.splits["fit"][:texts]
    plan = Plan(trees, Batch([subject.capture.tokens(i) for i in chosen]))
    sums = np.zeros((2, len(plan.code.planes)))
    truths = plan.code.truths
    for text in range(len(chosen)):
        for here, planes in zip((truths, ~truths), plan.typed_planes(text), strict=True):
            values = planes.astype(np.float64)
            sums[:, here] += (values**2).sum(1), (values != 0).sum(1)
    size = np.sqrt(sums[0] / np.maximum(sums[1], 1.0))
    own = np.where(size > 0, size, 1.0)[plan.code.used]
    return np.concatenate([own, tunable.elements.scales(trees, own)]).astype(np.float32)


class frozen:  # noqa: N801
    """Holds a model's parameters fixed, and lets them be as they were afterwards.

    >>> with frozen(model):
    ...     loss.backward()
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.known: Mapping[str, bool] = {}

    def __enter__(self) -> None:
        self.known = {name: p.requires_grad for name, p in self.model.named_parameters()}
        self.model.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.known[name])


def _replaced(subject: Subject, heads: Sequence[Head], tunable: Tunable) -> Any:
    from attn_dsl.eval.replace.context import replace_heads

    parts: dict[Head, Any] = {head: Part(tunable, number) for number, head in enumerate(heads)}
    return replace_heads(subject.loaded.model, parts, tokenizer=subject.loaded.tokenizer)


def _mean_loss(texts: HeldOut) -> float:
    """Return the mean KL of a prediction for the model as it is now."""
    with torch.no_grad():
        losses = [float(texts.loss(i)) for i in range(len(texts.batches))]
    return float(np.average(losses, weights=[len(b.targets) for b in texts.batches]))

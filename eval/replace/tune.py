"""Tuning: the weights of all replaced programs adjusted through the model.

Structure stays as it is, but for a weight on the first token in programs that have none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.files import write_bytes
from attn_dsl.eval.heads import Pair
from attn_dsl.eval.replace.context import Standing, replace_heads
from attn_dsl.eval.replace.measure import HeldOut, backward_passes
from attn_dsl.eval.replace.predictions import Ids
from attn_dsl.eval.replace.programs import HeadSource
from attn_dsl.eval.replace.replaced_model import ReplacedModel
from attn_dsl.eval.replace.tunable import Tunable

DIGITS = 3
"""Significant digits of the weights that are written."""
FIRST_TOKEN = t.Where(0.0, t.Compare("==", t.Position("k"), t.Integer(0)))
"""The term that programs are given if they have none like it …"""
LEAST_FIRST = 0.05
"""… and that they keep if its weight becomes as large as this."""
SCALE_TEXTS = 8
"""On how many of the fit texts the size of what a weight multiplies is taken."""
LEAST_EPOCHS = 3
"""So many passes there are at least."""
SELECT_TEXTS = 32
"""How many of the select texts decide which epoch is best."""


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How weights are tuned; equal settings give equal weights."""

    epochs: int = 10  # passes over the texts; the rate falls to zero over them by a cosine
    # where the texts are many there are fewer passes, so that about so many are read in all
    reads: int = 2_000
    # the first step of a weight, in logits: divided by the size of what it multiplies
    rate: float = 0.02
    patience: int = 3  # epochs without a better KL on the select texts after which it stops
    batch_size: int = 4  # texts of a step
    seed: int = 0  # decides the order of the batches


class Epoch(NamedTuple):
    """One pass over the fit texts, and the mean KL of a prediction on select texts after it, nats."""

    number: int
    select_kl: float


Tick = Callable[[int, int, Sequence[Epoch]], None]


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What tuning found."""

    programs: dict[Pair, Program]  # with their tuned weights, by head
    history: tuple[Epoch, ...]  # all epochs; epoch 0 is before any step
    best: int  # the epoch whose weights were kept


def tune(model: ReplacedModel, heads: Sequence[Pair], settings: TuneSettings, further: Sequence[Ids] = (), *,
         state: Path | None = None, tick: Tick = lambda done, total, history: None) -> Tuned:  # fmt: skip
    """Adjust the weights of some heads' programs so that the model predicts as it did before.

    All heads are replaced at once, and the mean KL(original || replaced) of a prediction is minimised
    on the fit texts by Adam. The weights of the epoch that is best on the select texts are kept. The
    model's own parameters and linear programs stay as they are.

    Args:
        further: texts to tune on beside the fit texts.
        state: a file that keeps what an interrupted tuning has done, of one tuning only.
        tick: called after each batch with how many are read, how many will be, and the epochs so far.

    Raises:
        InputError: there is nothing to tune: no program has a weight.
    """
    standing: dict[Pair, Standing] = {head: model.programs[head] for head in heads}
    chosen = [h for h in heads if model.programs[h].tree.normaliser == "softmax"]
    if not any(model.programs[head].tree.weights for head in chosen):
        raise InputError("there is nothing to tune: no softmax program has weights")
    tunable = Tunable([with_first_token(model.programs[h]) for h in chosen])
    tunable.to(model.loaded.model.device)
    texts = [*model.ids("fit"), *further]
    passes = max(LEAST_EPOCHS, math.ceil(settings.reads / len(texts)))
    settings = replace(settings, epochs=min(settings.epochs, passes))
    fit = HeldOut(model.loaded, texts, batch_size=settings.batch_size, seed=model.seed)
    select = HeldOut(model.loaded, model.ids("select")[:SELECT_TEXTS], seed=model.seed)
    own = [model.capture.tokens(i) for i in model.splits["fit"][:SCALE_TEXTS]]
    trainer = Trainer(tunable, tunable.scales(own), settings)
    if state is not None and state.exists():
        trainer.restore(state)
    passes = len(fit.batches) + len(select.batches)
    left = settings.epochs - max(0, len(trainer.history) - 1)
    total = (left + 1) * passes + (not trainer.history) * len(select.batches) - trainer.steps
    done = count(1)
    fit.watch = select.watch = lambda: tick(next(done), total, trainer.history)
    standing |= {head: HeadSource(tunable, number) for number, head in enumerate(chosen)}
    with backward_passes(model.loaded.model):
        _ = fit.original, select.original
        with replace_heads(model.loaded, standing):
            if not trainer.history:
                trainer.keep(select)
            while not trainer.finished:
                trainer.epoch(fit, select, state)
    tuned = dict(zip(chosen, tunable.written(trainer.best.numpy(), DIGITS), strict=True))
    programs = {h: _without_small(model.programs[h], tuned.get(h)) for h in heads}
    return Tuned(programs, tuple(trainer.history), trainer.best_epoch)


def with_first_token(program: Program) -> Program:
    """Give a program a term for the first token if it has none."""
    if _has_first_token(program):
        return program
    return _with_terms(program, (*program.tree.terms, FIRST_TOKEN))


def _without_small(original: Program, tuned: Program | None) -> Program:
    """Take the term that tuning added from a program if its weight stayed small."""
    if tuned is None or _has_first_token(original):
        return tuned or original
    terms = (part for term in tuned.tree.terms for part in t.parts_of(term)
             if part.condition != FIRST_TOKEN.condition or isinstance(part, t.Table | t.Scaled)
             or abs(part.weight or 0.0) >= LEAST_FIRST)  # fmt: skip
    return _with_terms(tuned, t.joined([*terms]))


def _has_first_token(program: Program) -> bool:
    parts = (part for term in program.tree.terms for part in t.parts_of(term))
    return any(isinstance(x, t.Where) and x.condition == FIRST_TOKEN.condition for x in parts)


def _with_terms(program: Program, terms: tuple[t.Term, ...]) -> Program:
    tree = replace(program.tree, terms=terms)
    return Program.from_tree(tree, allow_lookahead=bool(program.facts.lookahead))


class Trainer:
    """Adam on the weights of a group of programs, with early stopping.

    Attributes:
        history: the epochs so far.
        steps: how many of the epoch in progress are done.
        best: the weights of the best epoch.
    """

    def __init__(self, tunable: Tunable, scale: np.ndarray, settings: TuneSettings) -> None:
        self.tunable, self.settings, self.weights = tunable, settings, tunable.weights
        self.scale = torch.from_numpy(scale).to(self.weights)
        self.best = self.weights.detach().cpu().clone()
        self.moments = torch.zeros(2, len(self.best))
        self.history: list[Epoch] = []
        self.steps = 0

    @property
    def best_epoch(self) -> int:
        """The first epoch that is best on the select texts."""
        return min(self.history, key=lambda epoch: epoch.select_kl).number

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the select texts say that it is enough."""
        done = len(self.history) - 1
        return done >= self.settings.epochs or done - self.best_epoch >= self.settings.patience

    def keep(self, select: HeldOut) -> None:
        """Record an epoch, and its weights if they are the best so far."""
        self.history.append(Epoch(len(self.history), select.sums().mean_kl))
        if self.best_epoch == self.history[-1].number:
            self.best = self.weights.detach().cpu().clone()

    def epoch(self, fit: HeldOut, select: HeldOut, state: Path | None = None) -> None:
        """Pass over the fit texts once, or to the end, and measure on the select texts."""
        draw = np.random.default_rng([self.settings.seed, len(self.history)])
        start = (len(self.history) - 1) * len(fit.batches)
        for number in draw.permutation(len(fit.batches))[self.steps :]:
            loss = fit.loss(fit.batches[number])
            self._step(loss, start + self.steps, self.settings.epochs * len(fit.batches))
            self.steps += 1
            if state is not None:
                self.save(state)
            fit.watch()
        self.keep(select)
        self.steps = 0
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

        write_bytes(file, save({
            "weights": self.weights.detach().cpu(), "best": self.best, "moments": self.moments,
            "history": torch.tensor(self.history, dtype=torch.float64),
            "steps": torch.tensor(self.steps),
        }))  # fmt: skip

    def restore(self, file: Path) -> None:
        """Go on from what ``save`` wrote of a tuning with the same settings and texts."""
        from safetensors.torch import load_file

        found = load_file(file)
        with torch.no_grad():
            self.weights.copy_(found["weights"])
        self.best, self.moments = found["best"], found["moments"]
        self.history = [Epoch(int(number), kl) for number, kl in found["history"].tolist()]
        self.steps = int(found["steps"])

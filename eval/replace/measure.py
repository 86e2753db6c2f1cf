"""Measures: what a model's predictions lose on held-out text when heads are replaced."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from attn_dsl.eval.metrics import Estimate
from attn_dsl.eval.models import LoadedModel
from attn_dsl.eval.replace import predictions
from attn_dsl.eval.replace.context import Standing, replace_heads
from attn_dsl.eval.replace.source import Head

MASKED_SHARE = 0.15
"""The share of an encoder's tokens that are masked and predicted."""
IN_MEMORY = 512 * 2**20
"""Reference predictions of more bytes than this are kept in a file."""
RESAMPLES = 2_000


class Sums(NamedTuple):
    """What a model's predictions come to on each text; every array has an entry per text.

    Attributes:
        tokens: how many tokens are predicted.
        nll: sum of their negative log-probabilities, nats.
        kl: sum of KL(original || model) over those positions, nats.
        agree: how often the most probable token is that of the original model.
    """

    tokens: np.ndarray
    nll: np.ndarray
    kl: np.ndarray
    agree: np.ndarray

    @property
    def loss(self) -> float:
        """Mean negative log-probability of a token, nats."""
        return float(self.nll.sum() / self.tokens.sum())


@dataclass(frozen=True, slots=True)
class Effect:
    """A model with replaced heads beside the original, each with a 95 % interval over texts.

    Attributes:
        perplexity: exp of the mean negative log-probability; of masked tokens for an encoder.
        ratio: perplexity by the original model's on the same texts.
        kl: mean KL(original || replaced) of a prediction, nats.
        top1: share of predictions with the same most probable token.
        tokens: how many were predicted.
    """

    perplexity: Estimate
    ratio: Estimate
    kl: Estimate
    top1: Estimate
    tokens: int


def ratio_of_sums(
    numerators: np.ndarray, denominators: np.ndarray, seed: int,
    transform: Callable[[Any], Any] = lambda x: x,
) -> Estimate:  # fmt: skip
    """Estimate a ratio of sums over texts and its 95 % percentile interval by resampling texts.

    >>> ratio_of_sums(np.array([2.0, 4.0]), np.array([1.0, 2.0]), seed=0)
    Estimate(mean=2.0, low=2.0, high=2.0, texts=2)

    ``transform`` is applied to every ratio, such as ``np.exp`` for a perplexity.
    """
    n = len(numerators)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    picks = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
    drawn = transform(numerators[picks].sum(1) / denominators[picks].sum(1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = transform(numerators.sum() / denominators.sum())
    return Estimate(float(value), float(low), float(high), n)


def effect(replaced: Sums, original: Sums, seed: int) -> Effect:
    """Compare a model with replaced heads to the original on the same texts.

    The ratio of perplexities is resampled in pairs: a text is drawn for both models at once, so
    that what makes a text hard for both does not widen the interval.
    """
    tokens = replaced.tokens
    return Effect(
        ratio_of_sums(replaced.nll, tokens, seed, np.exp),
        ratio_of_sums(replaced.nll - original.nll, tokens, seed, np.exp),
        ratio_of_sums(replaced.kl, tokens, seed),
        ratio_of_sums(replaced.agree, tokens, seed),
        int(tokens.sum()),
    )


class HeldOut:
    """Texts on which a model is measured before and after heads are replaced.

    >>> held_out = HeldOut(loaded, [capture.ids(i) for i in texts])
    >>> effect(held_out.measure({(5, 1): program}), held_out.original, seed=0).ratio.mean
    1.004

    A decoder predicts every token from those before it. Of an encoder with a masked-language-
    model head, 15 % of the tokens of each text (at least one), drawn by ``seed``, are masked and
    predicted at once: its perplexity is that of masked tokens.

    Args:
        ids: per text its token ids, two or more.
        batch_size: texts that run at once; results depend on it only by rounding.
        seed: decides which tokens of an encoder's texts are masked.

    Raises:
        InputError: the model has no head that predicts tokens, its tokenizer has no mask token,
            or a text is longer than the model's context.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        ids: Sequence[predictions.Ids],
        *,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        self.loaded, self.ids, self.seed = loaded, tuple(map(tuple, ids)), seed
        predictions.refuse_headless(loaded)
        for number, one in enumerate(self.ids):
            predictions.refuse_long(loaded, len(one), f"text {number}")
        self._folder: tempfile.TemporaryDirectory | None = None
        places = [self._places(one) for one in self.ids]
        self.batches = predictions.batches(loaded, self.ids, places, batch_size)
        self._predictions = sum(map(len, places))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def hash(self) -> str:
        """A hash of the texts and of what is predicted in them."""
        content = repr((self.ids, None if self.loaded.causal else self.seed))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def original(self) -> Sums:
        """The original model's own sums; KL 0 and agreement everywhere."""
        _ = self.reference
        return self._original

    @cached_property
    def reference(self) -> np.ndarray:
        """The original model's log-probabilities, float32 (predictions, vocabulary)."""
        sums = np.zeros((2, len(self)))
        out = np.empty((0, 0), dtype=np.float32)
        with torch.inference_mode():
            for batch in self.batches:
                found = predictions.log_probabilities(self.loaded, batch)
                if not len(out):
                    out = self._allocate(found.shape[-1])
                out[batch.start : batch.start + len(found)] = found.cpu().numpy()
                chosen = found.gather(-1, batch.targets[:, None])[:, 0]
                for text, values in zip(batch.texts, chosen.split(batch.counts), strict=True):
                    sums[:, text] = len(values), -float(values.double().sum())
        self._original = Sums(sums[0], sums[1], np.zeros(len(self)), sums[0].copy())
        return out

    def _allocate(self, width: int) -> np.ndarray:
        shape = (self._predictions, width)
        if 4 * self._predictions * width <= IN_MEMORY:
            return np.empty(shape, dtype=np.float32)
        self._folder = tempfile.TemporaryDirectory(prefix="attn-dsl-")
        file = Path(self._folder.name) / "reference"
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)

    def measure(self, heads: Mapping[Head, Standing]) -> Sums:
        """Measure the model with some heads replaced; with none, the original."""
        _ = self.reference
        if not heads:
            return self.original
        sums = np.zeros((4, len(self)))
        with replace_heads(self.loaded, heads), torch.inference_mode():
            for batch in self.batches:
                predicted = predictions.log_probabilities(self.loaded, batch)
                actual = self._reference_of(batch)
                nll = -predicted.gather(-1, batch.targets[:, None])[:, 0].double()
                kl = _divergence(actual, predicted).double().clamp(min=0.0)
                agree = (actual.argmax(-1) == predicted.argmax(-1)).double()
                columns = [x.split(batch.counts) for x in (nll, kl, agree)]
                for text, *values in zip(batch.texts, *columns, strict=True):
                    sums[:, text] = len(values[0]), *(float(v.sum()) for v in values)
        return Sums(*sums)

    def loss(self, batch: predictions.Batch) -> torch.Tensor:
        """Return the mean KL to the original model on one batch, for the model as it is now.

        Gradients flow to whatever has parameters in it.
        """
        predicted = predictions.log_probabilities(self.loaded, batch)
        return _divergence(self._reference_of(batch), predicted).mean()

    def mean_loss(self) -> float:
        """Return the mean KL of a prediction to the original, for the model as it is now."""
        with torch.no_grad():
            losses = [float(self.loss(batch)) for batch in self.batches]
        return float(np.average(losses, weights=[len(b.targets) for b in self.batches]))

    def _reference_of(self, batch: predictions.Batch) -> torch.Tensor:
        part = self.reference[batch.start : batch.start + len(batch.targets)]
        return torch.from_numpy(np.asarray(part)).to(batch.targets.device)

    def _places(self, ids: tuple[int, ...]) -> Sequence[int]:
        """Return which tokens of a text are predicted; drawn by text and seed for an encoder."""
        if self.loaded.causal:
            return range(1, len(ids))
        special = set(self.loaded.tokenizer.all_special_ids)
        free = [at for at, one in enumerate(ids) if one not in special] or list(range(len(ids)))
        digest = hashlib.sha256(repr((self.seed, ids)).encode()).digest()
        draw = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        count = max(1, round(MASKED_SHARE * len(free)))
        return sorted(int(at) for at in draw.choice(free, size=count, replace=False))


def _divergence(actual: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Return KL(actual || predicted) of each prediction, nats, from log-probabilities."""
    return (actual.exp() * (actual - predicted)).sum(-1)

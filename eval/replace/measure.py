"""Measures: what a model's predictions lose on held-out text when heads are replaced."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from attn_dsl.eval.metrics import Estimate, bootstrap
from attn_dsl.eval.models import LoadedModel
from attn_dsl.eval.replace import predictions
from attn_dsl.eval.replace.context import Standing, replace_heads
from attn_dsl.eval.replace.source import Head

MASKED_SHARE = 0.15
"""The share of an encoder's tokens that are masked and predicted."""


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

    @property
    def mean_kl(self) -> float:
        """Mean KL(original || model) of a prediction, nats."""
        return float(self.kl.sum() / self.tokens.sum())


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


def effect(replaced: Sums, original: Sums, seed: int) -> Effect:
    """Compare a model with replaced heads to the original on the same texts.

    The ratio of perplexities is resampled in pairs: a text is drawn for both models at once, so
    that what makes a text hard for both does not widen the interval.
    """
    by_token = partial(bootstrap, seed=seed, counts=replaced.tokens)
    return Effect(
        by_token(replaced.nll, transform=np.exp),
        by_token(replaced.nll - original.nll, transform=np.exp),
        by_token(replaced.kl),
        by_token(replaced.agree),
        int(replaced.tokens.sum()),
    )


@dataclass(frozen=True, slots=True)
class Point:
    """One point: some heads replaced by programs or by a baseline.

    Attributes:
        order: the order in which heads are taken, ``by hand`` where they were named.
        source: ``programs``, ``tuned``, or a baseline.
        fraction: the share of the model's heads.
        heads: which ones.
    """

    order: str
    source: str
    fraction: float
    heads: tuple[Head, ...]
    effect: Effect

    @property
    def cost(self) -> float:
        """By how much perplexity grows, as a fraction: 0.02 is 2 % more."""
        return self.effect.ratio.mean - 1.0

    def row(self) -> dict[str, Any]:
        """Return the point as a line of the CSV file, by column."""
        row: dict[str, Any] = {"order": self.order, "source": self.source}
        row |= {"fraction": self.fraction, "heads": len(self.heads)}
        for name in ("perplexity", "ratio", "kl", "top1"):
            found = getattr(self.effect, name)
            row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        return row | {"texts": self.effect.perplexity.texts, "tokens": self.effect.tokens}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replacement measured, as it is kept on disk.

    Attributes:
        settings: all that decides the figures; equal settings give equal figures.
        original: the perplexity of the model as it is.
        points: by order, fraction and source.
        notes: what a reader must know.
        extra: results of tuning and of tasks, where there are any.
    """

    settings: Mapping[str, Any]
    original: Estimate
    tokens: int
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


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
        self, loaded: LoadedModel, ids: Sequence[predictions.Ids], *, batch_size: int = 8,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.loaded, self.ids, self.seed = loaded, tuple(map(tuple, ids)), seed
        predictions.refuse_headless(loaded)
        for number, one in enumerate(self.ids):
            loaded.check_length(len(one), f"text {number}")
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
        return self._original[0]

    @cached_property
    def _original(self) -> tuple[Sums, np.ndarray]:
        """Run the original model outside of any replacement; return log-probabilities as well."""
        sums = np.zeros((4, len(self)))
        reference = np.empty((0, 0), dtype=np.float32)
        with torch.inference_mode():
            for batch in self.batches:
                found = predictions.log_probabilities(self.loaded, batch)
                if not len(reference):
                    reference = self._allocate(found.shape[-1])
                reference[batch.start : batch.start + len(found)] = found.cpu().numpy()
                _add(sums, batch, found, found)
        return Sums(*sums), reference

    def _allocate(self, width: int) -> np.ndarray:
        """Make a file for the reference predictions, which may be larger than memory."""
        self._folder = tempfile.TemporaryDirectory(prefix="attn-dsl-")
        file = Path(self._folder.name) / "reference"
        return np.memmap(file, dtype=np.float32, mode="w+", shape=(self._predictions, width))

    def measure(self, heads: Mapping[Head, Standing]) -> Sums:
        """Measure the model with some heads replaced; with none, the original."""
        if not heads:
            return self.original
        _ = self.original
        with replace_heads(self.loaded, heads):
            return self.sums()

    def sums(self) -> Sums:
        """Measure the model as it is now, against the original."""
        sums = np.zeros((4, len(self)))
        with torch.no_grad():
            for batch in self.batches:
                predicted = predictions.log_probabilities(self.loaded, batch)
                _add(sums, batch, self._reference_of(batch), predicted)
        return Sums(*sums)

    def loss(self, batch: predictions.Batch) -> torch.Tensor:
        """Return the mean KL to the original model on one batch, for the model as it is now.

        Gradients flow to whatever has parameters in it.
        """
        predicted = predictions.log_probabilities(self.loaded, batch)
        return _divergence(self._reference_of(batch), predicted).mean()

    def _reference_of(self, batch: predictions.Batch) -> torch.Tensor:
        part = self._original[1][batch.start : batch.start + len(batch.targets)]
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


def _add(
    sums: np.ndarray, batch: predictions.Batch, actual: torch.Tensor, predicted: torch.Tensor
) -> None:
    """Write what the predictions of a batch come to into ``sums``, (fields of Sums, texts)."""
    nll = -predicted.gather(-1, batch.targets[:, None])[:, 0].double()
    kl = _divergence(actual, predicted).double().clamp(min=0.0)
    agree = (actual.argmax(-1) == predicted.argmax(-1)).double()
    columns = [torch.ones_like(nll), nll, kl, agree]
    for text, *values in zip(batch.texts, *(x.split(batch.counts) for x in columns), strict=True):
        sums[:, text] = [float(v.sum()) for v in values]


def _divergence(actual: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Return KL(actual || predicted) of each prediction, nats, from log-probabilities."""
    return (actual.exp() * (actual - predicted)).sum(-1)

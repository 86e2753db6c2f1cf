"""Measures: what a model's predictions lose on held-out text when heads are replaced."""

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.heads import Pair
from attn_dsl.eval.metrics import Estimate, bootstrap
from attn_dsl.eval.models import LoadedModel
from attn_dsl.eval.replace import predictions
from attn_dsl.eval.replace.adapters import adapter_for
from attn_dsl.eval.replace.context import Standing, replace_heads

MASKED_SHARE = 0.15
"""The share of an encoder's tokens that are masked and predicted."""
PRODUCTS = 3e10
"""The most multiplications of the largest product of matrices: a second of a core at most."""


class Sums(NamedTuple):
    """What a model's predictions come to on each text; every array has an entry per text."""

    tokens: np.ndarray  # how many tokens are predicted
    nll: np.ndarray  # sum of their negative log-probabilities, nats
    kl: np.ndarray  # sum of KL(original || model) over those positions, nats
    agree: np.ndarray  # how often the most probable token is that of the original model

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
    """A model with replaced heads beside the original, each with a 95 % interval over texts."""

    # exp of the mean negative log-probability; of masked tokens for an encoder
    perplexity: Estimate
    ratio: Estimate  # perplexity by the original model's on the same texts
    kl: Estimate  # mean KL(original || replaced) of a prediction, nats
    top1: Estimate  # share of predictions with the same most probable token
    tokens: int  # how many were predicted


def effect(replaced: Sums, original: Sums, seed: int) -> Effect:
    """Compare a model with replaced heads to the original on the same texts.

    The ratio of perplexities is resampled in pairs: a text is drawn for both models at once.
    """
    by_token = partial(bootstrap, seed=seed, counts=replaced.tokens)
    return Effect(by_token(replaced.nll, transform=np.exp),
                  by_token(replaced.nll - original.nll, transform=np.exp), by_token(replaced.kl),
                  by_token(replaced.agree), int(replaced.tokens.sum()))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """One point: some heads replaced by programs or by a baseline."""

    order: str  # the order in which heads are taken, ``by hand`` where they were named
    source: str  # ``programs``, ``tuned``, or a baseline
    fraction: float  # the share of the model's heads
    heads: tuple[Pair, ...]  # which ones
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
            row |= getattr(self.effect, name).named(name)
        return row | {"texts": self.effect.perplexity.texts, "tokens": self.effect.tokens}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a replacement measured, as it is kept on disk."""

    settings: Mapping[str, Any]  # all that decides the figures; equal settings give equal figures
    original: Estimate  # the perplexity of the model as it is
    tokens: int
    points: tuple[Point, ...]  # by order, fraction and source
    notes: tuple[str, ...] = ()  # what a reader must know
    # results of tuning and of tasks, where there are any
    extra: Mapping[str, Any] = field(default_factory=dict)


class HeldOut:
    """Texts on which a model is measured before and after heads are replaced.

    A decoder predicts every token from those before it. Of an encoder, 15 % of the tokens of each text
    (at least one), drawn by ``seed``, are masked and predicted at once.

    Attributes:
        watch: called after each batch that the model has read.

    Args:
        ids: per text its token ids, two or more.
        batch_size: texts that run at once, by default so many that an interruption is heard soon.
        seed: decides which tokens of an encoder's texts are masked.

    Raises:
        InputError: the model has no head that predicts tokens, its tokenizer has no mask token,
            or a text is longer than the model's context.
    """

    def __init__(self, loaded: LoadedModel, ids: Sequence[predictions.Ids], *, batch_size: int | None = None,
                 seed: int = 0) -> None:  # fmt: skip
        self.loaded, self.ids, self.seed = loaded, tuple(map(tuple, ids)), seed
        predictions.refuse_headless(loaded)
        for number, one in enumerate(self.ids):
            loaded.check_length(len(one), f"text {number}")
        self.watch: Callable[[], None] = lambda: None
        self._predicted = [self._places(one) for one in self.ids]
        size = batch_size or _batch_size(loaded, max(map(len, self.ids), default=1))
        self.batches = predictions.batches(loaded, self.ids, self._predicted, size)

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
        """Run the original model outside of any replacement: its sums and its log-probabilities."""
        reference, found = np.empty((0, 0), dtype=np.float32), []
        with torch.no_grad():
            for batch in self.batches:
                own = predictions.log_probabilities(self.loaded, batch)
                if not len(reference):
                    reference = self._allocate(own.shape[-1])
                reference[batch.start : batch.start + len(own)] = own.cpu().numpy()
                found.append(_measures(batch.targets, own, own))
                self.watch()
        return self._by_text(found), reference

    def _allocate(self, width: int) -> np.ndarray:
        """Make a file without a name for the reference predictions, if the disk has room for it."""
        shape, folder = (sum(map(len, self._predicted)), width), tempfile.gettempdir()
        need, free = 4 * math.prod(shape), shutil.disk_usage(folder).free
        if need > free:
            raise InputError(f"{folder} has room for {free / 1e9:.1f} GB, and the predictions of {len(self)} "
                             f"texts take {need / 1e9:.1f} GB; take fewer texts, or set TMPDIR to a folder "
                             "on a larger disk")  # fmt: skip
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)

    def measure(self, heads: Mapping[Pair, Standing]) -> Sums:
        """Measure the model with some heads replaced; with none, the original."""
        if not heads:
            return self.original
        _ = self.original
        with replace_heads(self.loaded, heads):
            return self.sums()

    def sums(self) -> Sums:
        """Measure the model as it is now, against the original."""
        found = []
        with torch.no_grad():
            for batch in self.batches:
                predicted = predictions.log_probabilities(self.loaded, batch)
                found.append(_measures(batch.targets, self._reference(batch), predicted))
                self.watch()
        return self._by_text(found)

    def loss(self, batch: predictions.PaddedBatch) -> torch.Tensor:
        """Return the mean KL to the original model on one batch, for the model as it is now.

        Gradients flow to whatever has parameters in it.
        """
        predicted = predictions.log_probabilities(self.loaded, batch)
        return _divergence(self._reference(batch), predicted).mean()

    def damages(self, heads: Mapping[Pair, Standing], taken: Iterable[Pair] = ()) -> dict[Pair, float]:
        """Predict how many nats each head's program adds to KL(original || replaced) in all, from gradients.

        Let a row of a head be a mixture of its own attention and the program's. A head's damage is the
        sum over all rows of all texts of half the square of the derivative by the program's share of
        the loss of the texts' own tokens, plus that of the KL, which is 0 as long as nothing is
        replaced. The former estimates half the second derivative of the KL (its Fisher information). The
        heads that are ``taken`` are replaced meanwhile: their shares are 1.
        """
        found, taken = dict.fromkeys(sorted(heads), 0.0), frozenset(taken)
        model = self.loaded.model
        if taken:
            _ = self.original
        with backward_passes(model), replace_heads(self.loaded, heads) as replaced:
            controller = replaced.controller
            controller.taken = taken
            for batch in predictions.batches(self.loaded, self.ids, self._predicted, 2):
                controller.shares = {}
                predicted = predictions.log_probabilities(self.loaded, batch)
                shares = list(controller.shares.values())
                loss = -predicted.gather(-1, batch.targets[:, None]).sum()
                gradients = torch.autograd.grad(loss, shares, retain_graph=bool(taken))
                rows = [gradient.double().square() / 2 for gradient in gradients]
                if taken:
                    kl = _divergence(self._reference(batch), predicted).sum()
                    slopes = torch.autograd.grad(kl, shares)
                    rows = [row + slope for row, slope in zip(rows, slopes, strict=True)]
                for layer, row in zip(controller.shares, rows, strict=True):
                    sums = row.sum((0, 1, 3)).tolist()
                    for head, damage in zip(controller.heads(layer), sums, strict=True):
                        found[layer, head] += damage
                self.watch()
        return found

    def _reference(self, batch: predictions.PaddedBatch) -> torch.Tensor:
        part = self._original[1][batch.start : batch.start + len(batch.targets)]
        return torch.from_numpy(np.asarray(part)).to(batch.targets.device)

    def _by_text(self, found: list[np.ndarray]) -> Sums:
        """Add up measures of all batches, each (measures, predictions), by text."""
        texts = [text for batch in self.batches for text in batch.texts]
        counts = np.array([count for batch in self.batches for count in batch.counts])
        sums = np.zeros((4, len(self)))
        sums[0, texts], starts = counts, np.cumsum(counts) - counts
        sums[1:, texts] = np.add.reduceat(np.concatenate(found, axis=1), starts, axis=1)
        return Sums(*sums)

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


@contextmanager
def backward_passes(network: Any) -> Iterator[None]:
    """Make backward passes quick, by products that may round to bfloat16, and let them be interrupted.

    Python, which hears an interruption, is called at each layer.
    """

    def listen(module: Any, args: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda gradient: None)

    with ExitStack() as undo:
        for layer in adapter_for(network).layers:
            undo.callback(layer.register_forward_hook(listen).remove)
        undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("medium")
        yield


def _batch_size(loaded: LoadedModel, longest: int) -> int:
    """Return how many texts run at once: no single product of matrices may take long on a CPU."""
    if loaded.model.device.type != "cpu":
        return 8
    products = longest * loaded.model.get_output_embeddings().weight.numel()
    return int(np.clip(PRODUCTS // products, 1, 8))


def _measures(targets: torch.Tensor, actual: torch.Tensor, predicted: torch.Tensor) -> np.ndarray:
    """Return loss, KL and agreement of predictions, float64 (3, predictions)."""
    nll = -predicted.gather(-1, targets[:, None])[:, 0].double()
    kl = _divergence(actual, predicted).double().clamp(min=0.0)
    agree = (actual.argmax(-1) == predicted.argmax(-1)).double()
    return torch.stack([nll, kl, agree]).cpu().numpy()


def _divergence(actual: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Return KL(actual || predicted) of each prediction, nats, from log-probabilities."""
    parts = zip(actual.split(128), predicted.split(128), strict=True)  # which fit into a cache
    return torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in parts])

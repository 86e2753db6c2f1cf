"""Comparison: what changes in a model's predictions when one head's program is edited."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.replace.source import Head

if TYPE_CHECKING:
    from attn_dsl.compiler.program import Program
    from attn_dsl.eval.replace.subject import Subject

MODEL = "model"
"""What stands for the model's own head."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One position of a text: what the model predicts there under both sides.

    Attributes:
        token: the token at the position; of an encoder it is masked when it is predicted.
        target: the token to be predicted: the next one, of an encoder the masked one.
        top: the most probable token under A and under B.
        top_probability: its probability under A and under B.
        target_probability: that of the target under A and under B.
        kl: KL(A || B), nats.
    """

    token: str
    target: str
    top: tuple[str, str]
    top_probability: tuple[float, float]
    target_probability: tuple[float, float]
    kl: float

    @property
    def changed(self) -> bool:
        """Whether the most probable token is another."""
        return self.top[0] != self.top[1]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two programs in one head, on one text.

    Attributes:
        head: the head.
        sides: what A and B are called.
        sources: their programs, empty for the model's own head.
        predictions: by position.
    """

    head: Head
    sides: tuple[str, str]
    sources: tuple[str, str]
    predictions: tuple[Prediction, ...]

    @property
    def kl(self) -> float:
        """Mean KL(A || B) of a prediction, nats."""
        return float(np.mean([p.kl for p in self.predictions]))

    @property
    def changed(self) -> int:
        """At how many positions the most probable token is another."""
        return sum(p.changed for p in self.predictions)

    @property
    def perplexity(self) -> tuple[float, float]:
        """The perplexity of the text under A and under B."""
        values = np.array([p.target_probability for p in self.predictions])
        a, b = np.exp(-np.log(np.maximum(values, 1e-45)).mean(0))
        return float(a), float(b)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON data."""
        names = ("token", "target", "top", "top_probability", "target_probability", "kl")
        return {
            "head": f"L{self.head[0]}H{self.head[1]}",
            "a": self.sides[0],
            "b": self.sides[1],
            "kl": self.kl,
            "changed": self.changed,
            "perplexity": self.perplexity,
            "predictions": [
                {**{name: getattr(p, name) for name in names}, "changed": p.changed}
                for p in self.predictions
            ],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """What is put into the head on one side; a program of None is the model's own head."""

    name: str
    program: Program | None


def choose_sides(
    subject: Subject, a: str, b: str, head: str | None
) -> tuple[Head, tuple[Side, Side]]:
    """Find out what A and B are, and into which head they go.

    Each is a file of a program, a head's name (``L2H3``: the run's own program for it), or
    ``model`` for the model's own head. The head is the one that is given; or one of A and B names
    it; or it is the head that the run has a program of the same name for, as edited copies do.

    Raises:
        InputError: a file is missing, the run has no such program, or nothing names the head.
    """
    from attn_dsl.compiler.program import load
    from attn_dsl.eval.heads import parse_heads, read_heads

    layers, per_layer = subject.loaded.n_layers, subject.loaded.n_heads
    named: list[Head] = []
    sides: list[Side] = []
    for text in (a, b):
        if text == MODEL:
            sides.append(Side("the model's own head", None))
        elif _is_head(text):
            [place] = parse_heads(text, layers, per_layer)
            if place not in subject.programs:
                raise InputError(f"{subject.run.path} has no program for {text}")
            named.append(place)
            sides.append(
                Side(f"{subject.run.path.name} L{place[0]}H{place[1]}", subject.programs[place])
            )
        else:
            ahead = bool(subject.run.info["key"].get("allow_lookahead"))
            sides.append(Side(Path(text).name, load(text, allow_lookahead=ahead)))
    if head is not None:
        if read_heads(head)[0][2] is None or len(read_heads(head)) > 1:
            raise InputError(f"--head names one head, as in L2H3, not {head}")
        return parse_heads(head, layers, per_layer)[0], (sides[0], sides[1])
    if not named:
        own = {program.name: place for place, program in subject.programs.items()}
        named = [own[s.program.name] for s in sides if s.program and s.program.name in own]
    if len(set(named)) != 1:
        which = "names no head" if not named else "name different heads"
        raise InputError(
            f"{a} and {b}: it is not clear which head they go into ({which}); say so by --head L2H3"
        )
    return named[0], (sides[0], sides[1])


def _is_head(text: str) -> bool:
    from attn_dsl.eval.heads import read_heads

    if Path(text).exists():
        return False
    try:
        return read_heads(text)[0][2] is not None
    except InputError:
        return False


def compare(
    subject: Subject, head: Head, sides: tuple[Side, Side], text: str,
    others: Mapping[Head, Program] | None = None,
) -> Comparison:  # fmt: skip
    """Compare the model's predictions on a text with one thing or another in a head.

    >>> head, sides = choose_sides(subject, "L5H1", "edited.attn", None)
    >>> compare(subject, head, sides, "one two one two").changed
    2

    A decoder predicts the next token at every position. An encoder predicts each token from the
    whole text with that token masked.

    Args:
        head: where A and B are put.
        sides: A and B, from ``choose_sides``.
        others: what replaces other heads on both sides; by default they stay the model's own.

    Raises:
        InputError: the text is too short, or longer than the model's context.
    """
    ids = _encode(subject, text)
    logs = []
    for side in sides:
        heads = {**(others or {}), **({head: side.program} if side.program else {})}
        logs.append(_predict(subject, ids, heads))
    a, b = logs
    targets = torch.tensor(ids[1:] if subject.loaded.causal else ids)
    kl = (a.exp() * (a - b)).sum(-1).clamp(min=0.0)
    own = [x.gather(-1, targets[:, None])[:, 0].exp() for x in logs]
    tops = [x.max(-1) for x in logs]
    from attn_dsl.eval.vocabulary import Vocabulary

    vocabulary = Vocabulary(subject.loaded.tokenizer)
    strings = vocabulary.strings_of(ids)

    def name(token: torch.Tensor) -> str:
        return vocabulary.strings_of([int(token)])[0]

    predictions = [
        Prediction(
            strings[i], strings[i + 1] if subject.loaded.causal else strings[i],
            (name(tops[0].indices[i]), name(tops[1].indices[i])),
            (float(tops[0].values[i].exp()), float(tops[1].values[i].exp())),
            (float(own[0][i]), float(own[1][i])), float(kl[i]),
        )
        for i in range(len(targets))
    ]  # fmt: skip
    special = set(subject.loaded.tokenizer.all_special_ids)
    if not subject.loaded.causal:
        predictions = [p for p, one in zip(predictions, ids, strict=True) if one not in special]
    sources = tuple(side.program.source if side.program else "" for side in sides)
    return Comparison(
        head, (sides[0].name, sides[1].name), (sources[0], sources[1]), tuple(predictions)
    )


def _encode(subject: Subject, text: str) -> list[int]:
    ids = list(subject.loaded.tokenizer(text).input_ids)
    if len(ids) < 2 or not text.strip():
        raise InputError("--text is too short; give at least two tokens")
    limit = subject.loaded.max_positions
    if limit is not None and len(ids) > limit:
        raise InputError(
            f"--text has {len(ids)} tokens, and {subject.loaded.name} takes {limit}; shorten it"
        )
    return ids


def _predict(subject: Subject, ids: list[int], heads: Mapping[Head, Program]) -> torch.Tensor:
    """Return log-probabilities, float32 (predictions, vocabulary)."""
    from attn_dsl.eval.replace.context import replace_heads

    model, tokenizer = subject.loaded.model, subject.loaded.tokenizer
    inputs = torch.tensor([ids])
    if not subject.loaded.causal:
        inputs = inputs.repeat(len(ids), 1)
        inputs.fill_diagonal_(tokenizer.mask_token_id)
    inputs = inputs.to(model.device)
    replaced = replace_heads(model, heads, tokenizer=tokenizer) if heads else nullcontext()
    with replaced, torch.inference_mode():
        logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits.float()
    if subject.loaded.causal:
        chosen = logits[0, :-1]
    else:
        at = torch.arange(len(ids), device=logits.device)
        chosen = logits[at, at]
    return torch.log_softmax(chosen, dim=-1).cpu()

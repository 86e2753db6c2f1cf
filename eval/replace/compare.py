"""Comparison: what changes in a model's predictions when one head's program is edited."""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attn_dsl.compiler.program import Program, load
from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.heads import Pair, parse_heads
from attn_dsl.eval.models import LoadedModel
from attn_dsl.eval.replace.context import replace_heads
from attn_dsl.eval.replace.predictions import batches, log_probabilities
from attn_dsl.eval.replace.replaced_model import ReplacedModel
from attn_dsl.eval.tokenizer import Vocabulary

MODEL = "model"
"""What stands for the model's own head."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One position of a text: what the model predicts there under A and under B."""

    token: str  # the token at the position; of an encoder it is masked when it is predicted
    target: str  # the token to be predicted: the next one, of an encoder the masked one
    # top, top_probability: the most probable token
    top: tuple[str, str]
    top_probability: tuple[float, float]
    target_probability: tuple[float, float]  # that of the target
    kl: float  # KL(A || B), nats
    changed: bool  # whether the most probable token is another


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two programs in one head, on one text."""

    head: Pair
    sides: tuple[str, ...]  # what A and B are called
    predictions: tuple[Prediction, ...]  # by position
    kl: float  # mean KL(A || B) of a prediction, nats
    changed: int  # at how many positions the most probable token is another
    perplexity: tuple[float, ...]  # of the text under A and under B

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON data."""
        names = {"head": f"L{self.head[0]}H{self.head[1]}", "a": self.sides[0], "b": self.sides[1]}
        figures = {"kl": self.kl, "changed": self.changed, "perplexity": self.perplexity}
        return {**names, **figures, "predictions": [asdict(p) for p in self.predictions]}


class Side(NamedTuple):
    """What is put into the head on one side; a program of None is the model's own head."""

    name: str
    program: Program | None


def choose_sides(model: ReplacedModel, a: str, b: str, head: str | None,
                 define: Sequence[str] = ()) -> tuple[Pair, tuple[Side, ...]]:  # fmt: skip
    """Find out what A and B are, and into which head they go.

    Each is a file of a program, a head's name (``L2H3``: the run's own program for it), or ``model`` for
    the model's own head. The head is given, or named by A or B, or that whose program in the run has
    the name of A or B.

    Raises:
        InputError: a file is missing, the run has no such program, or nothing names the head.
    """

    def one(text: str) -> Pair | None:
        """Read the name of one head; None if the text is something else."""
        if not re.fullmatch(r"[Ll]\d+\.?[Hh]\d+", text):
            return None
        return parse_heads(text, model.loaded.n_layers, model.loaded.n_heads)[0]

    named: list[Pair] = []
    sides: list[Side] = []
    for text in (a, b):
        place = None if Path(text).exists() else one(text)
        if text == MODEL:
            sides.append(Side("the model's own head", None))
        elif place is None:
            sides.append(Side(Path(text).name, load(text, allow_lookahead=model.lookahead, define=define)))
        else:
            [place] = model.choose_heads(text)
            named.append(place)
            name = f"{model.run.path.name} L{place[0]}H{place[1]}"
            sides.append(Side(name, model.programs[place]))
    if head is not None:
        if (place := one(head)) is None:
            raise InputError(f"--head names one head, as in L2H3, not {head}")
        named = [place]
    elif not named:
        own = {program.name: place for place, program in model.programs.items()}
        named = [own[s.program.name] for s in sides if s.program and s.program.name in own]
    if len(set(named)) != 1:
        which = "names no head" if not named else "name different heads"
        raise InputError(
            f"{a} and {b}: it is not clear which head they go into ({which}); say so by --head L2H3"
        )
    return named[0], tuple(sides)


def compare(
    loaded: LoadedModel, head: Pair, sides: tuple[Side, ...], text: str,
    others: Mapping[Pair, Program] | None = None, own: MutableMapping[str, torch.Tensor] | None = None,
) -> Comparison:  # fmt: skip
    """Compare the model's predictions on a text with one thing or another in a head.

    A decoder predicts the next token at every position. An encoder predicts each token from the
    whole text with that token masked.

    Args:
        others: what replaces other heads on both sides; by default they stay the model's own.
        own: keeps, by text, what the model predicts with its own heads, for the next comparison.

    Raises:
        InputError: the text is too short, or longer than the model's context.
    """
    ids = loaded.ids_of(text, "--on")
    special = set() if loaded.causal else set(loaded.tokenizer.all_special_ids)
    places = [i for i in range(int(loaded.causal), len(ids)) if ids[i] not in special]
    if loaded.causal:
        work = batches(loaded, [ids], [places])
    else:
        work = batches(loaded, [ids] * len(places), [[place] for place in places])
    logs = []
    for side in sides:
        heads = {**(others or {}), **({head: side.program} if side.program else {})}
        if own is not None and not heads and text in own:
            logs.append(own[text])
            continue
        replaced = replace_heads(loaded, heads, texts=[text]) if heads else nullcontext()
        with replaced, torch.inference_mode():
            logs.append(torch.cat([log_probabilities(loaded, batch).cpu() for batch in work]))
        if own is not None and not heads:
            own[text] = logs[-1]
    both = torch.stack(logs, dim=1)  # (places, sides, vocabulary)
    probabilities = both.exp()
    kl = (probabilities[:, 0] * (both[:, 0] - both[:, 1])).sum(-1).clamp(min=0.0)
    best, tokens = probabilities.max(-1)
    of_target = probabilities[torch.arange(len(places)), :, [ids[place] for place in places]]
    vocabulary = Vocabulary(loaded.tokenizer)
    strings = vocabulary.tokens_of(ids).strings
    predictions = []
    for i, place in enumerate(places):
        a, b = (vocabulary.tokens_of([token]).strings[0] for token in tokens[i].tolist())
        predictions.append(
            Prediction(strings[place - loaded.causal], strings[place], (a, b), tuple(best[i].tolist()),
                tuple(of_target[i].tolist()), float(kl[i]), a != b))  # fmt: skip
    perplexity = of_target.double().clamp(min=1e-45).log().mean(0).neg().exp()
    return Comparison(head, tuple(side.name for side in sides), tuple(predictions), float(kl.double().mean()),
                      sum(p.changed for p in predictions), tuple(perplexity.tolist()))  # fmt: skip

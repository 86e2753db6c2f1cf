"""The context manager that puts programs in the place of heads, checks it, and undoes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_dsl.compiler.program import Program
from attn_dsl.eval.replace.source import Head, Source


@dataclass(frozen=True, slots=True)
class Replacement:
    """What was replaced, and what was verified before the body of the ``with`` began.

    Attributes:
        heads: (layer, head) of all replaced heads, those of outer contexts left out.
        names: of the sources, in the same order.
        implementation: the model's own attention implementation, which the kept heads go on using.
        identity: the largest difference of a logit on the probe with no head replaced, but the
            context's attention function in place.
        attention: the largest difference between the attention that a replaced head used on the
            probe and what its source gives.
        identity_tolerance, attention_tolerance: what these two may be at most.
    """

    heads: tuple[Head, ...]
    names: tuple[str, ...]
    implementation: str
    identity: float
    attention: float
    identity_tolerance: float
    attention_tolerance: float


@contextmanager
def replace_heads(
    model: Any,
    heads: Mapping[Head, Program | str | Path | Source],
    *,
    tokenizer: Any = None,
    vocabulary: Any = None,
) -> Iterator[Replacement]:
    """Put programs in the place of heads of a live transformers model.

    >>> with replace_heads(model, {(5, 1): program}, tokenizer=tokenizer) as report:
    ...     logits = model(**tokenizer("Once upon a time", return_tensors="pt")).logits
    """
    raise NotImplementedError
    yield

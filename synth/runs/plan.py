"""Plans: what a fit will read, need and take, told before anything but a configuration is loaded.

Times come from constants, those of the search are told by its proposers, that `benchmarks/scale.py`
measures on a machine; they are for one core, and are divided by the cores that are used.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.heads import parse_heads
from attn_dsl.synth.session import Settings

if TYPE_CHECKING:
    from attn_dsl.eval.capture import Capture

START_SECONDS = 10.0
"""Imports, a tokenizer, the features of the texts."""
FLOPS = 5.8e10
"""Operations a second of a core that runs a model in float32."""
LOAD_BYTES = 4e8
"""Bytes of weights that are read and converted in a second."""
SCORE_SECONDS = 1.9e-7
"""A round's search: seconds by entry of the select and test texts."""
BASE_BYTES = 0.7e9
"""A process with the libraries loaded, and the features of its texts."""
HEAD_BYTES = 2.5e8
"""What the search of one head takes besides."""
BYTES_A_TOKEN = 4.0
"""Bytes of text in a token, where no tokenizer is at hand."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a plan knows of a model and its texts.

    Attributes:
        model: its name.
        family: the architecture.
        layers, heads_per_layer: of the model.
        parameters: of the model; None for a capture that is there already.
        multiplied: those that every token is multiplied with: all but embeddings and the head that
            predicts tokens.
        lengths: tokens of every window of text.
        counted: whether tokens were counted; otherwise they are estimated from the bytes of text.
    """

    model: str
    family: str
    causal: bool
    layers: int
    heads_per_layer: int
    parameters: int | None
    multiplied: int
    lengths: tuple[int, ...]
    counted: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fit will do, and about what it will take.

    Attributes:
        heads: how many heads are searched, ``jobs`` of them at once.
        capture_bytes: disk for the capture; 0 where it is there.
        free_bytes: disk that is free where it goes.
        memory_bytes: the most memory at once.
        machine_bytes: the memory of this machine; None where it cannot be found out.
        capture_seconds, search_seconds: expected time.
        timeout: the limit that ends the search earlier, if any.
        guessed: the proposers whose time is a guess.
    """

    shape: Shape
    settings: Settings
    heads: int
    jobs: int
    capture_bytes: int
    free_bytes: int
    memory_bytes: int
    machine_bytes: int | None
    capture_seconds: float
    search_seconds: float
    timeout: float | None
    guessed: tuple[str, ...]

    @property
    def needed(self) -> float:
        """The expected time in all, without a limit."""
        return START_SECONDS + self.capture_seconds + self.search_seconds

    @property
    def seconds(self) -> float:
        """The expected time in all, the limit respected."""
        return self.needed if self.timeout is None else min(self.needed, self.timeout)

    @property
    def warnings(self) -> list[str]:
        """What speaks against it."""
        found = []
        if self.capture_bytes > self.free_bytes:
            found.append("the disk has no room for the capture; use fewer texts or tokens")
        if self.machine_bytes is not None and self.memory_bytes > self.machine_bytes:
            found.append("this machine has too little memory for the model in float32")
        if self.timeout is not None and self.needed > self.timeout:
            found.append(f"--timeout {self.timeout:g} will cut the search short")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON data."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        shape = {f.name: getattr(self.shape, f.name) for f in fields(self.shape)}
        for name in ("shape", "settings"):
            del own[name]
        for name in ("causal", "multiplied", "lengths"):
            del shape[name]
        names = ("rounds", "max_evals", "max_nodes", "effort", "proposers")
        return {
            **own, **shape, **{name: getattr(self.settings, name) for name in names},
            "texts": len(self.shape.lengths), "tokens": sum(self.shape.lengths),
            "seconds": self.seconds, "warnings": self.warnings,
        }  # fmt: skip


def plan(
    model: str | None, text: str | None, capture: str | Path | Capture | None, settings: Settings,
    *, out: str | Path, heads: str | None, max_tokens: int, max_texts: int, jobs: int | None,
    timeout: float | None,
) -> Plan:  # fmt: skip
    """Plan a fit; the arguments are those of ``fit``.

    Raises:
        InputError: as ``fit``, as far as it shows in the configuration and the text.
    """
    from attn_dsl.eval.shards import n_entries
    from attn_dsl.synth import cost_model, vocabulary

    if capture is None:
        shape = _shape_of_model(model, text, max_tokens, max_texts)
    else:
        shape = _shape_of_capture(capture)
    chosen = parse_heads(heads, shape.layers, shape.heads_per_layer)
    if len(chosen) == 1:
        settings = replace(settings, rounds=1)
    entries = sum(n_entries(n, shape.causal) for n in shape.lengths)
    bytes_needed = 0
    capture_seconds = 0.0
    workers = min(jobs or os.cpu_count() or 1, len(chosen))
    fitted = 0.6 * entries
    terms = len(vocabulary.terms(shape.causal))
    memory = BASE_BYTES + HEAD_BYTES * workers + cost_model.shared_bytes(settings, terms, fitted)
    if shape.parameters is not None:
        bytes_needed = 2 * shape.layers * shape.heads_per_layer * entries
        weights = 4 * shape.parameters
        operations = 2 * shape.multiplied * sum(shape.lengths)
        capture_seconds = operations / (FLOPS * (os.cpu_count() or 1)) + weights / LOAD_BYTES
        memory = max(memory, BASE_BYTES + weights + _batch_bytes(shape))
    by_head = cost_model.by_head(settings, fitted) + SCORE_SECONDS * 0.4 * entries * (
        settings.rounds
    )
    folder = Path(out).absolute()
    while not folder.is_dir():
        folder = folder.parent
    return Plan(
        shape, settings, heads=len(chosen), jobs=workers, capture_bytes=bytes_needed,
        free_bytes=shutil.disk_usage(folder).free, memory_bytes=round(memory),
        machine_bytes=_machine_bytes(), capture_seconds=capture_seconds,
        search_seconds=cost_model.once(settings) + by_head * len(chosen) / workers, timeout=timeout,
        guessed=cost_model.guessed(settings),
    )  # fmt: skip


def _shape_of_capture(capture: str | Path | Capture) -> Shape:
    from attn_dsl.eval.capture import Capture

    made = capture if isinstance(capture, Capture) else Capture.open(capture)
    lengths = tuple(len(made.tokens(i)) for i in range(made.n_texts))
    return Shape(
        made.name, str(made.meta.get("family", "capture")), made.causal, made.n_layers,
        made.heads_per_layer, None, 0, lengths, True,
    )  # fmt: skip


def _shape_of_model(model: str | None, text: str | None, max_tokens: int, max_texts: int) -> Shape:
    from attn_dsl.eval.locate import locate, max_positions
    from attn_dsl.eval.shipped import model_dir, stories_path
    from attn_dsl.eval.texts import read_texts

    if model is not None and text is None:
        raise InputError("a model needs a text to read: --text FILE (.txt, .jsonl or hf:dataset)")
    texts = read_texts(text or str(stories_path()))
    name = model or str(model_dir())
    found = locate(name, weights=False)
    limit = max_positions(found.config)
    if limit is not None and max_tokens > limit:
        raise InputError(
            f"{name} takes {limit} tokens at most, not {max_tokens}; use --max-tokens {limit} or "
            "less"
        )
    counted = _count(found, texts, max_tokens, max_texts)
    config = found.config
    return Shape(
        name if found.folder is None else found.folder.resolve().name, config.model_type,
        found.causal, config.num_hidden_layers, config.num_attention_heads, *count_parameters(found),
        counted or _estimate(texts, max_tokens, max_texts), counted is not None,
    )  # fmt: skip


def _count(found: Any, texts: list[str], max_tokens: int, max_texts: int) -> tuple[int, ...] | None:
    """Count the tokens of every window; None where the tokenizer is not on this machine."""
    from attn_dsl.eval.capture_write import choose_windows
    from attn_dsl.eval.models import load_tokenizer
    from attn_dsl.eval.vocabulary import Vocabulary

    try:
        tokenizer = load_tokenizer(found.place, local=True)
    except InputError:
        return None
    windows = choose_windows(Vocabulary(tokenizer), texts, max_tokens, max_texts)
    return tuple(len(window.ids) for window in windows)


def _estimate(texts: list[str], max_tokens: int, max_texts: int) -> tuple[int, ...]:
    """Estimate the tokens of every window from the bytes of the texts: first windows first.

    >>> _estimate(["x" * 80, "x" * 20], max_tokens=8, max_texts=3)
    (8, 5, 8)
    """
    left = [max(2, round(len(text.encode()) / BYTES_A_TOKEN)) for text in texts]
    found: list[int] = []
    while len(found) < max_texts and any(n > 1 for n in left):
        for at, n in enumerate(left):
            if n > 1 and len(found) < max_texts:
                found.append(min(n, max_tokens))
                left[at] = n - max_tokens
    return tuple(found)


def count_parameters(found: Any) -> tuple[int, int]:
    """Count a model's parameters, and those that are multiplied; none of them takes memory."""
    import torch

    from attn_dsl.eval.models import body

    with torch.device("meta"):
        network = found.loader.from_config(found.config)
    read = sum(p.numel() for p in body(network).parameters())
    embedded = network.get_input_embeddings().weight.numel()
    return sum(p.numel() for p in network.parameters()), read - embedded


def _batch_bytes(shape: Shape) -> int:
    """Return the memory for the attention of the batches that run at once."""
    from attn_dsl.eval.capture_run import BATCH_BYTES

    longest = max(shape.lengths)
    batch = min(8 * 4 * shape.layers * shape.heads_per_layer * longest**2, BATCH_BYTES)
    return 2 * (os.cpu_count() or 1) * batch


def _machine_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None

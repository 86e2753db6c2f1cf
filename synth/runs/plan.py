"""Plans: what a fit will read, need and take, told before anything but a configuration is loaded.

Times come from what `benchmarks/real_model.py` measured on one core, and from the speed of this machine's
cores beside that one, which is measured while planning.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.heads import parse_heads
from attn_dsl.eval.texts import Spec
from attn_dsl.synth import search_terms
from attn_dsl.synth.proposers import registry
from attn_dsl.synth.runs.speed import product_speed, vector_speed
from attn_dsl.synth.session import Settings

START_SECONDS = 4.0  # imports, a tokenizer, the features of the texts
VECTOR_SPEED = 2.1e9
"""The ``vector_speed`` of the core that the seconds below, and those of proposers, are of."""
THREADS = 0.8
"""What each of several threads does of the work of a single one: they wait for each other at times."""
PRODUCTS = 0.65  # a model's operations a second, as a part of ``product_speed``
LOAD_BYTES = 4e8  # bytes of weights that are read and converted in a second
SCORE_SECONDS = 2.2e-7  # the search of a head: seconds by entry of the select and test texts
OUTPUTS = 1.35  # by how much a search takes longer that looks at outputs
BASE_BYTES = 0.7e9  # a process with the libraries loaded, and the features of its texts
HEAD_BYTES = 2.5e8  # what the search of one head takes besides
FITTED = 0.6  # the share of the texts that programs are fitted on
BYTES_A_TOKEN = 4.0  # bytes of text in a token, where no tokenizer is at hand


def plan(model: str | None, text: Spec | None, capture: str | Path | None, settings: Settings, *,
         out: str | Path, heads: str | None, max_tokens: int, max_texts: int, jobs: int | None,
         timeout: float | None, dtype: str = "float32") -> dict[str, Any]:  # fmt: skip
    """Plan a fit; the arguments are those of ``fit``.

    Returns:
        JSON data: the model, how much text, heads and programs, and about what bytes and seconds
        they take; ``parameters`` is None for a capture that is there already, ``counted`` is False
        where the number of tokens is an estimate, ``guessed`` names proposers of unknown speed.

    Raises:
        InputError: as ``fit``, as far as it shows in the configuration and the text.
    """
    from psutil import virtual_memory

    from attn_dsl.eval.capture_run import text_bytes
    from attn_dsl.eval.shards import n_entries

    if capture is None:
        about, causal, lengths, multiplied = _of_model(model, text, max_tokens, max_texts)
    else:
        about, causal, lengths, multiplied = _of_capture(capture)
    chosen = parse_heads(heads, about["layers"], about["heads_per_layer"])
    cores, all_heads = os.cpu_count() or 1, about["layers"] * about["heads_per_layer"]
    workers = min(jobs or cores, len(chosen))
    slower = VECTOR_SPEED / vector_speed(min(workers, cores))
    entries = sum(n_entries(n, causal) for n in lengths)
    costs = {name: registry.find(name).cost(settings) for name in settings.proposers}
    rows = min(FITTED * entries, settings.entries)
    samples = settings.effort if rows == settings.entries else 1
    memory = BASE_BYTES + HEAD_BYTES * workers + 4 * len(search_terms.terms(causal)) * rows * samples
    capture_bytes, capture_seconds = 0, 0.0
    if about["parameters"] is not None:
        weights = (4 if dtype == "float32" else 2) * about["parameters"]
        capture_bytes = 2 * (all_heads * entries + about["value_numbers"] * sum(lengths))
        speed = PRODUCTS * product_speed(cores) * cores
        capture_seconds = 2 * multiplied * sum(lengths) / speed + slower * weights / LOAD_BYTES
        batch = 8 * text_bytes(about["heads_per_layer"], max(lengths))
        memory = max(memory, BASE_BYTES + weights + cores * batch)
    by_head, evals = 0.0, settings.max_evals
    for cost in costs.values():
        by_head += min(1.0, evals / max(cost.evals, 1)) * cost.seconds * rows / settings.entries
        evals = max(0, evals - cost.evals)
    by_head = samples * by_head + SCORE_SECONDS * (1 - FITTED) * entries
    if settings.objective != "attention":
        by_head *= OUTPUTS
    once = sum(cost.once for cost in costs.values())
    at_once = workers * (THREADS if workers > 1 else 1.0)
    search_seconds = slower * (once + by_head * len(chosen) / at_once)
    folder = Path(out).absolute()
    while not folder.is_dir():
        folder = folder.parent
    free, machine = shutil.disk_usage(folder).free, virtual_memory().total
    seconds = slower * START_SECONDS + capture_seconds + search_seconds
    warnings = []
    if capture_bytes > free:
        warnings.append("the disk has no room for the capture; use fewer texts or tokens")
    if memory > machine:
        warnings.append(f"this machine has too little memory for the model in {dtype}")
    if about["not_replaceable"]:
        warnings.append(f"`attn-dsl replace` will refuse this model: {about['not_replaceable']}")
    if timeout is not None and seconds > timeout:
        warnings.append(f"--timeout {timeout:g} will cut the search short")
    names = ("max_evals", "max_nodes", "effort")
    return {**about, **{name: getattr(settings, name) for name in names}, "heads": len(chosen),
            "proposers": list(costs), "jobs": workers, "texts": len(lengths), "tokens": sum(lengths),
            "capture_bytes": capture_bytes, "free_bytes": free, "memory_bytes": round(memory),
            "machine_bytes": machine, "capture_seconds": capture_seconds, "search_seconds": search_seconds,
            "timeout": timeout, "warnings": warnings,
            "seconds": seconds if timeout is None else min(seconds, timeout),
            "guessed": [name for name, cost in costs.items() if not cost.measured]}  # fmt: skip


Found = tuple[dict[str, Any], bool, tuple[int, ...], int]
"""What a plan tells of a model, whether it is causal, the tokens of every window of text, and the
parameters that every token is multiplied with: all but embeddings and the head that predicts tokens."""


def _of_capture(capture: str | Path) -> Found:
    from attn_dsl.eval.capture import Capture

    made = Capture.open(capture)
    about = {"model": made.name, "family": str(made.meta.get("family", "capture")), "counted": True,
             "layers": made.n_layers, "heads_per_layer": made.heads_per_layer, "parameters": None,
             "not_replaceable": made.meta.get("not_replaceable")}  # fmt: skip
    return about, made.causal, tuple(len(made.tokens(i)) for i in range(made.n_texts)), 0


def _of_model(model: str | None, text: Spec | None, max_tokens: int, max_texts: int) -> Found:
    from attn_dsl.eval.capture_write import model_and_texts
    from attn_dsl.eval.locate import locate, max_positions

    name, texts = model_and_texts(model, text)
    found = locate(name, weights=False)
    limit = max_positions(found.config)
    if limit is not None and max_tokens > limit:
        raise InputError(
            f"{name} takes {limit} tokens at most, not {max_tokens}; use --max-tokens {limit} or less"
        )
    counted = _count(found, texts, max_tokens, max_texts)
    parameters, multiplied, predicts = count_parameters(found)
    config, heads = found.config, found.config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    headless = None if predicts else "it has no language-model head, so it predicts no tokens"
    about = {"model": found.name, "family": config.model_type, "layers": config.num_hidden_layers,
             "heads_per_layer": heads, "parameters": parameters,
             "value_numbers": config.num_hidden_layers * shared * size, "counted": counted is not None,
             "not_replaceable": headless}  # fmt: skip
    return about, found.causal, counted or _estimate(texts, max_tokens, max_texts), multiplied


def _count(found: Any, texts: list[str], max_tokens: int, max_texts: int) -> tuple[int, ...] | None:
    """Count the tokens of every window; None where the tokenizer is not on this machine."""
    from attn_dsl.eval.capture_write import choose_windows
    from attn_dsl.eval.models import load_tokenizer
    from attn_dsl.eval.tokenizer import Vocabulary

    try:
        tokenizer = load_tokenizer(found, local=True)
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


def count_parameters(found: Any) -> tuple[int, int, bool]:
    """Count a model's parameters, and those that are multiplied; say whether it predicts tokens.

    None of the parameters takes memory.
    """
    import torch

    from attn_dsl.eval.models import body

    with torch.device("meta"):
        network = found.loader.from_config(found.config)
    read = sum(p.numel() for p in body(network).parameters())
    embedded = network.get_input_embeddings().weight.numel()
    every = sum(p.numel() for p in network.parameters())
    return every, read - embedded, network.get_output_embeddings() is not None

"""Running a model over batches of token ids and packing the attention of every head."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from attn_dsl.dsl.errors import WorkError
from attn_dsl.eval.models import LoadedModel, body, padded

BATCH_BYTES = 512 * 2**20
"""The most memory for the attention of one batch, float32; batches are cut to it."""


def run_texts(
    loaded: LoadedModel, ids: Sequence[Sequence[int]], groups: Sequence[Sequence[int]],
    batch_size: int,
) -> Iterator[tuple[list[int], list[Any]]]:  # fmt: skip
    """Run groups of texts in batches; give indices and packed float16 arrays, in order.

    One batch per thread and one thread per batch: threads inside an operation wait for each
    other at every step, which costs four times as much where other work shares the machine.
    A batch holds texts of one group only. Threads go on with the next group while one is being
    written, but never more than a batch each ahead, so that memory stays bounded.
    """
    import torch

    batches = (batch for group in groups for batch in _batches(loaded, ids, group, batch_size))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def work(batch: list[int]) -> tuple[list[int], list[Any]]:
        return batch, attention_of(loaded, [ids[index] for index in batch])

    try:
        running = deque(pool.submit(work, batch) for batch in islice(batches, 2 * threads))
        while running:
            done = running.popleft().result()
            running.extend(pool.submit(work, batch) for batch in islice(batches, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _batches(
    loaded: LoadedModel, ids: Sequence[Sequence[int]], texts: Sequence[int], batch_size: int
) -> Iterator[list[int]]:
    """Cut texts, which are sorted by length, so that memory stays bounded."""
    per_entry = 4 * loaded.n_layers * loaded.n_heads
    left = list(texts)
    while left:
        size = min(batch_size, len(left))
        while size > 1 and per_entry * size * len(ids[left[size - 1]]) ** 2 > BATCH_BYTES:
            size -= 1
        yield left[:size]
        del left[:size]


def attention_of(loaded: LoadedModel, batch: Sequence[Sequence[int]]) -> list[Any]:
    """Run one batch, padded on the right, and pack the attention of each text.

    Returns:
        per text a float16 array [heads, visible entries].

    Raises:
        WorkError: rows of the attention do not sum to 1 over what a token sees.
    """
    import torch

    longest = max(map(len, batch))
    options = {"use_cache": False} if loaded.causal else {}
    heads, packed = loaded.n_heads, []
    with torch.inference_mode():
        inputs = padded(loaded, batch)
        maps = body(loaded.model)(**inputs, output_attentions=True, **options).attentions
        for row, n in enumerate(map(len, batch)):
            seen = torch.ones(n, n, dtype=torch.bool)
            q, k = (seen.tril() if loaded.causal else seen).nonzero(as_tuple=True)
            kept = q * longest + k
            out = torch.empty((loaded.n_layers * heads, len(kept)), dtype=torch.float16)
            for layer, matrix in enumerate(maps):
                values = matrix[row].reshape(heads, longest**2).index_select(1, kept)
                _check_rows(loaded, layer, values, n)
                out[layer * heads : (layer + 1) * heads].copy_(values)
            packed.append(out.numpy())
    return packed


def _check_rows(loaded: LoadedModel, layer: int, values: Any, n: int) -> None:
    """Make sure that the visible entries of n rows sum to n: nothing hidden, nothing NaN."""
    worst = float((values.sum(1) - n).abs().max())
    if not worst <= 1e-3 * n:
        raise WorkError(
            f"{loaded.name}: attention in layer {layer} does not sum to 1 over the tokens that "
            + ("a causal model sees" if loaded.causal else "are there")
            + f" (off by {worst / n:.2g} a row); this model's heads cannot be captured"
        )

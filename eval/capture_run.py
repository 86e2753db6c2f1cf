"""Running a model over batches of token ids: attention and values of every head."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from threading import Event
from typing import Any

import numpy as np
import torch

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.head_outputs import HeadOutputs, Products, forward
from attn_dsl.eval.models import LoadedModel, free_bytes, padded

Keep = Callable[..., None]
"""Takes the number of a text, a layer, its attention, float16 (heads, visible entries), and where
values are kept its value vectors, float16 (key-value heads, n, head size)."""


def run_texts(loaded: LoadedModel, heads: HeadOutputs, ids: Sequence[Sequence[int]],
              groups: Iterable[Sequence[int]], keep: Keep,
              batch_size: int | None = None) -> Generator[list[int], None, None]:  # fmt: skip
    """Run groups of texts in batches; give the numbers of the texts of each batch, in order.

    What is read of a layer goes to ``keep``, from any thread, as soon as the layer has run. On a
    CPU each batch has a thread. A batch holds texts of one group, which is sorted by length.

    Args:
        batch_size: the most texts of a batch; what the device's free memory holds, if None.

    Raises:
        InputError: the device has no room for one text, or values do not fit into float16.
        WorkError: rows of the attention do not sum to 1 over what a token sees.
    """
    device, threads = loaded.model.device, torch.get_num_threads()
    workers, most = (threads, batch_size or 8) if device.type == "cpu" else (1, batch_size or 64)
    room, longest = free_bytes(device), max(map(len, ids))
    if (needed := text_bytes(loaded.n_heads, longest)) > room:
        raise InputError(f"a text of {longest} tokens takes {needed / 2**20:,.0f} MiB in a layer of "
                         f"{loaded.name}, {device} has {room / 2**20:,.0f} MiB free; use a lower "
                         "--max-tokens")  # fmt: skip
    stop = Event()

    def keep_on(*layer: Any) -> None:
        if stop.is_set():
            raise InterruptedError
        keep(*layer)

    def work(batch: list[int]) -> list[int]:
        _run(loaded, heads, {index: ids[index] for index in batch}, keep_on)
        return batch

    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        batches = (
            batch for group in groups
            for batch in _batches(loaded.n_heads, ids, group, room // (2 * workers), most))  # fmt: skip
        running = deque(pool.submit(work, batch) for batch in islice(batches, 2 * workers))
        while running:
            done = running.popleft().result()
            running.extend(pool.submit(work, batch) for batch in islice(batches, 1))
            yield done
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def text_bytes(heads: int, n: int) -> int:
    """Estimate the memory of a layer on a text: four maps, and activations 20 heads of 128 wide."""
    return 4 * heads * n * (4 * n + 20 * 128)


def _batches(heads: int, ids: Sequence[Sequence[int]], texts: Sequence[int], room: int,
             most: int) -> Iterator[list[int]]:  # fmt: skip
    """Cut texts, which are sorted by length, so that a batch fits into the room."""
    left = list(texts)
    while left:
        size = min(most, len(left))
        while size > 1 and room < size * text_bytes(heads, len(ids[left[size - 1]])):
            size -= 1
        yield left[:size]
        del left[:size]


def _run(loaded: LoadedModel, heads: HeadOutputs, texts: Mapping[int, Sequence[int]], keep: Keep) -> None:
    """Run texts and hand over each layer's attention and values when they are there.

    Only one layer's are in memory. A model whose layers are not seen as they multiply is read
    from the maps that it returns in the end.
    """
    inputs = padded(loaded.model, list(texts.values()))
    longest, device = inputs["input_ids"].shape[1], loaded.model.device
    rows, layers = [], count()
    for index, ids in texts.items():
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool, device=device)
        q, k = (seen.tril() if loaded.causal else seen).nonzero(as_tuple=True)
        rows.append((index, len(ids), q * longest + k))

    def take(maps: torch.Tensor, values: Any = None, _: Any = None) -> None:
        layer = next(layers)
        for row, (index, n, entries) in enumerate(rows):
            attention = maps[row].flatten(1).index_select(1, entries).float()
            _check_rows(loaded, layer, attention, n)
            read = [attention.half().cpu().numpy()]
            if heads.projections is not None:
                read.append(values[row, :: heads.group, :n].half().cpu().numpy())
                if not np.isfinite(read[1]).all():
                    raise InputError(f"{loaded.name}: value vectors in layer {layer} are not finite or too "
                                     "large for float16; capture attention alone by "
                                     "--no-values")  # fmt: skip
            keep(index, layer, *read)

    if heads.from_products:
        with Products((len(rows), loaded.n_heads, longest), take):
            forward(loaded, inputs)
    else:
        for maps in forward(loaded, inputs, output_attentions=True).attentions:
            take(maps)
    if (found := next(layers)) != loaded.n_layers:
        raise WorkError(f"{loaded.name}: attention of {found} layers was found, not of {loaded.n_layers}; "
                        "this model's heads cannot be captured")  # fmt: skip


def _check_rows(loaded: LoadedModel, layer: int, values: Any, n: int) -> None:
    """Make sure that the visible entries of n rows sum to n: nothing hidden, nothing NaN."""
    worst = float((values.sum(1) - n).abs().max()) / n
    if not worst <= max(1e-3, torch.finfo(loaded.model.dtype).eps):
        raise WorkError(f"{loaded.name}: attention in layer {layer} does not sum to 1 over the tokens "
                        "that " + ("a causal model sees" if loaded.causal else "are there") + " (off by "
                        f"{worst:.2g} a row); this model's heads cannot be captured")  # fmt: skip

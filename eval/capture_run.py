"""Running a model over batches of token ids and packing the attention of every head."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Event, local
from typing import Any

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.models import LoadedModel, body, free_bytes, padded, row_tolerance
from attn_dsl.eval.shards import Array

Keep = Callable[[int, int, Array], None]
"""Takes the number of a text, a layer, and its attention: float16 (heads, visible entries)."""


def run_texts(
    loaded: LoadedModel, ids: Sequence[Sequence[int]], groups: Iterable[Sequence[int]], keep: Keep,
    batch_size: int | None = None,
) -> Iterator[list[int]]:  # fmt: skip
    """Run groups of texts in batches; give the numbers of the texts of each batch, in order.

    The attention of a layer goes to ``keep``, from any thread, as soon as the layer has run. On a
    CPU there is one batch per thread and one thread per batch: threads inside an operation wait
    for each other at every step. A batch holds texts of one group only, which are sorted by
    length. Threads go on with the next group, but never more than a batch each ahead.

    Args:
        batch_size: the most texts of a batch; what the device's free memory holds, if None.

    Raises:
        InputError: the device has no room for one text.
        WorkError: rows of the attention do not sum to 1 over what a token sees.
    """
    import torch

    threads = torch.get_num_threads()
    workers = threads if loaded.model.device.type == "cpu" else 1
    room = free_bytes(loaded.model.device)
    longest = max(map(len, ids))
    if (needed := text_bytes(loaded.n_heads, longest)) > room:
        raise InputError(
            f"a text of {longest} tokens takes {needed / 2**20:,.0f} MiB in a layer of {loaded.name}"
            f", {loaded.model.device} has {room / 2**20:,.0f} MiB free; use a lower --max-tokens"
        )
    batches = (
        batch for group in groups
        for batch in _batches(loaded, ids, group, room // (2 * workers), batch_size)
    )  # fmt: skip
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    stop = Event()

    def keep_unless_stopped(index: int, layer: int, values: Array) -> None:
        if stop.is_set():
            raise InterruptedError
        keep(index, layer, values)

    try:
        with layer_hooks(loaded) as run:

            def work(batch: list[int]) -> list[int]:
                run({index: ids[index] for index in batch}, keep_unless_stopped)
                return batch

            running = deque(pool.submit(work, batch) for batch in islice(batches, 2 * workers))
            try:
                while running:
                    done = running.popleft().result()
                    running.extend(pool.submit(work, batch) for batch in islice(batches, 1))
                    yield done
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(threads)


def text_bytes(heads: int, n: int) -> int:
    """Estimate the memory of a layer on a text: four maps, and activations 20 heads of 128 wide."""
    return 4 * heads * n * (4 * n + 20 * 128)


def _batches(
    loaded: LoadedModel, ids: Sequence[Sequence[int]], texts: Sequence[int], room: int,
    most: int | None,
) -> Iterator[list[int]]:  # fmt: skip
    """Cut texts, which are sorted by length, so that a batch fits into the room."""
    most = most or (8 if loaded.model.device.type == "cpu" else 64)
    left = list(texts)
    while left:
        size = min(most, len(left))
        while size > 1 and room < size * text_bytes(loaded.n_heads, len(ids[left[size - 1]])):
            size -= 1
        yield left[:size]
        del left[:size]


@contextmanager
def layer_hooks(loaded: LoadedModel) -> Iterator[Callable[[dict[int, Sequence[int]], Keep], None]]:
    """Give a function that runs a batch and hands over each layer's attention when it is there.

    A short run finds the modules whose output holds the maps that the model returns in the end.
    Hooks on them take the maps out, so that only one layer's is in memory. A model whose modules
    do not give them as they are is read from what it returns.
    """
    import torch

    current = local()  # by thread, the batch that runs in it
    places = _places_of_maps(loaded)

    def take(matrix: torch.Tensor) -> None:
        layer, current.layer = current.layer, current.layer + 1
        for row, (index, n, entries) in enumerate(current.texts):
            values = matrix[row].flatten(1).index_select(1, entries).float()
            _check_rows(loaded, layer, values, n)
            current.keep(index, layer, values.half().cpu().numpy())

    def hook(module: Any, _: Any, output: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not hasattr(current, "texts"):
            return None
        at = places[module]
        take(output[at])
        return (*output[:at], output[at].new_empty(0), *output[at + 1 :])

    def run(texts: dict[int, Sequence[int]], keep: Keep) -> None:
        options = {"use_cache": False} if loaded.causal else {}
        with torch.inference_mode():
            inputs = padded(loaded, list(texts.values()))
            longest, device = inputs["input_ids"].shape[1], inputs["input_ids"].device
            current.layer, current.keep, current.texts = 0, keep, []
            for index, ids in texts.items():
                seen = torch.ones(len(ids), len(ids), dtype=torch.bool, device=device)
                q, k = (seen.tril() if loaded.causal else seen).nonzero(as_tuple=True)
                current.texts.append((index, len(ids), q * longest + k))
            maps = body(loaded.model)(**inputs, output_attentions=True, **options).attentions
            if not places:
                for matrix in maps:
                    take(matrix)
        del current.texts

    handles = [module.register_forward_hook(hook, prepend=True) for module in places]
    try:
        yield run
    finally:
        for handle in handles:
            handle.remove()


def _places_of_maps(loaded: LoadedModel) -> dict[Any, int]:
    """Return the modules that give the maps of all layers, in order, and where in their output."""
    import torch

    given: list[tuple[Any, int, Any]] = []

    def note(module: Any, _: Any, output: Any) -> None:
        if isinstance(output, tuple):
            given.extend(
                (module, at, value) for at, value in enumerate(output) if value is not None
            )

    handles = [module.register_forward_hook(note) for module in loaded.model.modules()]
    try:
        with torch.inference_mode():
            inputs = padded(loaded, [[0, 0, 0, 0]])
            maps = body(loaded.model)(**inputs, output_attentions=True).attentions
    finally:
        for handle in handles:
            handle.remove()
    first = {id(value): (module, at) for module, at, value in reversed(given)}
    places = dict(first[id(one)] for one in maps if id(one) in first)
    # a module that gives other tensors too, or not those of every layer, is not hooked
    calls = [id(value) for module, at, value in given if places.get(module) == at]
    return places if calls == [id(one) for one in maps] else {}


def _check_rows(loaded: LoadedModel, layer: int, values: Any, n: int) -> None:
    """Make sure that the visible entries of n rows sum to n: nothing hidden, nothing NaN."""
    worst = float((values.sum(1) - n).abs().max())
    if not worst <= row_tolerance(loaded.model) * n:
        raise WorkError(
            f"{loaded.name}: attention in layer {layer} does not sum to 1 over the tokens that "
            + ("a causal model sees" if loaded.causal else "are there")
            + f" (off by {worst / n:.2g} a row); this model's heads cannot be captured"
        )

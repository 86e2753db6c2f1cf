"""Running a model over batches of token ids and packing the attention of every head."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Event, local
from typing import Any

from attn_dsl.dsl.errors import InputError, WorkError
from attn_dsl.eval.models import LoadedModel, body, free_bytes, padded
from attn_dsl.eval.shards import Array

Keep = Callable[[int, int, Array], None]
"""Takes the number of a text, a layer, and its attention: float16 (heads, visible entries)."""


def run_texts(
    loaded: LoadedModel, ids: Sequence[Sequence[int]], groups: Iterable[Sequence[int]], keep: Keep,
    batch_size: int | None = None,
) -> Generator[list[int], None, None]:  # fmt: skip
    """Run groups of texts in batches; give the numbers of the texts of each batch, in order.

    The attention of a layer goes to ``keep``, from any thread, as soon as the layer has run. On a
    CPU there is one batch per thread and one thread per batch: threads inside an operation wait
    for each other at every step. A batch holds texts of one group only, sorted by length.

    Args:
        batch_size: the most texts of a batch; what the device's free memory holds, if None.

    Raises:
        InputError: the device has no room for one text.
        WorkError: rows of the attention do not sum to 1 over what a token sees.
    """
    import torch

    device, threads = loaded.model.device, torch.get_num_threads()
    workers, most = (threads, batch_size or 8) if device.type == "cpu" else (1, batch_size or 64)
    room, longest = free_bytes(device), max(map(len, ids))
    if (needed := text_bytes(loaded.n_heads, longest)) > room:
        raise InputError(
            f"a text of {longest} tokens takes {needed / 2**20:,.0f} MiB in a layer of {loaded.name}"
            f", {device} has {room / 2**20:,.0f} MiB free; use a lower --max-tokens"
        )
    stop = Event()

    def keep_on(index: int, layer: int, values: Array) -> None:
        if stop.is_set():
            raise InterruptedError
        keep(index, layer, values)

    def work(batch: list[int]) -> list[int]:
        run({index: ids[index] for index in batch}, keep_on)
        return batch

    with layer_hooks(loaded) as run:
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            batches = (
                batch for group in groups
                for batch in _batches(loaded.n_heads, ids, group, room // (2 * workers), most)
            )  # fmt: skip
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


def _batches(
    heads: int, ids: Sequence[Sequence[int]], texts: Sequence[int], room: int, most: int
) -> Iterator[list[int]]:
    """Cut texts, which are sorted by length, so that a batch fits into the room."""
    left = list(texts)
    while left:
        size = min(most, len(left))
        while size > 1 and room < size * text_bytes(heads, len(ids[left[size - 1]])):
            size -= 1
        yield left[:size]
        del left[:size]


@contextmanager
def layer_hooks(
    loaded: LoadedModel,
) -> Iterator[Callable[[Mapping[int, Sequence[int]], Keep], None]]:
    """Give a function that runs texts and hands over each layer's attention when it is there.

    Hooks take the maps out of the modules' output, so that only one layer's is in memory. A model
    whose modules do not give its maps as they are is read from what it returns in the end.
    """
    import torch

    now = local()  # the batch that runs in a thread
    places = _places_of_maps(loaded)

    def take(matrix: torch.Tensor) -> None:
        for row, (index, n, entries) in enumerate(now.texts):
            values = matrix[row].flatten(1).index_select(1, entries).float()
            _check_rows(loaded, now.layer, values, n)
            now.keep(index, now.layer, values.half().cpu().numpy())
        now.layer += 1

    def hook(module: Any, _: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
        at = places[module]
        take(output[at])
        return (*output[:at], output[at].new_empty(0), *output[at + 1 :])

    def run(texts: Mapping[int, Sequence[int]], keep: Keep) -> None:
        now.layer, now.keep, now.texts = 0, keep, []
        inputs = padded(loaded, list(texts.values()))
        longest, device = inputs["input_ids"].shape[1], loaded.model.device
        for index, ids in texts.items():
            seen = torch.ones(len(ids), len(ids), dtype=torch.bool, device=device)
            q, k = (seen.tril() if loaded.causal else seen).nonzero(as_tuple=True)
            now.texts.append((index, len(ids), q * longest + k))
        maps = _maps(loaded, inputs)
        for matrix in () if places else maps:
            take(matrix)

    handles = [module.register_forward_hook(hook, prepend=True) for module in places]
    try:
        yield run
    finally:
        for handle in handles:
            handle.remove()


def _maps(loaded: LoadedModel, inputs: dict[str, Any]) -> Sequence[Any]:
    """Return the maps of all layers; those that hooks have taken are empty."""
    import torch

    options = {"use_cache": False} if loaded.causal else {}
    with torch.inference_mode():
        return body(loaded.model)(**inputs, output_attentions=True, **options).attentions


def _places_of_maps(loaded: LoadedModel) -> dict[Any, int]:
    """Find, by a short run, the modules whose output holds the maps, in order, and where in it."""
    given: list[tuple[Any, int, Any]] = []

    def note(module: Any, _: Any, output: Any) -> None:
        if isinstance(output, tuple):
            given.extend((module, at, value) for at, value in enumerate(output))

    handles = [module.register_forward_hook(note) for module in loaded.model.modules()]
    maps = [id(one) for one in _maps(loaded, padded(loaded, [[0, 0, 0, 0]]))]
    for handle in handles:
        handle.remove()
    first = {id(value): (module, at) for module, at, value in reversed(given)}
    places = dict(first[one] for one in maps if one in first)
    # modules are hooked if they give the maps of every layer, and nothing else in that place
    calls = [id(value) for module, at, value in given if places.get(module) == at]
    return places if calls == maps else {}


def _check_rows(loaded: LoadedModel, layer: int, values: Any, n: int) -> None:
    """Make sure that the visible entries of n rows sum to n: nothing hidden, nothing NaN."""
    import torch

    worst = float((values.sum(1) - n).abs().max()) / n
    if not worst <= max(1e-3, torch.finfo(loaded.model.dtype).eps):
        raise WorkError(
            f"{loaded.name}: attention in layer {layer} does not sum to 1 over the tokens that "
            + ("a causal model sees" if loaded.causal else "are there")
            + f" (off by {worst:.2g} a row); this model's heads cannot be captured"
        )

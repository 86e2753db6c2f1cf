"""The speed of this machine, measured in a second, on as many cores as a fit uses."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np

SECONDS = 0.4  # how long each speed is measured


@lru_cache(maxsize=8)
def vector_speed(cores: int) -> float:
    """Return how many float32 numbers a core takes through a few vector operations, by second."""
    x = np.linspace(-5, 5, 100_000, dtype=np.float32)

    def work() -> int:
        y = np.exp(x)
        y *= x
        return int(np.minimum(x, y, out=y).size)

    return _by_second(work, cores)


@lru_cache(maxsize=8)
def product_speed(cores: int) -> float:
    """Return the operations by second of a core in a product of float32 matrices."""
    import torch

    a, b = torch.ones(512, 512), torch.ones(512, 1024)

    def work() -> int:
        torch.set_num_threads(1)
        return 2 * a.shape[0] * (a @ b).numel()

    threads = torch.get_num_threads()
    try:
        return _by_second(work, cores)
    finally:
        torch.set_num_threads(threads)


def _by_second(work: Callable[[], int], cores: int) -> float:
    """Repeat work on some cores at once, and return what one does by second."""

    def repeated(_: int) -> float:
        work()
        started, done = time.perf_counter(), 0
        while (seconds := time.perf_counter() - started) < SECONDS:
            done += work()
        return done / seconds

    with ThreadPoolExecutor(cores) as threads:
        return float(np.mean([*threads.map(repeated, range(cores))]))

"""Where heads are searched: threads of this process, or the workers of a Dask cluster.

Both run the same function through the ``concurrent.futures.Executor`` interface.
"""

import contextlib
import functools
import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from typing import Any

from attn_dsl.dsl.errors import AttnDslError, InputError, WorkError
from attn_dsl.eval.files import first_line

EXTRA = "pip install 'attn-dsl[cluster]'"
CONNECT = 10  # seconds to wait for a scheduler's answer
WORKERS = 60  # seconds to wait for the first worker of a cluster …
GIVE_UP = 600  # … and for another one when all of them are lost


class Workers:
    """An executor of this process's threads, and what a search needs to know about it."""

    shares_memory = True  # whether tasks run in this process

    def __init__(self, executor: Executor, slots: int) -> None:
        self._executor, self._slots = executor, slots

    @property
    def slots(self) -> int:
        """How many tasks run at once, at this moment."""
        return self._slots

    def submit(self, work: Callable[[Any], Any], task: Any) -> Future[Any]:
        """Run a function of the top level of a module on a task."""
        return self._executor.submit(work, task)

    def lost(self, error: BaseException) -> bool:
        """Say whether a task failed because its worker died, so that it is worth another try."""
        return False

    def look(self) -> None:
        """Tell of workers that are lost; a WorkError if none is left for long."""

    def explain(self, error: BaseException) -> AttnDslError | None:
        """Say what an error of the executor itself means to a user; None if it is none."""
        return None

    def everywhere(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Run a short function in every process that may have run tasks, also beside tasks."""
        work(*arguments)


class Cluster(Workers):
    """The workers of a Dask cluster, as many as there are at any time."""

    shares_memory = False

    def __init__(self, client: Any, address: str) -> None:
        self.client, self.address = client, address
        self._known = frozenset[str]()  # workers
        self._seen = time.monotonic()  # when there were some
        super().__init__(client.get_executor(pure=False), 0)

    @property
    def slots(self) -> int:
        """All threads of all workers."""
        return max(1, sum(self._threads().values()))

    def _threads(self) -> dict[str, int]:
        with self._reaching():
            return dict(_aside(self.client.nthreads))

    def look(self) -> None:
        """Tell of workers that are lost; a WorkError if none is left for long."""
        there, now = frozenset(self._threads()), time.monotonic()
        if lost := self._known - there:
            new = f"none is left; waiting for another (`dask worker {self.address}`)"
            what = f"{len(there)} go on with its heads" if there else new
            warnings.warn(f"lost the worker {', '.join(sorted(lost))}: {what}", stacklevel=2)
        self._known, self._seen = there, now if there or lost else self._seen
        if now - self._seen > GIVE_UP:
            raise WorkError(f"{self.address} has had no workers for {GIVE_UP} s; what is finished is kept: "
                            "start some and go on with --resume")  # fmt: skip

    def submit(self, work: Callable[[Any], Any], task: Any) -> Future[Any]:
        """Run a function on some worker; should the worker die, Dask runs it on another."""
        with self._reaching():
            return _aside(self._executor.submit, work, task)

    def lost(self, error: BaseException) -> bool:
        """Say whether Dask gave a task up because several workers died over it."""
        from distributed import KilledWorker

        return isinstance(error, KilledWorker)

    def explain(self, error: BaseException) -> AttnDslError | None:
        """Explain a scheduler that went away, or a worker that cannot run the work at all."""
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return WorkError(
                f"workers at {self.address} died again and again ({error.last_worker.address} was "
                "the last); they may be short of memory. What is finished is kept: go on with "
                "--resume")  # fmt: skip
        if isinstance(error, CancelledError) or self.client.status != "running":
            return self._gone()
        if isinstance(error, ImportError):
            return self.unusable(error)
        return None

    def unusable(self, error: ImportError) -> InputError:
        """Explain that a worker lacks this package, or has another version of it."""
        return InputError(f"--scheduler {self.address}: a worker cannot run the search ({error}); install "
                          "attn-dsl of the same version on every worker")  # fmt: skip

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Explain that the scheduler does not answer any more."""
        from distributed.client import ClosedClientError

        try:
            yield
        except (OSError, ClosedClientError):
            raise self._gone() from None

    def _gone(self) -> WorkError:
        return WorkError(f"the scheduler at {self.address} went away; what is finished is kept: go on with "
                         "--resume")  # fmt: skip

    def everywhere(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Run a function on every worker; a cluster that is gone needs it no more."""
        with contextlib.suppress(Exception):
            _aside(self.client.run, work, *arguments, on_error="ignore")


@contextlib.contextmanager
def open_workers(jobs: int | None, scheduler: str | None) -> Iterator[Workers]:
    """Start threads, or connect to a cluster.

    Args:
        jobs: how many threads; as many as there are cores if None.
        scheduler: the address of a Dask scheduler, as in ``tcp://10.0.0.1:8786``.

    Raises:
        InputError: the scheduler cannot be reached, has no workers or workers of other versions,
            or Dask is not installed.
    """
    if scheduler is None:
        slots = jobs or os.cpu_count() or 1
        with ThreadPoolExecutor(slots) as executor:
            yield Workers(executor, slots)
        return
    with _connected(scheduler) as client:
        cluster = Cluster(client, scheduler)
        _check_workers(cluster)
        yield cluster


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(f"--scheduler needs dask.distributed; install it by: {EXTRA}") from None
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError, AssertionError) as error:
        client, why = None, first_line(error)
    if client is None:
        # what did not connect is closed here: collected while another starts, it waits forever
        gc.collect()
        raise InputError(
            f"--scheduler {address}: no scheduler answers there ({why}); start one by "
            "`dask scheduler` and workers by `dask worker ADDRESS`, or leave the option out")  # fmt: skip
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            _aside(client.close, timeout=CONNECT)


def _check_workers(cluster: Cluster) -> None:
    """Make sure that there are workers, and that they have what this process has."""
    from attn_dsl.synth.runs.worker import different, versions

    address = cluster.address
    try:
        if not _aside(cluster.client.nthreads):
            warnings.warn(f"{address} has no workers yet; waiting {WORKERS} s for one", stacklevel=2)
        _aside(cluster.client.wait_for_workers, 1, timeout=WORKERS)
        cluster.look()
        found = _aside(cluster.client.run, versions)
    except OSError:
        raise InputError(f"--scheduler {address}: the scheduler has no workers; start some by "
                         f"`dask worker {address}`") from None  # fmt: skip
    except ImportError as error:
        raise cluster.unusable(error) from None
    for worker, theirs in sorted(found.items()):
        if wrong := different(versions(), theirs):
            raise InputError(f"--scheduler {address}: the worker {worker} has {wrong}; have the same "
                             "everywhere")  # fmt: skip


def _aside(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Wait for a call in a thread of its own: ctrl-c inside Dask leaves a traceback on the screen."""
    answer: Future[Any] = Future()
    work = functools.partial(call, *arguments, **options)
    threading.Thread(target=_tell, args=(work, answer), daemon=True).start()
    try:
        return answer.result()
    finally:
        del answer  # an error holds this frame: without the cycle Dask's objects end at once


def _tell(work: Callable[[], Any], answer: Future[Any]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:
        answer.set_exception(error)
    finally:
        del answer

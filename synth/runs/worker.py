"""Work on heads as plain functions with small arguments, for threads and for other machines.

A process keeps the sessions of the last searches it worked for, so that what the heads of a capture
share (features, planes, scores of the controls) is made once in each process.
"""

import contextlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from attn_dsl.dsl.errors import InputError
from attn_dsl.eval.capture import Capture
from attn_dsl.eval.results import Candidate, HeadResult
from attn_dsl.synth.proposer import Asking
from attn_dsl.synth.proposers import registry
from attn_dsl.synth.search import Search
from attn_dsl.synth.session import Session, Settings

MOST = 2  # how many sessions a process keeps
PACKAGES = ("attn-dsl", "numpy", "numba")
"""What must be of the same version everywhere, so that every process gives the same bytes."""
VECTORS = ("avx", "avx2", "fma", "avx512f", "neon", "sve")


def versions(proposers: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return the versions on which results of some proposers depend, and the processor."""
    import platform
    from importlib.metadata import version

    names = (*PACKAGES, *registry.packages(proposers))
    found = [(name, version(name)) for name in names]
    python = ".".join(platform.python_version_tuple()[:2])
    return (*found, ("python", python), ("processor", processor()))


def processor() -> str:
    """Name the processor and vector instructions that Numba compiles for: last digits depend on them.

    >>> processor()
    'skylake avx avx2 fma'
    """
    from numba.core.registry import cpu_target

    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return " ".join([name, *(one for one in VECTORS if f"+{one}" in features.split(","))])


@dataclass(frozen=True, slots=True)
class Place:
    """Which search a task belongs to, and where its capture lies."""

    capture: str | None  # the directory; None for a capture in memory, which only threads can reach
    hash: str  # of the capture
    settings: Settings
    versions: tuple[tuple[str, str], ...]  # those of the process that leads the search
    # the run's directory, in which prompts and completions of language models are kept
    run: str | None = None


@dataclass(frozen=True, slots=True)
class HeadSearch:
    """One head to be searched."""

    place: Place
    layer: int
    head: int
    # all heads of the layer that the run looks at, whose controls are scored at once
    neighbours: tuple[int, ...]
    # the time for the search, from when the session is ready; None for no limit
    seconds: float | None = None
    most: float | None = None  # the time from now on, the session's preparation included
    asking: Asking | None = None  # goes on from an earlier search, with a language model


@dataclass(frozen=True, slots=True)
class HeadOutcome:
    """What came of it: the result, every program that was fitted, seconds beyond the deadline."""

    result: HeadResult
    candidates: list[Candidate]
    late: float


class _Kept:
    """The last ``MOST`` searches that this process worked for, and those at hand.

    While there is one, matrix products have one thread: on more threads they are summed in another
    order, so that a process with fewer, such as a worker of a cluster, would give other bytes. The
    searches have the cores in any case.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: OrderedDict[Place, Search] = OrderedDict()
        self._one_thread: threadpool_limits | None = None

    def of(self, place: Place, make: Callable[[], Session]) -> Search:
        """Return the search of a place, made if it is not kept."""
        with self._lock:
            if place not in self._places:
                self._places[place] = Search(make())
                if self._one_thread is None:
                    self._one_thread = threadpool_limits(1, user_api="blas")
            self._places.move_to_end(place)
            while len(self._places) > MOST:
                self._places.popitem(last=False)
            return self._places[place]

    def drop(self, place: Place) -> Search | None:
        """Drop the search of a place."""
        with self._lock:
            search = self._places.pop(place, None)
            if not self._places and self._one_thread is not None:
                self._one_thread.restore_original_limits()
                self._one_thread = None
            return search


_kept = _Kept()


@contextlib.contextmanager
def at_hand(place: Place, session: Session) -> Iterator[None]:
    """Have this process's threads use a session that is made already, and drop it afterwards."""
    _kept.of(place, lambda: session)
    try:
        yield
    finally:
        forget(place)


def search_head(task: HeadSearch) -> HeadOutcome:
    """Search one head.

    Raises:
        InputError: the capture cannot be read from here, is another one, or this process has
            other versions than the one that leads the search.
    """
    ends = None if task.most is None else time.monotonic() + task.most
    search = _kept.of(task.place, lambda: _session(task.place))
    search.prepare()
    deadline = None
    if task.seconds is not None and ends is not None:
        deadline = min(ends, time.monotonic() + max(0.0, task.seconds))
    result, candidates = search.head(task.layer, task.head, task.neighbours, deadline, task.asking)
    late = time.monotonic() - deadline if deadline is not None and result.cut_short else 0.0
    return HeadOutcome(result, candidates, late)


def forget(place: Place) -> None:
    """Stop the searches of a place in this process, and drop what is kept for them."""
    search = _kept.drop(place)
    if search is not None:
        search.session.stop.set()


def _session(place: Place) -> Session:
    """Open the capture of a place from this process."""
    here, path = socket.gethostname(), Path(place.capture or "")
    if wrong := different(place.versions, versions(place.settings.proposers)):
        raise InputError(f"the worker on {here} has {wrong}; have the same everywhere")
    try:
        capture = Capture.open(path)
        if capture.hash != place.hash:
            raise InputError(f"{path} holds another one")
    except InputError as error:
        raise InputError(
            f"the worker on {here} cannot read the capture: {error}. On a cluster the capture must "
            "lie on a file system that all workers share, under the same path") from None  # fmt: skip
    return Session(capture, place.settings, None if place.run is None else Path(place.run))


def different(wanted: tuple[tuple[str, str], ...], found: tuple[tuple[str, str], ...]) -> str:
    """Name the versions that differ; empty if none does.

    >>> different((("numpy", "2.0"),), (("numpy", "2.1"),))
    'numpy 2.1 (2.0 here)'
    """
    have = dict(found)
    return ", ".join(f"{name} {have.get(name, 'missing')} ({version} here)" for name, version in wanted
                     if have.get(name) != version)  # fmt: skip

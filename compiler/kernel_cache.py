"""Compiled kernels: the most recent ones in memory, and all of them on disk for later processes.

Numba never frees what it has compiled (about 1 MiB a kernel), so memory holds a bounded number of
them; one that was dropped is loaded from disk again, in tens of milliseconds. The folder is
``ATTN_DSL_CACHE``, or ``attn-dsl`` in the user's cache folder, for nobody else to write. Compiled
code is loaded only if it is what this program once wrote there: its digest is checked first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

CACHE_VARIABLE = "ATTN_DSL_CACHE"
"""Environment variable with the folder of the disk cache."""
MEMORY_LIMIT = 64
"""How many compiled kernels a process holds."""
DISK_LIMIT = 512
"""How many compiled kernels the disk holds (about 100 KB each)."""

Function = Callable[..., None]


class KernelCache:
    """Compiles sources of kernels, each once.

    >>> cache = KernelCache(limit=2)
    >>> cache.limit, len(cache)
    (2, 0)

    Args:
        limit: how many functions to hold; the least recently used is dropped first.
        folder: of the disk cache; None asks the environment when it is first needed.
    """

    def __init__(self, limit: int = MEMORY_LIMIT, folder: Path | None = None) -> None:
        self.limit, self._folder = limit, folder
        self.hits = self.loads = self.compilations = 0
        self._held: OrderedDict[str, Function] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def function(self, source: str) -> Function:
        """Return the compiled function ``kernel`` of a source.

        >>> source = "def kernel(n, first, start, width, settled, known, opened, out):\\n    pass\\n"
        >>> KernelCache().function(source) is None
        False

        Args:
            source: what ``kernel_source`` has written; it is run, so it must come from nowhere else.
        """
        key = digest(source)
        with self._lock:
            if key in self._held:
                self.hits += 1
                self._held.move_to_end(key)
                return self._held[key]
            made = self._make(key, source)
            self._held[key] = made
            while len(self._held) > self.limit:
                self._held.popitem(last=False)
            return made

    def clear(self) -> None:
        """Forget the functions in memory; those on disk stay."""
        with self._lock:
            self._held.clear()

    def _make(self, key: str, source: str) -> Function:
        folder = usable(self._folder or cache_folder())
        path = folder / f"kernel_{key}.py" if folder else None
        if path is not None and not _written(path, source):
            path = None
        if path is None:
            self.compilations += 1
            return _compile(source, key)
        try:
            return self._through_disk(path, source)
        except Exception:  # a cache that cannot be read, whatever is wrong with it, is not used
            _forget(path)
            self.compilations += 1
            return _compile(source, key)

    def _through_disk(self, path: Path, source: str) -> Function:
        """Compile with Numba's disk cache, whose files must be those in the kernel's list."""
        module = _module(source, str(path))
        dispatcher = _dispatcher(module.__dict__["kernel"], True)
        if not hasattr(dispatcher, "stats"):  # NUMBA_DISABLE_JIT
            return dispatcher
        place = Path(dispatcher.stats.cache_path)
        if not _verified(path, place):
            for file in _files(path, place):
                file.unlink(missing_ok=True)
        sys.modules[module.__name__] = module  # where Numba looks for it when it loads
        try:
            dispatcher.compile(_signature())
        finally:
            del sys.modules[module.__name__]
        if sum(dispatcher.stats.cache_hits.values()):
            self.loads += 1
            os.utime(_list(path))
        else:
            self.compilations += 1
            listed = {file.name: _digest(file.read_bytes()) for file in _files(path, place)}
            _write(_list(path), json.dumps(listed).encode())
            _prune(path.parent, place)
        return dispatcher


KERNELS = KernelCache()
"""The kernels of this process."""


def digest(source: str) -> str:
    """Name a source: a hash of it and of what it is compiled with."""
    import numba

    version = f"{numba.__version__} {sys.version_info[:2]}"
    return _digest(f"{version}\n{source}".encode())[:32]


def cache_folder() -> Path:
    """Return the folder of the disk cache, which may not exist yet.

    >>> cache_folder().name
    'kernels'
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser() / "kernels"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "attn-dsl" / "kernels"


def usable(folder: Path) -> Path | None:
    """Make a folder and return it; None if it cannot be written, or others may write in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = folder.stat()
    except OSError:
        return None
    if hasattr(os, "getuid") and (facts.st_uid != os.getuid() or facts.st_mode & 0o022):
        return None
    return folder.resolve() if os.access(folder, os.W_OK | os.X_OK) else None


def python_function(source: str, name: str = "<kernel>") -> Function:
    """Return the function of a source, not compiled by Numba."""
    function: Function = _module(source, name).__dict__["kernel"]
    return function


def _module(source: str, name: str) -> ModuleType:
    """Run a source as a module that is not in a package."""
    module = ModuleType("attn_dsl_" + "".join(c for c in Path(name).stem if c.isalnum()))
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def _signature() -> Any:
    from numba import types

    table, number = types.Array(types.int32, 2, "C"), types.int64
    out = types.Array(types.float32, 1, "C")
    return types.void(number, number, number, number, table, table, table, out)


def _dispatcher(function: Function, cached: bool) -> Any:
    from numba import njit

    fast = {"nnan", "nsz", "reassoc", "contract"}
    return njit(cache=cached, nogil=True, error_model="numpy", fastmath=fast)(function)


def _compile(source: str, key: str) -> Function:
    """Compile without the disk."""
    dispatcher: Function = _dispatcher(python_function(source, f"<kernel {key}>"), False)
    if hasattr(dispatcher, "compile"):
        dispatcher.compile(_signature())
    return dispatcher


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _list(path: Path) -> Path:
    """Return the file that lists Numba's files of a kernel, with their digests."""
    return path.with_suffix(".json")


def _files(path: Path, place: Path) -> list[Path]:
    """Return Numba's files of a kernel: its index and its compiled code."""
    return sorted(place.glob(f"{path.stem}.*.nb[ci]"))


def _verified(path: Path, place: Path) -> bool:
    """Say whether Numba's files of a kernel are those that were listed when it was compiled."""
    try:
        listed = json.loads(_list(path).read_text())
        return listed == {f.name: _digest(f.read_bytes()) for f in _files(path, place)}
    except (OSError, ValueError):
        return False


def _written(path: Path, source: str) -> bool:
    """Have a source in its file; an equal one stays, for Numba goes by the file's time."""
    data = source.encode()
    try:
        if path.is_file() and path.read_bytes() == data:
            return True
        _list(path).unlink(missing_ok=True)
        _write(path, data)
    except OSError:
        return False
    return True


def _write(path: Path, data: bytes) -> None:
    """Write a file at once or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _forget(path: Path) -> None:
    """Delete a kernel's source and list, so that nothing compiled from it counts any more."""
    for file in (_list(path), path):
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def _prune(folder: Path, place: Path) -> None:
    """Delete the kernels that were used longest ago, if there are too many."""

    def used(file: Path) -> float:
        try:
            return file.stat().st_mtime
        except OSError:
            return 0.0

    lists = sorted(folder.glob("kernel_*.json"), key=used)
    for listed in lists[: max(0, len(lists) - DISK_LIMIT)]:
        path = listed.with_suffix(".py")
        for file in _files(path, place):
            file.unlink(missing_ok=True)
        _forget(path)

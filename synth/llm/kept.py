"""Keys and values of prompts that were read, kept in the user's cache directory from run to run.

The folder holds at most ``MOST_FILES`` files and ``MOST_BYTES`` bytes; those used longest ago go first.
"""

import hashlib
import logging
import os
from pathlib import Path

from attn_dsl.dsl.errors import AttnDslError
from attn_dsl.eval.files import write_bytes

MOST_FILES, MOST_BYTES = 8, 1 << 30
_HASH = 32  # bytes of SHA-256 before the data
_log = logging.getLogger(__name__)


def folder() -> Path:
    """Return the folder: ``attn-dsl/prompts`` in ``XDG_CACHE_HOME``, or else in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "attn-dsl/prompts"


def load(name: str) -> bytes | None:
    """Return what is kept under a name; None if there is nothing, or if it is damaged."""
    file = folder() / name
    try:
        data = file.read_bytes()
        os.utime(file)
    except OSError:
        return None
    if hashlib.sha256(data[_HASH:]).digest() == data[:_HASH]:
        return data[_HASH:]
    _log.warning("%s is damaged; the language model reads its prompt again.", file)
    return None


def save(name: str, data: bytes) -> None:
    """Keep data under a name; a place that cannot be written keeps nothing, and says so."""
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        used = {file: file.stat() for file in place.iterdir() if file.name != name}
        files, room = sorted(used, key=lambda file: -used[file].st_mtime), MOST_BYTES - len(data)
        for at, file in enumerate(files):
            room -= used[file].st_size
            if room < 0 or at >= MOST_FILES - 1:
                file.unlink(missing_ok=True)
        if len(data) <= MOST_BYTES:
            write_bytes(place / name, hashlib.sha256(data).digest() + data)
    except (OSError, AttnDslError) as error:
        _log.warning("what the language model has read is not kept: %s", error)

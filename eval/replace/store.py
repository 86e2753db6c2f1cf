"""The store of measurements: every finished one is kept on disk and never made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from attn_dsl.dsl.errors import WorkError
from attn_dsl.eval.replace.measure import HeldOut, Sums
from attn_dsl.eval.replace.source import Head


class Store:
    """Measurements by what was measured, one line of a JSONL file each.

    A measurement depends on the model, the texts, and what stands in the place of which heads;
    all of these are in its key, so that programs which were fitted anew are measured anew. Lines
    are only ever added. A line that an interruption cut short does not count.

    Args:
        path: the file; None keeps measurements in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, Sums] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._known[entry["key"]] = Sums.from_json(entry["sums"])
                except (ValueError, KeyError, TypeError):
                    continue

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Sums | None:
        """Return a measurement, None if it is still to be made."""
        return self._known.get(key)

    def put(self, key: str, what: str, sums: Sums) -> None:
        """Keep a measurement.

        Args:
            what: says to readers of the file what was measured.

        Raises:
            WorkError: the file cannot be written.
        """
        self._known[key] = sums
        if self.path is None:
            return
        line = json.dumps({"key": key, "what": what, "sums": sums.to_json()})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            start = "\n" if self._cut_off() else ""
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{start}{line}\n")
        except OSError as error:
            raise WorkError(f"{self.path}: cannot write: {error.strerror}") from None

    def _cut_off(self) -> bool:
        """Say whether the file ends in the middle of a line."""
        assert self.path is not None
        if not self.path.exists() or self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) != b"\n"


def key_of(held_out: HeldOut, stand_ins: Mapping[Head, str]) -> str:
    """Name a measurement.

    Args:
        stand_ins: by head, what identifies its stand-in: a program's source, or a control with
            all that it was fitted on.
    """
    content = json.dumps(
        [
            held_out.loaded.revision,
            held_out.hash,
            sorted([*head, what] for head, what in stand_ins.items()),
        ]
    )
    return hashlib.sha256(content.encode()).hexdigest()[:32]

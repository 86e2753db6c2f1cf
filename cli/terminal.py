"""What goes to the terminal: control characters of texts, names and files are shown, never obeyed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and what changes the direction of text."""


def printable(text: str) -> str:
    r"""Write control characters as escapes.

    >>> printable("\x1b[2Jhello")
    '\\x1b[2Jhello'
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


@dataclass(frozen=True)
class Plain:
    """A stream, in whose texts control characters are shown."""

    stream: TextIO

    def write(self, text: str) -> int:
        """Write a text, its control characters as escapes; colorama, of Numba, resets colours at the end."""
        return self.stream.write(text if text == "\x1b[0m" else printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def controls_shown() -> Iterator[None]:
    """Put ``Plain`` around standard output and standard error."""
    with redirect_stdout(Plain(sys.stdout)), redirect_stderr(Plain(sys.stderr)):
        yield


@dataclass(frozen=True)
class Shown:
    """What rich prints, in whose texts control characters are shown."""

    what: Any = None

    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        """Wrap everything that is about to be printed, as a hook of rich's console."""
        return [Shown(one) for one in renderables]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.what, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

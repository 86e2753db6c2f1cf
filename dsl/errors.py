"""Errors: exceptions whose messages show the place, what was expected, and a remedy."""

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from attn_dsl.dsl.limits import MAX_ERRORS, MAX_SHOWN


class AttnDslError(Exception):
    """The base class of the errors of attn-dsl; the message says what to do."""


class InputError(AttnDslError):
    """A file, directory, model or option cannot be used; the message names it and a remedy."""


class WorkError(AttnDslError):
    """The input is valid, but the work failed (a full disk, a model that returns no attention …)."""


class Span(NamedTuple):
    """A range of a source: lines and columns count from 1, and the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


class ProgramError(AttnDslError):
    """A program is not valid. The message says what is wrong, where, what was expected, and a remedy.

    >>> print(ProgramError("unknown feature", Span(1, 3, 1, 6), "2 txt(k)", hint="did you mean text?"))
    <program>:1:3: error: unknown feature
      1 | 2 txt(k)
        |   ^^^
      help: did you mean text?
    """

    kind = "error"

    def __init__(self, message: str, span: Span | None = None, source: str = "", *,
                 expected: str = "", hint: str = "", name: str = "<program>") -> None:  # fmt: skip
        super().__init__(message)
        self.message, self.span, self.source = message, span, source
        self.expected, self.hint, self.name = expected, hint, name

    def __str__(self) -> str:
        place = self.name
        if self.span is not None:
            place += f":{self.span.line}:{self.span.column}"
        lines = [f"{place}: {self.kind}: {self.message}"]
        if self.span is not None and self.source:
            lines += context(self.source, self.span)
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.hint:
            lines.append(f"  help: {self.hint}")
        return "\n".join(lines)


class ProgramSyntaxError(ProgramError):
    """The source does not follow the grammar."""

    kind = "syntax error"


class ProgramTypeError(ProgramError):
    """The source follows the grammar, but a name is unknown, or a number or type is not allowed."""

    kind = "type error"


class CausalityError(ProgramError):
    """A causal program uses a feature that reads the whole text."""

    kind = "causality error"


class CostError(ProgramError):
    """A program exceeds a limit of ``dsl.limits``, such as size, cost or nesting."""

    kind = "cost error"


class ProgramWarning(ProgramError):
    """A part of a valid program that can be left out, or never does what it says (``dsl.lint``)."""

    kind = "warning"


class ProgramErrors(ProgramError):
    """Several errors of one program, all of them reported at once."""

    def __init__(self, errors: Iterable[ProgramError]) -> None:
        self.errors = tuple(errors)
        first = self.errors[0]
        super().__init__(first.message, first.span, first.source, name=first.name)

    def __str__(self) -> str:
        told, more = [*map(str, self.errors[:MAX_ERRORS])], len(self.errors) - MAX_ERRORS
        return "\n".join([*told, f"… and {more:,} more errors"] if more > 0 else told)


def context(source: str, span: Span) -> list[str]:
    """Return lines that show the source line of a span, with carets under the span.

    A long line is cut around the span. Characters that do not print become U+FFFD.
    """
    lines = source_lines(source)
    row = min(span.line, len(lines))
    line = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in lines[row - 1])
    start = min(span.column, len(line) + 1)
    stop = span.end_column if span.end_line == span.line else len(line) + 1
    width = max(1, min(stop, len(line) + 1) - start)
    if len(line) > MAX_SHOWN:
        cut = max(0, start - 1 - MAX_SHOWN // 2)
        lead = "…" if cut else ""
        tail = "…" if cut + MAX_SHOWN < len(line) else ""
        line = lead + line[cut : cut + MAX_SHOWN] + tail
        start += len(lead) - cut
        width = min(width, len(line) - len(tail) + 1 - start)
    number = str(span.line)
    tabs = "".join("\t" if char == "\t" else " " for char in line[: start - 1])
    return [f"  {number} | {line}", f"  {' ' * len(number)} | {tabs}{'^' * max(width, 1)}"]


def source_lines(source: str) -> list[str]:
    """Split a source into lines as the parser counts them, without line ends."""
    lines = [line.removesuffix("\r") for line in source.split("\n")]
    return lines[:-1] if len(lines) > 1 and not lines[-1] else lines


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known names nearest to a misspelt one; empty if none is near.

    >>> did_you_mean("txt", ["text", "word", "punct"])
    'did you mean `text`?'
    """
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), folded, n=3, cutoff=0.6)
    if not near:
        return ""
    return "did you mean " + " or ".join(f"`{folded[name]}`" for name in near) + "?"

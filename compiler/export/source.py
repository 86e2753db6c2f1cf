"""Source: what all exports share, the comment that quotes the program, wrapping, and loading."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Any

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.errors import InputError

WIDTH = 100
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def header(program: Program, target: str, usage: str) -> str:
    """Write the beginning of an exported module: its docstring and the program as a comment."""
    ahead = program.facts.lookahead
    lines = [
        f'"""The attention head program `{program.name}` as {target}, exported by attn-dsl.',
        "",
        *usage.splitlines(),
        '"""',
        "",
        "# The program:",
        "#",
        *(f"#     {line}".rstrip() for line in comment(program.source).split("\n")[:-1]),
    ]
    if ahead:
        lines += ["#", f"# It looks ahead: a causal head could not see {', '.join(ahead)}."]
    return "\n".join(lines) + "\n"


def comment(text: str) -> str:
    """Make a text safe for a comment: what would end its line or cannot be encoded is escaped.

    >>> comment("form feed \\x0c")
    'form feed \\\\u000c'
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def wrapped(start: str, items: Iterable[str], end: str) -> list[str]:
    """Write a list on one line, or on several where it is too long for one.

    >>> wrapped("x = [", ["1", "2"], "]")
    ['x = [1, 2]']
    """
    items = list(items)
    line = start + ", ".join(items) + end
    if len(line) <= WIDTH:
        return [line]
    lines = ["   "]
    for item in items:
        if len(lines[-1]) + len(item) + 2 > WIDTH and lines[-1].strip():
            lines.append("   ")
        lines[-1] += f" {item},"
    return [start, *lines, end]


def indented(text: str, levels: int = 1) -> str:
    """Indent the lines of a source."""
    return textwrap.indent(text, "    " * levels)


def refuse_holes(program: Program, target: str) -> None:
    """Refuse a program whose weights are not all known.

    Raises:
        InputError: a weight is a hole.
    """
    if program.facts.holes:
        raise InputError(
            f"the program {program.name} has {program.facts.holes} weights to be fitted (`?`), and "
            f"{target} needs numbers; fit them with `attn-dsl fit`, or export it to torch, where "
            "they can be trained"
        )


def execute(source: str, name: str) -> dict[str, Any]:
    """Run an exported source in a namespace of its own and return it.

    The namespace has no ``__name__``: torch.compile would import the module that it names.
    """
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<exported program {name}>", "exec"), namespace)
    return namespace

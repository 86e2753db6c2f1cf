"""Source: templates, comments and execution of exported modules, for all targets."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from attn_dsl.compiler.program import Program
from attn_dsl.dsl.definitions import self_contained
from attn_dsl.dsl.limits import LEAST_MASS, MATCH_LIMIT, TERM_LIMIT
from attn_dsl.dsl.printer import show

if TYPE_CHECKING:
    from jinja2 import Environment

WIDTH = 100
FIT = "fit them with `attn-dsl fit`, or export it to torch, where they can be trained"
"""What to do with the holes of a program, for targets that need numbers."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@lru_cache(maxsize=1)
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(loader=PackageLoader("attn_dsl.compiler", "export"), undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    made.filters["inside"] = lambda text, levels: textwrap.indent(text, "    " * levels)
    return made


def render(template: str, program: Program, **values: Any) -> str:
    """Write the export of a program from a template of this folder, named without ``.j2``.

    ``values`` are those of the template besides the program and the limits of terms.
    """
    source = show(self_contained(program.tree))
    shown = [f"#     {line}".rstrip() for line in comment(source).split("\n")[:-1]]
    return _templates().get_template(f"{template}.j2").render(
        name=program.name, shown=shown, ahead=", ".join(program.facts.lookahead), causal=program.causal,
        term_limit=f"{TERM_LIMIT:g}", least_mass=LEAST_MASS, match_limit=MATCH_LIMIT, **values)  # fmt: skip


def comment(text: str) -> str:
    """Escape the characters of a text that would end a comment or cannot be encoded."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def wrapped(start: str, items: Iterable[str], end: str) -> str:
    """Write a list on one line, or on several lines if it is too long."""
    line = start + ", ".join(items := list(items)) + end
    if len(line) <= WIDTH:
        return line
    inside = textwrap.wrap(", ".join(item.replace(" ", "\0") for item in items) + ",", WIDTH - 4,
                           break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return "\n".join([start, *(f"    {line}".replace("\0", " ") for line in inside), end])


def execute(source: str, name: str) -> dict[str, Any]:
    """Execute exported source in a new namespace, and return the namespace.

    It has no ``__name__``, because torch.compile would import the module of that name.
    """
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<exported program {name}>", "exec"), namespace)
    return namespace

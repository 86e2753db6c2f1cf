"""The options of the proposer ``llm``, which asks a language model for programs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click

from attn_dsl.dsl.errors import InputError
from attn_dsl.synth.llm.options import Options


def options(command: Any) -> Any:
    """The options of the proposer ``llm``; None where they are not given."""
    for one in reversed(fields(Options)):
        text, kind = one.metadata["text"], type(one.default)
        if one.default:
            text = f"{text}; {one.default} by default."
        metavar = one.name.upper() if kind is str else "N"
        names = one.metadata["option"], f"llm_{one.name}"
        command = click.option(*names, type=kind, metavar=metavar, help=text)(command)
    return command


def chosen(given: dict[str, Any], proposers: list[str] | None) -> Options | None:
    """Take the options of the proposer ``llm`` out of those given; None if there are none.

    Raises:
        InputError: some are given, and no language model is named.
    """
    own = {one.name: given.pop(f"llm_{one.name}") for one in fields(Options)}
    own = {name: value for name, value in own.items() if value is not None}
    if own and "model" not in own and "llm" not in (proposers or ()):
        raise InputError("options such as --samples are for a language model: name one by --llm")
    return Options(**own) if own else None

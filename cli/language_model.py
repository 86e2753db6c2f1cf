"""The options of the proposer ``llm``, which asks a language model for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    from attn_dsl.synth.llm.proposer import Options

OPTIONS = (
    ("--llm", "model", str, "MODEL", "Let a language model propose programs too: a directory, a "
     "Hugging Face id, FILE.gguf, hf:REPO:FILE.gguf, URL#MODEL of a server, replay:RUN."),
    ("--samples", "samples", int, "N",
     "Completions for a head, all rounds together; 64 by default."),
    ("--llm-rounds", "rounds", int, "N", "Ask the model so often, from the second time on with "
     "its best programs and where they are wrong; twice by default."),
    ("--prompt-tokens", "prompt_tokens", int, "N",
     "The longest prompt, in the model's own tokens; 3000 by default."),
    ("--completion-tokens", "completion_tokens", int, "N",
     "The longest completion, in tokens; 384 by default."),
    ("--temperature", "temperature", float, "T",
     "Of sampling; 0 takes the likeliest token; 1 by default."),
    ("--llm-device", "device", str, "DEVICE",
     "Where a transformers model runs, as in cuda; cpu by default."),
)  # fmt: skip
"""Option, field of ``synth.llm.proposer.Options``, type, metavar, help."""


def options(command: Any) -> Any:
    """The options of the proposer ``llm``; None where they are not given."""
    for name, field, kind, metavar, text in reversed(OPTIONS):
        add = click.option(name, f"llm_{field}", type=kind, metavar=metavar, help=text)
        command = add(command)
    return command


def chosen(given: dict[str, Any], proposers: list[str] | None) -> Options | None:
    """Take the options of the proposer ``llm`` out of those given; None if there are none.

    Raises:
        InputError: some are given, and no language model is named.
    """
    from attn_dsl.synth.llm.proposer import Options

    own = {field: given.pop(f"llm_{field}") for _, field, *_ in OPTIONS}
    own = {field: value for field, value in own.items() if value is not None}
    if own and "model" not in own and "llm" not in (proposers or ()):
        raise InputError("options such as --samples are for a language model: name one by --llm")
    return Options(**own) if own else None

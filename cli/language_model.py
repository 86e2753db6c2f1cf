"""The options of the proposer ``llm``, which asks a language model for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    from attn_dsl.synth.llm.proposer import Options

FIELDS = {
    "llm": "model", "samples": "samples", "llm_rounds": "rounds", "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens", "temperature": "temperature", "llm_device": "device",
}  # fmt: skip
"""By option, the field of ``synth.llm.proposer.Options``."""


def options(command: Any) -> Any:
    """The options of the proposer ``llm``; None where they are not given."""
    for add in reversed((
        click.option("--llm", metavar="MODEL",
                     help="Let a language model propose programs too: a directory, a Hugging Face "
                     "id, FILE.gguf, hf:REPO:FILE.gguf, URL#MODEL of a server, replay:RUN."),
        click.option("--samples", type=click.IntRange(1), metavar="N",
                     help="Completions for a head, all rounds together; 64 by default."),
        click.option("--llm-rounds", type=click.IntRange(1), metavar="N",
                     help="Ask the model so often, from the second time on with its best programs "
                     "and where they are wrong; twice by default."),
        click.option("--prompt-tokens", type=click.IntRange(32), metavar="N",
                     help="The longest prompt, in the model's own tokens; 3000 by default."),
        click.option("--completion-tokens", type=click.IntRange(16), metavar="N",
                     help="The longest completion, in tokens; 384 by default."),
        click.option("--temperature", type=click.FloatRange(0, 10), metavar="T",
                     help="Of sampling; 0 takes the likeliest token; 1 by default."),
        click.option("--llm-device", metavar="DEVICE",
                     help="Where a transformers model runs, as in cuda; cpu by default."),
    )):  # fmt: skip
        command = add(command)
    return command


def chosen(given: dict[str, Any], proposers: list[str] | None) -> Options | None:
    """Take the options of the proposer ``llm`` out of those given; None if there are none.

    Raises:
        InputError: some are given, and no language model is named.
    """
    from attn_dsl.synth.llm.proposer import Options

    own = {field: x for name, field in FIELDS.items() if (x := given.pop(name)) is not None}
    if own and "model" not in own and "llm" not in (proposers or ()):
        raise InputError("options such as --samples are for a language model: name one by --llm")
    return Options(**own) if own else None

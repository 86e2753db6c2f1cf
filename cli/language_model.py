"""The options of the proposer ``llm``, which asks a language model for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from attn_dsl.dsl.errors import InputError

if TYPE_CHECKING:
    from attn_dsl.synth.llm.proposer import Options

FIELDS = {
    "samples": "samples", "llm_rounds": "rounds", "plan": "plan", "prompt_tokens": "prompt_tokens",
    "llm_device": "device",
}  # fmt: skip
"""The options that are fields of ``synth.llm.proposer.Options``."""
SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "min_p": "min_p",
    "completion_tokens": "max_tokens",
}  # fmt: skip
"""Those that are fields of ``synth.llm.model.Sampling``."""


def options(command: Any) -> Any:
    """The options of the proposer ``llm``; None where they are not given."""
    for add in reversed((
        click.option("--llm", metavar="MODEL",
                     help="Let a language model propose programs too: a directory, a Hugging Face "
                     "id, FILE.gguf, hf:REPO:FILE.gguf, URL#MODEL of a server, replay:RUN. "
                     "--proposers llm asks the one that ships."),
        click.option("--samples", type=click.IntRange(1), metavar="N",
                     help="Completions for a head, all rounds together; 64 by default."),
        click.option("--llm-rounds", type=click.IntRange(1), metavar="N",
                     help="Ask a model so often, from the second time on with its best programs and "
                     "where they are wrong; twice by default. The model that ships is asked once."),
        click.option("--prompt-tokens", type=click.IntRange(32), metavar="N",
                     help="The longest prompt, in the model's own tokens; 3000 by default."),
        click.option("--plan", is_flag=True, default=None,
                     help="Let the model say what the head does before it writes."),
        click.option("--completion-tokens", type=click.IntRange(16), metavar="N",
                     help="The longest completion, in tokens; 384 by default."),
        click.option("--temperature", type=click.FloatRange(0, 10), metavar="T",
                     help="Of sampling; 0 takes the likeliest token; 1 by default."),
        click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), metavar="P",
                     help="Draw from the likeliest tokens of this probability; 1, all, by default."),
        click.option("--min-p", type=click.FloatRange(0, 1), metavar="P",
                     help="Leave out tokens less likely than this share of the likeliest; "
                     "0 by default."),
        click.option("--llm-device", metavar="DEVICE",
                     help="Where a transformers model runs, as in cuda; cpu by default."),
    )):  # fmt: skip
        command = add(command)
    return command


def chosen(given: dict[str, Any], proposers: list[str] | None) -> Options | None:
    """Take the options of the proposer ``llm`` out of those given; None if there are none.

    Raises:
        InputError: some are given, and no language model is asked.
    """
    from attn_dsl.synth.llm.model import Sampling
    from attn_dsl.synth.llm.proposer import Options

    model = given.pop("llm")
    own = {to: x for name, to in FIELDS.items() if (x := given.pop(name)) is not None}
    drawn = {to: x for name, to in SAMPLING.items() if (x := given.pop(name)) is not None}
    if model is None and not own and not drawn:
        return None
    if model is None and "llm" not in (proposers or ()):
        raise InputError(
            "options such as --samples are for a language model: name one by --llm, or ask the one that "
            "ships by --proposers llm"
        )
    return Options(model=model, sampling=Sampling(**drawn), **own)

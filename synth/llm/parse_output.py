"""From what a model wrote to a program: whole, cut off at its limit, or wrapped in other text."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.errors import AttnDslError, ProgramError
from attn_dsl.dsl.parser import parse
from attn_dsl.synth.llm.model import Completion
from attn_dsl.synth.rewrite import drop_unused

_BEGINS = re.compile(r"^(?:set [A-Z]|def [a-z]|head [a-z])", re.M)
_PROGRAM = re.compile(r"(?:(?:set |def |head |\s|\}|#).*\n|\n)*+")


def read(text: str, *, causal: bool) -> t.Head:
    """Parse and check a program that a model wrote; comments and unused definitions are left out.

    >>> read("head proposed causal softmax:\\n    ? where k == 0\\n", causal=True).weights
    (None,)

    Raises:
        ProgramError: it does not parse or check, or is not for a head of this visibility.
        ProgramErrors: for several reasons.
    """
    program = parse(text)
    check(program, source=text)
    if program.causal != causal or program.normaliser != "softmax":
        needed = f"{'causal' if causal else 'bidirectional'} softmax"
        raise ProgramError(f"only {needed} programs can be fitted to this head", program.span, text)
    plain: dict[str, Any] = {
        name: tuple(dataclasses.replace(one, remarks=t.NO_REMARKS) for one in getattr(program, name))
        for name in ("sets", "functions", "terms")}  # fmt: skip
    return drop_unused(dataclasses.replace(program, **plain, remarks=t.NO_REMARKS, properties=(), after=()))


def programs(completions: Iterable[Completion], *, causal: bool, name: str) -> Iterator[t.Head]:
    """Yield the programs among completions under one name, in their order.

    Of a completion that was cut off, its whole terms count. What is no program is left out.
    """
    for completion in completions:
        text = whole_terms(completion.text) if completion.truncated else completion.text
        try:
            yield dataclasses.replace(read(text, causal=causal), name=name)
        except AttnDslError:
            continue


def whole_terms(text: str) -> str:
    """Return a program that was cut off without its unfinished last line; "" if no term is left.

    >>> print(whole_terms("head a causal softmax:\\n    ? where k == 0\\n    ? whe"), end="")
    head a causal softmax:
        ? where k == 0
    """
    lines = text[: text.rfind("\n") + 1]
    return lines if re.search(r"^head [a-z].*\n.", lines, re.M) else ""


def extracted(answer: str) -> str:
    """Take the program out of an answer that may say more: a fenced block, or from its head on.

    >>> print(extracted("Sure:\\n```\\nhead a causal:\\n 2 where k == 0\\n```\\nIt works."), end="")
    head a causal:
     2 where k == 0
    """
    fenced = (part.partition("\n")[2] for part in answer.split("```")[1::2])
    blocks = [block for block in fenced if _BEGINS.search(block)]
    text = blocks[-1] if blocks else answer
    begins = _BEGINS.search(text)
    found = begins and _PROGRAM.match(f"{text.rstrip()}\n", begins.start())
    return f"{found[0].rstrip()}\n" if found else text.strip()

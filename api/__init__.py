"""attn-dsl: explain attention heads by short programs that anyone can read, test and put back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn_dsl.compiler.kernel import Kernel
    from attn_dsl.compiler.program import Program, load, parse
    from attn_dsl.compiler.stream import Stream
    from attn_dsl.dsl.errors import AttnDslError, InputError, ProgramError
    from attn_dsl.dsl.tokens import Tokens
    from attn_dsl.eval.capture import Capture
    from attn_dsl.eval.replace.context import replace_heads
    from attn_dsl.synth.fit import fit
    from attn_dsl.synth.runs.run import Run

__version__ = "0.1.0"
__all__ = [
    "AttnDslError", "Capture", "InputError", "Kernel", "Program", "ProgramError", "Run", "Stream",
    "Tokens", "fit", "load", "parse", "replace_heads",
]  # fmt: skip

_HOMES = {
    "AttnDslError": "attn_dsl.dsl.errors",
    "Capture": "attn_dsl.eval.capture",
    "InputError": "attn_dsl.dsl.errors",
    "Kernel": "attn_dsl.compiler.kernel",
    "Program": "attn_dsl.compiler.program",
    "ProgramError": "attn_dsl.dsl.errors",
    "Run": "attn_dsl.synth.runs.run",
    "Stream": "attn_dsl.compiler.stream",
    "Tokens": "attn_dsl.dsl.tokens",
    "fit": "attn_dsl.synth.fit",
    "load": "attn_dsl.compiler.program",
    "parse": "attn_dsl.compiler.program",
    "replace_heads": "attn_dsl.eval.replace.context",
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that ``import attn_dsl`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'attn_dsl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

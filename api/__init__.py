"""attn-dsl: explains attention heads by short programs that compute nearly the same attention."""

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
    from attn_dsl.eval.capture_write import capture
    from attn_dsl.eval.detect import detect
    from attn_dsl.eval.replace.context import replace_heads
    from attn_dsl.eval.run import Run
    from attn_dsl.synth.fit import fit
    from attn_dsl.synth.hypothesis import fit_hypotheses

__version__ = "0.1.0"
__all__ = ["AttnDslError", "Capture", "InputError", "Kernel", "Program", "ProgramError", "Run", "Stream",
           "Tokens", "capture", "detect", "fit", "fit_hypotheses", "load", "parse",
           "replace_heads"]  # fmt: skip

_HOMES = {"compiler.kernel": "Kernel", "compiler.program": "Program load parse", "compiler.stream": "Stream",
          "dsl.errors": "AttnDslError InputError ProgramError", "dsl.tokens": "Tokens",
          "eval.capture": "Capture", "eval.capture_write": "capture", "eval.detect": "detect",
          "eval.replace.context": "replace_heads", "eval.run": "Run", "synth.fit": "fit",
          "synth.hypothesis": "fit_hypotheses"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that ``import attn_dsl`` stays quick."""
    for home, names in _HOMES.items():
        if name in names.split():
            return getattr(importlib.import_module(f"attn_dsl.{home}"), name)
    raise AttributeError(f"module 'attn_dsl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__", "testing"]

"""A page for a comparison: both programs, the text shaded by what changes, and every prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attn_dsl.eval.files import write
from attn_dsl.eval.report_text import TEMPLATES, highlight

if TYPE_CHECKING:
    from attn_dsl.eval.replace.compare import Comparison


def render_page(found: Comparison, model: str, causal: bool) -> str:
    """Return the page as HTML that needs nothing but itself."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    layer, head = found.head
    return environment.get_template("compare.html").render(
        title=f"{model}, head L{layer}H{head}: {found.sides[0]} against {found.sides[1]}",
        found=found,
        causal=causal,
        sides=[
            (name, highlight(source) if source else "")
            for name, source in zip(found.sides, found.sources, strict=True)
        ],
        shade=lambda kl: round(min(1.0, kl**0.5), 3),
    )


def write_page(found: Comparison, model: str, causal: bool, file: str) -> None:
    """Write the page to a file, whole or not at all."""
    write(Path(file), render_page(found, model, causal))

"""What notebooks show: programs with colours, tables, and progress."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.printer import show
from attn_dsl.eval.metrics import decimal
from attn_dsl.eval.report_text import highlight

if TYPE_CHECKING:
    import pandas as pd

ROWS = 20
"""The most rows of a table that are shown."""
EVERY = 0.2
"""Seconds from one update of a progress bar to the next."""
_STYLE = (
    ".attn-dsl pre b{font-weight:600}.attn-dsl .c{opacity:.6}.attn-dsl .s{color:#2f8f5b}"
    ".attn-dsl .n{color:#c4611f}.attn-dsl .w{color:#8a63c4}.attn-dsl pre{white-space:pre-wrap}")  # fmt: skip


class Tabular:
    """What has rows, of which it makes a data frame, and in notebooks a table."""

    def rows(self) -> list[Mapping[str, Any]]:
        """Return the rows, the values by column."""
        return [dataclasses.asdict(row) for row in self]  # type: ignore[attr-defined]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def _repr_html_(self) -> str:
        from markupsafe import Markup

        frame = self.to_frame()
        rows = frame.head(ROWS).to_html(index=False, float_format=decimal, na_rep="–", border=0)
        more = f"… and {len(frame) - ROWS} more" if len(frame) > ROWS else ""
        return str(Markup("<div>{}{}{}</div>").format(repr(self), Markup(rows), more))


class Table(Tabular, tuple[Any, ...]):
    """Rows of one kind: the programs of a front, or what terms are worth."""

    def __repr__(self) -> str:
        return f"<{len(self)} rows: {', '.join(map(repr, self[:3]))}{', …' * (len(self) > 3)}>"


def program_html(program: t.Head, caption: str, worths: Sequence[float] = ()) -> str:
    """Return a program with colours, and the worths of its terms beside them, as HTML."""
    from markupsafe import Markup

    source = highlight(show(with_worths(program, worths) if worths else program))
    text = Markup('<div class="attn-dsl"><style>{}</style>{}<pre>{}</pre></div>')
    return str(text.format(_STYLE, caption, source))


def with_worths(program: t.Head, worths: Sequence[float]) -> t.Head:
    """Return a program with the worth of each simple term, a share, as a comment beside it."""
    left, terms = iter(worths), []
    for term in program.terms:
        share = ", ".join(f"{next(left):.0%}" for _ in t.parts_of(term))
        remarks = t.Remarks(term.remarks.above, f"worth {share}")
        terms.append(dataclasses.replace(term, remarks=remarks))
    return dataclasses.replace(program, terms=tuple(terms))


def notebook_progress() -> Callable[[str, int, int], None] | None:
    """Return what shows a stage of the work, and how much of it is done; None outside notebooks."""
    package: Any = sys.modules.get("IPython")
    if package is None or not hasattr(package.get_ipython(), "kernel"):
        return None
    from markupsafe import Markup

    show_html, told = package.display.HTML, 0.0
    bar = Markup("<progress value={} max={}></progress> {} {} / {}")
    handle = package.display.display(show_html(""), display_id=True)

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told
        if done >= total or time.monotonic() > told + EVERY:
            told = time.monotonic()
            handle.update(show_html(str(bar.format(done, max(total, 1), what, done, total))))

    return tell

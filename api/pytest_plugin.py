"""The plugin of pytest: collects programs, ``*.attn``, and tests each of their properties.

pytest finds it where attn-dsl is installed. It imports the rest of the package when it meets a program.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

EVERY = "rows"
"""The item that tests what holds for every program."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("attn-dsl")
    group.addoption("--attn-examples", type=int, default=100, metavar="N",
                    help="texts to test each property of a program (*.attn) on")  # fmt: skip
    group.addoption("--attn-seed", type=int, default=0, metavar="N", help="seed of these texts")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a program."""
    return ProgramFile.from_parent(parent, path=file_path) if file_path.suffix == ".attn" else None


class ProgramFile(pytest.File):
    """A program, or a file of definitions, which is checked and has no items."""

    def collect(self) -> Iterable[pytest.Item]:
        """Yield an item for what holds for every program, and one for each of its own properties."""
        from attn_dsl.compiler.program import load
        from attn_dsl.dsl.definitions import only_definitions, read_definitions, read_source
        from attn_dsl.dsl.errors import AttnDslError
        from attn_dsl.dsl.printer import show_property

        try:
            if only_definitions(read_source(self.path)):
                read_definitions(self.path)
                return
            program = load(self.path)
        except AttnDslError as error:
            raise self.CollectError(str(error)) from None
        yield PropertyItem.from_parent(self, name=EVERY, program=program, line=program.tree.span)
        for one in program.tree.properties:
            yield PropertyItem.from_parent(self, name=show_property(one), program=program, line=one.span)


class PropertyItem(pytest.Item):
    """A property of a program, tested on random texts."""

    def __init__(self, *, program: Any, line: Any, **options: Any) -> None:
        super().__init__(**options)
        self.program, self.line = program, line

    def runtest(self) -> None:
        """Fail with the smallest text found that violates the property."""
        from attn_dsl.testing import PROPERTIES, check_properties

        if self.program.facts.holes:
            pytest.skip("weights are to be fitted (`?`)")
        examples, seed = (self.config.getoption(f"attn_{name}") for name in ("examples", "seed"))
        only = PROPERTIES if self.name == EVERY else (self.name,)
        if found := check_properties(self.program, examples, seed, only=only):
            pytest.fail("\n\n".join(one.report() for one in found), pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the place of the property, and its name."""
        return self.path, self.line.line - 1, f"{self.program.name}: {self.name}"

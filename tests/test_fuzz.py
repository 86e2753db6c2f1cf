"""Random programs, sources and damages for a given time; what is found is kept and tried again."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from damage import READERS, Damage, copied, damages, judge
from fuzzing import CORPUS, Finding, again, family, programs_agree, sources_are_read
from test_damage import whole  # noqa: F401

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES

SECONDS = float(os.environ.get("ATTN_DSL_FUZZ_SECONDS", "12"))
"""For all three tests together."""
SEED = int(os.environ.get("ATTN_DSL_SEED", "0"))


def no_finding(found: Iterable[Finding], count: Counter[str]) -> None:
    """Save every finding; fail at the end if there was one."""
    files = []
    for one in found:
        files.append(f"{one.save()}: {one.wrong[:300]}")
        print(files[-1], flush=True)
    print(", ".join(f"{number:,} {what}" for what, number in count.items() if what.islower()))
    assert not files, "\n".join(files)


@pytest.mark.parametrize("file", sorted(CORPUS.glob("[ps]*.json")), ids=lambda file: file.stem)
def test_what_was_found_is_mended(file: Path) -> None:
    assert again(file) == ""


@pytest.mark.parametrize(("fuzz", "share"), [(programs_agree, 0.6), (sources_are_read, 0.2)])
def test_programs_and_sources(fuzz: Callable, share: float) -> None:
    count = Counter[str]()
    no_finding(fuzz(random.Random(SEED), SECONDS * share, count), count)


KEPT = sorted(CORPUS.glob("damage-*.json"))


@pytest.mark.skipif(
    "ATTN_DSL_FUZZ_SECONDS" not in os.environ and not KEPT,
    reason="tests/test_damage.py is the short form",
)
def test_damages(whole: tuple[Path, dict[str, str]], tmp_path: Path) -> None:  # noqa: F811
    """Each damage to a run or a capture is tried on one of the commands that read the file."""
    run, said = whole

    def tried(seed: int, number: int, damage: Damage, command: str) -> Iterator[Finding]:
        if wrong := judge(damage, command, copied(run, tmp_path / "run", damage), said[command]):
            data = {"seed": seed, "number": number, "command": command}
            yield Finding("damage", data, f"{command}: {damage.name}: {wrong}")

    def found() -> Iterator[Finding]:
        for data in (json.loads(file.read_text())["data"] for file in KEPT):
            damage = next(islice(damages(run, data["seed"]), data["number"], None))
            yield from tried(data["seed"], data["number"], damage, data["command"])
        draw, end = random.Random(SEED), time.monotonic() + SECONDS * 0.2
        for number, damage in enumerate(damages(run, SEED)):
            if time.monotonic() > end:
                break
            command = draw.choice(READERS[damage.file.split("/")[0]])
            yield from tried(SEED, number, damage, command)
            count["damages"] += 1

    count = Counter[str]()
    no_finding(found(), count)


def test_random_programs_reach_every_construct_and_feature() -> None:
    """Fuzzing finds nothing in what it never makes."""
    draw = random.Random(SEED)
    nodes = [node for _ in range(60) for program in family(draw) for node in program.walk()]
    made = {c for c in vars(t).values() if isinstance(c, type) and issubclass(c, t.Node)}
    assert made - {*map(type, nodes)} == {t.Node, t.Statement, t.Use, t.Property, t.MassProperty}
    names = {node.name for node in nodes if isinstance(node, t.Call)}
    assert {f.name for f in FEATURES.values() if not f.extra} <= names

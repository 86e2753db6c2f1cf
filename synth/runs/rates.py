"""Rates: about how many seconds of a core a search takes, by proposer, effort and size.

A rate is the time of one head on a full design (``search.Settings.entries``); on less text it takes
in proportion less. `benchmarks/scale.py --only proposers` measures those of ``MEASURED``; the others
are estimates, and a plan says which it rests on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attn_dsl.synth.search import Settings

LARGE_NODES = 380
"""From here on graded programs are grown with less restraint."""
NEIGHBOURS = 6
"""From this effort on the tokens before query and key are looked at as well."""
BANK_SECONDS = 4.0
"""The enumeration that all heads share."""
MODEL_SECONDS = 10.0
"""Loading a language model."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a proposer takes for a head.

    Attributes:
        seconds: on full rows, by effort.
        evals: about how many programs it fits, which ``--max-evals`` may cut short.
    """

    seconds: Callable[[Settings], float]
    evals: Callable[[Settings], int]


def _graded(settings: Settings) -> float:
    """Graded sets: rows and rounds grow with the effort, from ``NEIGHBOURS`` on there are 3 channels."""
    seconds = 0.8 * settings.effort**1.35
    if settings.effort >= NEIGHBOURS:
        seconds *= 2.0
    return seconds * (2.0 if settings.max_nodes >= LARGE_NODES else 1.0)


RATES = {
    "library": Rate(lambda s: 0.17, lambda s: 10),
    "greedy": Rate(
        lambda s: 0.67 if s.effort == 1 else 1.35, lambda s: 23 if s.effort == 1 else 43
    ),
    "recovery": Rate(lambda s: 0.1, lambda s: 1),
    "graded": Rate(_graded, lambda s: 10 + s.effort),
    "enumerate": Rate(lambda s: 5.0, lambda s: 65),
    "llm": Rate(lambda s: 0.25 * s.llm.samples, lambda s: s.llm.samples),
}
"""By proposer, as named in ``search.PROPOSERS``."""
LATER = Rate(lambda s: 1.0 + 5.0 * (s.effort - 1), lambda s: 40 + 300 * (s.effort - 1))
"""A further round: other heads' programs, and changes of the front."""
MEASURED = ("library", "greedy", "recovery", "graded", "enumerate")
"""The proposers whose rates were measured …"""
MEASURED_EFFORT = 2
"""… up to this effort, and for programs of less than ``LARGE_NODES``."""


def by_head(settings: Settings, rounds: int, entries: float) -> float:
    """Return the seconds that proposers take for a head.

    Args:
        entries: of the fit split.
    """
    full = min(settings.sampled, entries) / settings.entries
    wide = min(1.0, entries / (settings.wide * settings.effort))
    seconds, left = 0.0, settings.max_evals
    for name in settings.proposers:
        rate = RATES[name]
        part = min(1.0, left / rate.evals(settings))
        left = max(0, left - rate.evals(settings))
        seconds += part * rate.seconds(settings) * (wide if name == "graded" else full)
    part = min(1.0, settings.max_evals / LATER.evals(settings))
    return seconds + (rounds - 1) * part * full * LATER.seconds(settings)


def once(settings: Settings) -> float:
    """Return the seconds that proposers take before the first head."""
    return BANK_SECONDS * ("enumerate" in settings.proposers) + MODEL_SECONDS * (
        "llm" in settings.proposers
    )


def guessed(settings: Settings, rounds: int) -> tuple[str, ...]:
    """Name what of a plan's time rests on estimates and not on measured rates."""
    found = [f"the proposer {name}" for name in settings.proposers if name not in MEASURED]
    if "graded" in settings.proposers and settings.effort > MEASURED_EFFORT:
        found.append(f"an effort above {MEASURED_EFFORT}")
    if "graded" in settings.proposers and settings.max_nodes >= LARGE_NODES:
        found.append(f"programs of {LARGE_NODES} nodes and more")
    if rounds > 1:
        found.append("rounds after the first")
    return tuple(found)


def planes_bytes(settings: Settings, terms: int, entries: float) -> float:
    """Return the memory of the planes that all heads share.

    Args:
        terms: of the search's vocabulary.
        entries: of the fit split.
    """
    design = 4 * terms * min(entries, settings.sampled)
    wide = 4 * terms * min(entries, settings.wide * settings.effort)
    bank = 2e8 if "enumerate" in settings.proposers else 0.0
    return design + wide * ("graded" in settings.proposers) + bank

"""The cost model: about how many seconds and bytes a search takes, from what its proposers say they cost.

A proposer's cost is that of one head on a full sample; on less text it takes in proportion less.
"""

from __future__ import annotations

from attn_dsl.synth.proposers.registry import Registration, asked
from attn_dsl.synth.session import Settings


def by_head(settings: Settings, entries: float) -> float:
    """Return the seconds that proposers take for a head, all rounds together.

    Args:
        entries: of the fit split.
    """
    full = min(settings.sampled, entries) / settings.entries
    large = min(1.0, entries / (settings.large_sample * settings.effort))
    first = [one for one in asked(settings) if not one.later]
    later = [one for one in asked(settings) if one.later]
    again = settings.rounds - 1
    return _round(settings, first, full, large) + again * _round(settings, later, full, large)


def _round(settings: Settings, some: list[Registration], full: float, large: float) -> float:
    """Return the seconds of a round, in which ``--max-evals`` may cut proposers short."""
    seconds, left = 0.0, settings.max_evals
    for one in some:
        cost = one.cost(settings)
        part = min(1.0, left / max(cost.evals, 1))
        left = max(0, left - cost.evals)
        seconds += part * cost.seconds * (large if cost.large_sample else full)
    return seconds


def once(settings: Settings) -> float:
    """Return the seconds that proposers take before the first head."""
    return sum(one.cost(settings).once for one in asked(settings))


def guessed(settings: Settings) -> tuple[str, ...]:
    """Name the proposers whose time is a guess and was not measured with such settings."""
    return tuple(one.name for one in asked(settings) if not one.cost(settings).measured)


def shared_bytes(settings: Settings, terms: int, entries: float) -> float:
    """Return the memory of what all heads share.

    Args:
        terms: of the search's vocabulary.
        entries: of the fit split.
    """
    costs = [one.cost(settings) for one in asked(settings)]
    found = 4 * terms * min(entries, settings.sampled) + sum(c.shared_bytes for c in costs)
    if any(c.large_sample for c in costs):
        found += 4 * terms * min(entries, settings.large_sample * settings.effort)
    return found

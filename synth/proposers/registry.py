"""The registry of proposers: who may suggest programs for a head, and what each of them costs.

A package of its own adds a proposer by an entry point of the group ``attn_dsl.proposers`` that names a
``Registration``. Its name then works wherever those of the built-in ones do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import InputError
from attn_dsl.dsl.library import library
from attn_dsl.dsl.parser import parse
from attn_dsl.eval.run import VOCABULARY
from attn_dsl.eval.scores import score_values
from attn_dsl.synth import search_terms
from attn_dsl.synth.llm.proposer import Llm
from attn_dsl.synth.proposer import Proposer
from attn_dsl.synth.proposers.library import Library
from attn_dsl.synth.scores.gains import ScoreGains
from attn_dsl.synth.scores.proposer import SharedScores
from attn_dsl.synth.selectors.proposer import Selectors
from attn_dsl.synth.session import Session, Settings
from attn_dsl.synth.sparse_design import TermPlanes

GROUP = "attn_dsl.proposers"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a proposer takes for one head, so that a fit can be planned."""

    seconds: float  # of one core, on a full sample of rows (``Settings.entries``)
    evals: int  # about how many programs it fits, which ``--max-evals`` may cut short
    once: float = 0.0  # seconds before the first head
    # whether ``benchmarks/real_model.py`` measured the seconds, or they are a guess
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """A proposer that a fit may ask."""

    name: str  # what ``--proposers`` calls it
    make: Callable[[Session], Proposer]  # called once for a search of all heads
    cost: Callable[[Settings], Cost]  # what it takes with some settings
    default: bool = False  # whether it is asked where nobody says who is
    scores: bool = False  # whether it uses scores that heads share


def _library(session: Session) -> Library:
    known = library("causal" if session.capture.causal else "bidirectional").values()
    return Library(session.design, [one.program for one in known if not one.measured])


def _scores(session: Session) -> SharedScores:
    definitions, design = session.definitions, session.design
    assert definitions is not None
    gains = ScoreGains(design, tuple(definitions.scores), score_values(definitions, design.batch))
    planes = TermPlanes(design, search_terms.terms(design.causal))
    planes.numbers(search_terms.terms(design.causal))  # heads share them
    starts = tuple(parse(source) for source in session.settings.programs)
    return SharedScores(gains, t.Use(VOCABULARY, definitions), planes, starts)


def _llm(session: Session) -> Llm:
    settings = session.settings
    grown = _scores(session) if session.definitions is not None else None
    return Llm(settings.llm, run=session.run, alone=settings.proposers == ("llm",),
               extend=grown.from_start if grown else None)  # fmt: skip


BUILT_IN = (
    Registration("library", _library, lambda s: Cost(0.02, 10, measured=True), default=True),
    Registration("selectors", lambda s: Selectors(s.design, s.settings.seed),
                 lambda s: Cost(0.02, 3), default=True),
    Registration("scores", _scores, lambda s: Cost(0.9, 14, once=40.0), default=True, scores=True),
    Registration("llm", _llm, lambda s: Cost(5 + 3 * s.llm.samples, s.llm.samples, once=30.0)))  # fmt: skip
"""The proposers of this package, in the order in which they are asked by default."""
DEFAULT = tuple(one.name for one in BUILT_IN if one.default)


def names() -> list[str]:
    """Return the names of all proposers, those of other packages last."""
    own = [one.name for one in BUILT_IN]
    return own + sorted(point.name for point in _foreign() if point.name not in own)


def find(name: str) -> Registration:
    """Return the proposer of a name; those of this package come first.

    Raises:
        InputError: there is none, or the package that has it cannot be loaded.
    """
    for one in BUILT_IN:
        if one.name == name:
            return one
    for point in _foreign():
        if point.name == name:
            return _load(point)
    raise InputError(f"--proposers: unknown {name}; known: {', '.join(names())}")


def packages(proposers: Sequence[str]) -> list[str]:
    """Return the packages, other than this one, that some proposers come from."""
    found = {point.dist.name for point in _foreign() if point.name in proposers and point.dist}
    return sorted(found)


def _foreign() -> list[EntryPoint]:
    return [*entry_points(group=GROUP)]


def _load(point: EntryPoint) -> Registration:
    package = point.dist.name if point.dist else point.value
    try:
        found = point.load()
    except Exception as error:
        raise InputError(
            f"--proposers: {point.name}, of the package {package}, cannot be loaded: {error!r}"
        ) from error
    if not isinstance(found, Registration) or found.name != point.name:
        raise InputError(f"--proposers: {point.name}, of the package {package}, must name a "
                         f"attn_dsl.synth.proposers.registry.Registration called {point.name!r}")  # fmt: skip
    return found

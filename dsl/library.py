"""The program library: programs for kinds of heads that have been found in models.

Each is a file of ``grammars/library``, named after its head. It begins with two comments: what the
head does, and its category. Programs that need spaCy are in the subfolder ``spacy``. Those in ``measured``
have weights with which they describe heads of several models as they are (``benchmarks/library.py``).
"""

import dataclasses
import itertools
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.errors import InputError, ProgramError
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show

CATEGORIES = ("first token", "final token", "sequential", "coreference", "syntactic", "uniform", "repetition",
              "lexical", "structure")  # fmt: skip
"""The categories of programs: six from the literature, and three more."""

_CATEGORY = "category: "
_MIRROR = str.maketrans("<>", "><")


@dataclass(frozen=True, slots=True)
class LibraryProgram:
    """A program of the library."""

    name: str  # the name of its head, and of its file
    category: str  # one of ``CATEGORIES``
    doc: str  # what the head does, in one sentence
    program: t.Head
    source: str  # its canonical source
    path: str  # its file, relative to the folder ``grammars``

    @property
    def measured(self) -> bool:
        """Whether its weights are measured, so that it describes heads without being fitted."""
        return self.path.startswith("library/measured/")


def library(visibility: t.Visibility | None = None, *, spacy: bool = False) -> dict[str, LibraryProgram]:
    """Return the programs of the library by name, sorted.

    >>> library()["induction"].category
    'repetition'
    >>> "next_token" in library("causal")
    False

    Args:
        visibility: convert all programs to it, without those that have no meaning in it (see
            ``with_visibility``); None: leave each as it is.
        spacy: whether to include programs that need the optional package spaCy.
    """
    if visibility not in (None, "causal", "bidirectional"):
        raise InputError(f"a program is causal or bidirectional, not {visibility!r}")
    return dict(_library(visibility, spacy))


@lru_cache(maxsize=8)
def _library(visibility: t.Visibility | None, spacy: bool) -> dict[str, LibraryProgram]:
    if visibility is None:
        root = files("attn_dsl.grammars")
        found = [_entry(file.read_text(encoding="utf-8"), f"{folder}/{file.name}")
                 for folder in ("library", "library/measured", "library/spacy")[: 2 + spacy]
                 for file in root.joinpath(*folder.split("/")).iterdir()
                 if file.name.endswith(".attn")]  # fmt: skip
        return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}
    typed = {}
    for name, entry in _library(None, spacy).items():
        head = with_visibility(entry.program, visibility)
        if head is entry.program:
            typed[name] = entry
        elif head is not None:
            source = show(head)
            program = parse(source, entry.path)
            typed[name] = dataclasses.replace(entry, program=program, source=source)
    return typed


def _entry(source: str, path: str) -> LibraryProgram:
    program = parse(source, path)
    lines = itertools.takewhile(lambda line: line.startswith("#"), source.splitlines())
    comments = [line[1:].strip() for line in lines]
    doc = " ".join(line for line in comments if not line.startswith(_CATEGORY))
    category = "".join(x.removeprefix(_CATEGORY) for x in comments if x.startswith(_CATEGORY))
    return LibraryProgram(program.name, category, doc, program, source, path)


def with_visibility(head: t.Head, visibility: t.Visibility) -> t.Head | None:
    """Convert a program to the other visibility, or return None if it has no meaning there.

    Pairs that a causal query sees keep their scores. In a bidirectional program a distance ``q - k``
    in a value becomes ``abs(q - k)``; in a causal program it becomes ``q - k`` again. A program has
    no meaning as causal if it uses a feature that reads the whole text, or a condition that holds
    only for keys after the query.

    >>> head = parse("head near causal:\\n -2 * log(1 + q - k)")
    >>> print(show(with_visibility(head, "bidirectional")), end="")
    head near bidirectional softmax:
        -2 * log(1 + abs(q - k))
    """
    if head.visibility == visibility:
        return head
    if visibility == "bidirectional":
        terms = [dataclasses.replace(t.rewrite(term, _both_ways), condition=term.condition)  # type: ignore[arg-type]
                 for term in head.terms]  # fmt: skip
        return dataclasses.replace(head, visibility=visibility, terms=tuple(terms))
    made = dataclasses.replace(t.rewrite(head, _one_way), visibility=visibility)
    try:
        check(made)
    except ProgramError:
        return None
    return None if _looks_ahead(head) else made


def _looks_ahead(node: t.Node) -> bool:
    """Return whether a predicate can hold, or a quantifier find a key, only after the query."""
    match node:
        case t.Not():
            return False
        case t.Or(left, right):
            return _looks_ahead(left) and _looks_ahead(right)
        case t.Compare(op, t.Position("k", a), t.Position("q", b)):
            return _only_later(op, b - a)
        case t.Compare(op, t.Position("q", a), t.Position("k", b)):
            return _only_later(op.translate(_MIRROR), a - b)
        case t.Between(t.Arithmetic("-", t.Position("k", a), t.Position("q", b)), low, _):
            return _only_later(">=", low + b - a)
    return any(map(_looks_ahead, node.children()))


def _only_later(op: str, gap: int) -> bool:
    """Return whether ``k op q + gap`` holds only for keys after the query."""
    return gap > 0 if op in ("==", ">=") else op == ">" and gap >= 0


def _both_ways(node: t.Node) -> t.Node:
    """Replace a node ``q - k`` by ``abs(q - k)``; conditions stay as they are."""
    match node:
        case t.Absolute(t.Absolute() as inner):
            return inner
        case t.Arithmetic("-", t.Position("q", 0), t.Position("k", 0)):
            return t.Absolute(node)
        case t.Arithmetic("-", t.Arithmetic("+", offset, t.Position("q", 0) as q), t.Position("k", 0) as k):
            return t.Arithmetic("+", offset, t.Absolute(t.Arithmetic("-", q, k)))
    return node


def _one_way(node: t.Node) -> t.Node:
    """Replace a node ``abs(q - k)`` by ``q - k``."""
    match node:
        case t.Absolute(t.Arithmetic("-", t.Position("q", 0) as q, t.Position("k", 0) as k)):
            return t.Arithmetic("-", q, k)
        case t.Absolute(t.Arithmetic("-", t.Position("k", 0) as k, t.Position("q", 0) as q)):
            return t.Arithmetic("-", q, k)
        case t.Arithmetic("+", offset, t.Arithmetic("-", t.Position("q") as q, t.Position("k") as k)):
            return t.Arithmetic("-", t.Arithmetic("+", offset, q), k)
    return node

"""Scopes: what the names of sets and scores mean in a program or in a file of definitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES, Type
from attn_dsl.dsl.lexicon import lexicon, lexicon_literal


class Scope(NamedTuple):
    """Definitions by name: own ones hide those of used files, which hide the sets of the lexicon.

    A score of a used file is evaluated in the scope of that file, so it means the same in all programs.
    """

    sets: Mapping[str, t.SetLiteral]
    scores: Mapping[str, t.ScoreDefinition]
    files: tuple[t.Definitions, ...] = ()
    functions: Mapping[str, t.Definition] = {}

    @classmethod
    def of(cls, program: t.Head) -> Scope:
        """Return the scope of a program."""
        return cls({one.name: one.value for one in program.sets}, {one.name: one for one in program.scores},
                   tuple([use.definitions for use in program.uses]),
                   {one.name: one for one in program.functions})  # fmt: skip

    @classmethod
    def of_file(cls, file: t.Definitions) -> Scope:
        """Return the scope of a file of definitions."""
        return cls(file.sets, file.scores, (), file.functions)

    def find(self, name: str) -> tuple[t.SetLiteral | t.ScoreDefinition | None, t.Definitions | None]:
        """Return what a name means (None: nothing), and the used file that defines it, if one does."""
        if found := self.sets.get(name) or self.scores.get(name):
            return found, None
        for file in self.files:
            if found := file.sets.get(name) or file.scores.get(name):
                return found, file
        return (lexicon_literal(name) if name in lexicon() else None), None

    def literal(self, chosen: t.SetName | t.SetLiteral) -> t.SetLiteral:
        """Return a set that is written out or named, in a checked program."""
        if isinstance(chosen, t.SetLiteral):
            return chosen
        found = self.find(chosen.name)[0]
        assert isinstance(found, t.SetLiteral)
        return found

    def score(self, name: str) -> tuple[t.ScoreDefinition, t.Definitions | None]:
        """Return a score and the used file that defines it, if one does, in a checked program."""
        found, file = self.find(name)
        assert isinstance(found, t.ScoreDefinition)
        return found, file

    def inside(self, file: t.Definitions | None) -> Scope:
        """Return the scope in which a score that ``score`` found is evaluated."""
        return self if file is None else Scope.of_file(file)

    def function(self, name: str) -> tuple[t.Definition | None, t.Definitions | None]:
        """Return the definition of a function (None: there is none), and the used file that has it."""
        places: tuple[Scope | t.Definitions, ...] = (self, *self.files)
        for place in places:
            if found := place.functions.get(name):
                return found, None if isinstance(place, Scope) else place
        return None, None

    def types(self) -> dict[str, Type]:
        """Return the types of functions."""
        found: dict[str, Type] = {}
        places: tuple[Scope | t.Definitions, ...] = (*reversed(self.files), self)  # first files win
        for place in places:
            for one in place.functions.values():
                found[one.name] = type_of(one.value, found)
        return found

    def names(self) -> list[str]:
        """Return all names that are defined."""
        places: list[Scope | t.Definitions] = [self, *self.files]
        return [*lexicon(), *(name for one in places for name in (*one.sets, *one.scores))]


_NUMBERS = (t.Integer, t.Position, t.Arithmetic, t.Modulo, t.Absolute, t.Extremum)


def type_of(node: t.Node, types: Mapping[str, Type]) -> Type:
    """Return the type of a predicate, an integer or a symbol."""
    if isinstance(node, t.Call):
        return types[node.name] if node.name in types else FEATURES[node.name].type
    if isinstance(node, t.Quantifier | t.Search):
        return "bool" if node.name == "any" else "int"
    if isinstance(node, t.Shortened):
        return "symbol"
    return "int" if isinstance(node, _NUMBERS) else "bool"

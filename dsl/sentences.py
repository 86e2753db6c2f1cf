"""Sentences about predicates, numbers, places and sets of a program, in plain English."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.kinds import linear
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.printer import number, quote
from attn_dsl.dsl.scope import Scope, type_of

SHOWN = 4  # how many members of a set, or lines of a score, a gloss names
_NAMED = {"k": "the key", "q": "the query"}
_ANCHORS = {**_NAMED, "i": "it"}
_PLURALS = {"is": "are", "has": "have", "begins": "begin", "opens": "open", "closes": "close"}
_ORDERS = {"==": ("is", "is not"), "!=": ("is not", "is"), "<": ("is below", "is at least"),
           "<=": ("is at most", "is above"), ">": ("is above", "is at most"),
           ">=": ("is at least", "is below")}  # fmt: skip
STRINGS = ("token", "text", "lower", "word")  # features whose strings stand for themselves
AFFIXES = {"starts": "start with", "ends": "end with", "contains": "contain"}
_SEARCHED = {"": "", "<": " before {0}", "<=": " up to {0}", ">": " after {0}", ">=": " from {0} on"}
"""By what a search is over: where the tokens are."""
_CUT = r", (spaces compared too|as far as visible|from 0|at most 32|without the spaces.*)|; .*"


def set_gloss(chosen: t.SetLiteral) -> str:
    """Say what a set holds: sets of the lexicon that cover most of it, and its first members.

    >>> set_gloss(t.SetLiteral((" is", " was", " has")))
    'forms of be and forms of have (“has”, “is”, “was”)'
    """
    weights = chosen.weights or (1.0,) * len(chosen.elements)
    pairs = sorted(zip(chosen.elements, weights, strict=True), key=lambda pair: -abs(pair[1]))
    shown = pairs[: SHOWN + (len(pairs) == SHOWN + 1)]
    members = ", ".join(token(e) + f" {number(w)}" * bool(chosen.weights) for e, w in shown)
    if len(pairs) > len(shown):
        members += f" and {len(pairs) - len(shown)} more"
    left, names = {e.strip().lower() for e in chosen.elements}, list[str]()
    enough = len(left) // 5
    while len(left) > enough and len(names) < 2:
        covers = {name: len(left & one.elements) for name, one in lexicon().items()}
        best = max(covers, key=lambda name: covers[name] / len(lexicon()[name].elements) ** 0.5)
        if 2 * covers[best] < len(left) and covers[best] < 2:
            break
        names.append(best)
        left -= lexicon()[best].elements
    if len(pairs) <= 2 or len(left) > enough:
        return members
    return f"{' and '.join(map(_lexicon_gloss, names))} ({members})"


def token(string: str) -> str:
    """Write a token as it is read: ``“the”``, ``a line break``."""
    if string and not string.strip():
        return "a line break" if "\n" in string else "white space"
    return f"“{quote(string.strip())[1:-1]}”"


def cut(node: t.Shortened) -> str:
    """Tell what is left of a symbol."""
    which = {"prefix": "first", "suffix": "last"}.get(node.name)
    return f"{which} {node.length} characters" if which else "stem"


def _lexicon_gloss(name: str) -> str:
    """Return what a set of the lexicon holds, without its examples."""
    doc = re.sub(r"^all |:.*|, (negated|alone|for) .*", "", lexicon()[name].doc)
    return doc.replace("closed classes", "closed-class words")


def _owned(doc: str, token: str) -> str:
    """Return the documentation of a feature with *it* replaced by a token."""
    whose = "its" if token == "it" else f"{token}'s"
    return re.sub(r"\bits?\b", lambda found: whose if found[0] == "its" else token, doc)


@dataclass(slots=True)
class Sentences:
    """Tells the parts of one program; what a definition holds is told where it occurs first."""

    scope: Scope
    linear: bool = False
    anchors: Mapping[str, str] = field(default_factory=lambda: dict(_ANCHORS))
    told: set[str] = field(default_factory=set)
    brief: bool = False  # leave glosses out

    @classmethod
    def of(cls, program: t.Head) -> Self:
        """Return one for a program."""
        return cls(Scope.of(program), program.normaliser == "linear")

    def it(self, variable: str) -> Self:
        """Return one that calls the position of a variable *it*."""
        return dataclasses.replace(self, anchors={**self.anchors, variable: "it"})

    def named(self, name: str) -> str:
        """Call a function by its name; what it means comes with its first use."""
        words = name.replace("_", " ")
        if name in self.told or self.brief:
            return words
        self.told.add(name)
        found, file = self.scope.function(name)
        assert found is not None
        anchors = {**self.anchors, "i": "the token"}
        inner = dataclasses.replace(self, scope=self.scope.inside(file), anchors=anchors)
        if (kind := self.scope.types()[name]) == "bool":
            return f"{words} ({inner.says(found.value)})"  # type: ignore[arg-type]
        if kind == "symbol":
            return f"{words} ({inner.symbol(found.value)})"
        return f"{words} ({(inner.place if self.points(name) else inner.number)(found.value)})"

    def points(self, name: str) -> bool:
        """Return whether a name is that of a function that searches for a position."""
        found, _ = self.scope.function(name)
        return isinstance(getattr(found, "value", None), t.Search) and found.value.name != "count"  # type: ignore

    def searched(self, search: t.Search, many: bool = True) -> tuple[str, str]:
        """Tell the tokens that a search is over, and what holds at the ones that it looks for."""
        here = {name: told for name, told in self.anchors.items() if told != "it"}
        known = {"i": "the token", "j": "that token"} | _NAMED | here
        place = dataclasses.replace(self, anchors=known).place(search.at)
        inner = dataclasses.replace(self, anchors={**self.anchors, "i": place, "j": "it"})
        tokens = f"token{'s' * many}{_SEARCHED[search.over].format(place)}"
        return tokens, inner.says(search.body)

    def shifted(self, tokens: str, shift: int) -> str:
        """Tell the tokens that stand so far after some others, which have a shift of -1 for the next."""
        if not shift:
            return tokens
        if abs(shift) == 1:
            return f"what {'follows' if shift < 0 else 'precedes'} {tokens}"
        nth = {2: "second", 3: "third"}.get(abs(shift), f"{abs(shift)}th")
        return f"the {nth} token {'after' if shift < 0 else 'before'} {tokens}"

    def members(self, chosen: t.SetName | t.SetLiteral) -> str:
        """Tell what a set holds; a set of the lexicon by what its documentation says."""
        if not isinstance(chosen, t.SetName):
            return set_gloss(chosen)
        if chosen.name not in self.scope.sets and self.scope.find(chosen.name)[1] is None:
            return _lexicon_gloss(chosen.name)
        return f"{chosen.name}: {set_gloss(self.scope.literal(chosen))}"

    def says(self, p: t.Predicate, no: bool = False) -> str:
        """Tell a predicate, or its opposite, as a sentence."""
        match p:
            case t.Always():
                return "never" if no else "always"
            case t.Not(inner):
                return self.says(inner, not no)
            case t.And(left, right) | t.Or(left, right):
                both = isinstance(p, t.And) is not no
                word, open_ = ("and", "") if both else ("or", "either ")
                return f"{open_}{self.says(left, no)} {word} {self.says(right, no)}"
            case t.Quantifier(_, body):
                return f"{'no' if no else 'some'} token is such that {self.it('k').says(body)}"
            case t.Search():
                tokens, held = self.searched(p, many=False)
                return f"{'no' if no else 'some'} {tokens} is such that {held}"
            case t.Call(name, (at,)) if name not in FEATURES:
                return f"{self.named(name)} {'does not hold' if no else 'holds'} at {self.place(at)}"
            case t.Call(name, args):
                return f"{self.place(args[0])} {self.holds(name, no=no)}"
            case t.Compare(op, left, t.Text(text)):
                return f"{self.symbol(left)} {_ORDERS[op][no]} {token(text)}"
            case t.Compare(op, t.Call() | t.Shortened() as a, t.Call() | t.Shortened() as b) if (
                    type_of(a, self.scope.types()) == "symbol"):  # fmt: skip
                return f"{self.symbol(a)} {_ORDERS[op][no]} {self.symbol(b)}"
            case t.Compare("<" | ">" as op, t.Position() as a, b) if not isinstance(b, t.Integer):
                where = "before" if (op == "<") is not no else "after"
                return f"{self.place(a)} is {'at or ' * no}{where} {self.place(b)}"
            case t.Compare("==" | "!=" as op, t.Position() as a, b):
                return f"{self.place(a)} {_ORDERS[op][no]} {self.place(b)}"
            case t.Compare(op, left, right):
                return f"{self.number(left)} {_ORDERS[op][no]} {self.number(right)}"
            case t.Between(value, low, high):
                return f"{self.number(value)} is {'not ' * no}from {low} to {high}"
            case t.Member(symbol, chosen):
                return f"{self.symbol(symbol)} is {'not ' * no}among {self.members(chosen)}"
            case t.Affix(name, symbol, text):
                verb = AFFIXES[name] if no else AFFIXES[name].replace(name[:-1], name)
                return f"{self.symbol(symbol)} {'does not ' * no}{verb} {token(text)}"
        raise TypeError(f"not a predicate: {p!r}")

    def holds(self, name: str, no: bool = False, plural: bool = False) -> str:
        """Tell what a feature says of its token: ``has only letters``."""
        verb, _, rest = re.sub(_CUT, "", FEATURES[name].doc).removeprefix("it ").partition(" ")
        if no:
            return f"is not {rest}" if verb == "is" else f"does not {_PLURALS[verb]} {rest}"
        return f"{_PLURALS[verb] if plural else verb} {rest}"

    def noun(self, name: str) -> str:
        """Tell a feature or function as a noun."""
        if (feature := FEATURES.get(name)) is None:
            return self.named(name)
        return feature.noun or re.sub(_CUT, "", feature.doc)

    def symbol(self, call: t.Node) -> str:
        """Tell a string, or another feature, of a token, or of the text."""
        if isinstance(call, t.Shortened):
            return f"the {cut(call)} of {self.symbol(call.value)}"
        assert isinstance(call, t.Call)
        at = " and ".join(map(self.place, call.args)) or "the text"
        if call.name == "match":
            return f"the length of the equal run that ends both at {at}"
        noun = self.noun(call.name)
        if call.name not in FEATURES:
            return f"its {noun}" if at == "it" else f"{at}'s {noun}"
        if not FEATURES[call.name].noun:
            told = _owned(noun, at)
            return f"the {told}" if told != noun or at == "it" else f"the {noun} of {at}"
        return f"the {noun} of {at}" if " where " in at else _owned(f"its {noun}", at)

    def number(self, x: t.Node) -> str:
        """Tell an integer."""
        form = linear(x) or {}
        if (form.get("q"), form.get("k")) == (1, -1):
            return f"the distance plus {form['']}" if form.get("") else "the distance"
        match x:
            case t.Integer(value):
                return str(value)
            case t.Arithmetic(op, left, right):
                sign = "plus" if op == "+" else "minus"
                return f"{self.number(left)} {sign} {self.number(right)}"
            case t.Modulo(value, modulus):
                return f"the rest of {self.number(value)} divided by {modulus}"
            case t.Absolute(value):
                told = self.number(value)
                return f"{told} either way" if told == "the distance" else f"the size of {told}"
            case t.Extremum(name, left, right):
                which = "smaller" if name == "min" else "larger"
                return f"the {which} of {self.number(left)} and {self.number(right)}"
            case t.Search("count"):
                tokens, held = self.searched(x)
                return f"the number of {tokens} where {held}"
            case t.Quantifier("count", body):
                return f"the number of earlier tokens where {self.it('k').says(body)}"
            case t.Call():
                return self.symbol(x)
        return f"the position of {self.place(x)}"

    def place(self, x: t.Node) -> str:
        """Tell the token at a position."""
        match x:
            case t.Call(name) if self.points(name):
                return self.symbol(x)
            case t.Position(variable, 0):
                return self.anchors[variable]
            case t.Position(variable, shift):
                side = "before" if shift < 0 else "after"
                steps = "" if abs(shift) == 1 else f" {abs(shift)}"
                return f"the token{steps} {side} {self.anchors[variable]}"
            case t.Integer(value):
                return "the first token" if value == 0 else f"token {value} of the text"
            case t.Search(name):
                tokens, held = self.searched(x, many=False)
                return f"the {name} {tokens} where {held}"
            case t.Extremum("max", t.Quantifier() | t.Search() as found, t.Integer(0)):
                return f"{self.place(found)}, or else the first token"
            case t.Quantifier("nearest" | "first" | "last" as name, body):
                held = self.it("k").says(body)
                if isinstance(body, t.Call):
                    held = re.sub("^it ", "that ", held)
                return f"the {name} token {held if held.startswith('that ') else f'where {held}'}"
            case t.Call("previous" | "word_previous" as name, (at,)):
                what = "copy of" if name == "previous" else "token with the same word up to it as"
                return f"the last earlier {what} {self.place(at)}"
            case t.Call(name, (at,)) if name in FEATURES and FEATURES[name].doc.startswith("position of "):
                doc = self.noun(name).removeprefix("position of ")
                return _owned(doc, self.place(at))
            case t.Arithmetic("-", t.Call("n"), t.Integer(1)):
                return "the last token of the text"
            case t.Arithmetic(op, left, t.Integer(value)) if not isinstance(left, t.Arithmetic):
                return self.shifted(self.place(left), -value if op == "+" else value)
        return f"the token at {self.number(x)}"

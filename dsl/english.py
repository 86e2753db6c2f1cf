"""Programs in plain English: a sentence for each term, the glosses of sets and scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.kinds import free_variables, kind_shares, linear
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.printer import number, quote
from attn_dsl.dsl.scope import Scope

CARRIED = 0.9
"""The share of a program that is told in sentences; what is left follows as smaller effects."""
SHOWN = 4
"""How many members of a set, or lines of a score, a gloss names."""
_ANCHORS = {"k": "the key", "q": "the query", "i": "it"}
_PLURALS = {"is": "are", "has": "have", "begins": "begin", "opens": "open", "closes": "close"}
_NOUNS = {
    "punct": "punctuation", "alpha": "tokens of letters", "digit": "numbers", "space": "white space",
    "newline": "line breaks", "capital": "capitalised tokens", "seen": "repeated tokens",
    "special": "special tokens", "sentence_start": "first tokens of sentences",
    "sentence_final": "last tokens of sentences", "line_start": "first tokens of lines",
    "quoted": "quoted tokens", "word_start": "first pieces of words", "word_final": "last pieces of words",
}  # fmt: skip
"""Features of one position, as the tokens at which they hold."""
_SYMBOLS = {
    "text": "text", "token": "exact text", "lower": "lower-cased text", "shape": "shape (such as Xx)",
    "word": "word", "word_before": "previous word", "upos": "part of speech", "dep": "dependency label",
    "lemma": "dictionary form", "length": "length", "line": "line number", "sentence": "sentence number",
    "paragraph": "paragraph number", "word_index": "word number", "indent": "indentation",
    "depth": "depth of brackets",
}  # fmt: skip
_ORDERS = {
    "==": ("is", "is not"), "!=": ("is not", "is"), "<": ("is below", "is at least"),
    "<=": ("is at most", "is above"), ">": ("is above", "is at most"), ">=": ("is at least", "is below"),
}  # fmt: skip
_REALS = {"log": "logarithm", "sqrt": "square root", "inv": "inverse"}
_CUT = re.compile(
    r", (spaces compared too|as far as visible|from 0|at most 32)|; .*|, without the spaces.*"
)


def explain(program: t.Head, worths: Sequence[float] = ()) -> str:
    """Describe a program in plain English, what carries it first.

    >>> from attn_dsl.dsl.parser import parse
    >>> print(explain(parse("head a causal:\\n 3 where k == 0\\n 1 where punct(k)")))
    Strongly looks at the first token. Looks at punctuation.

    Args:
        worths: the share of each simple term (``tree.parts_of``), in source order; without them, terms
            come in the order of their weights.
    """
    parts = [part for term in program.terms for part in t.parts_of(term)]
    if not parts:
        return "Attends to all tokens that it sees alike."
    teller = _Teller(Scope.of(program), program.normaliser == "linear")
    weights = worths or [
        max((abs(x or 0.0) for x in t.weights_of(part)), default=0.0) for part in parts
    ]
    sentences, small, carried = list[str](), list[str](), 0.0
    if worths and any(worths):
        kinds = kind_shares(program, worths).items()
        told = ", ".join(f"{name} ({share:.0%})" for name, share in kinds if share >= 0.05)
        sentences.append(f"{told.capitalize()}.")
    if teller.linear:
        sentences.append("Shares its attention out by masses.")
    for i in sorted(range(len(parts)), key=lambda i: -weights[i]):
        teller.brief = bool(worths) and carried >= CARRIED * sum(worths)
        told = teller.term(parts[i])
        if teller.brief:
            small.append(told)
        else:
            share = f" ({worths[i]:.0%})" if worths else ""
            sentences.append(f"{told[:1].upper()}{told[1:]}{share}.")
        carried += worths[i] if worths else 0.0
    return " ".join([*sentences, *([f"Smaller effects: {'; '.join(small)}."] if small else [])])


def describe(program: t.Head) -> list[str]:
    """Describe each simple term of a program (``tree.parts_of``) by a sentence, in source order."""
    teller = _Teller(Scope.of(program), program.normaliser == "linear")
    return [teller.term(part) for term in program.terms for part in t.parts_of(term)]


def score_gloss(definition: t.ScoreDefinition, scope: Scope | None = None) -> str:
    """Say at which tokens a score is high, by the first of its lines: ``“the”, articles``."""
    teller = _Teller(scope or Scope({}, {}))
    lines = [line.condition for line in definition.terms if (line.weight or 0.0) > 0]
    told = dict.fromkeys(teller.tokens(line, "i") for line in lines[:SHOWN])
    return ", ".join(told) or "no token"


def set_gloss(chosen: t.SetLiteral) -> str:
    """Say what a set holds: sets of the lexicon that cover most of it, and its first members.

    >>> set_gloss(t.SetLiteral((" is", " was", " has")))
    'forms of be and forms of have (“has”, “is”, “was”)'
    """
    weights = chosen.weights or (1.0,) * len(chosen.elements)
    pairs = sorted(zip(chosen.elements, weights, strict=True), key=lambda pair: -abs(pair[1]))
    shown = [
        token(e) + (f" {number(w)}" if chosen.weights else "")
        for e, w in pairs[: SHOWN + (len(pairs) == SHOWN + 1)]
    ]
    more = f" and {len(pairs) - len(shown)} more" if len(pairs) > len(shown) else ""
    members = ", ".join(shown) + more
    left, names = {e.strip().lower() for e in chosen.elements}, list[str]()
    enough = len(left) // 5
    while len(left) > enough and len(names) < 2:
        covers = {name: len(left & one.elements) for name, one in lexicon().items()}
        best = max(covers, key=lambda name: (covers[name], -len(lexicon()[name].elements)))
        if 2 * covers[best] < len(left) and covers[best] < 2:
            break
        names.append(best)
        left -= lexicon()[best].elements
    covered = len(pairs) > 2 and len(left) <= enough
    return (
        f"{' and '.join(_lexicon_gloss(name) for name in names)} ({members})"
        if covered
        else members
    )


def token(string: str) -> str:
    """Write a token as it is read: ``“the”``, ``a line break``."""
    if string and not string.strip():
        return "a line break" if "\n" in string else "white space"
    return f"“{quote(string.strip())[1:-1]}”"


def _lexicon_gloss(name: str) -> str:
    """Return what a set of the lexicon holds, without its examples."""
    return re.sub(r"^all |:.*|, (negated|alone|for) .*", "", lexicon()[name].doc).replace(
        "closed classes", "closed-class words"
    )


def _conjuncts(node: t.Predicate | None) -> list[t.Predicate]:
    if isinstance(node, t.And):
        return _conjuncts(node.left) + _conjuncts(node.right)
    return [] if node is None or isinstance(node, t.Always) else [node]


@dataclass(slots=True)
class _Teller:
    """Tells the parts of one program; what a score holds is told where it occurs first."""

    scope: Scope
    linear: bool = False
    anchors: Mapping[str, str] = field(default_factory=lambda: dict(_ANCHORS))
    told: set[str] = field(default_factory=set)
    brief: bool = False  # leave glosses out

    # Terms.

    def term(self, term: t.Simple) -> str:
        """Tell a term: from which queries, how strongly, which keys, and by what it grows."""
        value, froms, keys, ifs, grows, size = (
            getattr(term, "value", None),
            *([] for _ in range(4)),
            1.0,
        )
        for one in _conjuncts(term.condition):
            if free_variables(one) == {"q"} and not isinstance(one, t.Quantifier):
                froms.append(self.tokens(one, "q"))
            elif not keys and (found := self.keys(one)):
                keys.append(found)
            else:
                ifs.append(self.says(one))
        if isinstance(term, t.Table):
            steps = (f"{number(e.weight)} from {e.bound}" for e in term.entries)
            grows.append(f"by {self.number(term.value)} ({', '.join(steps)})")
            value = None
        for factor in [value.left, value.right] if isinstance(value, t.Product) else [value]:
            if isinstance(factor, t.Score):
                lines = self.scope.score(factor.name)[0].terms
                size *= max(abs(line.weight or 0.0) for line in lines)
                high = self.scored(factor)
                if factor.variable == "q":
                    froms.append(high)
                elif keys:
                    grows.append(f"the more so if {high.replace('tokens high', 'high')}")
                else:
                    keys.append(high)
            elif factor is not None:
                grows.append(self.grows(factor))
                size *= 1.0 if isinstance(factor, t.Decay | t.Real | t.Weight) else 5.0
        lead = f"from {', and at once from '.join(froms)}, " if froms else ""
        where = f" if {' and '.join(ifs)}" if ifs else ""
        more = f", {' and '.join(grows)}" if grows else ""
        return f"{lead}{self.verb(term, size)} {keys[0] if keys else 'tokens'}{where}{more}"

    def verb(self, term: t.Simple, size: float) -> str:
        """Put the sign and size of the weight in words."""
        weights = t.weights_of(term)
        if None in weights:
            return "by a weight that is still to be fitted, looks at"
        if isinstance(term, t.Table):
            return "weights"
        if self.linear:
            return f"gives {number(weights[0])} of mass to"
        weight = (weights[0] or 0.0) * size
        if not weight:
            return "ignores (weight 0)"
        much = "strongly " if abs(weight) >= 2 else "weakly " if abs(weight) < 0.5 else ""
        return much + ("looks at" if weight > 0 else "avoids")

    def scored(self, use: t.Score) -> str:
        """Tell the tokens that a score is high at; the gloss comes with its first use."""
        definition, file = self.scope.score(use.name)
        what = f"tokens high in {use.name}"
        if use.name not in self.told and not self.brief:
            self.told.add(use.name)
            what += f" ({score_gloss(definition, self.scope.inside(file))})"
        return self.shifted(what, use.shift)

    def grows(self, factor: t.Factor) -> str:
        """Tell a factor that is no score, by which a term grows or shrinks."""
        match factor:
            case t.Decay(value, rate):
                return f"fading by the factor {number(rate)} with each step of {self.number(value)}"
            case t.Real(name, value):
                much = "less" if name == "inv" else "more"
                return f"the {much}, the larger {self.number(value)} ({_REALS[name]})"
            case t.Weight(symbol, chosen):
                return f"by the weight of {self.symbol(symbol)} among {self.members(chosen)}"
        return f"in proportion to {self.number(factor)}"

    # Tokens.

    def keys(self, one: t.Predicate) -> str:
        """Tell the keys of a condition as a noun; empty if it takes a sentence."""
        match one:
            case t.Compare("==", t.Position("k", 0), other) | t.Compare(
                "==", other, t.Position("k", 0)
            ) if "k" not in free_variables(other):
                return self.place(other)
            case t.Compare("<" | ">" as op, t.Position("k", 0), other) if "k" not in free_variables(
                other
            ):
                return f"tokens {'before' if op == '<' else 'after'} {self.place(other)}"
            case t.Between(t.Position("k", 0), low, high):
                return f"tokens {low} to {high} of the text"
            case t.Between(t.Arithmetic("-", t.Position("q", 0), t.Position("k", 0)), low, high):
                return (
                    f"tokens {low} to {high} before the query"
                    if low
                    else f"the query and the {high} tokens before it"
                )
            case t.Compare(
                ">=", t.Arithmetic("-", t.Position("q", 0), t.Position("k", 0)), t.Integer(n)
            ):
                return f"tokens at least {n} before the query"
            case t.Compare(
                "==", t.Call(a, (t.Position("k", shift),)), t.Call(b, (t.Position("q", at),))
            ) if a == b:
                noun = self.noun(a).removeprefix("position of the ")
                how = (
                    f"in the same {noun[:-7]}"
                    if noun.endswith(" number")
                    else f"with the same {noun}"
                )
                same = f"tokens {how} as {self.place(t.Position('q', at))}"
                return self.shifted(same, shift)
        return self.tokens(one, "k") if free_variables(one) == {"k"} else ""

    def tokens(self, one: t.Predicate, variable: str) -> str:
        """Tell the tokens at which a predicate of one variable holds, in the plural."""
        shifts = {n.shift for n in one.walk() if isinstance(n, t.Position)}
        shift = (
            shifts.pop()
            if len(shifts) == 1 and not any(isinstance(n, t.Quantifier) for n in one.walk())
            else 0
        )
        match one:
            case t.Call(name, (t.Position(),)):
                return self.shifted(
                    _NOUNS.get(name) or f"tokens that {self.holds(name, plural=True)}", shift
                )
            case t.Compare("==", t.Call("token" | "text" | "lower", (t.Position(),)), t.Text(text)):
                return self.shifted(token(text), shift)
            case t.Member(t.Call("token" | "text" | "lower" | "word", (t.Position(),)), chosen):
                return self.shifted(self.members(chosen), shift)
            case t.Compare("==" | ">=" as op, t.Call("length", (t.Position(),)), t.Integer(n)):
                return self.shifted(f"tokens of length {n}{' or more' * (op == '>=')}", shift)
            case t.Affix(name, t.Call("token" | "text" | "lower" | "word", (t.Position(),)), text):
                return self.shifted(f"tokens that {name[:-1]} with {token(text)}", shift)
            case t.Or(left, right):
                return f"{self.tokens(left, variable)} or {self.tokens(right, variable)}"
        it = _Teller(self.scope, self.linear, {**self.anchors, variable: "it"}, self.told)
        return f"any {'query' if variable == 'q' else 'token'} where {it.says(one)}"

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
        if (
            isinstance(chosen, t.SetName)
            and chosen.name not in self.scope.sets
            and self.scope.find(chosen.name)[1] is None
        ):
            return _lexicon_gloss(chosen.name)
        name = f"{chosen.name}: " if isinstance(chosen, t.SetName) else ""
        return name + set_gloss(self.scope.literal(chosen))

    # Sentences, numbers and places.

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
                return f"{'no' if no else 'some'} token is such that {self.inside(body)}"
            case t.Call(name, args):
                return f"{self.place(args[0])} {self.holds(name, no=no)}"
            case t.Compare(op, left, t.Text(text)):
                return f"{self.symbol(left)} {_ORDERS[op][no]} {token(text)}"
            case t.Compare(op, t.Call() as a, t.Call() as b) if FEATURES[a.name].type == "symbol":
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
                verb = f"does not {name[:-1]}" if no else name
                return f"{self.symbol(symbol)} {verb} with {token(text)}"
        raise TypeError(f"not a predicate: {p!r}")

    def inside(self, body: t.Predicate) -> str:
        return _Teller(self.scope, self.linear, {**self.anchors, "k": "it"}, self.told).says(body)

    def holds(self, name: str, no: bool = False, plural: bool = False) -> str:
        """Tell what a feature says of its token: ``has only letters``."""
        verb, _, rest = _CUT.sub("", FEATURES[name].doc).removeprefix("it ").partition(" ")
        if no:
            return f"is not {rest}" if verb == "is" else f"does not {_PLURALS[verb]} {rest}"
        return f"{_PLURALS[verb] if plural else verb} {rest}"

    def noun(self, name: str) -> str:
        return _SYMBOLS.get(name) or _CUT.sub("", FEATURES[name].doc)

    def symbol(self, call: t.Node) -> str:
        """Tell a string, or another feature, of a token."""
        assert isinstance(call, t.Call)
        at = " and ".join(map(self.place, call.args))
        if call.name == "match":
            return f"the length of the equal run that ends at {at}"
        whose = "its" if at == "it" else f"{at}'s"
        if call.name in _SYMBOLS:
            if " where " in at:
                return f"the {_SYMBOLS[call.name]} of {at}"
            return f"{whose} {_SYMBOLS[call.name]}"
        doc = self.noun(call.name)
        told = re.sub(r"\bit\b", at, re.sub(r"\bits\b", whose, doc))
        return f"the {told}" if told != doc or at == "it" else f"the {doc} of {at}"

    def number(self, x: t.Node) -> str:
        """Tell an integer."""
        form = linear(x) or {}
        if (form.get("q"), form.get("k")) == (1, -1):
            return "the distance" + (f" plus {form['']}" if form.get("") else "")
        match x:
            case t.Integer(value):
                return str(value)
            case t.Arithmetic(op, left, right):
                return (
                    f"{self.number(left)} {'plus' if op == '+' else 'minus'} {self.number(right)}"
                )
            case t.Absolute(value):
                told = self.number(value)
                return (
                    "the distance either way" if told == "the distance" else f"the size of {told}"
                )
            case t.Extremum(name, left, right):
                which = "smaller" if name == "min" else "larger"
                return f"the {which} of {self.number(left)} and {self.number(right)}"
            case t.Quantifier("count", body):
                return f"the number of earlier tokens where {self.inside(body)}"
            case t.Call():
                return self.symbol(x)
        return f"the position of {self.place(x)}"

    def place(self, x: t.Node) -> str:
        """Tell the token at a position."""
        match x:
            case t.Position(variable, 0):
                return self.anchors[variable]
            case t.Position(variable, shift):
                side = "before" if shift < 0 else "after"
                steps = "" if abs(shift) == 1 else f" {abs(shift)}"
                return f"the token{steps} {side} {self.anchors[variable]}"
            case t.Integer(value):
                return "the first token" if value == 0 else f"token {value} of the text"
            case t.Extremum("max", t.Quantifier() as found, t.Integer(0)):
                return f"{self.place(found)}, or else the first token"
            case t.Quantifier("nearest" | "first" | "last" as name, body):
                held = self.inside(body)
                if isinstance(body, t.Call):
                    held = re.sub("^it ", "that ", held)
                return f"the {name} token {held if held.startswith('that ') else f'where {held}'}"
            case t.Call("previous" | "word_previous" as name, (at,)):
                what = "copy of" if name == "previous" else "token with the same word up to it as"
                return f"the last earlier {what} {self.place(at)}"
            case t.Call(name, (at,)) if FEATURES[name].doc.startswith("position of "):
                doc = _CUT.sub("", FEATURES[name].doc).removeprefix("position of ")
                owner = self.place(at)
                return re.sub(r"\bit\b", owner, re.sub(r"\bits\b", f"{owner}'s", doc))
            case t.Arithmetic(op, left, t.Integer(value)) if not isinstance(left, t.Arithmetic):
                return self.shifted(self.place(left), -value if op == "+" else value)
        return f"the token at {self.number(x)}"

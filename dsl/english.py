"""Programs in plain English: a sentence for each term, the glosses of scores and functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.kinds import kind_shares
from attn_dsl.dsl.printer import number
from attn_dsl.dsl.scope import Scope
from attn_dsl.dsl.sentences import AFFIXES, SHOWN, STRINGS, Sentences, cut, token
from attn_dsl.dsl.sentences import set_gloss as set_gloss

CARRIED = 0.9
"""The share of a program that is told in sentences; what is left follows as smaller effects."""
_SIDES = {"==": "{}", "<": "tokens before {}", "<=": "tokens up to {}",
          ">": "tokens after {}", ">=": "tokens from {} on"}  # fmt: skip
_MUCH = ("slightly ", "weakly "), ("", ""), ("much ", "strongly ")
_NOT_ITSELF = t.Compare("!=", t.Position("k"), t.Position("q"))
_DISTANCE = t.Arithmetic("-", t.Position("q"), t.Position("k"))
_AHEAD = t.Arithmetic("-", t.Position("k"), t.Position("q"))
_REALS = {"log": "logarithm", "sqrt": "square root", "inv": "inverse"}


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
    teller = _Teller.of(program)
    weights = worths or [max(abs(x or 0.0) for x in t.weights_of(part)) for part in parts]
    sentences, small, carried = list[str](), list[str](), 0.0
    if any(worths):
        kinds = kind_shares(program, worths).items()
        shares = ", ".join(f"{name} ({share:.0%})" for name, share in kinds if share >= 0.05)
        sentences.append(f"{shares.capitalize()}.")
    if teller.linear:
        sentences.append("Shares its attention out by masses.")
    for i in sorted(range(len(parts)), key=lambda i: -weights[i]):
        teller.brief = bool(worths) and carried >= CARRIED * sum(worths)
        told = teller.term(parts[i])
        if teller.brief:
            small.append(told)
            continue
        share = f" ({worths[i]:.0%})" if worths else ""
        sentences.append(f"{told[:1].upper()}{told[1:]}{share}.")
        carried += worths[i] if worths else 0.0
    if small:
        sentences.append(f"Smaller effects: {'; '.join(small)}.")
    return " ".join(sentences)


def describe(program: t.Head) -> list[str]:
    """Describe each simple term of a program (``tree.parts_of``) by a sentence, in source order."""
    teller = _Teller.of(program)
    return [teller.term(part) for term in program.terms for part in t.parts_of(term)]


def score_gloss(definition: t.ScoreDefinition, scope: Scope | None = None) -> str:
    """Say at which tokens a score is high, by the first of its lines: ``“the”, articles``."""
    teller = _Teller(scope or Scope({}, {}))
    lines = [line.condition for line in definition.terms if (line.weight or 0.0) > 0]
    told = dict.fromkeys(teller.tokens(line, "i") for line in lines[:SHOWN])
    return ", ".join(told) or "no token"


def function_gloss(name: str, scope: Scope) -> str:
    """Say what a function is, as it is told at its first use."""
    return _Teller(scope).named(name)[len(name) + 2 : -1]


@dataclass(slots=True)
class _Teller(Sentences):
    """Tells the terms of one program, and the tokens that they are about."""

    def term(self, term: t.Simple) -> str:
        """Tell a term: from which queries, how strongly, which keys, and by what it grows."""
        froms, keys, ifs, grows = (list[str]() for _ in range(4))
        size, but, graded = 1.0, "", False
        for one in t.flat(term.condition or t.Always(), t.And):
            if isinstance(one, t.Always):
                continue
            if t.free_variables(one) == {"q"} and not isinstance(one, t.Quantifier):
                froms.append(self.tokens(one, "q"))
            elif one == _NOT_ITSELF:
                but = f" except {self.anchors['q']} itself"
            elif not keys and (found := self.keys(one)):
                keys.append(found)
            else:
                ifs.append(self.says(one))
        if isinstance(term, t.Table):
            steps = (f"{number(e.weight)} from {e.bound}" for e in term.entries)
            grows.append(f"by {self.number(term.value)} ({', '.join(steps)})")
        value = term.value if isinstance(term, t.Scaled) else None
        for factor in (value.left, value.right) if isinstance(value, t.Product) else (value,):
            if isinstance(factor, t.Score):
                lines = self.scope.score(factor.name)[0].terms
                size *= max(abs(line.weight or 0.0) for line in lines)
                high = self.scored(factor)
                if factor.variable == "q":
                    froms.append(high)
                    graded = True
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
        return f"{lead}{self.verb(term, size, graded)} {keys[0] if keys else 'tokens'}{but}{where}{more}"

    def verb(self, term: t.Simple, size: float, graded: bool) -> str:
        """Put the sign and size of the weight in words; a score of the query changes what others do."""
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
        level = (abs(weight) >= 0.5) + (abs(weight) >= 2)
        if graded:
            return f"looks {_MUCH[level][0]}{'more' if weight > 0 else 'less'} at"
        return _MUCH[level][1] + ("looks at" if weight > 0 else "avoids")

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
                much = "smaller" if name == "inv" else "larger"
                return f"the more, the {much} {self.number(value)} ({_REALS[name]})"
            case t.Weight(symbol, chosen):
                return f"by the weight of {self.symbol(symbol)} among {self.members(chosen)}"
        return f"in proportion to {self.number(factor)}"

    def keys(self, one: t.Predicate) -> str:
        """Tell the keys of a condition as a noun; empty if it takes a sentence."""
        match one:
            case t.Compare(op, t.Position("k", 0), other) | t.Compare(
                "==" as op, other, t.Position("k", 0)
            ) if op in _SIDES and "k" not in t.free_variables(other):
                return _SIDES[op].format(self.place(other))
            case t.Between(t.Position("k", 0), low, high):
                return f"tokens {low} to {high} of the text"
            case t.Between(value, 0, high) if value == _DISTANCE:
                return f"the query and the {high} tokens before it"
            case t.Between(value, low, high) if value == _DISTANCE:
                return f"tokens {low} to {high} before the query"
            case t.Between(value, low, high) if value == _AHEAD:
                return f"tokens {low} to {high} after the query"
            case t.Compare(">=", value, t.Integer(n)) if value == _DISTANCE:
                return f"tokens at least {n} before the query"
            case t.Compare("==", t.Call(a, (t.Position("k", shift),)),
                           t.Call(b, (t.Position("q", at),))) if a == b:  # fmt: skip
                noun = self.noun(a).removeprefix("position of the ")
                how = f"with the same {noun}"
                if noun.endswith(" number"):
                    how = f"in the same {noun.removesuffix(' number')}"
                return self.shifted(f"tokens {how} as {self.place(t.Position('q', at))}", shift)
            case t.Compare("==", t.Shortened() as first, t.Shortened() as other):
                told = self.keys(t.Compare("==", first.value, other.value))
                if cut(first) == cut(other) and "with the same " in told:
                    return told.replace("with the same ", f"with the same {cut(first)} of the ")
        return self.tokens(one, "k") if t.free_variables(one) == {"k"} else ""

    def tokens(self, one: t.Predicate, variable: str) -> str:
        """Tell the tokens at which a predicate of one variable holds, in the plural."""
        match one:
            case t.Or(left, right):
                return f"{self.tokens(left, variable)} or {self.tokens(right, variable)}"
            case t.Call(name, (t.Position(_, shift),)) if name not in FEATURES:
                found = f"tokens where {self.named(name)} holds"
            case t.Call(name, (t.Position(_, shift),)):
                found = FEATURES[name].noun or f"tokens that {self.holds(name, plural=True)}"
            case t.Compare("==", t.Call(name, (t.Position(_, shift),)),
                           t.Text(text)) if (name in STRINGS and name != "word"):  # fmt: skip
                found = token(text)
            case t.Member(t.Call(name, (t.Position(_, shift),)), chosen) if name in STRINGS:
                found = self.members(chosen)
            case t.Affix(how, t.Call(name, (t.Position(_, shift),)), text) if name in STRINGS:
                found = f"tokens that {AFFIXES[how]} {token(text)}"
            case t.Compare("==" | ">=" as op, t.Call("length", (t.Position(_, shift),)), t.Integer(n)):
                found = f"tokens of length {n}{' or more' * (op == '>=')}"
            case _:
                what = "query" if variable == "q" else "token"
                return f"any {what} where {self.it(variable).says(one)}"
        return self.shifted(found, shift)

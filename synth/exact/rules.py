"""Rules: terms as the exact search works on them, products of an atom, tokens and conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.exact.atoms import AFFIX, ONE, SCALE, SHIFTS, TRUTH, VALUE, Atoms
from attn_dsl.synth.exact.pointed import Pointed, pointed_plane
from attn_dsl.synth.vocabulary import size

INLINE = 5
"""Sets of up to so many elements are written in place, larger ones get a name."""


@dataclass(frozen=True, slots=True)
class Atom:
    """One of the atoms: truth, value, interval of a scale, affix, pointed key, or all entries."""

    kind: int = ONE
    number: int = 0
    low: int = 0
    high: int = 0
    affix: tuple[str, str, str] = ("", "", "")
    pointed: Pointed | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Token strings, by symbol, at a shift; with ``weights`` they count differently."""

    shift: int
    symbols: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    def table(self, width: int) -> np.ndarray:
        """Return what each symbol counts; the last place is that of no symbol (-1)."""
        table = np.zeros(width + 1, dtype=np.float32)
        table[list(self.symbols)] = 1.0 if self.weights is None else self.weights
        return table


@dataclass(frozen=True, slots=True)
class Rule:
    """A term without its weight.

    Attributes:
        atom: what is true or counted of an entry.
        gap: a further interval of a scale.
        key, query: tokens that the key or the query must be.
        condition: on the query: its number in ``Atoms.conditions``, from the number of
            conditions on their negations; None for all queries.
    """

    atom: Atom = Atom()
    gap: Atom | None = None
    key: Choice | None = None
    query: Choice | None = None
    condition: int | None = None

    def side(self, which: str) -> Choice | None:
        """Return the tokens of one side, "key" or "query"."""
        return self.key if which == "key" else self.query

    def replace(self, which: str, choice: Choice | None) -> Rule:
        """Return the rule with other tokens on one side."""
        if which == "key":
            return dataclasses.replace(self, key=choice)
        return dataclasses.replace(self, query=choice)


def atom_plane(atoms: Atoms, atom: Atom) -> np.ndarray:
    """Compute the plane of an atom, float32 (entries)."""
    if atom.kind == TRUTH:
        return atoms.planes[atom.number].astype(np.float32)
    if atom.kind == VALUE:
        return atoms.curves[atom.number]
    if atom.kind == SCALE:
        scale, codes = atoms.scales[atom.number], atoms.codes[atom.number]
        low, high = atom.low - scale.low, atom.high - scale.low
        return ((codes >= low) & (codes <= high)).astype(np.float32)
    if atom.kind == AFFIX:
        kind, name, text = atom.affix
        arrays = atoms.words if name == "word" else atoms.texts
        return affix_table(atoms, kind, text)[arrays]
    if atom.pointed is not None:
        return pointed_plane(atoms, atom.pointed)
    return np.ones(len(atoms.row), dtype=np.float32)


def affix_table(atoms: Atoms, kind: str, text: str) -> np.ndarray:
    """Say which symbols start or end with a string, float32 (symbols)."""

    def table() -> np.ndarray:
        found = np.zeros(atoms.width, dtype=np.float32)
        for number, string in atoms.names.items():
            found[number] = string.startswith(text) if kind == "starts" else string.endswith(text)
        return found

    return atoms.affixes.get((kind, text), table)


def row_factor(atoms: Atoms, rule: Rule, queries: bool = True) -> np.ndarray | None:
    """Compute what a rule's plane is multiplied by on each row, float32 (rows)."""
    factor: np.ndarray | None = None
    if rule.condition is not None:
        half = len(atoms.conditions)
        held = atoms.rows[rule.condition % half]
        factor = held if rule.condition < half else 1.0 - held
    if queries and rule.query is not None:
        table = rule.query.table(atoms.width)[atoms.queries[SHIFTS.index(rule.query.shift)]]
        factor = table if factor is None else factor * table
    return factor


def plane(atoms: Atoms, rule: Rule, without: str = "") -> np.ndarray:
    """Compute a rule's plane, float32 (entries), ``without`` the tokens of "key" or "query"."""
    x = atom_plane(atoms, rule.atom)
    if rule.gap is not None:
        x = x * atom_plane(atoms, rule.gap)
    if rule.key is not None and without != "key":
        table = rule.key.table(atoms.width)[atoms.keys[SHIFTS.index(rule.key.shift)]]
        x = table if rule.atom.kind == ONE and rule.gap is None else x * table
    factor = row_factor(atoms, rule, without != "query")
    return x if factor is None else x * factor[atoms.row]


def literal(atoms: Atoms, choice: Choice) -> t.SetLiteral:
    """Write tokens as a set; of weights two digits after the point are kept."""
    elements = tuple(atoms.names[s] for s in choice.symbols)
    if choice.weights is None:
        return t.SetLiteral(elements)
    return t.SetLiteral(elements, tuple(round(float(w), 2) for w in choice.weights))


def _predicates(atoms: Atoms, rule: Rule) -> list[t.Predicate]:
    """Write all of a rule that is a predicate."""
    found: list[t.Predicate] = []
    for atom in (rule.atom, rule.gap):
        if atom is None:
            continue
        if atom.kind == TRUTH:
            found.append(atoms.truths[atom.number])
        elif atom.kind == SCALE:
            found.append(atoms.scales[atom.number].predicate(atom.low, atom.high))
        elif atom.kind == AFFIX:
            kind, name, text = atom.affix
            call = t.Call(name, (t.Position("k"),))
            found.append(t.Affix(kind, call, text))  # type: ignore[arg-type]
        elif atom.pointed is not None:
            found.append(_pointing(atoms, atom.pointed))
    for variable, choice in (("k", rule.key), ("q", rule.query)):
        if choice is not None and choice.weights is None:
            found.append(_member(atoms, t.Position(variable, choice.shift), choice))  # type: ignore[arg-type]
    if rule.condition is not None:
        half = len(atoms.conditions)
        held = atoms.conditions[rule.condition % half]
        found.append(held if rule.condition < half else negated(held))
    return found


def _member(atoms: Atoms, place: t.Position, choice: Choice) -> t.Predicate:
    """Write that the token at a place is one of some."""
    call = t.Call("token", (place,))
    if len(choice.symbols) == 1:
        return t.Compare("==", call, t.Text(atoms.names[choice.symbols[0]]))
    return t.Member(call, literal(atoms, choice))


def _pointing(atoms: Atoms, pointed: Pointed) -> t.Predicate:
    """Write that the key is the one that is found by its token, or from there on."""
    key, query = t.Position("k"), t.Position("q")
    body = _member(atoms, key, Choice(0, pointed.symbols))
    if pointed.before:
        body = t.And(body, t.Compare("<", key, query))
    return t.Compare(pointed.op, key, t.Quantifier(pointed.which, body))  # type: ignore[arg-type]


def negated(predicate: t.Predicate) -> t.Predicate:
    """Write that a predicate does not hold, a comparison the other way round."""
    if isinstance(predicate, t.Compare) and predicate.op == ">=":
        return dataclasses.replace(predicate, op="<")
    return t.Not(predicate)


def term(atoms: Atoms, rule: Rule, weight: float | None) -> t.Term:
    """Write a rule as a term."""
    factors: list[t.Factor] = []
    for variable, choice in (("q", rule.query), ("k", rule.key)):
        if choice is not None and choice.weights is not None:
            call = t.Call("token", (t.Position(variable, choice.shift),))  # type: ignore[arg-type]
            factors.append(t.Weight(call, literal(atoms, choice)))
    if rule.atom.kind == VALUE:
        factors.append(atoms.values[rule.atom.number])  # type: ignore[arg-type]
    predicates = _predicates(atoms, rule)
    condition: t.Predicate | None = None
    for p in predicates:
        condition = p if condition is None else t.And(condition, p)
    if not factors:
        return t.Where(weight, condition or t.Always())
    value: t.Value = factors[0] if len(factors) == 1 else t.Product(factors[0], factors[1])
    return t.Scaled(weight, value, condition)


def nodes(atoms: Atoms, rule: Rule) -> int:
    """Count a rule's nodes."""
    return atoms.sizes.get(rule, lambda: size(term(atoms, rule, None)))


def allowed(rule: Rule) -> bool:
    """Say whether a rule can be written: a product has two factors at the most."""
    graded = [c for c in (rule.key, rule.query) if c is not None and c.weights is not None]
    return len(graded) + int(rule.atom.kind == VALUE) <= 2


def terms(atoms: Atoms, rules: Sequence[Rule], weights: Sequence[float]) -> list[t.Term]:
    """Write rules with their weights as terms; intervals of one scale become a table if shorter."""
    groups: dict[tuple, list[int]] = {}
    found: list[t.Term | None] = []
    for i, (rule, weight) in enumerate(zip(rules, weights, strict=True)):
        found.append(term(atoms, rule, weight))
        if rule.atom.kind == SCALE and rule.gap is None and rule.key is None:
            groups.setdefault((rule.atom.number, rule.query, rule.condition), []).append(i)
    for (number, _, _), members in groups.items():
        if len(members) < 2 or rules[members[0]].query is not None:
            continue
        table = _table(atoms, number, [rules[i] for i in members], [weights[i] for i in members])
        longer = sum(size(x) for i in members if (x := found[i]) is not None)
        if size(table) <= longer:
            found[members[0]] = table
            for i in members[1:]:
                found[i] = None
    return [x for x in found if x is not None]


def _table(atoms: Atoms, number: int, rules: list[Rule], weights: list[float]) -> t.Table:
    """Add up weighted intervals of one scale."""
    scale = atoms.scales[number]
    steps = np.zeros(scale.high - scale.low + 2)
    for rule, weight in zip(rules, weights, strict=True):
        steps[rule.atom.low - scale.low] += weight
        if rule.atom.high < scale.high:
            steps[rule.atom.high + 1 - scale.low] -= weight
    sums = np.cumsum(steps)
    sums -= sums[0]  # all steps may be moved together: the rows stay the same
    entries, before = [], 0.0
    for at, value in enumerate(sums):
        if abs(value - before) > 1e-9:
            entries.append(t.Entry(scale.low + at, round(float(value), 6)))
            before = value
    predicates = _predicates(atoms, dataclasses.replace(rules[0], atom=Atom()))
    return t.Table(scale.value, tuple(entries), predicates[0] if predicates else None)


def name_sets(program: t.Head) -> t.Head:
    """Give names to the large sets of a program, as in ``Keys1`` and ``Queries1``."""
    sets = list(program.sets)
    known = {d.value: d.name for d in sets}

    def named(call: t.Call, chosen: t.SetLiteral) -> t.SetName:
        if chosen not in known:
            position = call.args[0]
            query = isinstance(position, t.Position) and position.variable == "q"
            stem = "Queries" if query else "Keys"
            taken = {d.name for d in sets}
            free = next(i for i in range(1, len(sets) + 2) if f"{stem}{i}" not in taken)
            known[chosen] = f"{stem}{free}"
            sets.append(t.SetDefinition(known[chosen], chosen))
        return t.SetName(known[chosen])

    def visit(node: t.Node) -> t.Node:
        if isinstance(node, t.Member | t.Weight) and isinstance(node.set, t.SetLiteral):
            if len(node.set.elements) <= INLINE:
                return node
            return dataclasses.replace(node, set=named(node.value, node.set))
        return node

    found = tuple(t.rewrite(term, visit) for term in program.terms)
    return dataclasses.replace(program, terms=found, sets=tuple(sets))

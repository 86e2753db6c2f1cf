"""Kinds of attention: what a term does in the field's words, by rules over its tree."""

from collections.abc import Callable, Sequence

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.expand import expand
from attn_dsl.dsl.scope import Scope

KINDS = ("syntactic", "first-token sink", "previous token", "induction", "same word", "duplicate token",
         "delimiter", "lexical set", "local", "positional", "mixed", "uniform")  # fmt: skip
"""The kinds; of those that the parts of a term have, the first one is that of the term."""
_NAMED = {
    "syntactic": "upos dep lemma syntax_head",
    "same word": "word_index word_first word_last piece",
    "duplicate token": "seen repeats previous word_repeats word_previous match",
    "delimiter": "special punct space newline sentence_start sentence_final line_start opens closes "
    "closed opener quoted quote_first depth",
    "local": "sentence sentence_first line line_first indent paragraph",
    "positional": "text_final from_end n",
}
_KIND_OF = {name: kind for kind, names in _NAMED.items() for name in names.split()}
"""The kinds of features; all others read what a token is made of."""
_SOME = 64  # how many positions, and distances either way, a comparison of positions is tried on


def kind(term: t.Simple, scope: Scope) -> str:
    """Return the kind of a term: what decides which keys it is about.

    >>> from attn_dsl.dsl.parser import parse_term
    >>> kind(parse_term("2 where text(k-1) == text(q)"), Scope({}, {}))
    'induction'
    """
    term = expand(term, scope)
    condition, value = getattr(term, "condition", None), getattr(term, "value", None)
    atoms = [one for one in (*_atoms(condition), *_atoms(value)) if "k" in t.free_variables(one)]
    denied = [isinstance(x, t.Not) or (isinstance(x, t.Compare) and x.op == "!=") for x in atoms]
    holds = [one for one, no in zip(atoms, denied, strict=True) if not no]
    found = [_atom_kind(atom, scope) for atom in holds or atoms]
    return min(found, key=KINDS.index, default="mixed")


def kind_shares(program: t.Head, worths: Sequence[float]) -> dict[str, float]:
    """Return the share of each kind of attention in a program, the largest first."""
    scope, found = Scope.of(program), dict[str, float]()
    parts = [part for term in program.terms for part in t.parts_of(term)]
    for part, worth in zip(parts, worths, strict=True):
        if worth > 0:
            name = kind(part, scope)
            found[name] = found.get(name, 0.0) + worth
    return dict(sorted(found.items(), key=lambda item: -item[1])) or {"uniform": 1.0}


def category(shares: dict[str, float]) -> str:
    """Return the kind that carries at least half of a program, or else ``mixed``."""
    name, share = next(iter(shares.items()))
    return name if share >= 0.5 else "mixed"


def told_shares(shares: dict[str, float]) -> str:
    """Write shares in words: ``first-token sink 0.6, local 0.3``; those below 0.05 are left out."""
    return ", ".join(f"{name} {share:.2g}" for name, share in shares.items() if share >= 0.05)


def linear(node: t.Node, other: Callable[[t.Node], str] | None = None) -> dict[str, int] | None:
    """Return an integer as multiples of variables, and of 1 by the name ``""``.

    Other integers in it count as variables that ``other`` names; without it, the result is then None.
    """
    match node:
        case t.Integer(value):
            return {"": value}
        case t.Position(variable, shift):
            return {variable: 1, "": shift}
        case t.Arithmetic(op, left, right):
            a, b, sign = linear(left, other), linear(right, other), 1 if op == "+" else -1
            if a is not None and b is not None:
                return {name: a.get(name, 0) + sign * b.get(name, 0) for name in {*a, *b}}
    return {other(node): 1} if other else None


def _atoms(node: t.Node | None) -> list[t.Node]:
    """Return the predicates and factors that a condition or value joins."""
    if isinstance(node, t.And | t.Or | t.Product):
        return [*_atoms(node.left), *_atoms(node.right)]
    return [] if node is None else [node]


def _atom_kind(atom: t.Node, scope: Scope) -> str:
    """Return the kind of one predicate or factor in which ``k`` is free."""
    atom = t.rewrite(atom, lambda node: node.value if isinstance(node, t.Shortened) else node)
    calls = [node for node in atom.walk() if isinstance(node, t.Call)]
    names = {_KIND_OF.get(call.name, "lexical set") for call in calls}
    if "syntactic" in names:
        return "syntactic"
    for call in calls:
        if call.name == "match":
            shifts = {at.variable: at.shift for at in call.args if isinstance(at, t.Position)}
            return "induction" if shifts.get("k", 0) < shifts.get("q", 0) else "duplicate token"
    match atom:
        case t.Score(name):
            definition, file = scope.score(name)
            return _score_kind(definition, scope.inside(file))
        case t.Member(_, chosen) | t.Weight(_, chosen):
            elements = scope.literal(chosen).elements
            marks = sum(not any(map(str.isalnum, element)) for element in elements)
            return "delimiter" if marks > len(elements) / 2 else "lexical set"
        case t.Affix(_, _, text) | t.Compare(_, _, t.Text(text)):
            return "lexical set" if any(map(str.isalnum, text)) or not text else "delimiter"
        case t.Compare(op, t.Call(first, (t.Position(a, i),)), t.Call(second, (t.Position(b, j),))) if a != b:
            same = op in ("==", "!=")
            known = _KIND_OF.get(first, "duplicate token" if same else "lexical set")
            i, j = i - (first == "word_before"), j - (second == "word_before")
            later = j > i if a == "k" else i > j
            return "induction" if known == "duplicate token" and later and op == "==" else known
        case t.Compare():
            return _compared(atom, scope)
        case t.Between(value, low, high) if not calls:
            if (form := linear(value)) is not None:
                return _where(form, lambda x: low <= x <= high)
    if calls:
        return min(names, key=KINDS.index)
    return "local" if "q" in t.free_variables(atom) else "positional"


def _compared(atom: t.Compare, scope: Scope) -> str:
    """Return the kind of a comparison of integers."""
    op, left, right = atom.op, atom.left, atom.right
    form = linear(t.Arithmetic("-", left, right))  # type: ignore[arg-type]
    if form is not None:
        return _where(form, lambda x: bool(t.COMPARE[op](x, 0)))
    if op not in ("==", "!=") and "k" in {*(linear(left) or ()), *(linear(right) or ())}:
        return "local"
    calls = [n for n in atom.walk() if isinstance(n, t.Call)]
    after = 0
    for side, sign in ((left, -1), (right, 1)):
        match side:
            case t.Position("k", shift) | t.Arithmetic(_, _, t.Integer(shift)):
                back = isinstance(side, t.Arithmetic) and side.op == "-"
                after += -sign * shift if back else sign * shift
    inner = [n for n in atom.walk() if isinstance(n, t.Quantifier | t.Search)]
    found = [_atom_kind(atom, scope) for one in inner for atom in _atoms(one.body)]
    found += [] if inner else [_KIND_OF.get(call.name, "lexical set") for call in calls]
    default = "local" if "q" in t.free_variables(atom) else "positional"
    name = min(found, key=KINDS.index, default=default)
    if name == "same word" and any(isinstance(one, t.Arithmetic) for one in (left, right)):
        return "local"
    return "induction" if name == "duplicate token" and after > 0 else name


def _where(form: dict[str, int], test: Callable[[int], bool]) -> str:
    """Return the kind of a test of an integer that is linear in positions."""
    k, q, one = form.get("k", 0), form.get("q", 0), form.get("", 0)
    if not q:
        first = [x for x in range(_SOME) if test(k * x + one)] == [0]
        return "first-token sink" if first else "positional"
    far = range(-_SOME, _SOME + 1)  # q - k
    there = [d for d in far if test((k + q) * _SOME + q * d + one)]
    return "previous token" if there == [1] else "local"


def _score_kind(definition: t.ScoreDefinition, scope: Scope) -> str:
    """Return the kind of most of what a score holds, by weight: delimiters, or other tokens."""
    weights = {"delimiter": 0.0, "lexical set": 0.0}
    for line in definition.terms:
        kinds = [_atom_kind(atom, scope) for atom in _atoms(expand(line.condition, scope))]
        name = "delimiter" if kinds and all(x == "delimiter" for x in kinds) else "lexical set"
        weights[name] += abs(line.weight or 0.0)
    return max(weights, key=weights.__getitem__)

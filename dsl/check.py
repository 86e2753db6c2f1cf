"""The checker: names, types, causality, complexity and cost of a program, before it runs."""

import importlib.util
import itertools
from dataclasses import dataclass

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.cost import cost
from attn_dsl.dsl.errors import (
    CausalityError,
    CostError,
    ProgramError,
    ProgramErrors,
    ProgramTypeError,
    did_you_mean,
)
from attn_dsl.dsl.expand import expand, expanded_size, looks_ahead, score_reads
from attn_dsl.dsl.features import FEATURES, Type
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.limits import (
    MAX_COST,
    MAX_DEFINITIONS,
    MAX_ELEMENT_WEIGHT,
    MAX_EXPANDED,
    MAX_INTEGER,
    MAX_LENGTH,
    MAX_LEVELS,
    MAX_NODES,
    MAX_WEIGHT,
)
from attn_dsl.dsl.printer import expression, number, quote
from attn_dsl.dsl.scope import Scope, type_of
from attn_dsl.dsl.syntax_errors import RESERVED, reserved

PROPERTIES = {"causal": ("",), "invariant_to": ("case",)}
"""The names of properties besides ``mass``, and what may follow each."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checker knows of a valid program.

    A causal program has ``lookahead`` features only with ``allow_lookahead``; every report of such
    a program must say so.
    """

    nodes: int  # its complexity, see ``tree.nodes``
    cost: int  # operations per pair of query and key
    holes: int  # number of weights still to be fitted
    lookahead: tuple[str, ...]  # of a causal program: its features that read the whole text


def check(program: t.Head, *, source: str = "", name: str = "<program>", allow_lookahead: bool = False,
          max_nodes: int = MAX_NODES) -> Facts:  # fmt: skip
    """Check a parsed program; return its complexity, cost, holes and lookahead features.

    >>> from attn_dsl.dsl.parser import parse
    >>> check(parse("head a causal:\\n 2 where text(k-1) == text(q)"))
    Facts(nodes=7, cost=4, holes=0, lookahead=())

    Args:
        source, name: the text and the name of the program, for messages.
        allow_lookahead: whether a causal program may use features that read the whole text.
        max_nodes: the largest complexity.

    Raises:
        ProgramError: the program is not valid. The subclass says why: ``ProgramTypeError``,
            ``CausalityError`` or ``CostError``; ``ProgramErrors`` if there are several errors.
    """
    checker = _Checker(program, source, name, allow_lookahead)
    checker.run()
    size = t.nodes(program)
    price = 0 if checker.errors else cost(program)
    if size > max_nodes:
        checker.wrong(program, f"the program has {size:,} nodes; at most {max_nodes:,} are allowed",
                      "drop terms or set elements, or raise --max-nodes", CostError)  # fmt: skip
    if price > MAX_COST:
        checker.wrong(program,
                      f"the program needs {price:,} operations per query and key; {MAX_COST:,} are allowed",
                      "drop terms, or use sets instead of long chains of comparisons", CostError)  # fmt: skip
    if checker.errors:
        raise checker.errors[0] if len(checker.errors) == 1 else ProgramErrors(checker.errors)
    holes = sum(weight is None for weight in program.weights)
    return Facts(size, price, holes, tuple(sorted(checker.lookahead)))


class _Checker:
    def __init__(self, program: t.Head, source: str, name: str, allow_lookahead: bool) -> None:
        self.program, self.source, self.name = program, source, name
        self.allow_lookahead = allow_lookahead
        self.errors: list[ProgramError] = []
        self.lookahead: set[str] = set()
        self.scope = Scope.of(program)
        # of the functions that are known so far: types, depth, size and what of them reads the whole text
        self.types: dict[str, Type] = {}
        self.levels: dict[str, int] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self.whole: dict[str, set[str]] = {}
        self.seen: set[str] = set()  # those of files that are checked
        self.variables = "qk"  # the positions that are known in the current term

    def wrong(self, node: t.Node, message: str, hint: str = "",
              kind: type[ProgramError] = ProgramTypeError) -> None:  # fmt: skip
        self.errors.append(kind(message, node.span, self.source, hint=hint, name=self.name))

    def run(self) -> None:
        definitions: list[t.SetDefinition | t.ScoreDefinition] = [
            *self.program.sets, *self.program.scores]  # fmt: skip
        names = [one.name for one in definitions]
        for use in self.program.uses:
            for function in use.definitions.functions.values():
                self.learn(function)
        for i, name in enumerate(names):
            if name in names[:i]:
                self.wrong(definitions[i], f"`{name}` is defined twice",
                           "rename one of them, or join what they hold")  # fmt: skip
        for use, other in itertools.combinations(self.program.uses, 2):
            one, two = ({*u.definitions.sets, *u.definitions.scores, *u.definitions.functions}
                        for u in (use, other))  # fmt: skip
            if name := min(one & two, default=""):
                self.wrong(other, f"`{name}` is also defined in {quote(use.path)}",
                           "rename it in one of the files, or use only one of them")  # fmt: skip
        for one_set in self.program.sets:
            self.weighted(one_set.value)
        self.variables = "i"
        self.functions()
        lines = (line for score in self.program.scores for line in score.terms)
        sizes = [(expanded_size(one, self.sizes)[0], one) for one in (*lines, *self.program.terms)]
        if (size := sum(one for one, _ in sizes)) > MAX_EXPANDED and self.sizes and not self.errors:
            self.large(max(sizes, key=lambda pair: pair[0])[1], "the program", size)
        for score in self.program.scores:
            for line in score.terms:
                self.graded(line, line.weight, "a score", "; multiply the score by a larger number")
                self.nodes(line)
                self.steady(line)
        self.variables = "qk"
        for term in self.program.terms:
            self.term(term)
            self.nodes(term)
        for claim in self.program.properties:
            self.property(claim)

    def property(self, one: t.Property | t.MassProperty) -> None:
        """Check a property."""
        if isinstance(one, t.MassProperty):
            self.nodes(one)
            if not 0 <= one.bound <= 1:
                self.wrong(one, f"a mass lies between 0 and 1, and {number(one.bound)} does not",
                           "write a share of a query's attention, as in `mass >= 0.5 on k == 0`")  # fmt: skip
            if one.condition is not None and "k" in t.free_variables(one.condition):
                self.wrong(one.condition, "`where` says for which queries the mass is bounded, and has `k`",
                           "write what holds for keys after `on`, joined by `and`")  # fmt: skip
        elif (arguments := PROPERTIES.get(one.name)) is None:
            self.wrong(one, f"unknown property `{one.name}`",
                       did_you_mean(one.name, [*PROPERTIES, "mass"])
                       or "write `causal`, `invariant_to case` or `mass >= 0.5 on …`")  # fmt: skip
        elif one.argument not in arguments:
            known = [
                f"`property {one.name} {argument}`".replace(" `", "`") for argument in arguments
            ]
            what = f"`{one.name}` cannot be followed by `{one.argument}`" if one.argument else (
                f"`{one.name}` does not say to what")  # fmt: skip
            self.wrong(one, what, f"write {' or '.join(known)}")
        elif one.name == "causal" and not self.program.causal:
            self.wrong(one, "a bidirectional head sees what follows, so it is not causal",
                       "make the head causal, or leave the property out", CausalityError)  # fmt: skip

    def functions(self) -> None:
        """Check the definitions of functions; each may use those before it."""
        own = self.program.functions
        if len(own) > MAX_DEFINITIONS:
            self.wrong(own[MAX_DEFINITIONS],
                       f"{len(own):,} functions are defined; at most {MAX_DEFINITIONS} may be",
                       "move those that a program does not use to another file", CostError)  # fmt: skip
        for one in own:
            if one.name in RESERVED:
                self.wrong(one, reserved(one.name), "call the function by another name")
            elif one.name in self.types:
                files = [u.path for u in self.program.uses if one.name in u.definitions.functions]
                where = f"also defined in {quote(files[0])}" if files else "defined twice"
                self.wrong(one, f"`{one.name}` is {where}", "rename one of them")
            elif all(n.name in self.types or n.name in FEATURES for n in one.walk()
                     if isinstance(n, t.Call)):  # fmt: skip
                self.learn(one)
                if any(isinstance(error, CostError) for error in self.errors):
                    continue  # those that use it are too large as well
                if self.levels[one.name] > MAX_LEVELS:
                    self.wrong(one, f"`{one.name}` uses functions {self.levels[one.name]} levels deep; "
                               f"at most {MAX_LEVELS} are allowed",
                               "define it by features, or by fewer steps", CostError)  # fmt: skip
                elif (size := self.sizes[one.name][0]) > MAX_EXPANDED:
                    self.large(one, f"`{one.name}`", size)
            self.nodes(one.value)

    def large(self, node: t.Node, what: str, size: int) -> None:
        much = f"{size:,}" if size < 10**12 else "more than 10^12"
        self.wrong(node,
                   f"{what} has {much} nodes where functions are written out; {MAX_EXPANDED:,} are allowed",
                   "use functions fewer times, and not inside of one another", CostError)  # fmt: skip

    def learn(self, one: t.Definition) -> None:
        """Note what is to be known of a function where it is used."""
        calls = {n.name for n in one.walk() if isinstance(n, t.Call)}
        used = calls & self.levels.keys()
        self.types[one.name] = type_of(one.value, self.types)
        self.levels[one.name] = 1 + max((self.levels[name] for name in used), default=0)
        self.sizes[one.name] = expanded_size(one.value, self.sizes)
        full = {name for name in calls & FEATURES.keys() if FEATURES[name].reads == "full"}
        self.whole[one.name] = full.union(*(self.whole[name] for name in used))

    def nodes(self, term: t.Node) -> None:
        """Check each node of a term or of a definition."""
        pending = [term]
        while pending:
            node = pending.pop()
            self.node(node)
            if isinstance(node, t.Search):
                outer, self.variables = self.variables, "ij"
                self.nodes(node.body)
                self.variables = outer
                pending.append(node.at)
                if not self.errors and self.program.causal and not node.backwards:
                    self.search(node, expand(node, self.scope))
            else:
                pending += node.children()[::-1]

    def steady(self, line: t.Where) -> None:
        """Check that a line of a score, in a causal program, reads nothing after its position."""
        if self.errors or not self.program.causal:
            return
        if looks_ahead(expand(line, self.scope)):
            self.later(line, f"`{expression(line.condition)}`")

    def term(self, term: t.Term) -> None:
        for part, weight in ((x, w) for x in t.parts_of(term) for w in t.weights_of(x) if w):
            if abs(weight) > MAX_WEIGHT:
                self.wrong(part, f"the weight {weight:g} is out of range",
                           f"weights lie between {-MAX_WEIGHT:g} and {MAX_WEIGHT:g}")  # fmt: skip
            elif weight < 0 and self.program.normaliser == "linear":
                self.wrong(part, f"a linear program has masses, and {weight:g} is negative",
                           "use softmax, where weights are logits, or a weight of at least 0")  # fmt: skip
        if isinstance(term, t.Sum):
            if len(term.parts) < 2:
                self.wrong(term, "a sum has two parts or more", "make one part a simple term")
            if term.condition is None and not all(part.value for part in term.parts):
                self.wrong(term, "a weight alone counts for all keys alike",
                           "say for which keys, as in `where k == 0`")  # fmt: skip
        if isinstance(term, t.Table):
            bounds = [entry.bound for entry in term.entries]
            if bounds != sorted(set(bounds)):
                self.wrong(term, "the steps of a table must rise",
                           f"write them as {', '.join(map(str, sorted(set(bounds))))}")  # fmt: skip

    def node(self, node: t.Node) -> None:
        match node:
            case t.Call(name, args):
                self.call(node, name, len(args))
            case t.SetName(name):
                self.set_name(node, name)
            case t.SetLiteral():
                self.weighted(node)
            case t.Modulo(_, modulus) if not 1 <= modulus <= MAX_INTEGER:
                self.wrong(node, f"the modulus {modulus} is out of range",
                           f"divide by a whole number from 1 to {MAX_INTEGER}, as in `k % 2`")  # fmt: skip
            case t.Shortened(name, _, length) if name != "stem" and not 1 <= length <= MAX_LENGTH:
                self.wrong(node, f"a {name} of {length} characters is out of range",
                           f"write a length from 1 to {MAX_LENGTH}, as in `{name}(word(k), 4)`")  # fmt: skip
            case (t.Member(t.Call(name)) | t.Affix(_, t.Call(name)) | t.Weight(t.Call(name))
                   | t.Shortened(_, t.Call(name))):  # fmt: skip
                known = name in FEATURES or name in self.types
                if known and type_of(t.Call(name, ()), self.types) != "symbol":
                    self.wrong(node, f"`{name}` is no text feature",
                               "use one such as text(k), token(k) or word(k)")  # fmt: skip
            case t.Position(variable, shift):
                self.place(node, variable, shift)
            case t.Integer(value) | t.Entry(value, _):
                self.bounded(node, value)
            case t.Between(_, low, high):
                self.bounded(node, low)
                self.bounded(node, high)
                if low > high:
                    self.wrong(node, f"the range {low}..{high} is empty", f"write {high}..{low}")
            case t.Real(name) if name not in FUNCTIONS:
                self.wrong(node, f"unknown function `{name}`", did_you_mean(name, FUNCTIONS))
            case t.Score(name, variable, shift):
                self.place(node, variable, shift)
                self.score(node, name)
            case t.Quantifier(name) if self.variables != "qk":
                self.wrong(node, f"`{name}(…)` searches the keys of a query, and here is none",
                           f"search positions: `{name}(j <= i where …)`")  # fmt: skip
            case t.Decay(_, rate) if not 0 < rate < 1:
                self.wrong(node, f"the rate {rate:g} is not between 0 and 1")
            case _:
                pass

    def search(self, node: t.Node, search: t.Search) -> None:
        """Check that what a causal search over all positions compares stays the same for later queries."""
        pending: list[t.Node] = [search.body]
        while pending:
            part = pending.pop()
            at: list[t.Int] = []
            changes = False
            if isinstance(part, t.Search):
                at, changes = [part.at], not part.backwards
            elif isinstance(part, t.Call):
                at, changes = list(part.args), FEATURES[part.name].reads == "visible"
            else:
                pending += part.children()
            if isinstance(part, t.Search | t.Call) and (
                    changes or not all(isinstance(x, t.Position) and x.shift <= 0 for x in at)):  # fmt: skip
                self.wrong(node, f"what it finds at `{part.name}` may change with each query, so that this "
                           "search over all positions would be made anew for each",
                           "search `j <= i`, which sees what a query at `i` does, or compare features "
                           "that read to the left", CostError)  # fmt: skip
                return

    def weighted(self, node: t.SetLiteral) -> None:
        """Check the weights of a set's elements."""
        pairs = list(zip(node.elements, node.weights or (), strict=False))
        for (one, first), (other, second) in itertools.pairwise(pairs):
            if one == other:
                both = f"{number(first)} and {number(second)}"
                self.wrong(node, f"{quote(one)} has two weights, {both}", "keep one of them")
        for element, weight in pairs:
            self.graded(node, weight, quote(element), "; multiply `weight(…)` by a larger number")

    def graded(self, node: t.Node, weight: float | None, owner: str, remedy: str) -> None:
        """Check the weight of an element of a set or of a line of a score."""
        if weight is None:
            self.wrong(node, f"a weight of {owner} is a hole", "only weights of terms are fitted")
        elif not abs(weight) <= MAX_ELEMENT_WEIGHT:
            self.wrong(node, f"the weight {weight:g} of {owner} is out of range",
                       f"such weights lie between {-MAX_ELEMENT_WEIGHT:g} and "
                       f"{MAX_ELEMENT_WEIGHT:g}{remedy}")  # fmt: skip
        elif round(100 * weight) / 100 != weight:
            what = f"the weight {number(weight)} of {owner}"
            self.wrong(node, f"{what} has more than two digits after the point",
                       f"write {number(round(100 * weight) / 100)}")  # fmt: skip

    def set_name(self, node: t.Node, name: str) -> None:
        found, _ = self.scope.find(name)
        if found is None:
            near = did_you_mean(name, self.scope.names())
            self.wrong(node, f"unknown set `{name}`",
                       near or f'define it above the head: set {name} = {{"…"}}')  # fmt: skip
        elif isinstance(found, t.ScoreDefinition):
            self.wrong(node, f"`{name}` is a score, not a set",
                       f"multiply it in a term: `1 * {name}(k)`")  # fmt: skip

    def score(self, node: t.Score, name: str) -> None:
        """Check the use of a score."""
        found, file = self.scope.find(name)
        if found is None:
            near = did_you_mean(name, self.scope.names())
            remedy = "define it above the head, or `use` a file that does"
            self.wrong(node, f"unknown score `{name}`", f"{near} Or {remedy}" if near else remedy)
        elif isinstance(found, t.SetLiteral):
            at = t.Position(node.variable, node.shift)
            form = f"weight(token({expression(at)}), {name})"
            self.wrong(node, f"`{name}` is a set, not a score", f"write `{form}`")
        elif file is not None and self.program.causal:
            full, later = score_reads(file, name)
            for feature in full:
                self.full(node, f"the score `{name}` has `{feature}`, which", feature)
            if later:
                self.later(node, f"the score `{name}`")

    def place(self, node: t.Node, variable: str, shift: int) -> None:
        self.bounded(node, shift)
        if variable not in self.variables:
            remedy = "write `i`, the position that is defined for"
            if variable == "j":
                remedy = "`j` is the position that a search is over: `count(j <= k where …)`"
            elif self.variables == "ij":
                remedy = "a search is for one position besides `j`; compare its result with others outside"
            elif variable == "i":
                remedy = "`i` is the position in a definition; in a term, write `q` or `k`"
            self.wrong(node, f"`{variable}` does not fit here", remedy)

    def bounded(self, node: t.Node, value: int) -> None:
        if abs(value) > MAX_INTEGER:
            self.wrong(node, f"the number {value} is out of range",
                       f"whole numbers lie between {-MAX_INTEGER} and {MAX_INTEGER}")  # fmt: skip

    def call(self, node: t.Call, name: str, arity: int) -> None:
        feature = FEATURES.get(name)
        if name in self.types and arity == 1:
            self.function(node, name)
            return
        if feature is None or feature.arity != arity:
            what = f"unknown feature `{name}` of {arity} positions"
            self.wrong(node, what, did_you_mean(name, [*FEATURES, *self.types]))
            return
        if feature.reads == "full" and self.program.causal:
            self.full(node, f"`{name}`", name)
        if feature.extra and importlib.util.find_spec(feature.extra) is None:
            self.wrong(node, f"`{name}` needs the optional package {feature.extra}",
                       f"pip install 'attn-dsl[{feature.extra}]'")  # fmt: skip

    def function(self, node: t.Call, name: str) -> None:
        """Check the use of a function; those of the program itself are checked where they are defined."""
        _, file = self.scope.function(name)
        if file is None or not self.program.causal or name in self.seen:
            return
        self.seen.add(name)
        for feature in sorted(self.whole[name]):
            self.full(node, f"the function `{name}` has `{feature}`, which", feature)
        for part in expand(t.Call(name, (t.Position("i"),)), self.scope).walk():
            if isinstance(part, t.Search) and not part.backwards:
                self.search(node, part)

    def full(self, node: t.Node, what: str, feature: str) -> None:
        """Note that a causal program reads the whole text."""
        self.lookahead.add(feature)
        if not self.allow_lookahead:
            self.future(node, f"{what} reads the whole text",
                        "use a feature that reads to the left, make the head bidirectional, or pass "
                        "--allow-lookahead (the program is then marked)")  # fmt: skip

    def later(self, node: t.Node, what: str) -> None:
        self.future(node, f"{what} reads after its position",
                    "read at `i` or before it, or make the head bidirectional")  # fmt: skip

    def future(self, node: t.Node, what: str, hint: str) -> None:
        seen = "and a causal head sees only what comes before"
        self.wrong(node, f"{what}, {seen}", hint, CausalityError)

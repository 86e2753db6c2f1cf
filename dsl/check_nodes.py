"""The checks of the nodes of a program: names, ranges, types, and what reads ahead."""

import importlib.util
import itertools

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.errors import (
    CausalityError,
    CostError,
    ProgramError,
    ProgramTypeError,
    did_you_mean,
)
from attn_dsl.dsl.expand import expand, score_reads
from attn_dsl.dsl.features import FEATURES, Type
from attn_dsl.dsl.functions import FUNCTIONS
from attn_dsl.dsl.limits import MAX_ELEMENT_WEIGHT, MAX_INTEGER, MAX_LENGTH
from attn_dsl.dsl.printer import expression, number, quote
from attn_dsl.dsl.scope import Scope, type_of


class NodeChecker:
    """Checks nodes of a program, and collects ``errors``."""

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
        """Note an error."""
        self.errors.append(kind(message, node.span, self.source, hint=hint, name=self.name))

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

    def node(self, node: t.Node) -> None:
        """Check one node."""
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
        """Check the name of a set."""
        found, _ = self.scope.find(name)
        if found is None:
            near = did_you_mean(name, self.scope.names())
            self.wrong(node, f"unknown set `{name}`",
                       near or f'define it above the head: set {name} = {{"…"}}')  # fmt: skip
        elif isinstance(found, t.ScoreDefinition):
            self.wrong(node, f"`{name}` is a score, not a set", f"multiply it in a term: `1 * {name}(k)`")

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
        """Check a position."""
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
        """Check the range of a whole number."""
        if abs(value) > MAX_INTEGER:
            self.wrong(node, f"the number {value} is out of range",
                       f"whole numbers lie between {-MAX_INTEGER} and {MAX_INTEGER}")  # fmt: skip

    def call(self, node: t.Call, name: str, arity: int) -> None:
        """Check the use of a feature or function."""
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
        """Note that something reads after its position."""
        self.future(node, f"{what} reads after its position",
                    "read at `i` or before it, or make the head bidirectional")  # fmt: skip

    def future(self, node: t.Node, what: str, hint: str) -> None:
        """Note that something sees what comes after it."""
        seen = "and a causal head sees only what comes before"
        self.wrong(node, f"{what}, {seen}", hint, CausalityError)

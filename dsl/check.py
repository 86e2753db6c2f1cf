"""The checker: names, types, causality, complexity and cost of a program, before it runs."""

import itertools
from dataclasses import dataclass

from attn_dsl.dsl import limits
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check_nodes import NodeChecker
from attn_dsl.dsl.cost import cost
from attn_dsl.dsl.errors import CausalityError, CostError, ProgramErrors, did_you_mean
from attn_dsl.dsl.expand import expand, expanded_size, looks_ahead
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.printer import expression, number, quote
from attn_dsl.dsl.scope import type_of
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
          max_nodes: int = limits.MAX_NODES) -> Facts:  # fmt: skip
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
    if price > limits.MAX_COST:
        checker.wrong(program,
                      f"the program needs {price:,} operations per query and key; "
                      f"{limits.MAX_COST:,} are allowed",
                      "drop terms, or use sets instead of long chains of comparisons", CostError)  # fmt: skip
    if checker.errors:
        raise checker.errors[0] if len(checker.errors) == 1 else ProgramErrors(checker.errors)
    holes = sum(weight is None for weight in program.weights)
    return Facts(size, price, holes, tuple(sorted(checker.lookahead)))


class _Checker(NodeChecker):
    """Checks a whole program."""

    def run(self) -> None:
        definitions: list[t.SetDefinition | t.ScoreDefinition] = [*self.program.sets, *self.program.scores]
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
        if (size := sum(one for one, _ in sizes)) > limits.MAX_EXPANDED and self.sizes and not self.errors:
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
            known = [f"`property {one.name} {argument}`".replace(" `", "`") for argument in arguments]
            what = f"`{one.name}` cannot be followed by `{one.argument}`" if one.argument else (
                f"`{one.name}` does not say to what")  # fmt: skip
            self.wrong(one, what, f"write {' or '.join(known)}")
        elif one.name == "causal" and not self.program.causal:
            self.wrong(one, "a bidirectional head sees what follows, so it is not causal",
                       "make the head causal, or leave the property out", CausalityError)  # fmt: skip

    def functions(self) -> None:
        """Check the definitions of functions; each may use those before it."""
        own = self.program.functions
        if len(own) > limits.MAX_DEFINITIONS:
            self.wrong(own[limits.MAX_DEFINITIONS],
                       f"{len(own):,} functions are defined; at most {limits.MAX_DEFINITIONS} may be",
                       "move those that a program does not use to another file", CostError)  # fmt: skip
        for one in own:
            if one.name in RESERVED:
                self.wrong(one, reserved(one.name), "call the function by another name")
            elif one.name in self.types:
                files = [u.path for u in self.program.uses if one.name in u.definitions.functions]
                where = f"also defined in {quote(files[0])}" if files else "defined twice"
                self.wrong(one, f"`{one.name}` is {where}", "rename one of them")
            elif all(n.name in self.types or n.name in FEATURES for n in one.walk() if isinstance(n, t.Call)):
                self.learn(one)
                if any(isinstance(error, CostError) for error in self.errors):
                    continue  # those that use it are too large as well
                if self.levels[one.name] > limits.MAX_LEVELS:
                    self.wrong(one, f"`{one.name}` uses functions {self.levels[one.name]} levels deep; "
                               f"at most {limits.MAX_LEVELS} are allowed",
                               "define it by features, or by fewer steps", CostError)  # fmt: skip
                elif (size := self.sizes[one.name][0]) > limits.MAX_EXPANDED:
                    self.large(one, f"`{one.name}`", size)
            self.nodes(one.value)

    def large(self, node: t.Node, what: str, size: int) -> None:
        much = f"{size:,}" if size < 10**12 else "more than 10^12"
        self.wrong(node,
                   f"{what} has {much} nodes where functions are written out; "
                   f"{limits.MAX_EXPANDED:,} are allowed",
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

    def steady(self, line: t.Where) -> None:
        """Check that a line of a score, in a causal program, reads nothing after its position."""
        if self.errors or not self.program.causal:
            return
        if looks_ahead(expand(line, self.scope)):
            self.later(line, f"`{expression(line.condition)}`")

    def term(self, term: t.Term) -> None:
        for part, weight in ((x, w) for x in t.parts_of(term) for w in t.weights_of(x) if w):
            if abs(weight) > (most := limits.MAX_WEIGHT):
                self.wrong(part, f"the weight {weight:g} is out of range",
                           f"weights lie between {-most:g} and {most:g}")  # fmt: skip
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

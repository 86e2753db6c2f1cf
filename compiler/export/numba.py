"""Numba: writes a program as functions of loops, which Numba can compile and Python can run.

The time of compiling a function grows with the square of its size, so each has a few terms only.
"""

from typing import NamedTuple

from attn_dsl.compiler.export.expressions import Code, Writer
from attn_dsl.compiler.export.source import FIT, comment, render, wrapped
from attn_dsl.compiler.graph import MATCH, NONE, ColumnKey, Key, Node, SearchKey
from attn_dsl.compiler.operations import QUANTIFIERS
from attn_dsl.compiler.program import Program
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.limits import LEAST_MASS, MATCH_LIMIT, TERM_LIMIT

_FOUND = {"any": ["{x} = 1", "break"], "count": ["{x} += 1"], "first": ["{x} = k", "break"],
          "last": ["{x} = k"],
          "nearest": ["{x} = k if {x} < 0 or abs(q - k) < abs(q - {x}) else {x}"]}  # fmt: skip
"""What each quantifier does at a key where its predicate holds, in a loop over all keys."""
NODES = 60
"""A function with this many nodes, of the syntax tree or of the graph, gets no further term."""


class TermsFunction(NamedTuple):
    """A function that adds some terms to the scores of one query."""

    slices: dict[str, str]  # the variable of each column, and where it stands in the arrays
    outer: list[str]  # the statements that are run once
    lines: list[str]  # the statements for each key


class KernelWriter(Writer):
    """Writes the loops of a kernel; nodes that depend on the query alone are computed once per row."""

    form = "scalar"

    def __init__(self, program: Program) -> None:
        program.refuse_holes(FIT)
        super().__init__(program, "math")
        self.causal = program.causal
        self.keyless: list[bool] = []
        for node in self.graph.nodes:
            name = node.operation.name
            reads = name in ("key", "column_key") or not all(self.keyless[x] for x in node.operands)
            self.keyless.append(name in QUANTIFIERS or not reads)
        self.arrays: dict[Key, str] = {}  # the variables of columns, in the order of rows
        self.seen: list[SearchKey] = []  # the tables of searches, in their order
        self.tables: list[str] = []
        self.parts: list[TermsFunction] = []  # ``slices``, ``outer`` and ``lines`` are those of the last one
        written, size = self.terms(), NODES
        for term in self.graph.programs[0]:
            if size >= NODES:
                self.names, self.outer_names, size = {}, dict[int, str](), 0
                self.parts.append(TermsFunction({}, [], []))
                self.slices, self.outer, self.lines = self.parts[-1]
            self.lines += next(written)
            roots = {term.condition, *(factor.node for factor in term.factors)} - {NONE}
            size += max(t.nodes(term.source), len(self.graph.closure(roots)))

    def _shared(self, one: int) -> bool:
        return super()._shared(one) or self.keyless[one]

    def _assign(self, one: int, code: Code) -> Code:
        if not self.keyless[one]:
            return super()._assign(one, code)
        lines, self.lines = self.lines, self.outer
        found = super()._assign(one, code)
        self.lines = lines
        self.outer_names[one] = found.text
        return found

    def state(self, one: int, *lines: str) -> None:
        """Add the statements of a node to the loop in which it is computed."""
        (self.outer if self.keyless[one] else self.lines).extend(lines)

    def array(self, key: Key, part: str = "settled") -> str:
        """Return the variable of the ``settled``, ``known`` or ``opened`` array of a column."""
        if key not in self.arrays:
            kind = "" if key.kind == "feature" else f"_{key.kind}"
            self.arrays[key] = self.free(key.name + kind)
        name = self.arrays[key] + ("" if part == "settled" else f"_{part}")
        self.slices[name] = f"{part}[{list(self.arrays).index(key)}, start : start + n]"
        return name

    def _read(self, one: int, at: Code) -> Code:
        node, place, end = self.graph.nodes[one], at.text, "q" if self.causal else "n - 1"
        key = self.graph.keys[node.y]
        if node.operation.takes and not place.isidentifier():
            place = self.free("position")
            self.state(one, f"{place} = {at.text}")
        text = f"{self.array(key)}[{place}]"
        if self.causal and key.partial:
            known, opened = self.array(key, "known"), self.array(key, "opened")
            text = f"({text} if {known}[{place}] <= q else {opened}[q])"
        if place not in ("q", "k"):
            text = f"({text} if 0 <= {place} <= {end} else {key.pad})"
        return Code(text)

    def _seen(self, one: int, i: Code, j: Code) -> Code:
        node = self.graph.nodes[one]
        key = list(self.graph.tables)[node.y]
        if key == MATCH:
            return self._match(one, i, j)
        if key not in self.seen:
            self.seen.append(key)
        place = self.free("position")
        self.state(one, f"{place} = {j.text}")
        return Code(f"(tables[{self.seen.index(key)}, q, {place}] if 0 <= {place} <= q else {node.x})")

    def _match(self, one: int, i: Code, j: Code) -> Code:
        tokens, end = self.array(ColumnKey("token")), "q" if self.causal else "n - 1"
        name = self.names[one] = self.free("match_1")
        self.outer_names |= {one: name} if self.keyless[one] else {}
        self.state(one, f"i, j, {name} = {i.text}, {j.text}, 0", f"if max(i, j) <= {end}:",
                   f"    while {name} < {MATCH_LIMIT} and min(i, j) >= 0 and {tokens}[i] == {tokens}[j]:",
                   f"        i, j, {name} = i - 1, j - 1, {name} + 1")  # fmt: skip
        return Code(name)

    def _search(self, one: int, node: Node) -> Code:
        kept, self.lines, self.names = (self.lines, self.names), [], dict(self.outer_names)
        condition, body = self.write(node.a).text, self.lines
        self.lines, self.names = kept[0], kept[1] | self.outer_names
        kind = node.operation.name
        name = self.free(f"{'exists' if kind == 'any' else kind}_1")
        body = [*([] if self.causal else ["if k == q:", "    continue"]), *body]
        body += [f"if {condition}:", *(f"    {line.format(x=name)}" for line in _FOUND[kind])]
        initial, end = 0 if kind in ("count", "any") else -1, "q" if self.causal else "n"
        self.outer += [f"{name} = {initial}", f"for k in range({end}):"]
        self.outer += [f"    {line}" for line in body]
        self.names[one] = self.outer_names[one] = name
        return Code(name)

    def _table(self, one: int, bounds: tuple[int, ...], weights: list[str]) -> str:
        place = len(self.tables) // 2 + 1
        self.tables += [wrapped(f"BOUNDS_{place} = np.array([", map(str, bounds), "])"),
                        wrapped(f"WEIGHTS_{place} = np.array([", ["0.0", *weights], "])")]  # fmt: skip
        found = f'np.searchsorted(BOUNDS_{place}, {self.write(one).text}, side="right")'
        return f"WEIGHTS_{place}[{found}]"

    def _real(self, code: Code, least: int | None) -> str:
        return f"float({code.text if least is None else f'max({code.text}, {least})'})"

    def _bounded(self, amount: str) -> str:
        return f"min(max({amount}, {-TERM_LIMIT}), {TERM_LIMIT})"

    def _mass(self, amount: str) -> str:
        self.lines.append(f"amount = min({amount}, {TERM_LIMIT})")
        return f"(amount if amount >= {LEAST_MASS} else 0.0)"

    def _where(self, condition: Code, amount: str) -> str:
        return f"{amount} if {condition.text} else 0.0"

    def source(self) -> str:
        """Return the source of the module."""
        listed = [comment(key.source.replace("\n", "; ") if isinstance(key, SearchKey)
                          else f"{key.shown} {key.kind} {key.label or sorted(key.elements)}")
                  for key in self.arrays]  # fmt: skip
        seen = [comment(key.source.replace("\n", "; ")) for key in self.seen]
        return render("numba.py", self.program, tables=self.tables, parts=self.parts,
                      linear=self.linear, listed=listed, seen=seen)  # fmt: skip


def to_numba(program: Program) -> str:
    """Write a program as source of a ``kernel``, which Numba can compile and Python can run.

    >>> from attn_dsl.compiler.program import parse
    >>> source = to_numba(parse("head a causal:\\n 2 where text(k) == text(q)"))
    >>> "def kernel(n, first, start, width, settled, known, opened, tables, out):" in source
    True

    Raises:
        InputError: a weight is a hole.
    """
    return KernelWriter(program).source()

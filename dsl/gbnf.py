"""GBNF: turns a Lark grammar into the format of llama.cpp.

GBNF has no tokens, no ignored white space and no left recursion. So white space is written out
between the symbols (at least one blank between two words, an indentation after a line end), and
direct left recursion becomes repetition. White space and empty lines are bounded, so that a sampler
cannot loop on them. Comments are left out. The result contains every canonical program without
comments. The parser's limits on size and nesting are not in it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Literal

from attn_dsl.dsl.errors import AttnDslError

_SPACING = {"ws": (0, 2), "gap": (1, 2), "indent": (0, 8)}  # the fewest and the most blanks
_ASCII = "".join(map(chr, range(128)))
_SIGNS = {"?": (0, 1), "*": (0, None), "+": (1, None)}
_CLASSES = {
    "CATEGORY_DIGIT": "0-9", "CATEGORY_WORD": "A-Za-z0-9_",
    "CATEGORY_SPACE": r" \t\n\r\x0b\x0c",
}  # fmt: skip


class GrammarError(AttnDslError, ValueError):
    """A grammar cannot be converted, or would not work; the message names the rule or the line."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a rule: a text, a class of characters, a rule's name, or made of other parts."""

    kind: Literal["text", "chars", "name", "sequence", "choice", "repeat"]
    value: str = ""
    parts: tuple[_Node, ...] = ()
    low: int = 1
    high: int | None = 1

    def walk(self) -> Iterator[_Node]:
        yield self
        for part in self.parts:
            yield from part.walk()


def to_gbnf(grammar_text: str | None = None) -> str:
    r"""Convert a Lark grammar to GBNF.

    >>> print(to_gbnf('start: "a" | start "+" "a"\n%ignore /[ ]+/'), end="")
    root ::= "a" (ws "+" ws "a")*
    ws ::= " "{0,2}

    Without a text, it is the grammar of attention programs.

    Raises:
        GrammarError: the grammar uses what has no counterpart, lacks ``start`` or another rule,
            repeats what may be empty, or is left-recursive other than directly.
    """
    if grammar_text is None:
        from attn_dsl.dsl.parser import grammar_text as read

        grammar_text = read()
    names, trees, blanks = _read(grammar_text)
    rules = {names[name]: _without_left_recursion(names[name], trees[name]) for name in names}
    try:
        TopologicalSorter({n: _names(_edge(node, 0)) for n, node in rules.items()}).prepare()
    except CycleError as error:
        raise GrammarError(f"left recursion: {' -> '.join(reversed(error.args[1]))}") from None
    spacing = _Spacing(rules, blanks is not None)
    rules |= {new: spacing.spaced(rules[new]) for name, new in names.items() if name.islower()}
    if blanks is not None:
        rules |= {name: _repeat(blanks, *bounds) for name, bounds in _SPACING.items()}
    used: set[str] = set()
    while more := {"root"}.union(*(_names(rules[name].walk()) for name in used)) - used:
        used |= more
    return "".join(_rule(name, node) for name, node in rules.items() if name in used)


def _names(nodes: Iterable[_Node]) -> set[str]:
    return {node.value for node in nodes if node.kind == "name"}


def _may_be_empty(node: _Node) -> bool:
    """Return whether a node matches the empty text. A rule never does."""
    inner = map(_may_be_empty, node.parts)
    if node.kind == "choice":
        return any(inner)
    return not node.value and (not node.low or all(inner))


def _edge(node: _Node, at: int) -> Iterator[_Node]:
    """Yield the texts, classes and rule names with which a match of a node may begin (0) or end (-1)."""
    if node.value:
        yield node
    for part in node.parts[:: 1 + 2 * at]:
        yield from _edge(part, at)
        if node.kind == "sequence" and not _may_be_empty(part):
            return


def _read(text: str) -> tuple[dict[str, str], dict[str, _Node], _Node | None]:
    """Parse a grammar with Lark; return the GBNF names of rules, the rules, and ignored terminals."""
    from lark.exceptions import LarkError
    from lark.load_grammar import load_grammar

    try:
        grammar, _ = load_grammar(text, "the grammar", [], False)
    except LarkError as error:
        raise GrammarError(str(error)) from None
    trees = {str(name): tree for name, _, tree, _ in grammar.rule_defs}
    trees |= {str(name): tree for name, (tree, _) in grammar.term_defs}
    if "start" not in trees:
        raise GrammarError("there is no rule `start`")
    names, rules = _new_names(trees), dict[str, _Node]()
    for name, tree in trees.items():
        try:
            rules[name] = _converted(tree, names)
            if _may_be_empty(rules[name]):
                raise ValueError("it may be empty: use ? where it stands instead")
        except (ValueError, KeyError, re.error) as error:
            raise GrammarError(f"rule {name} cannot be converted: {error}") from None
    blanks = [rules[name] for name in grammar.ignore]
    if len(blanks) > 1 or any(node.high is not None or node.parts[0].parts for node in blanks):
        raise GrammarError("%ignore: only blanks, as in /[ \\t]+/, can be converted")
    return names, rules, blanks[0].parts[0] if blanks else None


def _new_names(rules: Iterable[str]) -> dict[str, str]:
    """Return the GBNF names of rules; a terminal with the name of a rule gets a new name."""
    taken, names = set(_SPACING), dict[str, str]()
    for name in sorted(rules, key=str.isupper):
        new = "root" if name == "start" else name.strip("_").lower().replace("_", "-")
        names[name] = f"{new}-token" if new in taken and name.isupper() else new
        if names[name] in taken:
            raise GrammarError(f"there would be two rules called {names[name]}")
        taken.add(names[name])
    return names


def _converted(item: Any, names: dict[str, str]) -> _Node:
    """Convert a part of a rule, as Lark has parsed it, to a node."""
    if hasattr(item, "name"):
        return _Node("name", names[item.name])
    if item is None:
        raise ValueError("%declare says nothing of it")
    match str(item.data), item.children:
        case "expansions" | "expansion" as kind, parts:
            nodes = [_converted(part, names) for part in parts]
            return _join("choice" if kind == "expansions" else "sequence", nodes)
        case "value" | "alias", [inner, *_]:
            return _converted(inner, names)
        case "expr", [inner, sign] if sign in _SIGNS:
            return _repeat(_converted(inner, names), *_SIGNS[sign])
        case "literal", [text] if text[-1] == '"':
            return _Node("text", ast.literal_eval(text))
        case "literal", [text] if text[-1] == "/":
            if re.fullmatch(text[1:-1], "\n\n") and not re.fullmatch(text[1:-1], " "):
                return _repeat(_Node("text", "\n"), 1, 2)
            if (regex := _parser.parse(text[1:-1])).state.flags == re.UNICODE:
                return _regex(regex)
    raise ValueError(" ".join(item.scan_values(str)))


def _regex(parsed: Iterable[Any]) -> _Node:
    """Convert a regular expression, as Python has parsed it, to a node."""
    return _join("sequence", [_regex_part(kind.name, value) for kind, value in parsed])


def _regex_part(kind: str, value: Any) -> _Node:
    match kind, value:
        case "LITERAL", _:
            return _Node("text", chr(value))
        case "NOT_LITERAL", _:
            return _Node("chars", f"[^{_member(kind, value)}]")
        case "ANY", _:
            return _Node("chars", r"[^\n]")
        case "IN", members:
            return _Node("chars", f"[{''.join(_member(k.name, v) for k, v in members)}]")
        case "MAX_REPEAT", (low, high, inner):
            return _repeat(_regex(inner), low, None if high == _parser.MAXREPEAT else high)
        case "SUBPATTERN", (_, 0, 0, inner):
            return _regex(inner)
        case "BRANCH", (_, options):
            return _join("choice", map(_regex, options))
    raise ValueError(f"{kind} in a regex")


def _member(kind: str, value: Any) -> str:
    """Write a member of a class of characters."""
    if kind == "NEGATE":
        return "^"
    if kind == "CATEGORY":
        return _CLASSES[value.name]
    ends = value if kind == "RANGE" else (value,)
    return "-".join(f"\\x{c:02x}" if chr(c) in "]^-[" else _escaped(chr(c)) for c in ends)


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode()


def _join(kind: Literal["sequence", "choice"], parts: Iterable[_Node]) -> _Node:
    parts = tuple(parts)
    return parts[0] if len(parts) == 1 else _Node(kind, parts=parts)


def _repeat(item: _Node, low: int, high: int | None) -> _Node:
    if low == high and low in (0, 1):
        return item if low else _Node("sequence")
    if high is None and _may_be_empty(item):
        raise ValueError("what it repeats without end may be empty")
    return _Node("repeat", parts=(item,), low=low, high=high)


def _without_left_recursion(name: str, node: _Node) -> _Node:
    """Turn ``a: b | a c`` into ``a: b c*``."""
    itself, bases, rests = _Node("name", name), list[_Node](), list[_Node]()
    for option in node.parts if node.kind == "choice" else (node,):
        recursive = option.kind == "sequence" and option.parts[:1] == (itself,)
        (rests if recursive else bases).append(option)
    if not rests:
        return node
    if not bases:
        raise GrammarError(f"rule {name}: every alternative begins with {name} itself")
    rest = _join("choice", (_join("sequence", option.parts[1:]) for option in rests))
    return _join("sequence", (_join("choice", bases), _repeat(rest, 0, None)))


class _Spacing:
    """Inserts the white space that Lark ignores between the symbols of a rule."""

    def __init__(self, rules: dict[str, _Node], blanks: bool) -> None:
        self.rules, self.blanks = rules, blanks

    def spaced(self, node: _Node) -> _Node:
        """Insert white space between the parts of a node, but not before or after it."""
        if _may_be_empty(node):
            raise GrammarError(f"`{_write(node, 0)}` may be empty: use ? where it stands instead")
        if not node.parts:
            return node
        if node.kind == "choice":
            return replace(node, parts=tuple(map(self.spaced, node.parts)))
        return self.sequence(node.parts if node.kind == "sequence" else (node,))

    def sequence(self, items: tuple[_Node, ...]) -> _Node:
        out: list[_Node] = []
        before: list[_Node] = []  # what may stand just before the next item; none: nothing yet
        for i, item in enumerate(items):
            low, high = item.low, item.high
            core = item.parts[0] if item.kind == "repeat" else item
            one, again = self.spaced(core), [core] if high != 1 else []
            if low == 0 and not before:
                rest = _Node("choice", parts=(*again, _join("sequence", items[i + 1 :])))
                one = _join("sequence", [one, *self.between([core], rest)])
                out.append(_repeat(one, low, high))
                continue
            if not before:
                out.append(one)
                low, high = low - 1, None if high is None else high - 1
            space = self.between(before + again, core)
            out.append(_repeat(_join("sequence", [*space, one]), low, high))
            before = [core, *before] if low == 0 else [core]
        return _join("sequence", (node for node in out if node != _Node("sequence")))

    def between(self, lefts: list[_Node], right: _Node) -> list[_Node]:
        """Return the white space to insert between two nodes."""
        ends = set[str]().union(*(self.edges(left, -1, set()) for left in lefts))
        starts = self.edges(right, 0, set())
        if not self.blanks or starts == {"\n"}:
            return []
        words = "word" in ends and "word" in starts
        return [_Node("name", "gap" if words else "indent" if "\n" in ends else "ws")]

    def edges(self, node: _Node, at: int, seen: set[str]) -> set[str]:
        """Return the kinds of characters with which a node may begin (0) or end (-1)."""
        found: set[str] = set()
        for leaf in _edge(node, at):
            if leaf.kind != "name":
                text = leaf.kind == "text"
                chars = leaf.value[at] if text else re.findall(leaf.value, _ASCII)
                found |= {"word" if re.match(r"\w", c) else c for c in chars}
            elif leaf.value not in seen:
                seen.add(leaf.value)
                found |= self.edges(self.rules[leaf.value], at, seen)
        return found


def _rule(name: str, node: _Node) -> str:
    line = f"{name} ::= {_write(node, 0)}\n"
    if len(line) <= 100 or node.kind != "choice":
        return line
    return f"{name} ::=\n  " + " |\n  ".join(_write(option, 1) for option in node.parts) + "\n"


def _write(node: _Node, level: int) -> str:
    """Write a node in a place for alternatives (level 0), a sequence (1) or one item (2)."""
    if node.kind == "text":
        return '"' + _escaped(node.value).replace('"', r"\"") + '"'
    if node.kind == "repeat":
        low, high = node.low, node.high
        bounds = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
        sign = next((sign for sign, both in _SIGNS.items() if both == (low, high)), bounds)
        text, own = _write(node.parts[0], 2) + sign, 1
    elif node.parts:
        own = int(node.kind == "sequence")
        text = (" " if own else " | ").join(_write(part, 1) for part in node.parts)
    else:
        return node.value
    return f"({text})" if own < level else text

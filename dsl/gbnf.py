"""GBNF: turns the grammars of attention programs into the format of llama.cpp.

GBNF has no tokens, no ignored white space and no left recursion. So white space is written out between the
symbols (at least one blank between two words, an indentation after a line end), and direct left recursion
becomes repetition. White space and empty lines are bounded, so that a sampler cannot loop on them. Comments
are left out. The result contains every canonical program without comments and functions of its own: what a
function may be used for depends on its definition, which no such grammar can state, so definitions of
functions are left out, and so are properties. The parser's limits on size and nesting are not in it. Only
what these grammars use of Lark's notation is converted; no rule may match the empty text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

_SPACING = {"ws": (0, 2), "gap": (1, 2), "indent": (0, 8)}  # the fewest and the most blanks
_ESCAPE = r"\\(?:x..|u....|[nrt\W])"
_REGEX = re.compile(rf"(?P<set>\[(?:{_ESCAPE}|[^]\\])+\])|(?P<char>{_ESCAPE}|[^][(){{}}|*+?.^$\\])"
                    r"|\((?:\?:|(?!\?))|[|)]|(?:[*+?]|\{\d+(?:,\d*)?\})(?![*+?])")  # fmt: skip
_OMITTED = re.compile(r"^(    \| )?function_definition\b.*\n|^property:.*\n    .*\n| property\*", re.M)
_SIGNS = {"?": (0, 1), "*": (0, None), "+": (1, None)}


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a rule: a text, a regular expression, a rule's name, or made of other parts."""

    kind: Literal["text", "regex", "name", "sequence", "choice", "repeat"]
    value: str = ""
    parts: tuple[_Node, ...] = ()
    low: int = 1
    high: int | None = 1


def to_gbnf(grammar_text: str) -> str:
    r"""Convert a grammar in Lark's notation to GBNF.

    >>> print(to_gbnf('start: "a" | start "+" "a"\n%ignore /[ ]+/'), end="")
    root ::= "a" (ws "+" ws "a")*
    ws ::= [ ]{0,2}
    gap ::= [ ]{1,2}
    indent ::= [ ]{0,8}

    Raises:
        ValueError: the grammar uses a part of Lark's notation that is not converted.
    """
    names, rules, blanks = _read(_OMITTED.sub("", grammar_text))
    spacing = _Spacing(rules, blanks is not None)
    rules |= {new: spacing.spaced(rules[new]) for name, new in names.items() if name.islower()}
    if blanks is not None:
        blank = replace(blanks, value=blanks.value.rstrip("+"))
        rules |= {name: _repeat(blank, *bounds) for name, bounds in _SPACING.items()}
    return "".join(_rule(name, node) for name, node in rules.items())


def _read(text: str) -> tuple[dict[str, str], dict[str, _Node], _Node | None]:
    """Parse a grammar with Lark; return the GBNF names of rules, the rules, and ignored blanks."""
    from lark.load_grammar import load_grammar

    grammar, _ = load_grammar(text, "the grammar", [], False)
    trees = {str(name): tree for name, _, tree, _ in grammar.rule_defs}
    trees |= {str(name): tree for name, (tree, _) in grammar.term_defs}
    ignored = [trees.pop(str(name)) for name in grammar.ignore]
    names = {name: _new_name(name, {*trees, *_SPACING}) for name in trees}
    rules = {new: _without_left_recursion(new, _converted(trees[name], names)) for name, new in names.items()}
    return names, rules, _converted(ignored[0], names) if ignored else None


def _new_name(name: str, taken: set[str]) -> str:
    """Return the GBNF name of a rule, or of a terminal, which may share its name with a rule."""
    new = "root" if name == "start" else name.strip("_").lower().replace("_", "-")
    return f"{new}-token" if name.isupper() and name.lower() in taken else new


def _converted(item: Any, names: dict[str, str]) -> _Node:
    """Convert a part of a rule, as Lark has parsed it, to a node."""
    if hasattr(item, "name"):
        return _Node("name", names[item.name])
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
            return _regex(text[1:-1])
    raise ValueError(f"not converted to GBNF: {item}")


def _regex(pattern: str) -> _Node:
    """Convert a regular expression, which GBNF writes alike but for single characters."""
    text, at = "", 0
    while at < len(pattern):
        found = _REGEX.match(pattern, at)
        if found is None:
            raise ValueError(f"not converted to GBNF: {pattern[at:]} in a regular expression")
        part, at = found[0], found.end()
        if found["set"]:
            text += " " + re.sub(r"\\([^nrtxu\\])", lambda m: rf"\x{ord(m[1]):02x}", part)
        elif found["char"]:
            char = part if re.match(r"\\[nrtxu\\]", part) else part[-1].replace('"', r"\"")
            text += f' "{char}"'
        else:
            text += {"(?:": " (", "(": " (", "|": " |"}.get(part, part)
    return _Node("regex", text.strip().replace("( ", "("))


def _join(kind: Literal["sequence", "choice"], parts: Iterable[_Node]) -> _Node:
    parts = tuple(parts)
    return parts[0] if len(parts) == 1 else _Node(kind, parts=parts)


def _repeat(item: _Node, low: int, high: int | None) -> _Node:
    if low == high and low in (0, 1):
        return item if low else _Node("sequence")
    return _Node("repeat", parts=(item,), low=low, high=high)


def _without_left_recursion(name: str, node: _Node) -> _Node:
    """Turn ``a: b | a c`` into ``a: b c*``."""
    itself, bases, rests = _Node("name", name), list[_Node](), list[_Node]()
    for option in node.parts if node.kind == "choice" else (node,):
        recursive = option.kind == "sequence" and option.parts[:1] == (itself,)
        (rests if recursive else bases).append(option)
    if not rests:
        return node
    rest = _join("choice", (_join("sequence", option.parts[1:]) for option in rests))
    return _join("sequence", (_join("choice", bases), _repeat(rest, 0, None)))


class _Spacing:
    """Inserts the white space that Lark ignores between the symbols of a rule."""

    def __init__(self, rules: dict[str, _Node], blanks: bool) -> None:
        self.rules, self.blanks = rules, blanks

    def spaced(self, node: _Node) -> _Node:
        """Insert white space between the parts of a node, but not before or after it."""
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
        if node.kind == "name":
            known = node.value in seen
            seen.add(node.value)
            return set() if known else self.edges(self.rules[node.value], at, seen)
        if node.value:
            char = node.value[at] if node.kind == "text" else "a"
            return {"word" if re.match(r"\w", char) else char}
        found: set[str] = set()
        for part in node.parts[:: 1 + 2 * at]:
            found |= self.edges(part, at, seen)
            if node.kind == "sequence" and part.low:  # the next part is not at the edge
                break
        return found


def _rule(name: str, node: _Node) -> str:
    line = f"{name} ::= {_write(node, 0)}\n"
    if len(line) <= 100 or node.kind != "choice":
        return line
    return f"{name} ::=\n  " + " |\n  ".join(_write(option, 1) for option in node.parts) + "\n"


def _write(node: _Node, level: int) -> str:
    """Write a node in a place for alternatives (level 0), a sequence (1) or one item (2)."""
    if node.kind == "text":
        text = node.value.encode("unicode_escape").decode()
        return '"' + text.replace('"', r"\"") + '"'
    if node.kind == "repeat":
        low, high = node.low, node.high
        bounds = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
        sign = next((sign for sign, both in _SIGNS.items() if both == (low, high)), bounds)
        text, own = _write(node.parts[0], 2) + sign, 1
    elif node.parts:
        own = int(node.kind == "sequence")
        text = (" " if own else " | ").join(_write(part, 1) for part in node.parts)
    elif node.kind == "regex" and not re.fullmatch(r"\[[^]]+\]", node.value):
        text, own = node.value, int("|" not in node.value)
    else:
        return node.value
    return f"({text})" if own < level else text

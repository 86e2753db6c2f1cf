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
from typing import Literal

from attn_dsl.dsl.errors import AttnDslError

_SPACING = {"ws": (0, 2), "gap": (1, 2), "indent": (0, 8)}  # the fewest and the most blanks
_ESCAPES = {i: f"\\x{i:02x}" for i in (*range(32), 127)} | {34: '\\"', 92: "\\\\", 10: "\\n"}
_SIGNS = {"?": "{0,1}", "*": "{0,}", "+": "{1,}"}


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

    def names(self) -> set[str]:
        return {node.value for node in self.walk() if node.kind == "name"}


_Rules = dict[str, _Node]
_Token = tuple[str, str]


def to_gbnf(grammar_text: str | None = None) -> str:
    r"""Convert a Lark grammar to GBNF.

    >>> print(to_gbnf('start: "a" | start "+" "a"\n%ignore /[ ]+/'), end="")
    root ::= "a" (ws "+" ws "a")*
    ws ::= [ ]{0,2}

    Args:
        grammar_text: the grammar; None takes the one of attention programs.

    Raises:
        GrammarError: the grammar uses what has no counterpart, lacks ``start`` or another rule,
            repeats what may be empty, or is left-recursive other than directly.
    """
    if grammar_text is None:
        from attn_dsl.dsl.parser import grammar_text as read

        grammar_text = read()
    rules = _rules(_lark_tokens(grammar_text))
    blanks = rules.pop("%ignore", None)
    if blanks is not None and (blanks.high is not None or blanks.parts[0].kind != "chars"):
        raise GrammarError("%ignore: only blanks, as in /[ \\t]+/, can be converted")
    for name, node in rules.items():
        if node.kind == "repeat" and node.high is None and _shortest(node.parts[0]) == "\n":
            rules[name] = _repeat(_Node("text", "\n"), 1, 2)
    names, spacing, made = _new_names(rules), _Spacing(rules, blanks is not None), _Rules()
    for name, node in rules.items():
        if not name.isupper():
            node = spacing.spaced(_without_left_recursion(name, node))
        made[names[name]] = _renamed(node, names)
    if blanks is not None:
        made |= {name: _repeat(blanks.parts[0], *bounds) for name, bounds in _SPACING.items()}
    used: set[str] = set()
    while new := {"root"}.union(*(made[name].names() for name in used)) - used:
        used |= new
    _check(made := {name: node for name, node in made.items() if name in used})
    return "".join(_rule(name, node) for name, node in made.items())


def _check(rules: _Rules) -> None:
    """Refuse rules that would not work: llama.cpp may end the process on some of them."""
    empty = _nullable(rules)
    for name, node in rules.items():
        for part in node.walk():
            if part.kind == "repeat" and part.high is None and _may_be_empty(part.parts[0], empty):
                raise GrammarError(f"rule {name} repeats, without end, what may be empty")
    try:
        TopologicalSorter({n: _leftmost(node, empty) for n, node in rules.items()}).prepare()
    except CycleError as error:
        raise GrammarError(f"left recursion: {' -> '.join(reversed(error.args[1]))}") from None


_LARK = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|->[ \t]*\w+)|(?P<rule>^[?!]?\w+[ \t]*:|^%ignore\b)"""
    r"""|(?P<text>"(?:[^"\\\n]|\\.)*"(?!i))|(?P<regex>/(?:[^/\\\n]|\\.)+/(?![a-z]))"""
    r"""|(?P<name>\w+)|(?P<op>[()?*+|])""",
    re.M,
)
_REGEX = re.compile(
    r"""(?P<chars>\[\^?(?:[^\]\\]|\\.)+\]|\\[dws]|\.)|(?P<op>\((?:\?:|(?!\?))|[)|]|"""
    r"""(?:[?*+]|\{\d+(?:,\d*)?\})(?![?+]))|(?P<text>\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|"""
    r"""[nrtfv]|\W)|[^\\()?*+{}^$\[\]])"""
)
_CLASSES = {r"\d": "[0-9]", r"\w": "[A-Za-z0-9_]", r"\s": r"[ \t\n\r\x0b\x0c]", ".": r"[^\n]"}


def _tokens(pattern: re.Pattern[str], text: str, what: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        found = pattern.match(text, at)
        if found is None or found.lastgroup is None:
            line = text.count("\n", 0, at) + 1
            raise GrammarError(f"line {line} of {what}: cannot convert {text[at : at + 16]!r}")
        if found.lastgroup != "skip":
            yield found.lastgroup, found.group()
        at = found.end()


def _lark_tokens(text: str) -> Iterator[_Token]:
    for kind, value in _tokens(_LARK, text, "the grammar"):
        if kind == "regex":
            yield from (("op", "("), *_regex_tokens(value[1:-1].replace("\\/", "/")), ("op", ")"))
        elif kind == "rule":
            yield kind, value.strip("?! \t:")
        else:
            yield kind, ast.literal_eval(value) if kind == "text" else value


def _regex_tokens(text: str) -> Iterator[_Token]:
    for kind, value in _tokens(_REGEX, text, f"the regex /{text}/"):
        if kind == "chars":
            value = _CLASSES.get(value, value)
            value = re.sub(r"\\[^xunrt\\\[\]]", _unescaped, value)
        elif re.fullmatch(r"\\\W", value):
            value = value[1]
        elif value[0] == "\\":
            value = ast.literal_eval(f'"{value}"')
        yield kind, value.removesuffix("?:")


def _unescaped(found: re.Match[str]) -> str:
    return _CLASSES.get(found[0], f"[\\x{ord(found[0][1]):02x}]")[1:-1]


def _rules(tokens: Iterable[_Token]) -> _Rules:
    parser, rules = _Parser(tokens), _Rules()
    while parser.tokens:
        kind, name = parser.tokens.pop()
        if kind != "rule":
            raise GrammarError(f"after {next(reversed(rules), 'nothing')}: unexpected {name}")
        if name in rules:
            raise GrammarError(f"{name} is defined twice")
        rules[name] = parser.choice()
    if "start" not in rules:
        raise GrammarError("there is no rule `start`")
    for name, node in rules.items():
        for other in sorted(node.names() - set(rules)):
            raise GrammarError(f"rule {name} uses {other}, which is not defined")
    return rules


class _Parser:
    """Parses alternatives of sequences of repeated items, of grammars and of regexes."""

    def __init__(self, tokens: Iterable[_Token]) -> None:
        self.tokens = list(tokens)[::-1]

    def at(self, ops: str) -> bool:
        kind, value = self.tokens[-1] if self.tokens else ("", "")
        return kind == "op" and value[0] in ops

    def choice(self) -> _Node:
        options = [self.sequence()]
        while self.at("|"):
            self.tokens.pop()
            options.append(self.sequence())
        return _join("choice", options)

    def sequence(self) -> _Node:
        items: list[_Node] = []
        while self.at("(") or (self.tokens and self.tokens[-1][0] not in ("op", "rule")):
            kind, value = self.tokens.pop()
            items.append(self.choice() if kind == "op" else _Node(kind, value))  # type: ignore[arg-type]
            if kind == "op" and (not self.at(")") or not self.tokens.pop()):
                raise GrammarError("a parenthesis is not closed")
            while self.at("?*+{"):
                low, comma, high = _SIGNS.get(op := self.tokens.pop()[1], op)[1:-1].partition(",")
                most = int(high) if high else None if comma else int(low)
                items[-1] = _repeat(items[-1], int(low), most)
        return _join("sequence", items)


def _join(kind: Literal["sequence", "choice"], parts: Iterable[_Node]) -> _Node:
    parts = tuple(parts)
    return parts[0] if len(parts) == 1 else _Node(kind, parts=parts)


def _repeat(item: _Node, low: int, high: int | None) -> _Node:
    if low == high and low in (0, 1):
        return item if low else _Node("sequence")
    return _Node("repeat", parts=(item,), low=low, high=high)


def _nullable(rules: _Rules) -> set[str]:
    """Find the rules that match the empty text."""
    empty: set[str] = set()
    while more := {n for n in rules if n not in empty and _may_be_empty(rules[n], empty)}:
        empty |= more
    return empty


def _may_be_empty(node: _Node, empty: set[str]) -> bool:
    inner = (_may_be_empty(part, empty) for part in node.parts)
    if node.kind in ("sequence", "choice"):
        return all(inner) if node.kind == "sequence" else any(inner)
    if node.kind == "repeat":
        return not node.low or all(inner)
    return node.value in empty if node.kind == "name" else not node.value


def _leftmost(node: _Node, empty: set[str]) -> Iterator[str]:
    """Give the rules that a match of the node may begin with."""
    if node.kind == "name":
        yield node.value
    for part in node.parts:
        yield from _leftmost(part, empty)
        if node.kind == "sequence" and not _may_be_empty(part, empty):
            return


def _shortest(node: _Node) -> str:
    """Give the shortest text that matches; for what is not spelled out, ``?``."""
    if node.kind == "choice":
        return min(map(_shortest, node.parts), key=len)
    if node.parts:
        return "".join(map(_shortest, node.parts)) * node.low
    return node.value if node.kind == "text" else "?"


def _new_names(rules: _Rules) -> dict[str, str]:
    """Name rules as GBNF does; a terminal called like a rule becomes a token."""
    taken, names = set(_SPACING), dict[str, str]()
    for name in sorted(rules, key=str.isupper):
        new = "root" if name == "start" else name.strip("_").lower().replace("_", "-")
        names[name] = f"{new}-token" if new in taken and name.isupper() else new
        if names[name] in taken:
            raise GrammarError(f"there would be two rules called {names[name]}")
        taken.add(names[name])
    return names


def _renamed(node: _Node, names: dict[str, str]) -> _Node:
    value = names.get(node.value, node.value) if node.kind == "name" else node.value
    return replace(node, value=value, parts=tuple(_renamed(part, names) for part in node.parts))


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
    """Writes out the white space that Lark ignores between the symbols of a rule."""

    def __init__(self, rules: _Rules, blanks: bool) -> None:
        self.rules, self.blanks, self.empty = rules, blanks, _nullable(rules)

    def spaced(self, node: _Node) -> _Node:
        """Put white space between the parts of a node, none before and none after it."""
        if _may_be_empty(node, self.empty):
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
            one = self.spaced(core)
            again = [core] if high != 1 else []
            if before:
                space = self.between(before + again, core)
                out.append(_repeat(_join("sequence", [*space, one]), low, high))
                before = [core, *before] if low == 0 else [core]
            elif low == 0:
                rest = _Node("choice", parts=(*again, _join("sequence", items[i + 1 :])))
                space = self.between([core], rest)
                out.append(_repeat(_join("sequence", [one, *space]), low, high))
            else:
                space = self.between(again, core)
                most = None if high is None else high - 1
                out += [one, _repeat(_join("sequence", [*space, one]), low - 1, most)]
                before = [core]
        return _join("sequence", (node for node in out if node != _Node("sequence")))

    def between(self, lefts: list[_Node], right: _Node) -> list[_Node]:
        """Choose the white space between what may stand on the left and what may on the right."""
        ends = self.edges(_Node("choice", parts=tuple(lefts)), -1, set())
        starts = self.edges(right, 0, set())
        if not self.blanks or starts == {"line"}:
            return []
        words = "word" in ends and "word" in starts
        return [_Node("name", "gap" if words else "indent" if "line" in ends else "ws")]

    def edges(self, node: _Node, at: int, seen: set[str]) -> set[str]:
        """Say what a node may begin (0) or end (-1) with: a word, a line end, others."""
        if node.kind == "text":
            char = node.value[at]
            return {"word" if re.match(r"\w", char) else "line" if char == "\n" else "other"}
        if node.kind == "chars":
            ascii_ = (_Node("text", chr(i)) for i in range(128) if re.match(node.value, chr(i)))
            return set[str]().union(*(self.edges(char, at, seen) for char in ascii_))
        if node.kind == "name" and node.value not in seen:
            seen.add(node.value)
            return self.edges(self.rules[node.value], at, seen)
        found: set[str] = set()
        for part in node.parts[:: 1 + 2 * at]:
            found |= self.edges(part, at, seen)
            if node.kind == "sequence" and not _may_be_empty(part, self.empty):
                break
        return found


def _rule(name: str, node: _Node) -> str:
    line = f"{name} ::= {_write(node, 0)}\n"
    if len(line) <= 100 or node.kind != "choice":
        return line
    return f"{name} ::=\n  " + " |\n  ".join(_write(option, 1) for option in node.parts) + "\n"


def _write(node: _Node, level: int) -> str:
    """Write a node where alternatives (level 0), a sequence (1) or one item (2) may stand."""
    if node.kind == "text":
        return '"' + node.value.translate(_ESCAPES) + '"'
    if node.kind == "repeat":
        most = "" if node.high is None else node.high
        bounds = f"{{{node.low},{most}}}" if node.low != most else f"{{{most}}}"
        sign = next((sign for sign, meaning in _SIGNS.items() if meaning == bounds), bounds)
        text, own = _write(node.parts[0], 2) + sign, 1
    elif node.parts:
        own = int(node.kind == "sequence")
        text = (" " if own else " | ").join(_write(part, 1) for part in node.parts)
    else:
        return node.value
    return f"({text})" if own < level else text

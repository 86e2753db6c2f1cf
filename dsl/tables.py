"""The parsing loop: runs Lark's LALR(1) tables and builds nodes without tokens and trees in between.

Lark reads the grammar and makes the tables, and a scanner for each state. Running them here, with
one action for each rule, takes a fifth of the time of ``Lark.parse``. Lark itself parses only what
has an error, to say what was expected.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from attn_dsl.dsl.errors import Span

if TYPE_CHECKING:
    from lark import Lark

_PLACED = frozenset({"NAME", "SET_NAME"})  # their actions get the place too: (text, begin, end)


class Lines:
    """Where the lines of a text begin; turns places into spans.

    >>> Lines("ab\\ncd").span(3, 5)
    Span(line=2, column=1, end_line=2, end_column=3)
    """

    __slots__ = ("_high", "_line", "_low", "starts")

    def __init__(self, text: str) -> None:
        self.starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._line, self._low, self._high = 0, 0, -1

    def span(self, begin: int, end: int) -> Span:
        """Return the span of a stretch."""
        if not self._low <= begin <= end <= self._high:
            self._line = line = bisect_right(self.starts, begin)
            self._low = self.starts[line - 1]
            self._high = self.starts[line] - 1 if line < len(self.starts) else 1 << 60
            if end > self._high:
                last = bisect_right(self.starts, end)
                column = end - self.starts[last - 1] + 1
                return Span(line, begin - self._low + 1, last, column)
        low, line = self._low - 1, self._line
        return Span(line, begin - low, line, end - low)


Action = Callable[[Lines, list[Any], int, int], Any]
"""Makes the value of a rule of those of its symbols, and of the places where it begins and ends.

Symbols that the grammar filters (punctuation, keywords) have no values.
"""


class Tables:
    """Tables for one start symbol, of a ``Lark`` with the LALR parser and the contextual lexer.

    The actions are by the rule's alias, or else its name; rules without one pass their value on.
    """

    def __init__(self, lark: Lark, start: str, actions: Mapping[str, Action]) -> None:
        frontend: Any = lark.parser
        table = frontend.parser._parse_table
        self.start, self.end = table.start_states[start], table.end_states[start]
        rule, scanner = cache(lambda rule: _rule(rule, actions)), cache(_scanner)
        self.states: dict[int, dict[str, Any]] = {
            state: {  # by ``str``, as Lark's tokens compare slowly
                str(symbol): rule(to) if hasattr(to, "expansion") else to
                for symbol, (_, to) in row.items()
            }
            for state, row in table.states.items()
        }
        self.scanners = {state: scanner(lexer) for state, lexer in frontend.lexer.lexers.items()}

    def parse(self, text: str) -> Any:
        """Return the value of the start symbol; None if the text does not fit."""
        lines, states, scanners = Lines(text), self.states, self.scanners
        stack, values, begins, ends = [self.start], [], [], []
        place, size = 0, len(text)
        while True:
            match, ambiguous = scanners[stack[-1]]
            found = match(text, place)
            if found is not None:
                kind = found.lastgroup
                begin, place = found.span(kind)
                value = found[kind]
                if kind in ambiguous:
                    kind = ambiguous[kind](value) or kind
            elif not text[place:].strip(" \t"):
                kind, begin, place, value = "$END", size, size, ""
            else:
                return None
            while True:
                action = states[stack[-1]].get(kind)
                if action.__class__ is int:
                    stack.append(action)
                    values.append((value, begin, place) if kind in _PLACED else value)
                    begins.append(begin)
                    ends.append(place)
                    break
                if action is None:
                    return None
                count, origin, make, kept = action
                if make is None:
                    stack.pop()
                else:
                    parts, first, last = values[-count:], begins[-count], ends[-1]
                    del stack[-count:], values[-count:], begins[-count:], ends[-count:]
                    if kept is not None:
                        parts = [parts[i] for i in kept]
                    values.append(make(lines, parts, first, last))
                    begins.append(first)
                    ends.append(last)
                stack.append(states[stack[-1]][origin])
                if kind == "$END" and stack[-1] == self.end:
                    return values[-1]


def _rule(rule: Any, actions: Mapping[str, Action]) -> tuple:
    """Return a rule as the loop uses it: size, name, action, and the symbols that have values."""
    symbols, name = rule.expansion, rule.alias or rule.origin.name
    kept = [i for i, symbol in enumerate(symbols) if not (symbol.is_term and symbol.filter_out)]
    make = actions.get(name)
    if rule.origin.name.startswith("__"):
        repeats = symbols[0].name == rule.origin.name
        make = _append if repeats else lambda lines, parts, begin, end: parts
    elif any(symbol.name.startswith("__") and not symbol.is_term for symbol in symbols):
        at = [symbols[i].name.startswith("__") for i in kept]
        make = _spliced(actions[name], at)
    elif make is None and len(symbols) > 1:
        raise TypeError(f"the rule {name} has no action")
    return len(symbols), str(rule.origin.name), make, None if len(kept) == len(symbols) else kept


def _append(lines: Lines, parts: list[Any], begin: int, end: int) -> list[Any]:
    """Add to a list of repeated parts."""
    parts[0].append(parts[1])
    return parts[0]


def _spliced(make: Action, lists: list[bool]) -> Action:
    """Put repeated parts in line with the others before an action sees them."""

    def spliced(lines: Lines, parts: list[Any], begin: int, end: int) -> Any:
        flat: list[Any] = []
        for part, many in zip(parts, lists, strict=True):
            flat += part if many else [part]
        return make(lines, flat, begin, end)

    return spliced


def _scanner(lexer: Any) -> tuple:
    """Return how to find the next symbol behind blanks, and terminals that may be another one."""
    ignored = set(lexer.ignore_types)
    [pattern] = lexer.scanner._mres
    groups = "|".join(
        f"(?P<{terminal.name}>{terminal.pattern.to_regexp()})"
        for terminal in lexer.scanner.terminals
        if terminal.name not in ignored
    )
    match = re.compile(rf"[ \t]*(?:{groups or '(?!)'})", pattern.flags).match
    return match, {str(kind): _other(callback) for kind, callback in lexer.callback.items()}


def _other(callback: Any) -> Callable[[str], str | None]:
    """Return which keyword a word is, if it is one."""

    @lru_cache(maxsize=10_000)
    def other(value: str) -> str | None:
        found = callback.scanner.fullmatch(value)
        return found and str(found)

    return other

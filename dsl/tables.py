"""The parsing loop: runs the LALR(1) tables of Lark and builds syntax nodes directly.

Lark reads the grammar and makes the tables and a scanner for each state. The loop here makes no
tokens or parse trees, and takes a fifth of the time of ``Lark.parse``. Lark itself parses only
sources with a syntax error, to say what was expected.
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

_PLACED = frozenset({"NAME", "SET_NAME"})  # terminals whose value is (text, begin, end)


class Lines:
    """The starts of the lines of a text, which turn character offsets into spans.

    >>> Lines("ab\\ncd").span(3, 5)
    Span(line=2, column=1, end_line=2, end_column=3)
    """

    __slots__ = ("_high", "_line", "_low", "starts")

    def __init__(self, text: str) -> None:
        self.starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._line, self._low, self._high = 0, 0, -1

    def span(self, begin: int, end: int) -> Span:
        """Return the span of the characters from ``begin`` to ``end``."""
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
"""Makes the value of a rule from the values of its symbols and its begin and end in the text.

Symbols that the grammar filters out (punctuation, keywords) have no values.
"""


class Tables:
    """The tables for one start symbol of a ``Lark`` with LALR parser and contextual lexer.

    ``actions`` is keyed by the alias of a rule, or else its name. A rule without an action has the
    value of its one symbol.
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
        """Return the value of the start symbol, or None if the text does not follow the grammar."""
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
    """Return a rule for the loop: number of symbols, name, action, symbols that have values."""
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
    """Append a part to a list of repeated parts."""
    parts[0].append(parts[1])
    return parts[0]


def _spliced(make: Action, lists: list[bool]) -> Action:
    """Wrap an action so that lists of repeated parts are flattened into its parts."""

    def spliced(lines: Lines, parts: list[Any], begin: int, end: int) -> Any:
        flat: list[Any] = []
        for part, many in zip(parts, lists, strict=True):
            flat += part if many else [part]
        return make(lines, flat, begin, end)

    return spliced


def _scanner(lexer: Any) -> tuple:
    """Return a function that matches the next terminal after blanks, and checks for keywords."""
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
    """Return a function from a word to the keyword that it is, or None."""

    @lru_cache(maxsize=10_000)
    def other(value: str) -> str | None:
        found = callback.scanner.fullmatch(value)
        return found and str(found)

    return other

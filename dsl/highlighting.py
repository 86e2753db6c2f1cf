"""Highlighting: the kinds of lexemes of a program, from the grammar and the table of features."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from attn_dsl.dsl.parser import grammar_text

BUILT_IN = ("_FEATURE", "_FUNCTION", "_QUANTIFIER", "AFFIX", "EXTREMUM")
"""What the names of the grammar's terminals for functions of the language end in."""


@lru_cache(maxsize=1)
def lexemes() -> dict[str, str]:
    r"""Return a regular expression for each kind of lexeme; of those that match, the first counts.

    >>> lexemes()["string"], lexemes()["variable"]
    ('"([^"\\\\\\x00-\\x1f]|\\\\["\\\\nrt]|\\\\u[0-9a-f]{4})*"', '\\b(?:q|k|i|j|n)\\b')
    """
    text = re.sub(r"^//.*", "", grammar_text(), flags=re.MULTILINE)
    terminals = dict(re.findall(r"^([A-Z_]+): (.+)$", text, re.MULTILINE))
    rules = re.sub(r"^[A-Z_]+: .+$", "", text, flags=re.MULTILINE)

    def words(names: Iterable[str]) -> str:
        return rf"\b(?:{'|'.join(dict.fromkeys(names))})\b"

    def listed(*ends: str) -> list[str]:
        own = (line for name, line in terminals.items() if name.endswith(ends))
        return [word for line in own for word in re.findall(r'"(\w+)"', line)]

    def regex(name: str) -> str:
        return terminals[name].strip("/")

    called = re.findall(r'"([a-z]+)" "\("', rules)  # any, abs, decay
    keywords = [*re.findall(r'"([a-z]+)"', rules), *listed("VISIBILITY", "NORMALISER")]
    literal = " ".join([rules, *(line for line in terminals.values() if line[0] != "/")])
    signs = set(re.findall(r'"([^\w"\s]+)"', literal)) - set("()[]{},:?")
    operators = sorted(signs, key=lambda sign: (-len(sign), sign))
    call = r"(?=[ \t]*\()"
    return {"comment": r"#[^\n]*", "string": regex("STRING"),
            "number": rf"(?:(?<![\w)])-)?\b{regex('WEIGHT').removeprefix('-?')}|\?",
            "definition": rf"(?:(?<=\bhead )|(?<=\bdef )){regex('NAME')}", "type": rf"\b{regex('SET_NAME')}",
            "function": words([*called, *listed(*BUILT_IN)]) + call,
            "word": words([word for word in keywords if word not in called]),
            "call": rf"\b{regex('NAME')}{call}",
            "variable": words([*listed("VARIABLE"), *listed("SEARCHED"), *listed("TEXT_FEATURE")]),
            "name": rf"\b{regex('NAME')}", "operator": "|".join(map(re.escape, operators)),
            "mark": r"[()\[\]{},:]"}  # fmt: skip


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    return re.compile("|".join(f"(?P<{kind}>{regex})" for kind, regex in lexemes().items()))


def marked(source: str) -> Iterator[tuple[str, str]]:
    """Cut a source into lexemes: kind and text; the kind is empty for blanks and for what is none.

    >>> list(marked("2 where k"))
    [('number', '2'), ('', ' '), ('word', 'where'), ('', ' '), ('variable', 'k')]
    """
    end = 0
    for found in _pattern().finditer(source):
        if end < found.start():
            yield "", source[end : found.start()]
        yield found.lastgroup or "", found[0]
        end = found.end()
    if end < len(source):
        yield "", source[end:]

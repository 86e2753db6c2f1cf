"""Warnings about parts of a program that never hold, always hold, or change nothing."""

from __future__ import annotations

import re

import pytest

from attn_dsl.dsl.check import check
from attn_dsl.dsl.library import library
from attn_dsl.dsl.lint import lint
from attn_dsl.dsl.parser import parse

HEAD = "head a causal softmax:\n"
NEVER, ALWAYS = "never holds", "always holds"


def head(*terms: str) -> str:
    return HEAD + "".join(f"    {term}\n" for term in terms)


# Programs with one warning, whose place is between ‹ and ›, and a part of it.
WARNED = [
    (head('1 where ‹word(k) == "The"›'), 'write "the"'),
    (head('1 where not ‹(word(k) == " the")› or k == 0'), 'write "the"'),
    (head('1 where ‹text(k) in {" a", "b"}›'), '`text` never gives " a"\n'),
    (head('1 where ‹lower(k) in {"A", "B", "C", "D"}›'), '"A", "B", "C" …'),
    (head('1 where ‹token(k) in {"", "b"}›'), "leave it out"),
    (head('1 * ‹weight(word(k), {"The": 1, "a": 2})›'), 'write "the"'),
    ('set A = {"A", "b"}\n' + head("1 where ‹word(k) in A›"), 'write "a"'),
    ('score S:\n    1 where ‹word(i) == "The"›\n' + head("1 * S(k)"), 'write "the"'),
    (head("1 where ‹q - k < 0›"), NEVER),
    (head("1 where ‹k > q+1›"), NEVER),
    (head("1 where ‹k == q and k == q-1›"), NEVER),
    (head("1 where ‹length(k) >= 3 and length(k) < 3›"), NEVER),
    (head("1 where ‹punct(k) and not punct(k)›"), NEVER),
    (head('1 where ‹text(k) == "a" and text(k) in {"b", "c"}›'), NEVER),
    (head("1 where punct(k) or ‹0 - k == 3›"), NEVER),
    (head("1 where ‹k == 0 and q == k+1 and q >= 2 and k == 1›"), NEVER),
    (head("1 where k == nearest(‹k == q›)"), NEVER),
    (head("1 where ‹(q - k) % 2 == 2›"), NEVER),
    (head("1 where ‹abs(q - k) % 2 < 2› and punct(k)"), ALWAYS),
    (head("1 where ‹number(k) < 0 - 1›"), NEVER),
    (head('1 where ‹prefix(word(k), 2) == "the"›'), 'write "th"'),
    (head('1 where ‹stem(word(k)) in {"Run", "walk"}›'), 'write "run"'),
    (head("1 where ‹q - k >= 0›"), ALWAYS),
    (head("1 where ‹length(k) >= 0›"), ALWAYS),
    (head("1 where ‹text(k) == text(k)›"), ALWAYS),
    (head("1 where ‹3 in 1..4› and punct(k)"), ALWAYS),
    (head("1 where not ‹(k > q)› and k == 0"), NEVER),
    (head("1 where punct(k) or k == 0 or ‹punct(k)›"), "is written twice"),
    (head("by q - k [‹-3: 1›, 0: 2]"), "the step -3 is never reached"),
    (head("by q - k [‹0: 1›, 4: 2] where q - k >= 5 and punct(k)"), "the step 0 is never reached"),
    (head("1.5 where k == 0", "‹2 where k <= 0›"), "write one, of weight 3.5"),
    (head("? where k == q", "‹1 where q - k in 0..0›"), "of weight ?"),
    (head("1 * log(k) where k == 1", "2 where k == 1", "‹3 * log(k) where k == 1›"), "of weight 4"),
    (head("‹1 where punct(q)›"), "softmax takes away"),
    (head("‹1 * log(1 + q)› + 2 * log(1 + k)"), "softmax takes away"),
    ("head a bidirectional:\n    1 where ‹k > q and k < q›\n", NEVER),
]


@pytest.mark.parametrize(("marked", "message"), WARNED, ids=lambda x: repr(x)[-24:])
def test_warnings(marked: str, message: str) -> None:
    before, found, _ = re.split("[‹›]", marked)
    source = re.sub("[‹›]", "", marked)
    program = parse(source)
    check(program)
    (one,) = lint(program, source, "p.attn")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    assert one.span is not None and one.hint
    assert (one.span.line, one.span.column) == (line, column)
    assert one.span.end_column == column + len(found)
    assert message in f"{one}\n"


@pytest.mark.parametrize(
    "source",
    [
        head("1 where k == 0", "2 where k != 0", "3 where k == 0 and punct(q)"),
        head('1 where text(k-1) == ""', '1 where word(k) in {"", "don\'t"}'),
        head('1 where shape(k) == "Xx"', "1 where previous(q) in -1..-1 and k == 0"),
        head("1 where k-1 == q-3", "1 where k == nearest(k == q-1)"),
        head("by q - k [0: 1, 4: 2] where q - k >= 3", "by k - q [-9: 1, -2: 0]"),
        head("1 where true").replace("softmax", "linear"),
        "head a bidirectional:\n    1 where k > q\n    1 where q - k >= 0\n",
    ],
)
def test_sound_programs_have_no_warnings(source: str) -> None:
    assert lint(parse(source)) == []


def test_the_library_has_no_warnings() -> None:
    for visibility in ("causal", "bidirectional"):
        for entry in library(visibility).values():
            found = [one.message for one in lint(parse(entry.source), entry.source, entry.name)]
            # programs of both visibilities say that a search looks back
            assert set(found) <= {"`k < q` always holds"} and not (found and visibility != "causal")

"""Random programs through everything that runs programs, and random sources through the parser.

All draws come from one seeded source. What is found is kept in ``tests/corpus``, a file each.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from exporting import TINY, TOLERANCE, assert_balanced, by_flex, by_numba, by_numpy, by_torch
from plain_random import strategies

from attn_dsl.compiler.code import Code
from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.compiler.export.latex import to_latex
from attn_dsl.compiler.program import Program
from attn_dsl.compiler.stream import Stream
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.analysis import Analysis
from attn_dsl.dsl.check import check
from attn_dsl.dsl.definitions import canonical
from attn_dsl.dsl.errors import AttnDslError, ProgramError
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.dsl.reference import Interpreter
from attn_dsl.dsl.scope import type_of
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.eval.replace.programs import Programs

CORPUS = Path(__file__).parent / "corpus"
FAMILY = 32
"""The number of programs that are drawn with the same definitions, and planned together."""
SHARE = 24
"""One in so many families goes through the exports, the parser and replacement too."""
SLOW = 5.0
"""The most seconds of a processor for one source."""
PLAIN = strategies()
_TEXTS = PLAIN.tokens(max_size=8, gaps=True)


@dataclass(frozen=True)
class Finding:
    """What is wrong, with what shows it: JSON data of which ``kind`` says how it is tried again."""

    kind: str
    data: Any
    wrong: str

    def save(self) -> Path:
        """Write it to the corpus; the name of the file is made from what shows it."""
        text = json.dumps({"kind": self.kind, "data": self.data, "found": self.wrong[:2000]})
        file = CORPUS / f"{self.kind}-{sha256(json.dumps(self.data).encode()).hexdigest()[:12]}.json"
        CORPUS.mkdir(exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
        return file


def family(random: Random) -> list[t.Head]:
    """Draw programs that share visibility and definitions; half of them are mutated."""
    lookahead = random.random() < 0.1
    head, scope = PLAIN._definitions(None, None, lookahead, ()).draw(random)
    programs: list[t.Head] = []
    for _ in range(FAMILY):
        form = random.choice(("softmax", "linear"))
        terms = PLAIN._terms(scope, form == "linear", False)
        drawn = tuple(terms.draw(random) for _ in range(random.randint(0, 4)))
        program = replace(head, normaliser=form, terms=drawn)
        if form == "linear" and random.random() < 0.2:
            program = program.with_weights([random.choice(TINY) for _ in program.weights])
        programs.append(program)
    mutants = (mutated(random, random.choice(programs), random.choice(programs)) for _ in programs)
    return [*programs[FAMILY // 2 :], *filter(valid, mutants)]


def valid(program: t.Head) -> bool:
    """Return whether the checker accepts a program."""
    try:
        check(program, allow_lookahead=True)
    except ProgramError:
        return False
    return True


def mutated(random: Random, program: t.Head, other: t.Head) -> t.Head:
    """Put parts of another program in place of parts of the same type; not all results are valid."""
    types = dict[str, Any]()
    for one in program.functions:
        types[one.name] = type_of(one.value, types)
    donors = dict[object, list[t.Node]]()
    for node in _parts(other):
        donors.setdefault(_type(node, types), []).append(node)
    for _ in range(random.randint(1, 3)):
        if nodes := _parts(program):
            old = random.choice(nodes)
            if given := donors.get(_type(old, types)):
                new = random.choice(given)
                program = t.rewrite(program, lambda x, old=old, new=new: new if x is old else x)
    return program


def _parts(node: t.Node) -> list[t.Node]:
    """Return the nodes of the terms of a program, without the positions that searches are for."""
    inside = node.terms if isinstance(node, t.Head) else node.children()
    if isinstance(node, t.Search):
        inside = [node.body]
    return [one for part in inside for one in (part, *_parts(part))]


def _type(node: t.Node, types: dict[str, Any]) -> object:
    """Return what may stand where a node stands."""
    if isinstance(node, t.Term):
        return "term"
    if isinstance(node, t.Int | t.Predicate | t.Symbol):
        return type_of(node, types)
    return type(node)


def matrices(programs: Sequence[t.Head], tokens: Tokens) -> list[np.ndarray]:
    """Return the matrices of the reference semantics; columns of features are computed once."""
    analysis, columns, found = Analysis(tokens), dict[str, Any](), []
    for program in programs:
        interpreter = Interpreter(program, analysis)
        interpreter.columns = columns
        found.append(np.array(interpreter.matrix()).reshape(len(tokens), len(tokens)))
    return found


def evaluated(code: Code, tokens: Tokens) -> list[np.ndarray]:
    return list(Plan(code, Batch([tokens])).square(0))


def streamed(code: Code, tokens: Tokens) -> list[np.ndarray]:
    """Return the matrices row by row, as of a text that grows; none for programs that cannot be streamed."""
    if not code.causal or any(FEATURES[name].reads == "full" for name in code.graph.features):
        return []
    n, at, stream = len(tokens), 0, Stream(code)
    out = np.zeros((code.size, n, n))
    for q, (string, (start, end)) in enumerate(zip(tokens.strings, tokens.spans, strict=True)):
        stream._analysis.add(string, tokens.text[at:start], tokens.text[start:end], tokens.special[q])
        stream._update()
        out[:, q, : q + 1], at = stream.rows(q)[:, 0], end
    return list(out)


def replacing(programs: Sequence[Program], tokens: Tokens) -> list[np.ndarray]:
    return list(Programs([*programs]).bundle([tokens]).numpy()[:, 0]) if len(tokens) else []


def flexed(programs: Sequence[Program], tokens: Tokens) -> list[np.ndarray | None]:
    soft = [len(tokens) > 0 and program.tree.normaliser == "softmax" for program in programs]
    return [by_flex(p, [tokens])[0] if fits else None for p, fits in zip(programs, soft, strict=True)]


def printed(programs: Sequence[Program], tokens: Tokens) -> list[np.ndarray]:
    """Return the matrices of some programs that are printed and parsed again."""
    again = [parse(program.source) for program in programs[:4]]
    for program, tree in zip(programs, again, strict=False):
        assert parse(show(tree)) == tree
        assert_balanced(to_latex(program))
    return matrices(again, tokens)


def _each(export: Callable[..., np.ndarray]) -> Callable[..., list[np.ndarray]]:
    """Return what runs an export on each program."""
    return lambda programs, tokens: [export(program, tokens) for program in programs]


BATCHED = {"evaluator": evaluated, "streams": streamed}
"""What runs all programs of one visibility together."""
EXPORTS: dict[str, Callable[..., Sequence[np.ndarray | None]]] = {
    "numpy": _each(by_numpy), "torch": _each(by_torch), "numba": _each(by_numba), "flex": flexed,
    "replacement": replacing, "printer": printed}  # fmt: skip


def disagreement(programs: Sequence[t.Head], tokens: Tokens, exports: bool) -> str:
    """Return where something differs from the reference semantics or fails; empty if all agree."""
    name, ways = "reference", {**BATCHED, **(EXPORTS if exports else {})}
    try:
        expected = matrices(programs, tokens)
        name = "lowering"
        code = Code(programs)
        made = [Program.from_tree(p, allow_lookahead=True) for p in programs] if exports else []
        for name, way in ways.items():
            found = way(code if name in BATCHED else made, tokens)  # type: ignore[arg-type]
            for one, other in zip(expected, found, strict=False):
                if other is None:
                    continue
                if one.shape != other.shape or not np.all(np.abs(one - other) <= TOLERANCE):
                    return f"{name}: {other.tolist()} instead of {one.tolist()}"
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"
    return ""


def programs_agree(random: Random, seconds: float, count: Counter[str]) -> Iterator[Finding]:
    """Try families of programs on texts for so many seconds, and yield what does not agree."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        programs, tokens = family(random), _TEXTS.draw(random)
        exports = count["families"] % SHARE == 0
        kinds = [type(node).__name__ for program in programs for node in program.walk()]
        count.update(kinds)
        count["families"] += 1
        count["programs"] += len(programs)
        count["programs through exports"] += len(programs) * exports
        yield from found_in(programs, tokens, exports)


def found_in(programs: Sequence[t.Head], tokens: Tokens, exports: bool) -> Iterator[Finding]:
    """Yield what does not agree: single programs, or all together if only that shows it."""
    if not (wrong := disagreement(programs, tokens, exports)):
        return
    alone = [(program, disagreement([program], tokens, exports)) for program in programs]
    shown = [([program], one) for program, one in alone if one] or [([*programs], wrong)]
    for group, one in shown:
        text = {"strings": tokens.strings, "text": tokens.text, "spans": tokens.spans,
                "special": tokens.special}  # fmt: skip
        yield Finding("programs", {"sources": list(map(show, group)), "tokens": text}, one)


def sources_are_read(random: Random, seconds: float, count: Counter[str]) -> Iterator[Finding]:
    """Mutate sources for so many seconds, and yield those that are not read well."""
    end, pool = time.monotonic() + seconds, list[str]()
    while time.monotonic() < end:
        if not pool or random.random() < 0.01:
            pool = [show(program) + random.choice(("", CLAIMS)) for program in family(random)]
        source = mutated_source(random, pool)
        if wrong := misread(source):
            yield Finding("source", source, wrong)
        elif random.random() < 0.3:
            pool[random.randrange(len(pool))] = source[:5000]
        count["sources"] += 1


_BITS = ("\n", "    ", " ", '"', "\\", "{", "}", "(", ")", "[", "]", ":", ",", "#", "?", "-", "..", "==",
         "not ", "and ", "or ", "where ", "by ", "any(", "count(j <= k where ", "head a causal:\n",
         "def f(i) = ", "set A = ", "score S:\n", 'use "x.attn"\n', "\0", "\ud800", "\u2028", "é", "99999999",
         "1e9", "property ", "causal", "invariant_to case", "mass >= 0.5 on ", "k", "q", "i", "j", "\r",
         "\t")  # fmt: skip


CLAIMS = "property causal\nproperty invariant_to case\nproperty mass >= 0.5 on k == 0 where punct(q)\n"


def mutated_source(random: Random, pool: Sequence[str]) -> str:
    """Return a source with parts of it or of others deleted, doubled, moved or put in."""
    source = random.choice(pool)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        i, j = sorted(random.randrange(len(source) + 1) for _ in range(2))
        j = min(j, i + random.choice((1, 4, 30)))
        other = random.choice(pool)
        at = random.randrange(len(other) + 1)
        put = random.choice((
            "", source[i:j] * 2, random.choice(_BITS), chr(random.randrange(0x250)), other[at : at + 40],
            source[i:j][::-1],
        ))  # fmt: skip
        source = source[:i] + put + source[j:]
    return source


def misread(source: str) -> str:
    """Return what is wrong with how a source is read; empty if it gives a program or an error, and soon."""
    begin = time.process_time()
    try:
        tree = parse(source, "a.attn")
        check(tree, source=source, allow_lookahead=True)
        again = parse(show(tree))
        if again != tree or again.properties != tree.properties:
            return "what is printed is another program"
        canonical(source, "a.attn")
    except AttnDslError as error:
        if len(str(error)) > 50_000:
            return "a message without end"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    taken = time.process_time() - begin
    return f"{taken:.1f} s" if taken > SLOW else ""


def again(file: Path) -> str:
    """Try a finding of the corpus again; return what is wrong, empty if it is mended."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    if kept["kind"] == "source":
        return misread(kept["data"])
    text = kept["data"]["tokens"]
    tokens = Tokens(tuple(text["strings"]), text["text"], tuple(map(tuple, text["spans"])),
                    tuple(text["special"]))  # fmt: skip
    programs = [parse(source) for source in kept["data"]["sources"]]
    return disagreement(programs, tokens, exports=True)

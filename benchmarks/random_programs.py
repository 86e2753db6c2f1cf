"""Random programs of the language, as a person may write them, in which every term matters.

A program is drawn term by term: a form, what the form is about, a weight. Forms come from the
language, not from what the search knows how to build. A term is drawn again while the program
without it, all other weights fitted anew, still comes within ``MATTERS`` of the program's matrices.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.parser import parse_predicate, parse_term
from attn_dsl.dsl.printer import number, quote
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.synth import weights as w
from attn_dsl.synth.recovery.rules import name_sets

MATTERS, TRIES = 0.02, 200
"""IoU that each term brings; how often one is drawn again before the program is begun anew."""
PROBE_TEXTS, PROBE_ROWS = 16, 24
FORMS = {
    "offset": 10, "distance": 8, "position": 5, "key set": 18, "set pair": 14, "lexicon": 10,
    "truth": 8, "same": 8, "ordinal": 6, "pointer": 5, "count": 4, "nearest": 5, "induction": 5,
    "affix": 3, "curve": 10, "table": 4, "weighted set": 8, "product": 6,
}  # fmt: skip
"""How often each form of a term is drawn, by the method of its name."""
VALUES = ("curve", "table", "weighted set", "product")
QUERY_CONDITION, DISTANCE_CONDITION, NEGATION = 0.25, 0.1, 0.05
"""How often a predicate is narrowed to some queries, to some distances, or is negated."""
_POINTERS = ("word_first", "sentence_first", "line_first", "opener", "quote_first", "previous",
             "word_previous", "word_last")  # fmt: skip
_ORDINALS = ("word_index", "sentence", "line", "paragraph", "depth", "indent", "piece", "repeats",
             "word_repeats", "length")  # fmt: skip


class Probe:
    """Rows of some texts, on which it is measured whether a term matters."""

    def __init__(self, texts: Sequence[Tokens], causal: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.causal = causal
        self.batch = Batch(texts[:PROBE_TEXTS])
        sizes = self.batch.sizes
        self.rows = [np.sort(rng.permutation(n)[:PROBE_ROWS]) for n in sizes]
        pairs = zip(self.rows, sizes, strict=True)
        widths = [r + 1 if causal else np.full(len(r), n) for r, n in pairs]
        self.starts = np.concatenate([[0], np.cumsum(np.concatenate(widths))]).astype(np.int64)

    def planes(self, program: t.Head) -> np.ndarray:
        """Compute the planes of a program's weights on the rows, float32 (weights, entries)."""
        plan = Plan([program.with_weights([0.0] * len(program.weights))], self.batch)
        return plan.planes(self.rows)[list(plan.code.programs[0])]

    def rows_of(self, planes: np.ndarray, weights: Sequence[float | None]) -> w.Rows:
        """Compute the attention that some weights of some planes make."""
        out = np.empty(int(self.starts[-1]), dtype=np.float32)
        w.predict(planes, np.array(weights, dtype=np.float64), self.starts, out)
        return w.Rows(self.starts, out)

    def reached(self, planes: np.ndarray, target: w.Rows) -> float:
        """Fit the weights of planes to a target and return the IoU that they reach."""
        _, predicted = w.fit(planes, target, ridge=1e-5)
        return w.iou_of(target.actual, predicted, len(target))

    def useless(self, terms: Sequence[t.Term], planes: Sequence[np.ndarray]) -> list[int]:
        """Find the terms that the others can do without, from the last on; it alone if it is one."""
        weights = [weight for term in terms for weight in t.weights_of(term)]
        target, found = self.rows_of(np.concatenate(planes), weights), []
        none = np.empty((0, int(self.starts[-1])), dtype=np.float32)
        for i in reversed(range(len(terms))):
            others = np.concatenate([none, *planes[:i], *planes[i + 1 :]])
            if self.reached(others, target) > 1 - MATTERS:
                found.append(i)
                if i == len(terms) - 1:
                    break
        return found


class Maker:
    """Draws programs for one set of texts; the same seed draws the same programs."""

    def __init__(self, texts: Sequence[Tokens], causal: bool, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.causal = causal
        self.visibility: t.Visibility = "causal" if causal else "bidirectional"
        self.probe = Probe(texts, causal, seed)
        pairs = (x for text in texts for x in zip(text.strings, text.special, strict=True))
        common = Counter(string for string, special in pairs if not special).most_common(400)
        self.tokens = [string for string, _ in common]
        share = np.sqrt([count for _, count in common])
        self.shares = share / share.sum()
        some = [f for f in FEATURES.values() if f.arity == 1 and not f.extra]
        some = [f for f in some if not causal or f.reads != "full"]
        self.truths = [f.name for f in some if f.type == "bool"]
        self.symbols = [f.name for f in some if f.type == "symbol"]
        self.words = [e.name for e in lexicon().values() if e.file == "english.toml"]
        self.marks = [e.name for e in lexicon().values() if e.file == "punctuation.toml"]

    def program(self, terms: int, name: str) -> t.Head:
        """Draw a program of so many terms, each of which matters."""
        while (made := self._attempt(terms, name)) is None:
            pass
        return made

    def _attempt(self, count: int, name: str) -> t.Head | None:
        terms: list[t.Term] = []
        planes: list[np.ndarray] = []
        for _ in range(TRIES):
            drawn = self._term()
            if drawn is None or drawn[0] in terms:
                continue
            term, plane = drawn
            useless = self.probe.useless([*terms, term], [*planes, plane])
            if len(useless) > 1 or len(terms) in useless:
                continue  # it does not matter, or makes more than one older term useless
            terms, planes = [*terms, term], [*planes, plane]
            for i in useless:
                del terms[i], planes[i]
            if len(terms) == count and not self.probe.useless(terms, planes):
                program = name_sets(t.Head(name, self.visibility, "softmax", tuple(terms)))
                check(program)
                return program
        return None

    def _term(self) -> tuple[t.Term, np.ndarray] | None:
        """Draw a term and its planes; None if it is the same everywhere."""
        odds = np.array(list(FORMS.values())) / sum(FORMS.values())
        form = str(self.rng.choice(list(FORMS), p=odds))
        body = getattr(self, "_" + form.replace(" ", "_"))()
        if form in VALUES:
            term = parse_term(body)
        else:
            if self._chance(NEGATION) and " and " not in body:
                body = f"not {body}"
            if self._chance(DISTANCE_CONDITION) and form not in ("offset", "distance", "position"):
                body = f"{body} and {self._distance()}"
            if self._chance(QUERY_CONDITION) and form != "set pair":
                body = f"{body} and {self._query()}"
            term = t.Where(self._weight(), parse_predicate(body))
        planes = self.probe.planes(t.Head("probe", self.visibility, terms=(term,)))
        low = np.minimum.reduceat(planes, self.probe.starts[:-1], axis=1)
        high = np.maximum.reduceat(planes, self.probe.starts[:-1], axis=1)
        if not (high > low).any():
            return None
        if form == "curve":  # its weight is chosen so that a row's keys differ by it in the mean
            spread = float((high - low)[high > low].mean())
            assert isinstance(term, t.Scaled)
            scale = abs(self._weight()) / spread * (-1 if (term.weight or 0) < 0 else 1)
            term = dataclasses.replace(term, weight=float(f"{scale:.2g}"))
        return term, planes

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def _between(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _weight(self) -> float:
        sign = 1 if self._chance(0.7) else -1
        return sign * round(float(self.rng.uniform(0.7, 4.0)), 1)

    def _shift(self) -> int:
        return -int(self.rng.choice([0, 1, 2], p=[0.75, 0.2, 0.05]))

    def _at(self, variable: str, shift: int) -> str:
        return variable if not shift else f"{variable}{shift:+d}"

    def _log_uniform(self, low: int, high: int) -> int:
        return round(float(np.exp(self.rng.uniform(np.log(low), np.log(high)))))

    def _token_set(self, variable: str, shift: int) -> str:
        size = min(self._log_uniform(1, 24), len(self.tokens))
        chosen = self.rng.choice(len(self.tokens), size=size, replace=False, p=self.shares)
        elements = ", ".join(quote(self.tokens[i]) for i in sorted(chosen))
        return f"token({self._at(variable, shift)}) in {{{elements}}}"

    def _weights(self, variable: str, shift: int, low: float = 0.7, high: float = 4.0) -> str:
        """Draw a set whose elements weigh differently, as a value."""
        size = min(self._log_uniform(2, 24), len(self.tokens))
        chosen = self.rng.choice(len(self.tokens), size=size, replace=False, p=self.shares)
        signs = self.rng.choice([1, -1], size=size, p=[0.7, 0.3])
        drawn = (signs * self.rng.uniform(low, high, size=size)).round(1)
        pairs = zip(chosen, drawn, strict=True)
        elements = ", ".join(f"{quote(self.tokens[i])}: {number(float(x))}" for i, x in pairs)
        return f"weight(token({self._at(variable, shift)}), {{{elements}}})"

    def _weighted_set(self) -> str:
        where = f" where {self._query()}" if self._chance(QUERY_CONDITION) else ""
        where = where or (f" where {self._distance()}" if self._chance(DISTANCE_CONDITION) else "")
        return f"1 * {self._weights('k', self._shift())}{where}"

    def _product(self) -> str:
        """Draw a preference for keys, or for near ones, whose strength depends on the query."""
        query = self._weights("q", 0, 0.5, 2.0)
        if self._chance(0.6):
            return f"1 * {query} * {self._weights('k', self._shift(), 0.5, 2.0)}"
        gap = "q - k" if self.causal else "abs(q - k)"
        return f"-1 * {query} * {self._pick([f'log(1 + {gap})', f'inv(1 + {gap})'])}"

    def _set_pair(self) -> str:
        return f"{self._token_set('k', self._shift())} and {self._token_set('q', 0)}"

    def _key_set(self) -> str:
        return self._token_set("k", self._shift())

    def _truth(self, variable: str = "k") -> str:
        return f"{self._pick(self.truths)}({self._at(variable, self._shift())})"

    def _lexicon(self, variable: str = "k", shift: int | None = None) -> str:
        shift = self._shift() if shift is None else shift
        if self._chance(0.75):
            return f"word({self._at(variable, shift)}) in {self._pick(self.words)}"
        return f"text({self._at(variable, shift)}) in {self._pick(self.marks)}"

    def _offset(self) -> str:
        distance = min(int(self.rng.geometric(0.35)) - 1, 12)
        forward = not self.causal and self._chance(0.5)
        return f"k == {self._at('q', distance if forward else -distance)}"

    def _distance(self) -> str:
        gap = "q - k" if self.causal or self._chance(0.3) else "abs(q - k)"
        if self._chance(0.4):
            return f"{gap} >= {self._log_uniform(3, 48)}"
        low = self._between(0, 4)
        return f"{gap} in {low}..{low + self._log_uniform(1, 24)}"

    def _position(self) -> str:
        return self._pick(["k == 0", "k == 0", f"k == {self._between(1, 4)}",
                          f"k in 0..{self._log_uniform(1, 16)}"])  # fmt: skip

    def _same(self) -> str:
        name = self._pick(self.symbols)
        other = self._pick(self.symbols) if self._chance(0.1) else name
        left, right = self._shift(), self._shift()
        more = " and k != q" if left == right and self._chance(0.5) else ""
        return f"{name}({self._at('k', left)}) == {other}({self._at('q', right)}){more}"

    def _ordinal(self) -> str:
        name, gap = self._pick(_ORDINALS), self._between(-2, 2) if self._chance(0.4) else 0
        more = "" if not gap else f" {'+' if gap > 0 else '-'} {abs(gap)}"
        return f"{name}(k) {self._pick(['==', '==', '==', '>=', '<='])} {name}(q){more}"

    def _pointer(self) -> str:
        name, gap = self._pick(_POINTERS), int(self.rng.choice([-1, 0, 1], p=[0.2, 0.6, 0.2]))
        more = "" if not gap else f" {'+' if gap > 0 else '-'} 1"
        op = self._pick(["==", "==", "==", ">="])
        return f"k {op} {name}({self._at('q', self._shift())}){more}"

    def _count(self) -> str:
        if not self.causal and self._chance(0.1):
            return f"from_end(k) {self._pick(['==', '<='])} {self._between(0, 5)}"
        name = self._pick(["length", "piece", "repeats", "word_repeats", "word_index", "sentence",
                          "depth"])  # fmt: skip
        return f"{name}(k) {self._pick(['>=', '==', '<='])} {self._between(1, 5)}"

    def _nearest(self) -> str:
        inner = self._pick([self._token_set("k", 0), self._lexicon("k", 0),
                           f"{self._pick(self.truths)}(k)"])  # fmt: skip
        more = " and k < q" if self._chance(0.5) else ""
        which = self._pick(["nearest", "nearest", "first", "last"])
        return f"k {self._pick(['==', '==', '>='])} {which}({inner}{more})"

    def _induction(self) -> str:
        return self._pick([
            "text(k-1) == text(q)", "token(k-1) == token(q)", "k == previous(q) + 1",
            f"match(k-1, q) >= {self._between(1, 3)}", f"match(k, q) >= {self._between(2, 3)}",
            "text(k-1) == text(q) and text(k-2) == text(q-1)", "word_before(k) == word(q)",
        ])  # fmt: skip

    def _affix(self) -> str:
        words = [s.strip() for s in self.tokens if s.strip().isalpha()]
        word, size = self._pick(words), self._between(1, 2)
        name = self._pick(["text", "word"])
        if self._chance(0.5):
            return f"starts({name}(k), {quote(word[:size])})"
        return f"ends({name}(k), {quote(word[-size:])})"

    def _query(self) -> str:
        """Draw a condition on the query."""
        sizes = f"q >= {self._log_uniform(2, 48)}", f"length(q) >= {self._between(2, 5)}"
        size = self._pick(sizes)
        made = self._pick([
            self._truth("q"), self._lexicon("q", 0), self._token_set("q", self._shift()),
            self._token_set("q", 0), size,
        ])  # fmt: skip
        return f"not {made}" if self._chance(0.25) else made

    def _curve(self) -> str:
        """Draw a value with a sign as its weight; how large it is, is chosen later."""
        gap = "q - k" if self.causal else "abs(q - k)"
        shrinking, growing = [f"inv(1 + {gap})"], [f"log(1 + {gap})", gap, f"sqrt({gap})"]
        shrinking.append(f"decay({gap}, {self._pick(['0.5', '0.7', '0.8', '0.9', '0.95'])})")
        other = ["log(1 + k)", "match(k-1, q)", "length(k)", "repeats(k)", "log(1 + repeats(k))"]
        draw = self.rng.random()
        value = self._pick(growing if draw < 0.5 else shrinking if draw < 0.8 else other)
        favours_near = self._chance(0.85)
        negative = (value in growing) == favours_near
        where = f" where {self._query()}" if self._chance(QUERY_CONDITION) else ""
        value = f"({value})" if " - " in value and value == gap == "q - k" else value
        return f"{'-' if negative else ''}1 * {value}{where}"

    def _table(self) -> str:
        """Draw a table over distance of three to five steps."""
        gap = "q - k" if self.causal or self._chance(0.5) else "abs(q - k)"
        steps = sorted(self.rng.choice([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48],
                                       size=self._between(3, 5), replace=False))  # fmt: skip
        entries = ", ".join(f"{step}: {number(self._weight())}" for step in steps)
        where = f" where {self._query()}" if self._chance(QUERY_CONDITION) else ""
        return f"by {gap} [{entries}]{where}"

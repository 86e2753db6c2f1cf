"""Random programs of the forms that proposals may have, for the proposer to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from attn_dsl.compiler.columns import Batch
from attn_dsl.compiler.evaluate import Plan
from attn_dsl.dsl import tree as t
from attn_dsl.dsl.features import FEATURES
from attn_dsl.dsl.lexicon import lexicon
from attn_dsl.dsl.parser import parse_term
from attn_dsl.dsl.printer import quote
from attn_dsl.dsl.tokens import Tokens
from attn_dsl.synth.llm.grammar import as_proposal, is_proposal

MATTERS = 0.01
"""Terms whose scores spread less than this (their variance by row) are drawn again."""
ORDINALS = ("word_index", "sentence", "line", "paragraph", "depth", "indent", "piece", "repeats",
            "word_repeats", "length")  # fmt: skip
POINTERS = ("word_first", "sentence_first", "line_first", "opener", "quote_first", "previous",
            "word_previous", "word_last")  # fmt: skip


class Drawer:
    """Draws terms on the tokens of some texts."""

    def __init__(self, rng: np.random.Generator, texts: Sequence[Tokens], causal: bool) -> None:
        self.rng, self.causal = rng, causal
        counts = Counter(
            s
            for x in texts
            for s, m in zip(x.strings, x.special, strict=True)
            if not m and len(s) < 20
        )
        common = counts.most_common(400)
        self.tokens = [s for s, _ in common]
        share = np.array([c for _, c in common]) ** 0.5
        self.shares = share / share.sum()
        names = [
            f for f in FEATURES.values()
            if f.arity == 1 and not f.extra and not (causal and f.reads == "full")
        ]  # fmt: skip
        self.truths = [f.name for f in names if f.type == "bool"]
        self.symbols = [f.name for f in names if f.type == "symbol"]
        self.classes = [
            ("word" if e.file == "english.toml" else "text", e.name) for e in lexicon().values()
            if e.file in ("english.toml", "punctuation.toml")
        ]  # fmt: skip

    def pick(self, options: Sequence, odds: Sequence[float] | None = None) -> str:
        """Draw one of some options."""
        p = None if odds is None else np.array(odds) / sum(odds)
        return options[int(self.rng.choice(len(options), p=p))]

    def number(self, low: int, high: int) -> int:
        """Draw a number, small ones more often."""
        return round(float(np.exp(self.rng.uniform(np.log(max(low, 1)), np.log(high)))))

    def at(self, variable: str, odds: Sequence[float] = (0.75, 0.18, 0.07)) -> str:
        """Draw a position: it or one or two before."""
        return variable + self.pick(["", "-1", "-2"], odds)

    def tokens_in(self, place: str, most: int = 24) -> str:
        """Draw a set of tokens."""
        size = min(self.number(1, most), len(self.tokens))
        some = self.rng.choice(len(self.tokens), size=size, replace=False, p=self.shares)
        texts = [quote(self.tokens[i]) for i in sorted(some)]
        if len(texts) == 1:
            return f"token({place}) == {texts[0]}"
        return f"token({place}) in {{{', '.join(texts)}}}"

    def gap(self) -> str:
        """Draw a distance."""
        return "q - k" if self.causal or self.rng.random() < 0.35 else "abs(q - k)"

    def distance(self) -> str:
        """Draw a condition on distance."""
        if self.rng.random() < 0.4:
            return f"{self.gap()} >= {self.number(2, 48)}"
        low = int(self.rng.integers(0, 6))
        high = self.pick([h for h in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if h > low])
        return f"{self.gap()} in {low}..{high}"

    def query(self) -> str:
        """Draw a condition on the query."""
        name, chosen = self.pick(self.classes)
        made = self.pick([
            f"{self.pick(self.truths)}({self.at('q')})", f"{name}({self.at('q')}) in {chosen}",
            self.tokens_in(self.at("q")), self.tokens_in("q", 10), f"q >= {self.number(2, 48)}",
            f"length(q) >= {int(self.rng.integers(2, 6))}",
        ])  # fmt: skip
        return f"not {made}" if self.rng.random() < 0.2 and " in {" not in made else made

    def predicate(self) -> str:
        """Draw what a term is about."""
        pick, rng = self.pick, self.rng
        name, chosen = pick(self.classes)
        symbol = pick(self.symbols)
        other = symbol if rng.random() < 0.9 else pick(self.symbols)
        back = int(min(rng.geometric(0.35) - 1, 12))
        sign = "+" if not self.causal and rng.random() < 0.5 else "-"
        kind = pick(
            ["offset", "distance", "position", "key", "pair", "class", "truth", "same", "ordinal",
             "pointer", "count", "nearest", "induction", "affix"],
            [10, 8, 5, 20, 14, 10, 8, 8, 6, 5, 4, 5, 5, 3],
        )  # fmt: skip
        if kind == "offset":
            return f"k == q{sign}{back}" if back else "k == q"
        if kind == "distance":
            return self.distance()
        if kind == "position":
            return pick(
                ["k == 0", "k == 0", f"k == {rng.integers(1, 5)}", f"k <= {self.number(1, 16)}"]
            )
        if kind == "key":
            return self.tokens_in(self.at("k"))
        if kind == "pair":
            return f"{self.tokens_in(self.at('k'))} and {self.tokens_in('q')}"
        if kind == "class":
            return f"{name}({self.at('k')}) in {chosen}"
        if kind == "truth":
            return f"{pick(self.truths)}({self.at('k')})"
        if kind == "same":
            even = (0.6, 0.25, 0.15)
            left, right = self.at("k", even), self.at("q", even)
            more = " and k != q" if left[1:] == right[1:] and rng.random() < 0.5 else ""
            return f"{symbol}({left}) == {other}({right}){more}"
        if kind == "ordinal":
            shift = pick(["", "", "", " + 1", " - 1", " + 2", " - 2"])
            label = pick(ORDINALS)
            return f"{label}(k) {pick(['==', '==', '>=', '<='])} {label}(q){shift}"
        if kind == "pointer":
            shift = pick(["", "", "", " + 1", " - 1"])
            return f"k {pick(['==', '==', '==', '>='])} {pick(POINTERS)}({self.at('q')}){shift}"
        if kind == "count":
            label = pick(["length", "piece", "repeats", "word_repeats", "word_index", "sentence"])
            return f"{label}(k) {pick(['>=', '==', '<='])} {rng.integers(1, 6)}"
        if kind == "nearest":
            inner = pick(
                [self.tokens_in("k", 12), f"{name}(k) in {chosen}", f"{pick(self.truths)}(k)"]
            )
            more = " and k < q" if rng.random() < 0.5 else ""
            search = pick(["nearest", "nearest", "first", "last"])
            return f"k {pick(['==', '==', '>='])} {search}({inner}{more})"
        if kind == "induction":
            return pick(["text(k-1) == text(q)", "token(k-1) == token(q)", "k == previous(q) + 1",
                         f"match(k-1, q) >= {rng.integers(1, 4)}", "word_before(k) == word(q)",
                         "text(k-1) == text(q) and text(k-2) == text(q-1)"])  # fmt: skip
        letters = [s.strip() for s in self.tokens if s.strip().isalpha()] or ["a"]
        word, size = pick(letters), int(rng.integers(1, 3))
        if rng.random() < 0.5:
            return f"starts({pick(['text', 'word'])}(k), {quote(word[:size])})"
        return f"ends({pick(['text', 'word'])}(k), {quote(word[-size:])})"

    def term(self) -> t.Term:
        """Draw a term with its weight."""
        weight = round(float(self.rng.uniform(0.7, 4.0)), 1) * (
            1 if self.rng.random() < 0.7 else -1
        )
        draw = self.rng.random()
        if draw < 0.1:
            gap = "q - k" if self.causal else "abs(q - k)"
            value, scale = self.pick([
                (f"log(1 + {gap})", -0.4), (f"({gap})" if self.causal else gap, -0.05),
                (f"sqrt({gap})", -0.3),
                (f"inv(1 + {gap})", 1.5), (f"decay({gap}, 0.5)", 1.5), (f"decay({gap}, 0.8)", 1.2),
                (f"decay({gap}, 0.9)", 1.2), (f"decay({gap}, 0.95)", 1.5), ("log(1 + k)", 0.5),
                ("length(k)", 0.4), ("repeats(k)", 0.4), ("match(k-1, q)", 0.8),
            ])  # fmt: skip
            where = f" where {self.query()}" if self.rng.random() < 0.25 else ""
            return parse_term(f"{weight * scale:.3g} * {value}{where}")
        if draw < 0.13:
            low = sorted(self.rng.choice([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32], 3, replace=False))
            steps = ", ".join(f"{x}: {self.rng.uniform(-3, 3):.1f}" for x in low)
            return parse_term(f"by {self.gap()} [{steps}]")
        made = self.predicate()
        if self.rng.random() < 0.05 and " and " not in made and " in {" not in made:
            made = f"not {made}"
        if self.rng.random() < 0.1 and not made.startswith(("q - k", "abs", "k == q", "k == 0")):
            made += f" and {self.distance()}"
        if self.rng.random() < 0.25 and made.count(" and ") < 2:
            made += f" and {self.query()}"
        return parse_term(f"{weight} where {made}")


def draw_programs(
    rng: np.random.Generator, texts: Sequence[Tokens], causal: bool, count: int
) -> list[t.Head]:
    """Draw programs whose terms all move the attention on the texts."""
    drawer = Drawer(rng, texts, causal)
    visibility: t.Visibility = "causal" if causal else "bidirectional"
    terms, tries = [], 0
    while len(terms) < 3 * count and tries < 12 * count:
        tries += 1
        term = drawer.term()
        if is_proposal(as_proposal(t.Head("one", visibility, "softmax", (term,))), causal):
            terms.append(term)
    batch = Batch(texts[:12])
    rows = [np.sort(rng.permutation(n)[:16]) for n in batch.sizes]
    plan = Plan([t.Head("all", visibility, "softmax", tuple(terms))], batch)
    planes = plan.planes(rows)[list(plan.code.programs[0])]
    widths = [
        r + 1 if causal else np.full(len(r), n) for r, n in zip(rows, batch.sizes, strict=True)
    ]
    starts = np.concatenate([[0], np.cumsum(np.concatenate(widths))])[:-1]
    sizes = np.diff(np.append(starts, planes.shape[1]))
    spread, at = [], 0
    for term in terms:
        own = t.weights_of(term)
        x = np.array(own, dtype=np.float32) @ planes[at : at + len(own)]
        at += len(own)
        mean = np.add.reduceat(x, starts) / sizes
        spread.append(float((np.add.reduceat(x * x, starts) / sizes - mean**2).mean()))
    terms = [x for x, s in zip(terms, spread, strict=True) if s > MATTERS]
    made, left = [], list(terms)
    for _ in range(count):
        size = int(rng.choice([1, 2, 3, 4, 5], p=[0.15, 0.25, 0.27, 0.23, 0.1]))
        if len(left) < size:
            left = list(terms)
        some, left = left[:size], left[size:]
        made.append(t.Head("made", visibility, "softmax", tuple(dict.fromkeys(some))))
    return made

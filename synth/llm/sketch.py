"""Sketches: a quick look at a head for what its program may be made of, a few rules.

A few hundred rows are screened for rules that explain what the rules found so far leave (with
``synth/exact/screen.py``, but for the most common kinds only). ``synth/llm/pool.py`` chooses among them.
This is no search: nothing is proven, and a language model chooses.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

import numpy as np

from attn_dsl.synth.design import Design
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact import screen as s
from attn_dsl.synth.exact.atoms import ONE, SCALE, TRUTH, Atoms
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Rule
from attn_dsl.synth.exact.screen import Found
from attn_dsl.synth.gains import gain
from attn_dsl.synth.proposer import HeadTask

ENTRIES = 24_000
"""Entries of the rows that are looked at."""


class Sketch(s.Screen):
    """Looks at heads on a small sample of the rows of a design; shared by all heads."""

    def __init__(self, design: Design, entries: int = ENTRIES) -> None:
        small = design
        if design.entries > 1.2 * entries:
            small = Design(design.capture, design.texts, entries, seed=0)
        self.design = small
        super().__init__(Atoms(small))
        self.texts = small.text_of_rows
        codes = self.atoms.codes
        self.seen = [
            (scale.low + int(c.min(initial=0)), scale.low + int(c.max(initial=0)))
            for scale, c in zip(self.atoms.scales, codes, strict=True)
        ]

    def quick(self, left: Residual, ridge: float, price: float) -> list[Found]:
        """Return rules that promise much, of the kinds that are found quickly."""
        atoms = self.atoms
        g, h = self.moments(left)
        total, curved = g.sum(0), h.sum(0)
        alone = gain(total, curved, ridge)
        worth = alone - price * self.sizes
        scaled = worth / self.sizes**0.3
        strength = gain(np.abs(g).sum(0), curved, ridge) / self.sizes**0.3
        top = s._top(scaled, 8)
        found = [Found(float(worth[j]), Rule(self.list[j])) for j in top]
        some = np.array(list(dict.fromkeys([*s._top(scaled, 60), *s._top(strength, 120)])))
        gs, hs = np.ascontiguousarray(g[:, some]), np.ascontiguousarray(h[:, some])
        gc, hc = atoms.rows @ gs, atoms.rows @ hs
        gc, hc = np.concatenate([gc, total[some] - gc]), np.concatenate([hc, curved[some] - hc])
        sizes = self.extra[:, None] + self.sizes[some][None]
        narrow = gain(gc, hc, ridge) - price * sizes
        gated = []
        for at in s._top((narrow / sizes**0.3).ravel(), 8):
            c, j = divmod(int(at), narrow.shape[1])
            gated.append(c)
            found.append(Found(float(narrow[c, j]), Rule(self.list[some[j]], condition=c)))
        contexts = [Rule(), Rule(condition=gated[0])] if gated else [Rule()]
        truth = [j for j in top if self.list[j].kind == TRUTH][:1]
        for rule in [*contexts, *(Rule(self.list[j]) for j in truth)]:
            found += self.intervals(left, rule, ridge, price)
        for j in dict.fromkeys([*top[:2], *s._top(strength, 4)]):
            for shift in (0, -1):
                gj, hj = (
                    np.bincount(
                        np.maximum(atoms.queries[-shift], 0), m[:, j] * (atoms.queries[-shift] >= 0),
                        atoms.width,
                    )
                    for m in (g, h)
                )  # fmt: skip
                found += self.chosen(Rule(self.list[j]), "query", shift, gj, hj, ridge, price)
        contexts += [Rule(Atom(SCALE, 0, 1, 4)), Rule(Atom(SCALE, 0, 5, self.far))]
        for at, context in enumerate(contexts):
            for shift in (0, -1, -2)[: 3 if at < 1 else 1]:
                gk, hk = self.by_symbol(left, context, "key", shift)
                found += self.chosen(context, "key", shift, gk, hk, ridge, price)
        for shift in (0, -1):
            found += self.products(left, shift, ridge, price)
        found += self.affixes(left, ridge, price)
        return [f for f in found if f.gain > 0]

    def opened(self, rule: Rule) -> Rule:
        """Open the intervals of a rule that reach to the smallest or largest number there is."""
        atom, gap = self._opened(rule.atom), rule.gap and self._opened(rule.gap)
        if gap is not None and gap.kind == ONE:
            gap = None
        if atom.kind == ONE and gap is not None and rule.key is None:
            atom, gap = gap, None
        return replace(rule, atom=atom, gap=gap)

    def _opened(self, atom: Atom) -> Atom:
        if atom.kind != SCALE:
            return atom
        scale, (low, high) = self.atoms.scales[atom.number], self.seen[atom.number]
        if atom.low <= low and atom.high >= high:
            return Atom()
        return replace(
            atom,
            low=scale.low if atom.low <= low else atom.low,
            high=scale.high if atom.high >= high else atom.high,
        )

    @property
    def far(self) -> int:
        """The largest distance."""
        return self.atoms.scales[0].high

    def chosen(
        self, rule: Rule, side: str, shift: int, g: np.ndarray, h: np.ndarray, ridge: float,
        price: float,
    ) -> list[Found]:  # fmt: skip
        """Limit a rule to the tokens that pay."""
        choice = s.choose(g, h, shift, ridge, price, graded=False, most=24)
        if choice is None:
            return []
        new = rule.replace(side, choice)
        return [Found(s._promise(g, h, choice, ridge) - price * r.nodes(self.atoms, new), new)]

    def products(self, left: Residual, shift: int, ridge: float, price: float) -> list[Found]:
        """Invent rules of key tokens and query tokens."""
        atoms, found = self.atoms, []
        energy = np.bincount(
            atoms.queries[0],
            np.add.reduceat(left.pull**2 / np.maximum(left.mass, 1e-6), atoms.starts[:-1]),
            atoms.width,
        )
        for start in s._top(energy, 2 if shift == 0 else 1):
            rule = Rule(query=r.Choice(0, (int(start),)))
            for side in ("key", "query", "key", "query"):
                at = shift if side == "key" else 0
                g, h = self.by_symbol(left, rule, side, at)
                one = self.chosen(rule, side, at, g, h, ridge, price)
                if not one:
                    break
                rule = one[0].rule
            else:
                found += one
        return found


_KNOWN: OrderedDict[int, tuple[Design, Sketch]] = OrderedDict()
_LOCK = threading.Lock()


def sketch_of(task: HeadTask) -> Sketch:
    """Return the sketch of a task's design; those of the last two designs are kept."""
    with _LOCK:
        key = id(task.design)
        if key not in _KNOWN:
            _KNOWN[key] = (task.design, Sketch(task.design))
            while len(_KNOWN) > 2:
                _KNOWN.popitem(last=False)
        return _KNOWN[key][1]

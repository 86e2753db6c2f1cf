"""The exact proposer: finds the rules that a head is made of, term by term, and takes back errors.

Forward selection with replacement: the rule that explains most of the residual is added, all token
sets are chosen anew given the other rules, rules that have become useless are dropped, and each is
exchanged where another rule explains better what the others leave. This is done in three parts
(``peeled``): what the key's token, distance and place explain by themselves is set aside
at first (``aside``), so that rules of which each is one of many that add up do not stand in the way
of rules about query and key. In each part nodes are dear at first, so that simple rules come before
large sets, and get cheaper when no rule pays, down to a price in units of the residual's noise. With
noise, all rules are then looked at again by their likelihood.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.synth.exact import alike
from attn_dsl.synth.exact import rules as r
from attn_dsl.synth.exact import screen as s
from attn_dsl.synth.exact.aside import Aside
from attn_dsl.synth.exact.atoms import VALUE, Atoms
from attn_dsl.synth.exact.counterexamples import checked, program_of
from attn_dsl.synth.exact.noise import noise_of_program
from attn_dsl.synth.exact.redraw import redraw
from attn_dsl.synth.exact.regroup import fuse, regroup
from attn_dsl.synth.exact.residual import Residual
from attn_dsl.synth.exact.rules import Atom, Rule
from attn_dsl.synth.exact.state import State, cost_of, replace
from attn_dsl.synth.proposer import Fitted, HeadTask

THRIFT = 0.5
"""Rules that are added are compared by gain over cost to this power."""
SHARES = 2e-4, 1e-4, 1e-5
"""Of what is unexplained when a part of the search begins, a node must explain this in the end."""
SAME = 1e-5
"""Gains that differ by less than this share are taken for equal, and the smaller rule is better."""
LITTLE = 0.003
"""Token sets are chosen anew as long as that explains this share of what is left."""


@dataclass(frozen=True)
class Exact:
    """Proposes programs of exact structure; see the module.

    Attributes:
        make: makes what rules are found with, when a head first needs it.
        effort: of the settings; the number of screenings grows with it. Heads that do not seem to
            be programs are left to other proposers.
        tried: how many of the screened rules are fitted along with the others.
        projected: how many of those beside the tables that are set aside.
    """

    make: Callable[[], s.Screen]
    effort: int = 1
    tried: int = 24
    projected: int = 10
    name: str = "exact"
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def screen(self) -> s.Screen:
        """What rules are found with."""
        with self._lock:
            return self.make()

    def propose(self, task: HeadTask) -> Iterator[t.Head | Fitted]:
        """Yield every program on the way, and what is left of the last as rules are dropped."""
        noise = noise_of_program(task.rows, task.design)
        if noise is None:
            return
        clean = noise == 0.0
        state = State(self.screen.atoms, Residual(task.rows, clean, noise or None))
        screenings = 40 * self.effort
        yield task.empty()
        yield from self.peeled(state, task, screenings)
        if state.left.aside is not None:
            return
        if not clean:
            yield from self.grow(state, task, screenings)
            regroup(state, task, self.screen, self.settle)
            state.look()
        yield from self.refined(state, task, screenings)
        if clean:

            def refine(state: State, screen: s.Screen) -> Iterator[Fitted]:
                exact = dataclasses.replace(self, make=lambda: screen)
                return exact.refined(state, task, screenings)

            state = yield from checked(state, task, refine)
        yield from self.shrink(state, task)

    def refined(self, state: State, task: HeadTask, most: int) -> Iterator[Fitted]:
        """Add what is missing, and take back what stands in the place of something better."""
        most -= yield from self.grow(state, task, most)
        self.swaps(state, task, most)
        self.settle(state)
        regroup(state, task, self.screen, self.settle)
        redraw(state)
        alike.exchange(state, task, self.screen, self.settle)
        self.merge(state, task)
        fuse(state)
        for _ in range(2):
            for j in range(len(state.rules)):
                if j < len(state.rules) and not task.spent:
                    self.improve(state, task, j)
            self.settle(state)
        regroup(state, task, self.screen, self.settle)
        state.by_distance()
        redraw(state)

    def peeled(self, state: State, task: HeadTask, most: int) -> Iterator[Fitted]:
        """Find first what no table of key, distance and place explains, then those of the latter.

        Tables stay set aside if the head is no program: many rules leave much more than its noise.
        """
        for places, share in ((True, SHARES[0]), (False, SHARES[1])):
            state.left.aside = Aside(state.atoms, state.left.mass, places)
            state.put(state.rules, state.planes)
            state.dear(share)
            much = state.left.much
            yield from self.grow(state, task, most)
            if state.no_program(much):
                return
        state.left.aside = None
        state.put(state.rules, state.planes)
        state.dear(SHARES[2])
        if state.rules:
            yield self.fitted(state, task)

    def grow(self, state: State, task: HeadTask, most: int) -> Generator[Fitted, None, int]:
        """Add rules as long as that pays; yield every program, return the number of screenings."""
        screenings, aside, much = most, state.left.aside, state.left.much
        stuck = 0
        while screenings > 0 and not task.spent and not state.done:
            if state.no_program(much):
                break
            before = state.save()
            cost = state.total(state.left.price)
            screenings -= 1
            rule = self.best(state, task)
            if rule is None:
                if state.cheaper():
                    continue
                if stuck or screenings <= 0 or state.left.hopeless:
                    break
                screenings -= self.swaps(state, task, screenings)
                stuck = 1
                continue
            state.add(rule)
            self.improve(state, task, len(state.rules) - 1)
            self.settle(state)
            if state.total(state.left.price) >= cost and state.nodes >= _nodes(before, state.atoms):
                state.restore(before)
                if state.cheaper():
                    continue
                if stuck or state.left.hopeless:
                    break
                stuck = 1
                screenings -= self.swaps(state, task, screenings)
                continue
            stuck = 0
            if aside is None or not aside.places:
                self.curves(state, task)
            if aside is None:
                if len(state.rules) > 1 and state.left.price <= state.left.lowest:
                    screenings -= self.swaps(state, task, screenings)
                yield self.fitted(state, task)
        return most - screenings

    def fitted(self, state: State, task: HeadTask) -> Fitted:
        """Measure the state's program; without noise on all rows, and its weights are final."""
        task.evals += 1
        found = task.measured(program_of(state, task))
        iou = task.everywhere.iou(found.program) if state.left.clean else found.iou
        return dataclasses.replace(found, iou=iou, settled=state.left.clean)

    def shrink(self, state: State, task: HeadTask) -> Iterator[Fitted]:
        """Yield the program, and what is left as its least useful rules are dropped."""
        while state.rules and not task.spent:
            yield self.fitted(state, task)
            sizes = np.array([r.nodes(state.atoms, rule) for rule in state.rules])
            state.drop(int(np.argmin(state.losses() / sizes**0.5)))

    def best(self, state: State, task: HeadTask, without: int | None = None) -> Rule | None:
        """Return the rule that pays best beside the others, or in the place of one of them."""
        left = state.left if without is None else state.left.without(state.planes, without)
        found = self.screen.candidates(left, state.left.ridge, state.left.price)
        if without is not None:
            found += self.screen.local(
                left, state.rules[without], state.left.ridge, state.left.price
            )
        return self.pick(state, task, left, found, without)

    def pick(
        self, state: State, task: HeadTask, left: Residual, found: list[s.Found],
        without: int | None,
    ) -> Rule | None:  # fmt: skip
        """Return the rule that pays best when the others' weights are fitted along with it."""
        atoms, price, ridge = state.atoms, state.left.price, state.left.ridge
        planes, rules = state.planes, state.rules
        room = task.max_nodes * (1 + (left.aside is not None)) - state.nodes
        if without is not None:
            room += r.nodes(atoms, rules[without])
            planes = np.delete(planes, without, axis=0)
            rules = [*rules[:without], *rules[without + 1 :]]
        found = [f for f in found if f.rule not in rules and r.nodes(atoms, f.rule) <= room]
        found.sort(key=lambda f: -f.gain / r.nodes(atoms, f.rule) ** THRIFT)
        tried = list(dict.fromkeys(f.rule for f in found))[: self.tried]
        if without is not None:
            tried = list(dict.fromkeys([state.rules[without], *tried]))
        middle = left.middle(planes)
        weighted = middle * left.mass
        inverse = np.linalg.pinv(
            (weighted @ middle.T).astype(np.float64) + ridge * np.eye(len(planes)), hermitian=True
        )
        # Without the rule, the others pull as well: their weights are not fitted anew.
        drift = inverse @ (planes @ left.pull) if without is not None else np.zeros(len(planes))

        def worth(rule: Rule, x: np.ndarray) -> float:
            heavy = left.mass * x
            cross = (middle @ heavy).astype(np.float64)
            g = float(left.pull @ x) - float(cross @ drift)
            h = float(heavy @ x) - float(cross @ inverse @ cross)
            cost = cost_of(rule, r.nodes(atoms, rule))
            gain = 0.5 * g * g / (max(h, 0.0) + ridge) - price * cost
            return gain if without is not None or gain <= 0 else gain / cost**THRIFT

        planes_of = {rule: left.centred(r.plane(atoms, rule)[None])[0] for rule in tried}
        worths = {rule: worth(rule, x) for rule, x in planes_of.items()}
        if left.aside is not None:
            few = sorted(tried, key=lambda rule: -worths[rule])[: self.projected]
            worths = {rule: worth(rule, left.aside.roughly(planes_of[rule])) for rule in few}
        good = sorted((x for x in worths if worths[x] > 0), key=lambda rule: -worths[rule])
        if not good:
            return None
        state.seen.update(dict.fromkeys(good[:12]))
        equal = [rule for rule in good if worths[rule] >= worths[good[0]] * (1 - SAME)]
        return min(equal, key=lambda rule: cost_of(rule, r.nodes(atoms, rule)))

    def settle(self, state: State) -> None:
        """Choose all token sets anew given the other rules, and drop rules that do not pay."""
        for _ in range(4 if state.left.clean else 2):
            changed = False
            for j in range(len(state.rules)):
                for side in ("key", "query"):
                    if state.rules[j].side(side) is not None:
                        changed |= self.choose(state, j, side)
                if state.rules[j].atom.pointed is not None:
                    changed |= self.point(state, j)
            if not changed:
                break
        self.prune(state, state.left.lowest)

    def prune(self, state: State, price: float) -> None:
        """Drop rules that explain less than their nodes' price."""
        while len(state.rules) > 1:
            losses = state.losses()
            prices = price * np.array(
                [cost_of(x, r.nodes(state.atoms, x)) for x in state.rules], dtype=float
            )
            least = int(np.argmin(losses - prices))
            if losses[least] > prices[least]:
                break
            before, cost = state.save(), state.total(price)
            state.drop(least)
            if state.total(price) > cost:
                state.restore(before)
                break

    def improve(self, state: State, task: HeadTask, j: int) -> None:
        """Change one rule in small ways while that pays."""
        for _ in range(4):
            rule, price = state.rules[j], state.left.price
            left = state.left.without(state.planes, j)
            found = self.screen.local(left, rule, state.left.ridge, price)
            new = self.pick(state, task, left, found, j)
            if new is None or new == rule or new in state.rules:
                break
            before, cost = state.save(), state.total(price)
            state.exchange(j, new, 0.0)
            for side in ("key", "query"):
                if state.rules[j].side(side) is not None:
                    self.choose(state, j, side)
            if state.total(price) >= cost - 1e-9:
                state.restore(before)
                break

    def choose(self, state: State, j: int, side: str) -> bool:
        """Choose one rule's tokens anew; say whether they changed for the better."""
        rule, changed = state.rules[j], False
        for _ in range(3):
            choice = rule.side(side)
            assert choice is not None
            g, h = self.screen.by_symbol(state.left, rule, side, choice.shift)
            now = choice.table(state.atoms.width)[:-1] * state.left.weights[j]
            wanted = g + h * now
            price, ridge = state.left.price, state.left.ridge
            best: tuple[float, Rule, float] | None = None
            for graded in (False, True):
                new = s.choose(wanted, h, choice.shift, ridge, price, graded)
                if new is None or not r.allowed(rule.replace(side, new)):
                    continue
                some = list(new.symbols)
                u = np.ones(len(some)) if new.weights is None else np.array(new.weights)
                top, bottom = float(wanted[some] @ u), float(h[some] @ (u * u)) + ridge
                cost = price * cost_of(rule.replace(side, new), len(some))
                worth = 0.5 * top * top / bottom - cost
                if best is None or worth > best[0]:
                    best = (worth, rule.replace(side, new), top / bottom)
            if best is None or best[1] == rule or best[1] in state.rules:
                break
            before, cost = state.save(), state.total(price)
            state.exchange(j, best[1], best[2])
            gained = cost - state.total(price)
            if gained <= 0:
                state.restore(before)
                break
            rule = best[1]
            if gained < price + LITTLE * state.left.squared:
                break
            changed = True
        return changed

    def point(self, state: State, j: int) -> bool:
        """Choose the tokens by which a rule finds its key anew; say whether they changed."""
        rule, price = state.rules[j], state.left.price
        left = state.left.without(state.planes, j)
        found = self.screen.pointing.near(left, rule, state.left.ridge, price)
        _, new = max(found, key=lambda x: x[0], default=(0.0, rule))
        if new in state.rules:
            return False
        before, cost = state.save(), state.total(price)
        state.exchange(j, new, 0.0)
        if state.total(price) >= cost - LITTLE * state.left.squared:
            state.restore(before)
            return False
        return True

    def merge(self, state: State, task: HeadTask) -> None:
        """Put one rule in the place of several where it does as well."""
        sides = dict.fromkeys((x.condition, x.query) for x in state.rules)
        curves = [
            Rule(Atom(VALUE, n), condition=c, query=q)
            for n in range(len(state.atoms.values)) for c, q in sides
        ]  # fmt: skip
        several = [(x,) for x in [*state.seen, *curves] if r.allowed(x)]
        replace(state, task, several)

    def curves(self, state: State, task: HeadTask) -> None:
        """Put one curve or two in the place of several rules where they do as well."""
        plain = [Rule(Atom(VALUE, n)) for n in range(len(state.atoms.values))]
        replace(state, task, [*((x,) for x in plain), *itertools.combinations(plain, 2)])

    def swaps(self, state: State, task: HeadTask, most: int) -> int:
        """Exchange rules for better ones until none is; return the number of screenings."""
        used = 0
        for j in range(len(state.rules)):
            if used >= most or task.spent or j >= len(state.rules) or state.done:
                break
            used += 1
            rule = self.best(state, task, without=j)
            if rule is None or rule == state.rules[j]:
                continue
            before, price = state.save(), state.left.price
            cost = state.total(price)
            state.exchange(j, rule, 0.0)
            self.settle(state)
            if state.total(price) >= cost:
                state.restore(before)
        return used


def _nodes(saved: tuple, atoms: Atoms) -> int:
    return 1 + sum(r.nodes(atoms, rule) for rule in saved[0])

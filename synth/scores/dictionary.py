"""The dictionary: scores of a position found for all heads at once, sparse, and each head's few uses of them.

The likelihood of all heads' rows is raised by Adam over the weights of predicates in scores and over
every head's coefficients; in stages, what matters least of both is set to 0 for good, until a score
looks at one place: its position, or another at a fixed distance. Rows of texts that are not trained on
decide how many scores there are, and how many predicates they have. Weights of predicates are not negative,
so that a score says what it holds; heads may weigh it negatively.
"""

import itertools
import math
import time
from collections.abc import Callable

import numpy as np

from attn_dsl.synth.distance_bins import bins
from attn_dsl.synth.scores.rows import COPIES, Parts, RowsOfHeads

SCORES, ELEMENTS, USES = 64, 8, 16
"""Scores, predicates of a score, and uses of scores by a head, at most."""
STEPS, TEXTS, RATE = 880, 8, 6e-3
"""Steps of Adam, which are whole passes over the texts; the texts and the rate of a step."""
SPARSE = 0.01  # how strongly weights of predicates are pulled to 0
STAGES = ((0.4, 4.0), (0.5, 2.5), (0.6, 1.5), (0.65, 0.0), (0.7, 1.0))
"""When parameters are set to 0: the part of all epochs, and how many times as many as in the end are kept;
at 0, held-out rows decide."""
NEEDED = 5e-4
"""Dropped is what held-out rows lose by no more than this part of what they gain by all scores."""
ROLES = ("offer", "first", "query", "key")
"""What a score can be for a head: offered by keys, added to the first token, a side of a product."""
LAST = 3  # the passes over the texts that are left, at least, where the time is short
SPREAD = 0.75
"""The exponent of a predicate's standard deviation, beside its weight, in how much it matters: rare ones
count for less."""
ROLE_WORTH = {"offer": 1.0, "first": 0.5, "query": 1.0, "key": 1.0}
"""How much a coefficient counts when the largest are kept: the first token is a single key."""


def find_dictionary(
    rows: RowsOfHeads, held_out: RowsOfHeads, places: np.ndarray, seed: int, threads: int,
    seconds: float = math.inf, tick: Callable[[int, int], None] = lambda i, n: None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Find scores for all heads: ``weights`` (scores, predicates), and by role their uses (heads, scores).

    Args:
        held_out: of the same heads, on other texts; they decide how many scores are kept.
        places: (predicates): where each looks, as ``After``; those of a score look at the same place.
        threads: the result does not depend on them.
        seconds: after about so many it ends, with fewer passes over the texts.
        tick: called with how many epochs are done, and how many will be.
    """
    trainer = _Trainer(rows, held_out, places, seed, threads)
    epoch, started = 0, time.monotonic()
    while epoch < trainer.epochs:
        trainer.epoch(epoch)
        epoch += 1
        left = seconds - (time.monotonic() - started)
        if left < (trainer.epochs - epoch) * (time.monotonic() - started) / epoch:
            fewer = max(epoch + LAST, int(epoch * seconds / (seconds - left)))
            trainer.epochs = min(trainer.epochs, fewer)
        tick(epoch, trainer.epochs)
    return trainer.parameters


class _Trainer:
    def __init__(self, rows: RowsOfHeads, held_out: RowsOfHeads, places: np.ndarray, seed: int,
                 threads: int) -> None:  # fmt: skip
        self.rows, self.held_out, self.threads = rows, held_out, threads
        self.places = (places == np.unique(places)[:, None]).astype(np.float32)
        self.rng = np.random.default_rng([seed, 26])
        starts, values = rows.design.batch.starts, rows.values
        self.values = [values[a:b] for a, b in itertools.pairwise(starts)]
        self.sample = values[self.rng.permutation(len(values))[:8000]]
        self.spread = (self.sample.std(0) + 1e-3) ** SPREAD
        heads, scores, count = len(rows.actual), SCORES, values.shape[1]
        shapes = {"weights": (scores, count), **dict.fromkeys(ROLES, (heads, scores)), "constant": (heads,),
                  "distance": (heads, len(bins(rows.design.causal))),
                  "copies": (heads, len(COPIES))}  # fmt: skip
        self.parameters = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
        drawn = {"weights": count, "query": scores, "key": scores}
        for name, size in drawn.items():
            draw = self.rng.normal(0.0, size**-0.5, shapes[name])
            self.parameters[name][:] = np.abs(draw) if name == "weights" else draw
        self.moments = {name: np.zeros((2, *shape), np.float32) for name, shape in shapes.items()}
        self.masks = {name: np.ones(shapes[name], np.float32) for name in ("weights", *ROLES)}
        codes, copies = np.arange(1 << len(COPIES)), np.arange(len(COPIES))
        self.bits = ((codes[:, None] >> copies) & 1).astype(np.float32)  # which copies a code means
        self.steps, self.stages = 0, list(STAGES)
        self.epochs = max(1, round(STEPS / -(-len(self.values) // TEXTS)))

    def epoch(self, number: int) -> None:
        """Pass over all texts once."""
        epochs = self.epochs
        while self.stages and number >= int(self.stages[0][0] * epochs):
            times = self.stages.pop(0)[1]
            self.prune(times) if times else self.drop()
        texts = self.rng.permutation(len(self.values))
        done = number / epochs
        rate = RATE * (1.0 if done < 0.5 else max(0.02, 2 * (1 - done)))
        for start in range(0, len(texts), TEXTS):
            self.step(texts[start : start + TEXTS], rate)
        self.normalise()

    def step(self, texts: np.ndarray, rate: float) -> None:
        """Move all parameters by the gradient of the likelihood on some texts."""
        found = self.gradient(texts)
        count = sum(len(self.rows.design.rows[text]) for text in texts)
        self.steps += 1
        for name, parameter in self.parameters.items():
            gradient = found[name] / np.float32(count)
            first, second = self.moments[name]
            first += 0.1 * (gradient - first)
            second += 0.01 * (gradient * gradient - second)
            size = np.sqrt(second / np.float32(1 - 0.99**self.steps)) + np.float32(1e-8)
            parameter -= np.float32(rate / (1 - 0.9**self.steps)) * first / size
            if name == "weights":
                pull = np.float32(rate * SPARSE) / self.spread
                np.maximum(parameter - pull, 0.0, out=parameter)
            if name in self.masks:
                parameter *= self.masks[name]

    def gradient(self, texts: np.ndarray) -> dict[str, np.ndarray]:
        """Return the gradient of the summed cross-entropy of some texts' rows, by all parameters."""
        p, values = self.parameters, np.concatenate([self.values[i] for i in texts])
        scores = values @ p["weights"].T
        own = self.parts(scores)
        to = {name: np.zeros_like(one) for name, one in own.items()}
        self.rows.add_gradient(texts, Parts(**own), Parts(**to), self.threads)
        to_scores = np.array([to[role].T @ p[role] for role in ROLES]).sum(0)
        return {**{role: to[role] @ scores for role in ROLES}, "weights": to_scores.T @ values,
                "constant": to["first"].sum(1), "distance": to["distance"],
                "copies": to["copies"] @ self.bits}  # fmt: skip

    def parts(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Return the parts (``Parts``) for scores at some tokens."""
        p = self.parameters
        own = {role: p[role] @ scores.T for role in ROLES}
        own["first"] += p["constant"][:, None]
        return own | {"distance": p["distance"], "copies": p["copies"] @ self.bits.T}

    def drop(self) -> None:
        """Drop what held-out rows do not need: the weaker half of a score's predicates, or all of them.

        The scores that heads use least go first; the one that they use most stays.
        """
        weights, values = self.parameters["weights"], self.held_out.values
        uses = np.array([self.parameters[role] for role in ROLES])
        scores, every = values @ weights.T, np.arange(uses.shape[1])
        parts, none = self.parts(scores), self.parts(np.zeros_like(scores))

        def losses(parts: dict, heads: np.ndarray, s: int, change: np.ndarray) -> np.ndarray:
            return self.held_out.losses(heads, Parts(**parts), uses[:, :, s], change)

        now, bare = (losses(x, every, 0, np.zeros_like(scores[:, 0])) for x in (parts, none))
        least = NEEDED * max(0.0, (bare - now).sum())
        for s in np.argsort(np.abs(uses).sum((0, 1)), kind="stable")[:-1]:
            heads = np.flatnonzero(uses[:, :, s].any(0))
            order = np.argsort(-weights[s] * self.spread, kind="stable")
            for kept in np.count_nonzero(weights[s]) // 2, 0:
                lost = order[kept:]
                change = values[:, lost] @ weights[s, lost]
                found = losses(parts, heads, s, change)
                if (found - now[heads]).sum() > least:
                    break
                weights[s, lost], now[heads] = 0.0, found
                for role, used in zip(ROLES, uses[:, heads, s, None], strict=True):
                    parts[role][heads] -= used * change
        self.masks["weights"] *= weights > 0
        some = weights.any(1)
        for name in ("weights", *ROLES):
            for of in self.parameters, self.moments, self.masks:
                of[name] = np.compress(some, of[name], axis=-2 if name == "weights" else -1)

    def prune(self, times: float) -> None:
        """Set to 0 for good what matters least: predicates of scores, and uses of scores by heads."""
        matter = self.parameters["weights"] * self.spread
        there = _largest(matter**2 @ self.places.T, round(times / 1.5)) @ self.places
        self.masks["weights"] = there * _largest(matter * there, round(times * ELEMENTS))
        size = {role: np.abs(self.parameters[role]) for role in ROLES}
        norms = {role: np.linalg.norm(size[role], axis=1, keepdims=True) for role in ROLES}
        size["query"], size["key"] = size["query"] * norms["key"], size["key"] * norms["query"]
        joined = np.concatenate([size[role] * ROLE_WORTH[role] for role in ROLES], axis=1)
        kept = np.split(_largest(joined, round(times * USES)), len(ROLES), axis=1)
        self.masks |= dict(zip(ROLES, kept, strict=True))

    def normalise(self) -> None:
        """Give every score the standard deviation 1, and heads' coefficients what that takes."""
        spread = np.maximum((self.sample @ self.parameters["weights"].T).std(0), np.float32(1e-6))
        self._scale("weights", 1 / spread[:, None])
        for role in ROLES:
            self._scale(role, spread)

    def _scale(self, name: str, by: np.ndarray) -> None:
        self.parameters[name] *= by
        self.moments[name][0] /= by  # gradients shrink as parameters grow
        self.moments[name][1] /= by**2


def _largest(sizes: np.ndarray, count: int) -> np.ndarray:
    """Mark the largest of each row, float32."""
    if count >= sizes.shape[1]:
        return np.ones_like(sizes, dtype=np.float32)
    least = np.partition(sizes, -count, axis=1)[:, -count, None]
    return ((sizes >= least) & (sizes > 0)).astype(np.float32)

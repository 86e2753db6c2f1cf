"""The rounds of a search: every head on its own, then every head again, knowing the others' programs.

Between rounds all heads wait for each other, so that what a head is given does not depend on the
order of work; within a round they are searched in any order, each recorded as it is finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait

from attn_dsl.dsl.errors import AttnDslError
from attn_dsl.eval.results import HeadResult
from attn_dsl.eval.run import Run
from attn_dsl.synth.runs.budget import Budget, Pair
from attn_dsl.synth.runs.executors import Workers
from attn_dsl.synth.runs.progress import Progress, Watcher
from attn_dsl.synth.runs.worker import HeadSearch, Outcome, Place, forget, search_head

TRIES = 3
"""How often a head is begun again when the workers that search it die."""
LOOK = 5.0
"""Seconds after which a cluster is asked how many workers it has now."""


def search_rounds(
    run: Run, place: Place, chosen: Sequence[Pair], budget: Budget, workers: Workers, tell: Watcher
) -> None:
    """Search the heads of a run that are not done yet, round by round."""
    for number in range(1, run.rounds + 1):
        left = [pair for pair in chosen if not run.done(*pair, number)]
        known = {pair: run.result(*pair, number - 1) if number > 1 else None for pair in chosen}
        if number > 1 and None in known.values():
            return  # the time was over before every head had its first result
        run.tabulate()
        left = budget.begin(number, {pair: known[pair] for pair in left})
        _Round(run, place, number, known, budget, workers, tell).search(left)


class _Round:
    """One round on its way."""

    def __init__(
        self, run: Run, place: Place, number: int, known: dict[Pair, HeadResult | None],
        budget: Budget, workers: Workers, tell: Watcher,
    ) -> None:  # fmt: skip
        self.run, self.place, self.number = run, place, number
        self.budget, self.workers, self.tell = budget, workers, tell
        self.known, self.done = known, 0
        groups = itertools.groupby(known, key=lambda pair: pair[0])
        self.neighbours = {layer: tuple(head for _, head in group) for layer, group in groups}
        self.pending: dict[Future[Outcome], HeadSearch] = {}
        self.finished: deque[Outcome] = deque()
        self.tries: dict[Pair, int] = {}

    def search(self, left: list[Pair]) -> None:
        """Search heads, as many at once as there are workers, recording each that is finished."""
        self.done = len(self.known) - len(left)
        self._say(None)
        try:
            while left or self.pending or self.finished:
                self._submit(left)
                self._record()
                if self.pending:
                    finished, _ = wait(self.pending, LOOK, FIRST_COMPLETED)
                    for future in finished:
                        self._take(future, left)
        except BaseException:
            self._stop()
            raise

    def _submit(self, left: list[Pair]) -> None:
        slots = self.workers.slots if left else 0
        while left and len(self.pending) < slots:
            seconds = self.budget.share(left[0], left, slots)
            if self.budget.over:
                left.clear()
                return
            pair = left.pop(0)
            before = self.known[pair]
            if before is not None and seconds is not None and seconds <= 0:
                continue  # it keeps what it has
            task = HeadSearch(
                self.place, *pair, self.neighbours[pair[0]], before,
                tuple(r.program for other, r in self.known.items() if r and other != pair),
                seconds, self.budget.remaining,
            )  # fmt: skip
            self.pending[self.workers.submit(search_head, task)] = task

    def _take(self, future: Future[Outcome], left: list[Pair]) -> None:
        """Take the outcome of a head; put the head back where its worker was lost."""
        task = self.pending.pop(future)
        pair = task.layer, task.head
        try:
            outcome = future.result()
        except (Exception, CancelledError) as error:
            self.tries[pair] = self.tries.get(pair, 0) + 1
            if self.workers.lost(error) and self.tries[pair] < TRIES:
                left.insert(0, pair)
                return
            if isinstance(error, AttnDslError):
                raise
            explained = self.workers.explain(error)
            if explained is None:
                raise
            raise explained from error
        if outcome.late:
            self.budget.tell_overrun(outcome.late)
        result = _better(outcome.result, task.before)
        self.finished.append(dataclasses.replace(outcome, result=result))

    def _record(self) -> None:
        """Write down what is finished."""
        while self.finished:
            outcome = self.finished[0]
            self.run.add(outcome.result, outcome.candidates, self.number)
            self.finished.popleft()
            self.done += 1
            self._say(outcome.result)

    def _say(self, result: HeadResult | None) -> None:
        self.tell(
            Progress("search", self.done, len(self.known), result, self.number, self.run.rounds)
        )

    def _stop(self) -> None:
        """End the searches on their way, and record what was finished before."""
        done = [future for future in self.pending if future.done() and not future.cancelled()]
        for future in self.pending:
            future.cancel()
        self.workers.everywhere(forget, self.place)
        with contextlib.suppress(AttnDslError):  # what stopped the search may stop this as well
            for future in done:
                if future.exception() is None:
                    self._take(future, [])
            self._record()


def _better(result: HeadResult, before: HeadResult | None) -> HeadResult:
    """Keep a head's earlier result where a search that was cut short did not reach it."""
    if before is None or not result.cut_short:
        return result
    reached, had = (max(row.score for row in r.front) for r in (result, before))
    if reached >= had:
        return result
    return dataclasses.replace(
        before, cut_short=True, evals=result.evals, seconds=result.seconds,
        unfinished=result.unfinished,
    )  # fmt: skip

"""The search of all heads: shared out over workers, in any order, each recorded as it is finished."""

import contextlib
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

LEAST_AGAIN = 5.0
"""The least seconds for a head that has a result; to write down another takes some of them."""
TRIES = 3  # how often a head is begun again when the workers that search it die
LOOK = 5.0  # seconds after which a cluster is asked how many workers it has now


def search_heads(run: Run, place: Place, chosen: Sequence[Pair], budget: Budget, workers: Workers,
                 tell: Watcher) -> None:  # fmt: skip
    """Search the heads of a run that have no result yet, then again those that were cut short."""
    run.tabulate()
    _Search(run, place, chosen, budget, workers, tell).search()


class _Search:
    """A search on its way."""

    def __init__(self, run: Run, place: Place, chosen: Sequence[Pair], budget: Budget, workers: Workers,
                 tell: Watcher) -> None:  # fmt: skip
        self.run, self.place, self.total = run, place, len(chosen)
        self.budget, self.workers, self.tell = budget, workers, tell
        cut_short = {(result.layer, result.head): result.cut_short for result in run.results}
        self.again = {pair for pair, short in cut_short.items() if short}
        left = (pair for pair in chosen if cut_short.get(pair, True))
        self.left = sorted(left, key=self.again.__contains__)
        self.done = len(chosen) - len(self.left)
        groups = itertools.groupby(chosen, key=lambda pair: pair[0])
        self.neighbours = {layer: tuple(head for _, head in group) for layer, group in groups}
        self.pending: dict[Future[Outcome], HeadSearch] = {}
        self.finished: deque[Outcome] = deque()
        self.tries: dict[Pair, int] = {}

    def search(self) -> None:
        """Search heads, as many at once as there are workers, recording each that is finished."""
        self._say(None)
        try:
            while self.left or self.pending or self.finished:
                self._submit()
                self._record()
                if self.pending:
                    self.workers.look()
                    finished, _ = wait(self.pending, LOOK, FIRST_COMPLETED)
                    for future in finished:
                        self._take(future)
        except BaseException:
            self._stop()
            raise

    def _submit(self) -> None:
        slots = self.workers.slots if self.left else 0
        while self.left and len(self.pending) < slots:
            again = self.left[0] in self.again
            seconds = self.budget.share(len(self.left), slots, LEAST_AGAIN if again else 0.0)
            if self.budget.over:
                self.left.clear()
                return
            pair = self.left.pop(0)
            if again and seconds is not None and seconds <= 0:
                continue  # it keeps what it has
            task = HeadSearch(self.place, *pair, self.neighbours[pair[0]], seconds,
                              self.budget.remaining)  # fmt: skip
            self.pending[self.workers.submit(search_head, task)] = task

    def _take(self, future: Future[Outcome]) -> None:
        """Take the outcome of a head; put the head back where its worker was lost."""
        task = self.pending.pop(future)
        pair = task.layer, task.head
        try:
            outcome = future.result()
        except (Exception, CancelledError) as error:
            self.tries[pair] = self.tries.get(pair, 0) + 1
            if self.workers.lost(error) and self.tries[pair] < TRIES:
                self.left.insert(0, pair)
                return
            if isinstance(error, AttnDslError):
                raise
            explained = self.workers.explain(error)
            if explained is None:
                raise
            raise explained from error
        if outcome.late:
            self.budget.tell_overrun(outcome.late)
        self.finished.append(outcome)

    def _record(self) -> None:
        """Write down what is finished; a head that an interrupt leaves half recorded is searched again."""
        while self.finished:
            outcome = self.finished.popleft()
            result = self.run.add(outcome.result, outcome.candidates)
            self.done += 1
            self._say(result)

    def _say(self, result: HeadResult | None) -> None:
        self.tell(Progress("search", self.done, self.total, result))

    def _stop(self) -> None:
        """End the searches on their way, and record what was finished before."""
        done = [future for future in self.pending if future.done() and not future.cancelled()]
        for future in self.pending:
            future.cancel()
        self.workers.everywhere(forget, self.place)
        with contextlib.suppress(AttnDslError):  # what stopped the search may stop this as well
            for future in done:
                if future.exception() is None:
                    self._take(future)
            self._record()

"""The search of all heads: shared out over workers, in any order, each recorded as it is finished."""

import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait

from attn_dsl.dsl.errors import AttnDslError
from attn_dsl.eval.heads import Pair
from attn_dsl.eval.results import HeadResult
from attn_dsl.eval.run import Run
from attn_dsl.synth.llm.record import FAILED, FOLDER, read_known, solved
from attn_dsl.synth.proposer import Asking
from attn_dsl.synth.runs.budget import Budget
from attn_dsl.synth.runs.executors import Workers
from attn_dsl.synth.runs.progress import Progress, Watcher
from attn_dsl.synth.runs.worker import HeadOutcome, HeadSearch, Place, forget, search_head

LEAST_AGAIN = 5.0
"""The least seconds for a head that has a result; to write down another takes some of them."""
TRIES = 3  # how often a head is begun again when the workers that search it die
WRITING = 0.8  # the most of a limited time that is left after the search in which a language model writes
LOOK = 5.0  # seconds after which a cluster is asked how many workers it has now


def search_heads(run: Run, place: Place, chosen: Sequence[Pair], budget: Budget, workers: Workers,
                 tell: Watcher) -> None:  # fmt: skip
    """Search the heads of a run that have no result yet, then again those that were cut short."""
    run.tabulate()
    _Search(run, place, chosen, budget, workers, tell).search()


def ask_heads(run: Run, place: Place, chosen: Sequence[Pair], budget: Budget, workers: Workers,
              tell: Watcher) -> None:  # fmt: skip
    """Have a language model write programs for heads that were searched, those explained least first."""
    _Asking(run, place, chosen, budget, workers, tell).search()


class _Search:
    """A search on its way."""

    stage = "search"

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
        self.pending: dict[Future[HeadOutcome], HeadSearch] = {}
        self.finished: deque[HeadOutcome] = deque()
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

    def task(self, pair: Pair, seconds: float | None) -> HeadSearch:
        """Return what is searched for a head."""
        return HeadSearch(self.place, *pair, self.neighbours[pair[0]], seconds, self.budget.remaining)

    def add(self, outcome: HeadOutcome) -> HeadResult:
        """Record what came of a head."""
        return self.run.add(outcome.result, outcome.candidates)

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
            task = self.task(pair, seconds)
            self.pending[self.workers.submit(search_head, task)] = task

    def _take(self, future: Future[HeadOutcome]) -> None:
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
            result = self.add(outcome)
            self.done += 1
            self._say(result)

    def _say(self, result: HeadResult | None) -> None:
        self.tell(Progress(self.stage, self.done, self.total, result))

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


class _Asking(_Search):
    """Heads about which a language model is asked, after the search, on their way."""

    stage = "write"

    def __init__(self, run: Run, place: Place, chosen: Sequence[Pair], budget: Budget, workers: Workers,
                 tell: Watcher) -> None:  # fmt: skip
        super().__init__(run, place, chosen, budget, workers, tell)
        options, asked = place.settings.llm, {tuple(pair) for pair in run.info.get("asked", [])}
        self.found = read_known(run, asked)
        reached = {(r.layer, r.head): max(row.score for row in r.front) for r in run.results}
        order = sorted(chosen, key=lambda pair: (reached.get(pair, -math.inf), pair))
        order = order[: options.heads or None]
        self.left, self.again = [pair for pair in order if pair not in asked], set()
        self.total, self.done = len(order), len(order) - len(self.left)
        self.solved, self.beside = solved(self.found), len(place.settings.proposers) > 1
        (run.path / FOLDER / FAILED).unlink(missing_ok=True)
        rest = math.inf if budget.remaining is None else WRITING * budget.remaining
        self.ends = time.monotonic() + min(options.seconds or math.inf, rest)

    def task(self, pair: Pair, seconds: float | None) -> HeadSearch:
        """Return what is searched for a head: on from its programs, until the time for writing is over."""
        left = max(0.0, self.ends - time.monotonic())
        asking = Asking(self.found.get(pair, ()), self.solved, left)
        return HeadSearch(self.place, *pair, self.neighbours[pair[0]], self.budget.remaining,
                          self.budget.remaining, asking)  # fmt: skip

    def add(self, outcome: HeadOutcome) -> HeadResult:
        """Record what came of a head, and that it was asked about."""
        result = self.run.add(outcome.result, outcome.candidates, further=True)
        asked = [*self.run.info.get("asked", []), [result.layer, result.head]]
        self.run.update(asked=asked)
        return result

    def _submit(self) -> None:
        gone = (self.run.path / FOLDER / FAILED).exists()
        if self.beside and (gone or time.monotonic() > self.ends):
            self.left.clear()
        super()._submit()

    def _say(self, result: HeadResult | None) -> None:
        left = None if math.isinf(self.ends) else max(0.0, self.ends - time.monotonic())
        self.tell(Progress(self.stage, self.done, self.total, result, left))

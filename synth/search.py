"""The search for one head: pool what the proposers suggest, keep the front, choose, score."""

import threading
import time
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from attn_dsl.dsl import tree as t
from attn_dsl.dsl.check import check
from attn_dsl.dsl.kinds import category, kind_shares
from attn_dsl.dsl.limits import MAX_NODES
from attn_dsl.dsl.parser import parse
from attn_dsl.dsl.printer import show
from attn_dsl.eval.controls import control_scores
from attn_dsl.eval.metrics import bootstrap
from attn_dsl.eval.outputs import output_r2
from attn_dsl.eval.results import Candidate, FrontRow, HeadResult
from attn_dsl.eval.split import HeadScores
from attn_dsl.synth.objective import OBJECTIVES
from attn_dsl.synth.pareto import choose, front, gains_by_node, thinned
from attn_dsl.synth.proposer import EXACT, Asking, Fitted, HeadTask, Proposer, pool
from attn_dsl.synth.proposers import registry
from attn_dsl.synth.pruning import trim
from attn_dsl.synth.session import Session
from attn_dsl.synth.worth import term_worths


class Search:
    """Searches the heads of a session, in any number of threads."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lock, self._scoring = threading.Lock(), threading.Lock()
        self._controls: dict[tuple[int, ...], dict[str, np.ndarray]] = {}

    @cached_property
    def samples(self) -> list[tuple[Session, list[Proposer]]]:
        """The samples of rows, each with its proposers; a language model is asked with the first alone."""
        named = [registry.find(name) for name in self.session.settings.proposers]
        return [(one, [known.make(one) for known in named if not one.sample or known.name != "llm"])
                for one in self.session.samples()]  # fmt: skip

    def prepare(self) -> None:
        """Make what all heads share, so that threads find it ready."""
        with self._lock:
            session = self.session
            _ = self.samples, session.select, session.test, session.worth_design

    def controls(self, number: int, neighbours: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return IoU and output R² of each control with a head, and keep those of its neighbours."""
        with self._scoring:
            if neighbours not in self._controls:
                found = control_scores(self.session.capture, self.session.texts, [*neighbours])
                self._controls[neighbours] = found
        at = neighbours.index(number)
        return {name: x[:, at] for name, x in self._controls[neighbours].items()}

    def head(self, layer: int, head: int, neighbours: tuple[int, ...], deadline: float | None = None,
             asking: Asking | None = None) -> tuple[HeadResult, list[Candidate]]:  # fmt: skip
        """Search programs for one head; return the result, and every program that was fitted.

        Args:
            neighbours: all heads of the layer that the run looks at, whose controls are scored at once.
            deadline: time (``time.monotonic``) after which no more programs are tried.
            asking: goes on from the programs of an earlier search, with those of a language model; None
                for a search without one.
        """
        started = time.monotonic()
        session, settings = self.session, self.session.settings
        first = layer * session.capture.heads_per_layer
        tasks, found, polished = self._programs(layer, head, deadline, asking)
        task = tasks[0]
        polished, rows, shown = self._score(task, polished)
        at = next(i for i, row in enumerate(rows) if row.chosen)
        test = session.test.metrics(polished[at].program, task.number)
        errors, spreads = shown.errors[at], shown.spreads
        baselines = self.controls(task.number, tuple(first + one for one in neighbours))
        terms = term_worths(task, session.worth_design, polished[at].program)
        shares = kind_shares(polished[at].program, [term.share for term in terms])
        facts = check(polished[at].program, allow_lookahead=settings.allow_lookahead)
        result = HeadResult(
            layer=layer, head=head, program=rows[at].program, nodes=rows[at].nodes,
            iou_fit=rows[at].iou_fit, iou_select=rows[at].iou_select,
            test={name: bootstrap(values, settings.seed) for name, values in test.items()}
            | {"output_r2": output_r2(errors[None], spreads[None], settings.seed)},
            test_ious=tuple(float(x) for x in test["iou"]),
            controls={name: float(iou) for name, (iou, _) in baselines.items()},
            category=category(shares), terms=terms, shares=shares,
            lookahead=facts.lookahead, evals=sum(one.evals for one in tasks),
            seconds=time.monotonic() - started, front=tuple(rows),
            cut_short=any(one.late or one.short for one in tasks),
            test_errors=tuple(map(float, errors)), test_spreads=tuple(map(float, spreads)),
            controls_output_r2={name: float(r2) for name, (_, r2) in baselines.items()})  # fmt: skip
        candidates = [Candidate(layer, head, f.nodes, f.iou, f.proposer, show(f.program)) for f in found]
        return result, candidates

    def _programs(self, layer: int, head: int, deadline: float | None,
                  asking: Asking | None) -> tuple[list[HeadTask], list[Fitted], list[Fitted]]:  # fmt: skip
        """Search on one sample of rows after the other; return the searches, all programs and the best."""
        settings, samples = self.session.settings, self.samples[: 1 if asking else None]
        tasks, found, best = list[HeadTask](), list[Fitted](), list[Fitted]()
        for left, (sample, proposers) in zip(range(len(samples), 0, -1), samples, strict=True):
            evals = settings.max_evals - sum(task.evals for task in tasks)
            if evals <= 0 or any(one.iou >= EXACT for one in found):
                break
            now = time.monotonic()
            task = HeadTask(sample.design, layer, head, seed=settings.seed, max_evals=evals,
                            max_nodes=min(settings.max_nodes, MAX_NODES), stop=self.session.stop,
                            deadline=None if deadline is None else now + (deadline - now) / left)  # fmt: skip
            if asking is not None:
                task.asking = asking
                task.known = [task.measured(parse(one.program, resolve=self.session.resolve), one.proposer)
                              for one in asking.found]  # fmt: skip
            suggested = pool(task, [one for one in proposers if (one.name == "llm") == (asking is not None)])
            tasks.append(task)
            found += suggested
            best += self._polish(task, suggested)
        return tasks, found, best

    def _polish(self, task: HeadTask, found: list[Fitted]) -> list[Fitted]:
        """Adjust the weights of the best programs at every size, and take the front of all.

        Programs that were adjusted before do not stand in the way of those that are not yet.
        """
        most = self.session.settings.front
        settled = [f for f in found if f.settled]
        fresh = front([f for f in found if not f.settled], least=1e-3)
        best = [*front(settled), *thinned(fresh, most)]
        polished = front([task.polish(f) for f in best])
        return thinned(polished, most)

    def _score(self, task: HeadTask,
               polished: list[Fitted]) -> tuple[list[Fitted], list[FrontRow], HeadScores]:  # fmt: skip
        """Score programs on the select split; return their front, its rows, and it on the test split.

        Of the program that is chosen, terms that are not worth their nodes on the select split go.
        """
        number, select = task.number, self.session.select
        objective = OBJECTIVES[self.session.settings.objective]

        def measured(programs: Sequence[t.Head]) -> list[tuple[float, float]]:
            found = select.compare(programs, number)
            return [*zip(found.ious.mean(1).tolist(), found.output_r2.tolist(), strict=True)]

        def scores(programs: Sequence[t.Head]) -> np.ndarray:
            return np.array([objective.score(*one) for one in measured(programs)])

        def chosen(values: Sequence[float]) -> int:
            return choose(values, [f.nodes for f in polished], objective.price)

        picked = measured([f.program for f in polished])
        best = polished[chosen([objective.score(*one) for one in picked])]
        if (smaller := trim(task, best.program, scores, objective.price)) is not None:
            polished = [*polished, task.measured(smaller, best.proposer)]
            picked += measured([smaller])
        every = [(f, one, objective.score(*one)) for f, one in zip(polished, picked, strict=True)]
        kept = front(every, lambda x: x[0].nodes, lambda x: x[2])
        polished, values = [f for f, _, _ in kept], [value for _, _, value in kept]
        shown = self.session.test.compare([f.program for f in polished], number)
        columns = zip((one for _, one, _ in kept), shown.ious.mean(1), shown.output_r2, strict=True)
        found = [(iou, float(test), r2, float(test_r2)) for (iou, r2), test, test_r2 in columns]
        steps, at = gains_by_node(values, [f.nodes for f in polished]), chosen(values)
        rows = [FrontRow(f.nodes, f.iou, *found[i], values[i], steps[i], i == at, f.proposer, show(f.program))
                for i, f in enumerate(polished)]  # fmt: skip
        return polished, rows, shown

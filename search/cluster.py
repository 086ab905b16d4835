"""Judging on many workers at once: quality in parallel wherever they are, costs one after another on this machine.

This process alone proposes, measures and writes the study. A worker builds and judges plans, and shares what it learns;
where this process needs a greedy order, workers score the candidates of its steps (`steps.py`).
Latency belongs to the machine of the search: it is predicted, or measured here while the workers of this machine stand
still. So plans, records and reports are those of a search in one process.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from ..errors import SearchError
from .judge import Judge
from .outcome import outcome_of
from .progress import Progress, Report
from .proposals import Asked, Proposal, Proposals
from .ray_session import joined
from .ray_tune import run_trials
from .settings import Settings
from .standstill import Worker, standstill
from .steps import Steps, UnscoredError
from .trial import State, Trial
from .workbench import LocalWorkbench
from .worker import Answer, Shipment
from .workers import Cluster


def judge_on_cluster(
    cluster: Cluster,
    settings: Settings,
    bench: LocalWorkbench,
    proposals: Proposals,
    judge: Judge,
    progress: Progress,
) -> None:
    """Proposes, and has judged what is proposed, until trials or minutes are used up, or no new plan is found.

    Args:
        cluster: where.
        settings: what is asked.
        bench: of this process; proposals are resolved on it.
        proposals: of the run.
        judge: of the run; measures here what is not predicted.
        progress: where to say how far it is.

    Raises:
        SettingError: if the cluster cannot be reached, or has not what is asked of it.
        SearchError: if the baseline cannot be judged, or a worker cannot go on.
    """
    with progress.stage("searching", settings.trials or settings.minutes or 0) as report:
        feed = Feed(settings, bench, proposals, judge, report)
        try:
            if feed.is_over:
                return
            with joined(cluster, settings.out) as found:
                feed.most_open = found.n_workers
                shipment = Shipment.of(settings, bench, threads=cluster.threads).packed()
                run_trials(cluster, found, shipment=shipment, folder=settings.out, feed=feed)
        except KeyboardInterrupt:
            feed.interrupt()
            raise
        finally:
            bench.removal.foresee(lambda plans: None)


class Feed:
    """What workers are given, and what becomes of their answers; see `ray_tune.Feed`.

    Attributes:
        most_open: plans that are judged at once; more would be proposed knowing less.
        crowd: gives the workers on this machine.
    """

    def __init__(
        self, settings: Settings, bench: LocalWorkbench, proposals: Proposals, judge: Judge, report: Report
    ) -> None:
        """Begins the time of this call.

        Args:
            settings: how many trials or minutes.
            bench: of this process.
            proposals: of the run.
            judge: of the run.
            report: is told how far it is.
        """
        self._settings, self._bench, self._proposals, self._judge = settings, bench, proposals, judge
        self._report = report
        self._started = time.monotonic()
        self._open: dict[int, Proposal] = {}
        # What cannot be resolved before steps of a greedy order are scored.
        self._parked: Asked | None = None
        self._steps = Steps()
        bench.removal.foresee(self._steps.demand)
        self.most_open = 1
        self.crowd: Callable[[], list[Worker]] = list

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be proposed."""
        if self._parked is not None:
            return False
        trials, minutes = self._settings.trials, self._settings.minutes
        proposed = self._proposals.n_known + self._proposals.n_open
        if (trials is not None and proposed >= trials) or (minutes is not None and self._minutes >= minutes):
            return True
        # What is not judged yet may lead the sampler elsewhere.
        return self._proposals.are_exhausted and not self._open

    def next(self) -> tuple[int, str] | None:
        """Number and brief, as JSON, of what to judge, or to score, next; None for nothing now."""
        self._say()
        while len(self._open) + self._steps.n_out < self.most_open:
            if not self._steps.are_done:
                return self._steps.next()
            if self.is_over or (self._parked is None and self._proposals.are_exhausted):
                return None
            proposal = self._resolved(self._parked or self._proposals.ask())
            if proposal is not None:
                self._open[proposal.trial.number] = proposal
                return proposal.trial.number, self._judge.brief(proposal.plan).dumps()
        return None

    def _resolved(self, asked: Asked) -> Proposal | None:
        """The proposal; None where it leads to nothing new, or is parked."""
        self._parked = None
        try:
            return self._proposals.resolve(asked)
        except UnscoredError:
            self._parked = asked
            return None

    def answered(self, number: int, answer: Answer) -> None:
        """Records what a worker found.

        Raises:
            SearchError: if the search cannot go on with it.
        """
        if answer.ends_search:
            raise SearchError(f"a worker cannot go on: {answer.cause}")
        if number < 0:
            self._steps.scored(number)
            return
        proposal = self._open[number]
        found = answer.assessment
        if found is None:
            assert answer.state is not None
            judged = Trial(number, answer.state, proposal.plan, answer.cause)
        else:
            conclude = partial(self._judge.conclude, number, proposal.plan, found, self._quiet)
            judged = outcome_of(conclude, number, proposal.plan, self._bench.device)
        self._proposals.tell(self._open.pop(number), judged)
        self._say()

    def lost(self, number: int, state: State, cause: str) -> None:
        """Records that no worker could answer, however often it was tried."""
        self.answered(number, Answer(None, state, cause))

    def interrupt(self) -> None:
        """Queues what is being judged once more, for when the search goes on."""
        begun: list[Proposal | Asked] = [*self._open.values()]
        for one in begun if self._parked is None else [*begun, self._parked]:
            self._proposals.interrupt(one)
        self._open.clear()
        self._parked = None

    @property
    def _minutes(self) -> float:
        return (time.monotonic() - self._started) / 60

    def _quiet(self) -> AbstractContextManager[None]:
        return standstill(self.crowd())

    def _say(self) -> None:
        done = self._proposals.n_known if self._settings.trials else self._minutes
        scored = f", {self._steps.n_out} shortened by a layer and scored" if self._steps.n_out else ""
        self._report(done, f"{self._proposals.news}; {len(self._open)} being judged{scored}")

"""The search: propose a plan, judge it once, tell the sampler; then measure the front.

Everything is recorded as soon as it is known, so a search that is stopped goes on where it was.
"""

import time
from functools import partial

from optuna.samplers import RandomSampler

from ..errors import BudgetError
from ..profilers.devices import Device
from ..profilers.memory import MemoryMeter
from ..spaces.space import Space
from .cluster import judge_on_cluster
from .damage import database_errors
from .finals import measure_whole
from .judge import Judge
from .known_costs import KnownCosts
from .naive import naive_plans
from .near_front import near_front
from .opening import open_workbench
from .outcome import ENDING, outcome_of
from .progress import Progress, Silent
from .proposals import Proposal, Proposals
from .ray_session import refuse_unfit
from .settings import Settings
from .study import Record
from .workbench import LocalWorkbench


def search(settings: Settings, progress: Progress | None = None) -> Record:
    """Runs a search, or goes on with the one in the run folder.

    Args:
        settings: what is asked.
        progress: where to say how far it is; None says nothing.

    Raises:
        UserError: if something asked for cannot work; the message says what and how to mend it.
        BudgetError: if no judged candidate keeps the budget; all trials are kept.
        StorageError: if the disk refuses; all trials are kept.
    """
    progress = progress or Silent()
    bench, described = open_workbench(settings, progress)
    # Who proposes is set once it is known what there is to propose.
    record = Record.create(settings.out, described, len(settings.objectives), RandomSampler(seed=settings.seed))
    machine = described["identity"]["machine"]
    with record.locked(), database_errors(record.folder):
        record.begin(described)
        # What is learned before the first plan takes minutes; who has all trials needs no cluster.
        if settings.cluster is not None and (settings.trials is None or len(record.trials()) < settings.trials):
            refuse_unfit(settings.cluster, settings.out)
        if "assembly" in settings.axes:
            # Before anything is measured, and where an interrupt leaves a checkpoint and no half-judged trial.
            bench.modular_layers()
        with settings.meter() as meter:
            costs = KnownCosts(settings, bench, record, meter, described, progress)
            judge = Judge(
                bench,
                record,
                settings.workload,
                machine=machine,
                budget=settings.budget,
                measured=settings.measured,
                meter=meter,
                seed=settings.seed,
                predictor=costs.predictor,
                baseline_memory=costs.baseline_memory,
                objectives=settings.objectives if settings.races else (),
            )
            space = Space(bench.anatomy, settings.axes)
            proposals = Proposals(settings, space, bench, record, predictor=costs.predictor)
            if settings.cluster is None:
                _judge_in_turn(settings, proposals, judge, bench.device, progress)
            else:
                judge_on_cluster(settings.cluster, settings, bench, proposals, judge, progress)
            costs.keep_reference()
            _measure_front(settings, bench, record, meter, machine, progress)
    return record


def _judge_in_turn(settings: Settings, proposals: Proposals, judge: Judge, device: Device, progress: Progress) -> None:
    """Proposes and judges in this process until trials or minutes are used up, or no new plan is found."""
    started = time.monotonic()
    trials, minutes = settings.trials, settings.minutes
    with progress.stage("searching", trials or minutes or 0) as report:
        while True:
            done, spent = proposals.n_known, (time.monotonic() - started) / 60
            report(done if trials else spent, proposals.news)
            if (trials is not None and done >= trials) or (minutes is not None and spent >= minutes):
                return
            if proposals.are_exhausted:
                return
            proposal = proposals.resolve(proposals.ask())
            if proposal is not None:
                _judge_one(proposals, proposal, judge, device)


def _judge_one(proposals: Proposals, proposal: Proposal, judge: Judge, device: Device) -> None:
    """Judges a proposal and tells what became of it."""
    try:
        number, plan = proposal.trial.number, proposal.plan
        proposals.tell(proposal, outcome_of(partial(judge.judge, number, plan), number, plan, device))
    except KeyboardInterrupt:
        proposals.interrupt(proposal)
        raise


def _measure_front(
    settings: Settings, bench: LocalWorkbench, record: Record, meter: MemoryMeter, machine: str, progress: Progress
) -> None:
    """Measures what the search found best, unless that front was measured before.

    Raises:
        BudgetError: if nothing keeps the budget.
    """
    near = near_front(record.trials(), settings.objectives, settings.budget)
    best = [trial.plan for trial in (*record.best(), *near) if trial.plan is not None]
    if not best:
        raise BudgetError(_why_nothing_fits(settings, record))
    baseline = bench.anatomy.identity()
    plans = [baseline, *(plan for plan in best if plan != baseline)]
    wanted, known = {plan.fingerprint for plan in plans}, {final.plan.fingerprint for final in record.finals()}
    # Naive plans are extra: runs from before there were any are not measured again for their sake.
    if wanted <= known and known - wanted <= set(record.naive.values()):
        return
    naive = naive_plans(baseline, record.trials())
    measure = partial(
        measure_whole,
        bench,
        workload=settings.workload,
        machine=machine,
        meter=meter if "memory" in settings.measured else None,
        progress=progress,
        seed=settings.seed,
    )
    try:
        finals = measure([*plans, *(plan for plan in naive.values() if plan not in plans)])
    except ENDING:
        raise
    except Exception:  # a plan that nobody asked for, and that cannot be measured, must not cost the answer
        naive = {name: plan for name, plan in naive.items() if plan in plans}
        finals = measure(plans)
    # First, so that who is killed between the two does not measure again.
    record.set_naive({name: plan.fingerprint for name, plan in naive.items()})
    record.set_finals(finals)


def _why_nothing_fits(settings: Settings, record: Record) -> str:
    """Which limit is broken by how little at best, so that the user knows what to relax."""
    judged = [trial.measures for trial in record.trials() if trial.measures is not None]
    if not judged:
        return f"no trial of {record.folder} was judged; `paring report` lists the causes."
    return (
        f"no candidate meets the budget {settings.budget}; the best reached, each limit taken alone, is: "
        f"{settings.budget.nearest(judged)}. "
        f"Relax the budget in a new --out, or search longer; all {len(judged)} trials are kept in {record.folder}."
    )

"""The search: propose a choice, resolve it to a plan, judge the plan once, tell the sampler; then measure the front.

Everything is recorded as soon as it is known, so a search that is stopped goes on where it was.
"""

import random
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import optuna

from ..errors import BudgetError, ParingError, SearchError, StorageError, TimedOutError, UserError
from ..profilers.counting import Shapes
from ..profilers.devices import clean_after_failure
from ..profilers.memory import MemoryMeter
from ..spaces.axes import Parameter, Value
from ..spaces.plan import Plan
from ..spaces.space import Space
from .cache import Cache
from .cost_table import Subject, cost_table
from .damage import DATABASE_ERRORS, database_errors
from .finals import measure_whole
from .judge import Judge
from .naive import naive_plans
from .near_front import near_front
from .opening import open_workbench
from .predictor import Predictor
from .progress import Progress, Silent
from .samplers import sampler
from .settings import Settings
from .starts import starting_choices
from .study import Record
from .trial import State, Trial
from .workbench import LocalWorkbench

# So many proposals in a row that all lead to known plans mean that the space holds no others worth waiting for.
_REPEATS_BEFORE_EXHAUSTED = 100


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
    seeded = sampler(settings.sampler, seed=settings.seed)
    record = Record.create(settings.out, described, len(settings.objectives), seeded)
    machine = described["identity"]["machine"]
    with record.locked(), database_errors(record.folder):
        record.begin(described)
        if "assembly" in settings.axes:
            # Before anything is measured, and where an interrupt leaves a checkpoint and no half-judged trial.
            bench.modular_layers()
        with settings.meter() as meter:
            judge = Judge(
                bench,
                record,
                settings.workload,
                machine=machine,
                budget=settings.budget,
                measured=settings.measured,
                meter=meter,
                seed=settings.seed,
                predictor=_predictor(settings, bench, record, meter, described, progress),
                objectives=settings.objectives if settings.races else (),
            )
            _Loop(settings, Space(bench.anatomy, settings.axes), bench, record, judge).run(progress)
            _measure_front(settings, bench, record, meter, machine, progress)
    return record


def _predictor(
    settings: Settings,
    bench: LocalWorkbench,
    record: Record,
    meter: MemoryMeter,
    described: Mapping[str, Any],
    progress: Progress,
) -> Predictor | None:
    """Who predicts candidates; None where they are measured, and the record says why if that was not asked for."""
    if not settings.predicts:
        return None
    identity = described["identity"]
    subject = Subject(identity["model"], settings.runtime, identity["machine"], settings.axes, settings.workload)
    has_memory = "memory" in settings.measured
    try:
        table = cost_table(
            bench,
            subject,
            cache=Cache(record.folder / "cache"),
            meter=meter if has_memory else None,
            progress=progress,
            seed=settings.seed,
        )
    except (StorageError, UserError):
        raise
    except Exception as error:  # what one model cannot do must not end a search that can measure each by itself
        record.set_prediction({"refused": f"the table could not be learned: {error}"})
        return None
    predictor, reason = Predictor.or_reason(table, Shapes.of(bench.anatomy))
    record.set_prediction({"refused": reason} if predictor is None else predictor.facts())
    return predictor


class _Loop:
    """Proposes and judges until the effort is spent or the space exhausted."""

    def __init__(self, settings: Settings, space: Space, bench: LocalWorkbench, record: Record, judge: Judge) -> None:
        self._settings, self._space, self._bench, self._record, self._judge = settings, space, bench, record, judge
        self._known = {
            trial.plan.fingerprint: trial
            for trial in record.trials()
            if trial.plan is not None and trial.state != State.INTERRUPTED
        }
        identity = bench.anatomy.identity().fingerprint
        if identity in self._known and self._known[identity].measures is None:
            # Without its baseline a search cannot go on, so that one is tried again whatever it failed of.
            del self._known[identity]
            record.study.enqueue_trial(space.identity())
        # The random numbers of a search that goes on must not be those it began with.
        begun = record.begun
        record.study.sampler = sampler(settings.sampler, seed=settings.seed + begun)
        self._random = random.Random(settings.seed + begun)
        if begun == 0:
            for choice in starting_choices(space, bench)[: max(1, (settings.trials or 60) // 2)]:
                record.study.enqueue_trial(choice)

    def run(self, progress: Progress) -> None:
        """Returns when trials or minutes are used up, or no new plan is found."""
        started, repeats = time.monotonic(), 0
        trials, minutes = self._settings.trials, self._settings.minutes
        with progress.stage("searching", trials or minutes or 0) as report:
            while True:
                done, spent = len(self._known), (time.monotonic() - started) / 60
                report(done if trials else spent, self._news())
                if (trials is not None and done >= trials) or (minutes is not None and spent >= minutes):
                    return
                if done >= self._space.size or repeats >= _REPEATS_BEFORE_EXHAUSTED:
                    return
                repeats = 0 if self._try_one() else repeats + 1

    def _news(self) -> str:
        states = [trial.state for trial in self._known.values()]
        counts = {state: states.count(state) for state in State if state in states}
        return ", ".join(f"{count} {state.value.replace('_', ' ')}" for state, count in counts.items())

    def _try_one(self) -> bool:
        """Proposes and judges one choice; whether it led to a plan not seen before."""
        trial = self._record.study.ask()
        choice = {parameter.name: _suggest(trial, parameter) for parameter in self._space}
        plan: Plan | None = None
        try:
            with clean_after_failure(self._bench.device):
                plan = self._space.resolve(choice, self._bench)
                if plan.fingerprint in self._known:
                    self._repeat(trial, choice, self._known[plan.fingerprint])
                    return False
                self._keep(trial, self._judge.judge(trial.number, plan))
        except KeyboardInterrupt:
            self._record.tell_failed(trial, State.INTERRUPTED, "interrupted by the user", plan)
            self._record.study.enqueue_trial(choice)
            raise
        except (StorageError, UserError, *DATABASE_ERRORS):
            raise
        except MemoryError as error:
            self._fail(trial, State.OUT_OF_MEMORY, error, plan)
        except TimedOutError as error:
            self._fail(trial, State.TIMED_OUT, error, plan)
        except Exception as error:  # one bad candidate never ends a run
            self._fail(trial, State.FAILED, error, plan)
        return True

    def _keep(self, trial: optuna.Trial, judged: Trial, repeats: int | None = None) -> None:
        assert judged.plan is not None
        settings = self._settings
        self._record.tell_judged(trial, judged, settings.budget, settings.objectives, repeats=repeats)
        self._known.setdefault(judged.plan.fingerprint, judged)

    def _fail(self, trial: optuna.Trial, state: State, error: Exception, plan: Plan | None) -> None:
        cause = str(error) if isinstance(error, ParingError) else f"{type(error).__name__}: {error}"
        self._record.tell_failed(trial, state, cause, plan)
        if plan is None or plan == self._bench.anatomy.identity():
            raise SearchError(f"the search cannot go on: {cause}") from error
        self._known[plan.fingerprint] = Trial(trial.number, state, plan, cause)

    def _repeat(self, trial: optuna.Trial, choice: dict[str, Value], first: Trial) -> None:
        """Tells the sampler what is known already, and queues a neighbour of the choice to get away from it."""
        if first.told is None:
            self._record.tell_failed(trial, first.state, first.cause, first.plan, repeats=first.number)
        else:
            self._keep(trial, first, repeats=first.number)
        parameter = self._random.choice(list(self._space))
        other = [value for value in parameter.choices if value != choice[parameter.name]]
        if other:
            self._record.study.enqueue_trial({**choice, parameter.name: self._random.choice(other)})


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Value:
    """The sampler's value for a parameter: integers as an ordered range, names as categories."""
    numbers = [choice for choice in parameter.choices if isinstance(choice, int)]
    if numbers == list(range(numbers[0], numbers[0] + len(parameter.choices))) if numbers else False:
        return trial.suggest_int(parameter.name, numbers[0], numbers[-1])
    value = trial.suggest_categorical(parameter.name, parameter.choices)
    assert isinstance(value, int | str)
    return value


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
    except (StorageError, UserError, *DATABASE_ERRORS):
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

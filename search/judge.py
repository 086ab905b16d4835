"""Judging one candidate: its quality on the search split, and what it costs beside the baseline."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, cached_property

from transformers import PreTrainedModel

from ..profilers.estimates import PredictedLatency, PredictedMemory
from ..profilers.memory import Memory, MemoryMeter
from ..profilers.prediction import UnseenError
from ..profilers.profile import Profile
from ..profilers.runtimes import Executable
from ..profilers.timing import Effort, Latency, measure
from ..profilers.workload import Workload, serving
from ..spaces import artefact
from ..spaces.plan import Plan
from ..spaces.plan_bytes import PlanBytes
from .assessment import Assessment, Brief, verdict_of
from .finals import measures_of, saved
from .heats import Heat, Loss, Rules
from .objectives import Limits, Measures
from .predictor import Predictor
from .quality import Quality
from .racing import Race
from .study import Record
from .trial import Dropped, State, Trial
from .workbench import LocalWorkbench

Quiet = Callable[[], AbstractContextManager[None]]
Load = Callable[[], tuple[PreTrainedModel, Executable]]
_CANDIDATE_EFFORT = Effort(seconds=1.5, half_width=0.02, min_rounds=7)
_REFERENCE_EFFORT = Effort(seconds=5.0, half_width=0.005)


class Judge:
    """Judges plans for one run."""

    def __init__(
        self,
        bench: LocalWorkbench,
        record: Record,
        workload: Workload,
        *,
        machine: str,
        budget: Limits,
        measured: set[str],
        meter: MemoryMeter,
        seed: int,
        predictor: Predictor | None = None,
        baseline_memory: Memory | None = None,
        objectives: Sequence[str] = (),
    ) -> None:
        """Loads the baseline and, where the run has none yet, measures its latency and the noise of this machine.

        Args:
            bench: of the run.
            record: where the reference latency is kept.
            workload: what is served.
            machine: fingerprint of this machine.
            budget: the limits that tell an infeasible trial.
            measured: which of "latency" and "memory" to measure.
            meter: measures memory.
            seed: of the order within the rounds.
            predictor: says what candidates cost; None to measure each. The baseline is measured in any case.
            objectives: candidates race in these, against those judged before; none lets every one be judged in full.
            baseline_memory: of the baseline, where it is known.
        """
        self._predictor, self._objectives, self._baseline_memory = predictor, objectives, baseline_memory
        self._bench, self._record, self._workload, self._machine = bench, record, workload, machine
        self._budget, self._measured, self._meter, self._seed = budget, measured, meter, seed
        workload.inputs(bench.model.config)  # refuses, before anything is built, what the model cannot take
        self._identity = bench.anatomy.identity()
        self._original = bench.build(self._identity)
        self._baseline = bench.executable(self._original)
        if "latency" in measured and record.reference_seconds is None:
            # The baseline against itself: what this machine can tell apart now, and what ratios are multiplied by.
            found = self._beside_baseline(bench.executable(bench.build(self._identity)), _REFERENCE_EFFORT)
            record.set_reference(found["baseline"].seconds, noise=found["candidate"])

    def judge(self, number: int, plan: Plan) -> Trial:
        """One candidate, with all its numbers; or with where it left the race.

        Args:
            number: of the trial.
            plan: not judged before in this run.
        """
        compressed = self._bench.build(plan)
        executable = self._bench.executable(compressed)
        stored_bytes, kernels = artefact.stored_bytes(compressed), executable.kernels
        profile = self._profile(plan, stored_bytes, kernels, lambda: (compressed, executable), nullcontext)
        heat = None
        if self._race is not None and plan != self._identity:
            heat = Heat(self._rules, self._race.rival(plan, profile))
        return self._finished(number, plan, profile, verdict_of(self._bench, plan, compressed, executable, heat))

    def brief(self, plan: Plan) -> Brief:
        """What another process must know to assess a plan: whom it races against, by what is known before it is built.

        Args:
            plan: not judged before in this run.
        """
        is_baseline = plan == self._identity
        if self._race is None or is_baseline or self._bench.examiner.known(self._identity, self._bench.search) is None:
            return Brief(plan)
        foreseen = self._foreseen(plan)
        rival = None if foreseen is None else self._race.rival(plan, foreseen)
        # Of another process it is the plan that judgements are kept by.
        against = None if rival is None else self._race.plan(rival)
        return Brief(plan, True, None if rival is None or against is None else (rival.number, against))

    def conclude(self, number: int, plan: Plan, found: Assessment, quiet: Quiet) -> Trial:
        """The same where another process assessed it; it is built here only if its costs must be measured.

        Args:
            number: of the trial.
            plan: not judged before in this run.
            found: of the plan, on whatever machine.
            quiet: in which it is timed; keeps the processes quiet that judge on this machine.
        """

        @cache
        def load() -> tuple[PreTrainedModel, Executable]:
            compressed = self._bench.build(plan)
            return compressed, self._bench.executable(compressed)

        profile = self._profile(plan, found.stored_bytes, found.kernels, load, quiet)
        return self._finished(number, plan, profile, found.verdict)

    def _profile(self, plan: Plan, stored_bytes: int, kernels: str, load: Load, quiet: Quiet) -> Profile:
        return Profile(
            stored_bytes,
            kernels,
            self._machine,
            str(self._workload),
            self._latency(plan, load, quiet) if "latency" in self._measured else None,
            self._memory(plan, load) if "memory" in self._measured else None,
        )

    def _finished(self, number: int, plan: Plan, profile: Profile, verdict: Quality | Loss) -> Trial:
        if isinstance(verdict, Loss):
            return self._dropped(number, plan, profile, verdict)
        measures = self._measures(verdict.value, profile)
        state = State.JUDGED if self._budget.are_kept(measures) else State.INFEASIBLE
        trial = Trial(number, state, plan, "", verdict, profile, measures)
        if self._race is not None:
            self._race.enter(trial)
        return trial

    @cached_property
    def _reference(self) -> Quality:
        """Of the baseline on the search split; asked when it is needed, as it may fail like any other."""
        return self._bench.quality(self._identity, self._bench.search, self._baseline, model=self._original)

    @cached_property
    def _rules(self) -> Rules:
        return Rules(self._budget, self._reference, self._bench.search.labels, self._bench.score)

    @cached_property
    def _race(self) -> Race | None:
        """With all that this run judged before; None where nobody races."""
        if not self._objectives:
            return None
        race = Race(self._objectives, None if self._predictor is None else self._predictor.costs_no_more)
        for trial in self._record.trials():
            race.enter(trial)
        return race

    @cached_property
    def _plan_bytes(self) -> PlanBytes:
        return PlanBytes(self._bench.model, self._bench.anatomy)

    def _foreseen(self, plan: Plan) -> Profile | None:
        """The costs of a plan that is not built; None where they must be measured. It stores no fewer bytes."""
        costs, predictor = {"latency", "memory"} & set(self._objectives), self._predictor
        if costs and predictor is None:
            return None
        try:
            latency = predictor.latency(plan) if predictor is not None and "latency" in costs else None
            memory = predictor.memory(plan) if predictor is not None and "memory" in costs else None
        except UnseenError:
            return None
        size = self._plan_bytes.of(plan)
        return Profile(size, "", self._machine, str(self._workload), latency, memory)

    def _dropped(self, number: int, plan: Plan, profile: Profile, loss: Loss) -> Trial:
        dropped = Dropped(loss.examples, loss.rival, self._measures(loss.quality, profile))
        state = State.INFEASIBLE if loss.rival is None else State.DROPPED
        return Trial(number, state, plan, loss.cause, profile=profile, dropped=dropped)

    def _measures(self, quality: float, profile: Profile) -> Measures:
        return measures_of(quality, self._reference.value, profile, self._record.reference_seconds)

    def _latency(self, plan: Plan, load: Load, quiet: Quiet) -> Latency | PredictedLatency:
        """The baseline's own ratio is 1 by definition."""
        if self._predictor is not None and plan != self._identity:
            try:
                return self._predictor.latency(plan)
            except UnseenError:
                pass  # it has something that no plan measured had: then it is measured
        _, executable = load()
        with quiet():
            found = self._beside_baseline(executable, _CANDIDATE_EFFORT)
        return found["baseline" if plan == self._identity else "candidate"]

    def _beside_baseline(self, executable: Executable, effort: Effort) -> dict[str, Latency]:
        entrants = {"baseline": self._baseline, "candidate": executable}
        config = self._bench.model.config
        calls = {name: serving(one, self._workload, config) for name, one in entrants.items()}
        return measure(calls, baseline="baseline", effort=effort, seed=self._seed, clock=self._bench.device.clock)

    def _memory(self, plan: Plan, load: Load) -> Memory | PredictedMemory:
        if self._predictor is not None and plan != self._identity:
            try:
                return self._predictor.memory(plan)
            except UnseenError:
                pass
        if plan == self._identity and self._baseline_memory is not None:
            return self._baseline_memory
        compressed, _ = load()
        with saved(self._bench, compressed, plan) as folder:
            return self._meter.measure(folder)

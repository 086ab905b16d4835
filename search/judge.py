"""Judging one candidate: its quality on the search split, and what it costs beside the baseline."""

from collections.abc import Sequence
from functools import cached_property

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
from .finals import measures_of, saved
from .objectives import Limits, Measures
from .predictor import Predictor
from .quality import Quality
from .racing import Heat, Race
from .study import Record
from .trial import Dropped, State, Trial
from .workbench import LocalWorkbench

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
        """
        self._predictor, self._objectives = predictor, objectives
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
        profile = Profile(
            artefact.stored_bytes(compressed),
            executable.kernels,
            self._machine,
            str(self._workload),
            self._latency(plan, executable) if "latency" in self._measured else None,
            self._memory(compressed, plan) if "memory" in self._measured else None,
        )
        if plan == self._identity or self._race is None:
            quality = self._bench.quality(plan, self._bench.search, executable, model=compressed)
        else:
            heat = self._race.heat(profile)
            raced = self._bench.raced(plan, executable, compressed, heat)
            if raced is None:
                return self._dropped(number, plan, profile, heat)
            quality = raced
        measures = self._measures(quality.value, profile)
        state = State.JUDGED if self._budget.are_kept(measures) else State.INFEASIBLE
        trial = Trial(number, state, plan, "", quality, profile, measures)
        self.learn(trial)
        return trial

    def learn(self, trial: Trial) -> None:
        """A trial of this run that was judged elsewhere, or before: it may beat others from now on."""
        if self._race is not None:
            self._race.enter(trial)

    @cached_property
    def _reference(self) -> Quality:
        """Of the baseline on the search split; asked when it is needed, as it may fail like any other."""
        return self._bench.quality(self._identity, self._bench.search, self._baseline, model=self._original)

    @cached_property
    def _race(self) -> Race | None:
        """With all that this run judged before; None where nobody races."""
        if not self._objectives:
            return None
        bench = self._bench
        race = Race(self._objectives, self._budget, self._reference, bench.search.labels, bench.score)
        for trial in self._record.trials():
            race.enter(trial)
        return race

    def _dropped(self, number: int, plan: Plan, profile: Profile, heat: Heat) -> Trial:
        loss = heat.loss
        assert loss is not None
        dropped = Dropped(loss.examples, loss.rival, self._measures(loss.quality, profile))
        state = State.INFEASIBLE if loss.rival is None else State.DROPPED
        return Trial(number, state, plan, loss.cause, profile=profile, dropped=dropped)

    def _measures(self, quality: float, profile: Profile) -> Measures:
        return measures_of(quality, self._reference.value, profile, self._record.reference_seconds)

    def _latency(self, plan: Plan, executable: Executable) -> Latency | PredictedLatency:
        """The baseline's own ratio is 1 by definition."""
        if self._predictor is not None and plan != self._identity:
            try:
                return self._predictor.latency(plan)
            except UnseenError:
                pass  # it has something that no plan measured had: then it is measured
        found = self._beside_baseline(executable, _CANDIDATE_EFFORT)
        return found["baseline" if plan == self._identity else "candidate"]

    def _beside_baseline(self, executable: Executable, effort: Effort) -> dict[str, Latency]:
        entrants = {"baseline": self._baseline, "candidate": executable}
        config = self._bench.model.config
        calls = {name: serving(one, self._workload, config) for name, one in entrants.items()}
        return measure(calls, baseline="baseline", effort=effort, seed=self._seed, clock=self._bench.device.clock)

    def _memory(self, compressed: PreTrainedModel, plan: Plan) -> Memory | PredictedMemory:
        if self._predictor is not None and plan != self._identity:
            try:
                return self._predictor.memory(plan)
            except UnseenError:
                pass
        with saved(self._bench, compressed, plan) as folder:
            return self._meter.measure(folder)

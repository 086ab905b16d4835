"""The Pareto front of a run: the points of all candidates, those that no other beats, and their hypervolume."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import RunError
from ..profilers.estimates import PredictedLatency
from ..profilers.profile import Profile
from ..search.objectives import Limits, Measures
from ..search.quality import Difference, Quality
from ..search.study import Record
from ..search.trial import Final, State, Trial
from ..spaces.plan import Plan
from .dominance import hypervolume, non_dominated

# The hypervolume counts only what loses less than this part of the baseline's quality and costs no more than it.
REFERENCE_LOSS = 0.1


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate as a report shows it.

    Attributes:
        plan: the candidate.
        quality: on the split that `measures` speak of.
        profile: likewise.
        measures: the numbers, from one session of measurement.
        gain: of quality over the baseline's, with a paired interval; None where only searched.
        searched: quality on the search split, which chose it; None where it was not judged there.
        is_baseline: whether it is the original.
        predicted_seconds: what the search took its latency for, where it was predicted; None where it was measured.
    """

    plan: Plan
    quality: Quality
    profile: Profile
    measures: Measures
    gain: Difference | None
    searched: Quality | None
    is_baseline: bool
    predicted_seconds: float | None = None

    @property
    def search_quality(self) -> float | None:
        """The value on the search split; None where it was not judged there."""
        return None if self.searched is None else self.searched.value

    @property
    def is_predicted(self) -> bool:
        """Whether its own numbers are predictions: a front that was not measured whole yet."""
        return self.profile.is_predicted


@dataclass(frozen=True, slots=True)
class Front:
    """The non-dominated candidates of a run.

    Attributes:
        split: "test" where the front was measured whole, else "search".
        metric: name of the quality metric.
        objectives: what was optimised.
        baseline: the original.
        members: no point beats any of them in all objectives; by falling latency, size where that was not measured.
        beaten: the other points of the same session.
        hypervolume: of the members, in units of the baseline; see `hypervolume_of`.
        ties: for each member the number of its group; members of one group differ by no more than the noise.
        budget: the limits that the search had to keep.
        judged: how many candidates the search compared; the more, the luckier the best of them was.
    """

    split: str
    metric: str
    objectives: tuple[str, ...]
    baseline: Point
    members: tuple[Point, ...]
    beaten: tuple[Point, ...]
    hypervolume: float
    ties: tuple[int, ...]
    budget: Limits = field(default_factory=Limits)
    judged: int = 0

    @property
    def points(self) -> tuple[Point, ...]:
        """What there is to choose from: the members, and the baseline where it is none of them."""
        return self.members if self.baseline in self.members else (*self.members, self.baseline)


def front_of(record: Record, *, judged: dict[str, Trial] | None = None, finals: list[Final] | None = None) -> Front:
    """The front of a run, as measured whole on the test split; before that, as searched.

    Args:
        record: of the run.
        judged: what `record.judged()` answers, from who has read it already: of a long search that takes seconds.
        finals: likewise `record.finals()`.

    Raises:
        RunError: if no trial was judged yet, or the baseline is missing; it says what became of the trials.
    """
    trials = record.judged() if judged is None else judged
    finals = record.finals() if finals is None else finals
    points = [_final_point(final, trials) for final in finals] or [trial_point(trial) for trial in trials.values()]
    baseline = next((point for point in points if point.is_baseline), None)
    if baseline is None:
        raise RunError(_why_no_front(record))
    objectives = tuple(record.settings["identity"]["objectives"])
    budget = Limits(**record.settings["identity"]["budget"])
    fit = [point for point in points if _is_allowed(point, trials.get(point.plan.fingerprint), budget)]
    return front_from(points, fit, objectives, budget, judged=len(trials))


def front_from(
    points: Sequence[Point], fit: Sequence[Point], objectives: tuple[str, ...], budget: Limits, *, judged: int = 0
) -> Front:
    """The front of points from one session of measurement.

    Args:
        points: all of them, the baseline among them.
        fit: those that keep the budget.
        objectives: what was optimised.
        budget: what members must keep.
        judged: how many candidates the search behind it judged.
    """
    baseline = next(point for point in points if point.is_baseline)
    values = np.array([[point.measures.minimised(name) for name in objectives] for point in fit])
    mask = non_dominated(values.reshape(len(fit), len(objectives)))
    members = sorted((point for point, stays in zip(fit, mask, strict=True) if stays), key=_cost, reverse=True)
    return Front(
        baseline.quality.split,
        baseline.quality.metric,
        objectives,
        baseline,
        tuple(members),
        tuple(point for point in points if point not in members),
        hypervolume_of(members, baseline, objectives),
        _ties(members),
        budget,
        judged,
    )


def _why_no_front(record: Record) -> str:
    """What became of the trials of a run that has nothing to compare, and what to do."""
    trials = record.trials()
    ended = Counter(trial.state.value.replace("_", " ") for trial in trials)
    fates = ", ".join(f"{count} {state}" for state, count in ended.items()) or "none was finished"
    said = next((" ".join(trial.cause.split()) for trial in reversed(trials) if trial.cause), "")
    cause = f"; the last said: {said.rstrip('.')}" if said else ""
    missing = f"no {'baseline' if record.judged() else 'trial'} of {record.folder} has numbers yet"
    return f"{missing} (trials: {fates}{cause}); go on with the same `paring search` command."


def _is_allowed(point: Point, trial: Trial | None, budget: Limits) -> bool:
    """Whether a point keeps the budget: by what the search measured, or where that was a guess by what it costs."""
    if trial is None or trial.profile is None or trial.measures is None:
        return False
    if not trial.profile.is_predicted:
        return trial.state == State.JUDGED
    late, memory = point.measures.latency_seconds, point.measures.memory_bytes
    return budget.are_kept(replace(trial.measures, latency_seconds=late, memory_bytes=memory))


def hypervolume_of(members: Sequence[Point], baseline: Point, objectives: Sequence[str]) -> float:
    """The hypervolume of a front in units of its baseline.

    The reference point is `REFERENCE_LOSS` of the baseline's quality below it, at the baseline's own costs. Every cost
    counts as a fraction of the baseline's and quality as the fraction of it that is lost. So the baseline alone has
    volume 0 where any cost is an objective, and a free model of equal quality has `REFERENCE_LOSS`.
    """
    if baseline.measures.quality <= 0:
        return 0.0
    origin = {name: abs(baseline.measures.minimised(name)) for name in objectives}
    values = np.array([[point.measures.minimised(name) / origin[name] for name in objectives] for point in members])
    reference = np.array([REFERENCE_LOSS - 1 if name == "quality" else 1.0 for name in objectives])
    return hypervolume(values.reshape(len(members), len(objectives)), reference)


def _final_point(final: Final, trials: dict[str, Trial]) -> Point:
    trial = trials.get(final.plan.fingerprint)
    searched = None if trial is None else trial.quality
    is_baseline = final.plan.is_identity
    guessed = None if trial is None else _predicted_seconds(trial)
    return Point(final.plan, final.quality, final.profile, final.measures, final.gain, searched, is_baseline, guessed)


def trial_point(trial: Trial) -> Point:
    """A judged trial as a point on the search split."""
    assert trial.plan and trial.quality and trial.profile and trial.measures
    is_baseline = trial.plan.is_identity
    quality, guessed = trial.quality, _predicted_seconds(trial)
    return Point(trial.plan, quality, trial.profile, trial.measures, None, quality, is_baseline, guessed)


def _predicted_seconds(trial: Trial) -> float | None:
    is_guess = trial.profile is not None and isinstance(trial.profile.latency, PredictedLatency)
    return trial.measures.latency_seconds if is_guess and trial.measures is not None else None


def _cost(point: Point) -> float:
    late = point.measures.latency_seconds
    return point.measures.size_bytes if late is None else late


def _ties(members: Sequence[Point]) -> tuple[int, ...]:
    """Groups neighbours, by latency, of which any two have overlapping intervals of latency and of quality."""
    groups: list[list[Point]] = []
    for point in members:
        if groups and all(_overlap(point, other) for other in groups[-1]):
            groups[-1].append(point)
        else:
            groups.append([point])
    return tuple(number for number, group in enumerate(groups, 1) for _ in group)


def _overlap(one: Point, other: Point) -> bool:
    quality = one.quality.low <= other.quality.high and other.quality.low <= one.quality.high
    a, b = one.profile.latency, other.profile.latency
    if a is None or b is None:
        return quality and one.measures.size_bytes == other.measures.size_bytes
    return quality and a.ratio_low <= b.ratio_high and b.ratio_low <= a.ratio_high

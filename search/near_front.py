"""Trials that a prediction's error keeps from the front, or from the budget: they must be measured before they go."""

from collections.abc import Sequence
from dataclasses import replace

from ..profilers.estimates import PredictedLatency, PredictedMemory
from .objectives import Limits, Measures
from .trial import State, Trial

# So many at most are measured beside the front: one session of `finals.measure_whole`.
MOST = 8
# Parts of the error that are tried, least first: who needs less of it comes first.
_PARTS = (0.25, 0.5, 0.75, 1.0)


def near_front(trials: Sequence[Trial], objectives: Sequence[str], budget: Limits) -> list[Trial]:
    """Trials that would be on the front if their own prediction erred by no more than its interval says.

    Args:
        trials: of a run, finished.
        objectives: what is optimised.
        budget: the limits of the run.

    Returns:
        At most eight, those first that need the least part of their interval; none that is on the front as it is,
        none whose costs were measured.
    """
    known = [trial for trial in trials if trial.measures is not None]
    kept = [trial.measures for trial in known if trial.state == State.JUDGED and trial.measures is not None]
    front = [one for one in kept if not _is_beaten(one, kept, objectives)]
    found: list[tuple[float, int, Trial]] = []
    for trial in known:
        assert trial.measures is not None
        if trial.profile is None or not trial.profile.is_predicted or _fits(trial.measures, front, objectives, budget):
            continue
        for part in _PARTS:
            if _fits(hoped(trial, part), front, objectives, budget):
                found.append((part, trial.number, trial))
                break
    return [trial for _, _, trial in sorted(found, key=lambda entry: entry[:2])[:MOST]]


def hoped(trial: Trial, part: float) -> Measures:
    """A trial's numbers if its predictions were too high by a part of their error.

    Args:
        trial: with numbers.
        part: 0 to 1.
    """
    measures, profile = trial.measures, trial.profile
    assert measures is not None
    assert profile is not None
    late, memory = profile.latency, profile.memory
    if isinstance(late, PredictedLatency) and measures.latency_seconds is not None:
        shrunk = 1 - part * (1 - late.ratio_low / late.ratio)
        measures = replace(measures, latency_seconds=measures.latency_seconds * shrunk)
    if isinstance(memory, PredictedMemory) and measures.memory_bytes is not None:
        lower = memory.peak_bytes - part * (memory.peak_bytes - memory.low_bytes)
        measures = replace(measures, memory_bytes=float(lower))
    return measures


def _fits(one: Measures, front: Sequence[Measures], objectives: Sequence[str], budget: Limits) -> bool:
    return budget.are_kept(one) and not _is_beaten(one, front, objectives)


def _is_beaten(one: Measures, others: Sequence[Measures], objectives: Sequence[str]) -> bool:
    """Whether another one is no worse in everything and better in something."""
    own = [one.minimised(name) for name in objectives]
    for other in others:
        values = [other.minimised(name) for name in objectives]
        if all(a <= b for a, b in zip(values, own, strict=True)) and values != own:
            return True
    return False

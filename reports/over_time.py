"""How the hypervolume of a search grew with its trials."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from ..search.study import Record
from ..search.trial import State, Trial
from .dominance import hypervolume
from .front import REFERENCE_LOSS, Point

_SECONDS_PER_MINUTE = 60.0


def reference_in_words(objectives: Sequence[str]) -> str:
    """The point that hypervolumes are bounded by, see `front.hypervolume_of`."""
    costs = [name for name in objectives if name != "quality"]
    named = f"the baseline's own {' and '.join(costs)}" if costs else ""
    loss = f"{REFERENCE_LOSS:.0%} of the baseline's quality lost" if "quality" in objectives else ""
    return ", at ".join(part for part in (loss, named) if part)


def growth(trials: Sequence[Trial], baseline: Point, record: Record) -> list[dict[str, Any]]:
    """The hypervolume of what was judged so far, after every trial that made it larger, and after the last.

    Args:
        trials: of the run, in the order they were proposed; only those that were judged and keep the budget count.
        baseline: the original on the search split, whose numbers are the units.
        record: of the run, which knows when each trial was done.

    Returns:
        Rows of "trials" done, "minutes" since the first began (None where the study does not say) and "hypervolume",
        in units of the baseline; see `front.hypervolume_of`.
    """
    objectives = record.settings["identity"]["objectives"]
    minutes = _minutes(record)
    rows: list[dict[str, Any]] = []
    volume = Volume(len(objectives), _reference(objectives))
    for done, trial in enumerate(trials, 1):
        grew = trial.state == State.JUDGED and trial.measures is not None and _adds(volume, trial, baseline, objectives)
        if grew or done in (1, len(trials)):
            rows.append({"trials": done, "minutes": minutes.get(trial.number), "hypervolume": volume.value})
    return rows


class Volume:
    """A hypervolume that grows point by point: each adds only what no earlier one dominates.

    Attributes:
        value: the volume dominated so far.
    """

    def __init__(self, n_objectives: int, reference: np.ndarray) -> None:
        """Begins empty.

        Args:
            n_objectives: m.
            reference: m values, all minimised; a point not better in every objective adds nothing.
        """
        self.value = 0.0
        self._reference = reference
        self._front = np.empty((0, n_objectives))

    def add(self, point: np.ndarray) -> bool:
        """Adds a point of m values; whether the volume grew."""
        if not (point < self._reference).all() or (self._front <= point).all(axis=1).any():
            return False
        # What others dominate of the point's own box: their boxes, each cut to it.
        cut = np.unique(np.maximum(self._front, point), axis=0)
        # All pairs at once: a loop over points takes ten times as long here. Of a point and itself: never more than 1.
        stays = (cut[:, None] <= cut[None]).all(axis=2).sum(axis=0) == 1
        shared = hypervolume(cut[stays], self._reference)
        self.value += float((self._reference - point).prod()) - shared
        self._front = np.vstack([self._front[~(point <= self._front).all(axis=1)], point])
        return True


def _adds(volume: Volume, trial: Trial, baseline: Point, objectives: Sequence[str]) -> bool:
    assert trial.measures is not None
    if baseline.measures.quality <= 0:
        return False
    origin = [abs(baseline.measures.minimised(name)) for name in objectives]
    point = [trial.measures.minimised(name) / unit for name, unit in zip(objectives, origin, strict=True)]
    return volume.add(np.array(point))


def _reference(objectives: Iterable[str]) -> np.ndarray:
    return np.array([REFERENCE_LOSS - 1 if name == "quality" else 1.0 for name in objectives])


def _minutes(record: Record) -> dict[int, float]:
    """Number of a trial -> minutes from the begin of the first until it was done; time between sittings counts."""
    begun, _ = when(record)
    return {
        frozen.number: round((frozen.datetime_complete - begun).total_seconds() / _SECONDS_PER_MINUTE, 3)
        for frozen in record.study.get_trials(deepcopy=False)
        if begun is not None and frozen.datetime_complete is not None
    }


def when(record: Record) -> tuple[datetime | None, datetime | None]:
    """When the first trial began and the last one was done, by the clock of the machine; None before there is one."""
    frozen = record.study.get_trials(deepcopy=False)
    starts = [one.datetime_start for one in frozen if one.datetime_start is not None]
    ends = [one.datetime_complete for one in frozen if one.datetime_complete is not None]
    return min(starts, default=None), max(ends, default=None)

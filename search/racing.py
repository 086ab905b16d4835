"""Candidates that surely are not wanted go before all examples of the search split are asked.

After every rung but the last (`search/rungs.py`) two questions are put: does a trial that was judged in full cost no
more and give better answers, and is the quality outside the budget. Costs count with their error: the rival's at its
highest against the candidate's at its lowest. The rival is the best of those by its own quality on the whole split, so
it is chosen without a look at the candidate's answers.

Of candidates that are as good as their rival on the whole split, or keep the limit there, at most 1 % go: that is
shared out evenly to all the tests there can be, rungs times questions (Bonferroni). For accuracy both tests are exact.
For other metrics they rest on the standard error of a paired bootstrap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..profilers.estimates import PredictedMemory
from ..profilers.profile import Profile
from .objectives import Limits
from .paired import level_test, paired_test, sign_test
from .quality import Quality, Score
from .rungs import sizes
from .trial import State, Trial

WRONG_DROPS = 0.01

Bounds = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a candidate left.

    Attributes:
        examples: it was asked so many.
        rival: number of the trial that beats it; None where its quality is below the budget's.
        quality: what its quality on the whole split is guessed to be, below the rival's or the limit.
        cause: in words.
    """

    examples: int
    rival: int | None
    quality: float
    cause: str


class Race:
    """The race of one run."""

    def __init__(
        self, objectives: Sequence[str], budget: Limits, baseline: Quality, labels: np.ndarray, score: Score
    ) -> None:
        """Nobody is in it yet.

        Args:
            objectives: what is optimised.
            budget: whose limits on quality count here.
            baseline: quality of the original on the search split.
            labels: of the search split.
            score: labels and outcomes -> the run's metric.
        """
        self._costs = [name for name in objectives if name != "quality"]
        self._baseline, self._labels, self._score = baseline, labels, score
        self._level = budget.least_quality(baseline.value)
        self._rivals: dict[int, tuple[Bounds, Quality]] = {}
        tests = (len(sizes(len(labels))) - 1) * (1 if self._level is None else 2)
        self._share = WRONG_DROPS / max(tests, 1)

    def enter(self, trial: Trial) -> None:
        """A trial that was judged in full and keeps the budget may beat others from now on; others are ignored."""
        if trial.state == State.JUDGED and trial.quality is not None and trial.profile is not None:
            self._rivals[trial.number] = (bounds(trial.profile, self._costs), trial.quality)

    def heat(self, profile: Profile) -> "Heat":
        """The race of one candidate with these costs."""
        own = bounds(profile, self._costs)
        cheaper = [
            (found.value, -number)
            for number, (costs, found) in self._rivals.items()
            if all(costs[name][1] <= own[name][0] for name in self._costs)
        ]
        rival = -max(cheaper)[1] if cheaper else None
        return Heat(self, rival)

    def loss(self, rival: int | None, rows: np.ndarray, outcomes: np.ndarray) -> Loss | None:
        """Why a candidate with these answers must leave; None where it need not.

        Args:
            rival: number of the trial to beat; None where there is none.
            rows: of the examples asked.
            outcomes: of the candidate.
        """
        asked = f"after {len(rows)} of {len(self._labels)} examples"
        if self._level is not None and self._is_below(self._level, rows, outcomes):
            guess = min(self._guess(self._baseline, rows, outcomes), float(np.nextafter(self._level, -np.inf)))
            words = f"{asked}: its {self._baseline.metric} is surely below {self._level:.4f}, the least of the budget"
            return Loss(len(rows), None, guess, words)
        if rival is None:
            return None
        quality = self._rivals[rival][1]
        if self._chance(rows, outcomes, np.array(quality.outcomes)[rows]) > self._share:
            return None
        guess = self._guess(quality, rows, outcomes)
        words = f"{asked}: trial {rival} costs no more and is better by {quality.value - guess:.4f} on them"
        return Loss(len(rows), rival, guess, words)

    def _is_below(self, level: float, rows: np.ndarray, outcomes: np.ndarray) -> bool:
        labels = self._labels[rows]
        if self._baseline.metric == "accuracy":
            right = int((outcomes == labels).sum())
            return level_test(right, len(rows), len(self._labels), level) <= self._share
        known, spare = np.array(self._baseline.outcomes)[rows], self._baseline.value - level
        return paired_test(self._score, labels, outcomes, known, margin=spare) <= self._share

    def _chance(self, rows: np.ndarray, outcomes: np.ndarray, others: np.ndarray) -> float:
        labels = self._labels[rows]
        if self._baseline.metric == "accuracy":
            return sign_test(outcomes == labels, others == labels)
        return paired_test(self._score, labels, outcomes, others)

    def _guess(self, known: Quality, rows: np.ndarray, outcomes: np.ndarray) -> float:
        """The quality of one that is known on the whole split, and the difference seen on the part."""
        labels, others = self._labels[rows], np.array(known.outcomes)[rows]
        return known.value + self._score(labels, outcomes) - self._score(labels, others)


class Heat:
    """What became of one candidate.

    Attributes:
        loss: why it left; None while it is in.
    """

    def __init__(self, race: Race, rival: int | None) -> None:
        """It is in, against one rival or none."""
        self._race, self._rival = race, rival
        self.loss: Loss | None = None

    def __call__(self, rows: np.ndarray, outcomes: np.ndarray) -> bool:
        """Whether it leaves after these answers; see `examiner.Referee`."""
        self.loss = self._race.loss(self._rival, rows, outcomes)
        return self.loss is not None


def bounds(profile: Profile, costs: Sequence[str]) -> Bounds:
    """The least and the most that a candidate costs in these objectives.

    Args:
        profile: of it, with all of them.
        costs: of "latency" (in units of the baseline's), "memory" and "size" (bytes).
    """
    found: Bounds = {"size": (profile.stored_bytes, profile.stored_bytes)}
    late, memory = profile.latency, profile.memory
    if late is not None:
        found["latency"] = (late.ratio_low, late.ratio_high)
    if isinstance(memory, PredictedMemory):
        found["memory"] = (memory.low_bytes, memory.high_bytes)
    elif memory is not None:
        found["memory"] = (memory.peak_bytes, memory.peak_bytes)
    return {name: found[name] for name in costs}

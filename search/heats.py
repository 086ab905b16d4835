"""The race of one candidate: against one rival, or against the quality that the budget asks for.

After every rung but the last (`search/rungs.py`) two questions are put: does the rival give better answers, and is the
quality outside the budget. Of candidates that are as good as their rival on the whole split, or keep the limit there,
at most 1 % go: that is shared out evenly to all the tests there can be, rungs times questions (Bonferroni). For
accuracy both tests are exact. For other metrics they rest on the standard error of a paired bootstrap.
"""

from dataclasses import dataclass

import numpy as np

from .objectives import Limits
from .paired import level_test, paired_test, sign_test
from .quality import Quality, Score
from .rungs import sizes

WRONG_DROPS = 0.01


@dataclass(frozen=True, slots=True)
class Rival:
    """Who is raced against.

    Attributes:
        number: of its trial.
        quality: on the whole search split.
    """

    number: int
    quality: Quality


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


class Rules:
    """By which candidates of one run leave."""

    def __init__(self, budget: Limits, baseline: Quality, labels: np.ndarray, score: Score) -> None:
        """The same for all candidates.

        Args:
            budget: whose limits on quality count here.
            baseline: quality of the original on the search split.
            labels: of the search split.
            score: labels and outcomes -> the run's metric.
        """
        self._baseline, self._labels, self._score = baseline, labels, score
        self._level = budget.least_quality(baseline.value)
        tests = (len(sizes(len(labels))) - 1) * (1 if self._level is None else 2)
        self._share = WRONG_DROPS / max(tests, 1)

    def loss(self, rival: Rival | None, rows: np.ndarray, outcomes: np.ndarray) -> Loss | None:
        """Why a candidate with these answers must leave; None where it need not.

        Args:
            rival: whom it must beat; None where there is nobody.
            rows: of the examples asked.
            outcomes: of the candidate.
        """
        asked = f"after {len(rows)} of {len(self._labels)} examples"
        if self._level is not None and self._is_below(self._level, rows, outcomes):
            guess = min(self._guess(self._baseline, rows, outcomes), float(np.nextafter(self._level, -np.inf)))
            words = f"{asked}: its {self._baseline.metric} is surely below {self._level:.4f}, the least of the budget"
            return Loss(len(rows), None, guess, words)
        if rival is None or self._chance(rows, outcomes, np.array(rival.quality.outcomes)[rows]) > self._share:
            return None
        guess = self._guess(rival.quality, rows, outcomes)
        better = f"{rival.quality.value - guess:.4f}"
        words = f"{asked}: trial {rival.number} costs no more and is better by {better} on them"
        return Loss(len(rows), rival.number, guess, words)

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

    def __init__(self, rules: Rules, rival: Rival | None) -> None:
        """It is in, against one rival or nobody."""
        self._rules, self._rival = rules, rival
        self.loss: Loss | None = None

    def __call__(self, rows: np.ndarray, outcomes: np.ndarray) -> bool:
        """Whether it leaves after these answers; see `examiner.Referee`."""
        self.loss = self._rules.loss(self._rival, rows, outcomes)
        return self.loss is not None

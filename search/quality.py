"""How good a model is: a metric with its per-example outcomes and an interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Self

import numpy as np
from scipy.stats import binomtest, bootstrap

from ..errors import MeasurementError

Score = Callable[[np.ndarray, np.ndarray], float]
# The answer to one example, or the statistics of one that the metric sums up.
Outcome = float | tuple[float, ...]

CONFIDENCE = 0.95
_RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Quality:
    """One judgement of one model on one split.

    Attributes:
        metric: its name; larger is better.
        value: of the metric over all examples.
        low: lower end of its 95 % interval over examples.
        high: upper end.
        split: "search" or "test".
        outcomes: the model's answer to every example, in the order of the split; or, of every one, the statistics that
            the metric is computed from.
    """

    metric: str
    value: float
    low: float
    high: float
    split: str
    outcomes: tuple[Outcome, ...]

    def __post_init__(self) -> None:
        if not all(map(isfinite, (self.value, self.low, self.high))):
            raise MeasurementError(f"{self.metric} on the {self.split} split is not finite: the model answers NaN.")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**data, "outcomes": _frozen(data["outcomes"])})


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one model is better than another on the same examples.

    Attributes:
        value: metric of the one minus metric of the other.
        low: lower end of the 95 % paired bootstrap interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


def check_finite(outcomes: np.ndarray) -> None:
    """Refuses answers of a model that has lost its numbers.

    Raises:
        MeasurementError: if one is not finite.
    """
    if not np.isfinite(outcomes).all():
        raise MeasurementError(f"the model gave {np.sum(~np.isfinite(outcomes))} answers that are not finite.")


def judge(metric: str, score: Score, labels: np.ndarray, outcomes: np.ndarray, split: str) -> Quality:
    """The quality of a model that gave these answers.

    Args:
        metric: name of the metric.
        score: labels and outcomes -> value, larger is better.
        labels: n, the right answers.
        outcomes: n, the model's answers, or n x k statistics of them.
        split: what the examples are.

    Raises:
        MeasurementError: if an answer or the value is not finite.
    """
    check_finite(outcomes)
    value = score(labels, outcomes)
    if metric == "accuracy":
        # Wilson's interval also holds near 0 and 1, where the bootstrap has no width.
        found = binomtest(int((labels == outcomes).sum()), len(labels)).proportion_ci(CONFIDENCE, method="wilson")
        low, high = float(found.low), float(found.high)
    else:
        low, high = _interval(score, labels, outcomes)
    return Quality(metric, value, low, high, split, _frozen(outcomes.tolist()))


def difference(score: Score, labels: np.ndarray, one: Sequence[Outcome], other: Sequence[Outcome]) -> Difference:
    """How much better `one` is than `other`, with an interval over examples drawn for both at once.

    Args:
        score: labels and outcomes -> value.
        labels: n, the right answers.
        one: n, a model's outcomes.
        other: n, the other model's.
    """

    def gain(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
        return score(labels, one) - score(labels, other)

    return Difference(
        gain(labels, np.array(one), np.array(other)), *_interval(gain, labels, np.array(one), np.array(other))
    )


def _frozen(outcomes: Sequence[Any]) -> tuple[Outcome, ...]:
    return tuple(tuple(one) if isinstance(one, list) else one for one in outcomes)


def _interval(statistic: Callable[..., float], *samples: np.ndarray) -> tuple[float, float]:
    """Examples are drawn, not answers: what belongs to one example stays together, whatever its shape."""
    examples = len(samples[0])
    if examples < 2:
        value = statistic(*samples)
        return value, value
    found = bootstrap(
        (np.arange(examples),),
        lambda rows: statistic(*(sample[rows] for sample in samples)),
        vectorized=False,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        rng=0,
    ).confidence_interval
    return float(found.low), float(found.high)

"""What any plan costs, from what a few cost: a Bayesian linear model that knows its own error.

A cost (latency or peak memory, in units of the original's) is the sum over the features of `profilers/counting.py`,
each times a weight. Weights have the priors written there, so fewer plans than features are enough, and what was
measured decides where it says something. Errors are relative, as noise is. The width of the noise, and how much single
kinds, tables and pairs of Linears may say, are those under which what was measured is likeliest ([MacKay1992]).

Every plan measured is also predicted from all others, which has a closed form: intervals of predictions are scaled by
these leave-one-out errors. The widths are chosen on all plans, so these errors are a little on the side of hope.
Where the original happens to lie in memory moves all ratios to it alike, which no error left out shows. So several
copies of it are timed: ratios are to their middle, and intervals hold how far one copy is from it.

[MacKay1992]: MacKay, "Bayesian interpolation", Neural Computation 4(3), 1992.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import exp, hypot, log, sqrt
from statistics import mean, stdev
from typing import Any, Self

import numpy as np
from scipy.stats import t

from ..errors import MeasurementError
from .counting import OF_LATENCY, OF_MEMORY, group_of, is_refinement, prior_of
from .estimates import Estimate

Counts = Mapping[str, float]

_NOISES = (0.001, 0.004, 0.01, 0.02, 0.04)
# What all priors but that of the fixed part are multiplied by: a process that serves a model holds much that no plan
# changes, so of its memory all the rest decides little.
_REST = (0.1, 1.0)
# What the priors of some features are multiplied by beside that, tried in all combinations; 0 leaves them out.
_SCALES = {"pair": (0.0, 0.5, 2.0), "kind": (0.1, 0.3, 1.0), "outside": (0.1, 1.0, 10.0)}
_LEAST_PLANS = 8
_CONFIDENCE = 0.95


class UnseenError(MeasurementError):
    """A plan has something that no measured plan had, so its cost would be a guess."""


@dataclass(frozen=True, slots=True)
class Ridge:
    """One fit, in units of priors and with every plan divided by its cost.

    Attributes:
        weights: one per feature.
        inverse: of the regularised normal matrix, features x features.
        left_out: relative error of each plan when it is predicted from all others, plans.
        leverage: how much each plan decides its own prediction, 0 to 1, plans.
        evidence: logarithm of how likely the costs are, up to a constant.
    """

    weights: np.ndarray
    inverse: np.ndarray
    left_out: np.ndarray
    leverage: np.ndarray
    evidence: float


class CostModel:
    """Predicts one kind of cost.

    Attributes:
        features: what it knows the cost of, in the order of its weights.
        left_out: relative error of each plan learned from when it is predicted from all others.
    """

    def __init__(
        self,
        counts: Sequence[Counts],
        ratios: Sequence[float],
        *,
        groups: Sequence[str] = OF_LATENCY,
        unit_error: float = 0.0,
    ) -> None:
        """Fits, in a tenth of a second.

        Args:
            counts: of every plan measured, from `counted`.
            ratios: what each costs, in units of the original's; finite and above 0.
            groups: the kinds of features that this cost goes by.
            unit_error: half-width of the relative error of the unit itself, which all predictions share.

        Raises:
            MeasurementError: if there are too few plans, or a cost is not finite and positive.
        """
        costs = np.asarray(ratios, dtype=float)
        if len(counts) < _LEAST_PLANS or len(counts) != len(costs):
            raise MeasurementError(f"costs are learned from at least {_LEAST_PLANS} plans, got {len(counts)}.")
        if not (np.isfinite(costs).all() and (costs > 0).all()):
            raise MeasurementError(f"costs to learn from are finite and above 0, got {costs.min()} to {costs.max()}.")
        self._groups = frozenset(groups)
        self.features = tuple(sorted({name for one in counts for name in one if group_of(name) in self._groups}))
        self._places = {name: place for place, name in enumerate(self.features)}
        design = np.array([self._row(one) for one in counts]) / costs[:, None]
        fits = [(priors, ridge(design * priors, noise)) for priors, noise in product(_priors(self.features), _NOISES)]
        self._priors, best = max(fits, key=lambda fit: fit[1].evidence)
        self.left_out = tuple(best.left_out.tolist())
        self._weights, self._inverse = best.weights * self._priors, best.inverse
        # An error left out holds the noise and what the other plans leave open, in the proportion 1 : h / (1 - h).
        noise = sqrt(float(np.mean(best.left_out**2 * (1 - best.leverage))))
        # So many plans are not used up by the weights; few of them tell the noise badly.
        spare = max(1.0, len(costs) - float(best.leverage.sum()))
        self._width = noise * float(t.ppf(0.5 + _CONFIDENCE / 2, spare))
        self._unit_error = unit_error

    @cached_property
    def error(self) -> float:
        """Mean absolute leave-one-out error, relative."""
        return float(np.abs(self.left_out).mean())

    def predict(self, counts: Counts) -> Estimate:
        """The cost of a plan: a dot product, and its interval.

        Args:
            counts: of the plan.

        Raises:
            UnseenError: if the plan has something that no plan measured had, or lies so far from them that no
                positive cost is predicted.
        """
        ratio, scaled = self._scaled(counts)
        own = self._width * sqrt(1 + float(scaled @ self._inverse @ scaled))
        return Estimate(ratio, hypot(own, self._unit_error) * ratio)

    def costs_no_more(self, one: Counts, other: Counts) -> bool:
        """Whether the first of two plans surely costs no more than the second, at 97.5 %.

        The error of the unit moves both alike, and so do weights where the plans have the same: neither counts here,
        so much smaller differences are sure than where two intervals must not meet.

        Args:
            one: counts of the first.
            other: counts of the second.

        Raises:
            UnseenError: if either cannot be predicted.
        """
        (ratio, scaled), (other_ratio, other_scaled) = self._scaled(one), self._scaled(other)
        apart = scaled - other_scaled
        return log(other_ratio / ratio) >= self._width * sqrt(2 + float(apart @ self._inverse @ apart))

    def _scaled(self, counts: Counts) -> tuple[float, np.ndarray]:
        """The predicted cost of a plan, and its features in units of priors, divided by that.

        Raises:
            UnseenError: if it cannot be predicted.
        """
        unknown = (name for name in counts if name not in self._places and group_of(name) in self._groups)
        unseen = sorted(name for name in unknown if not is_refinement(name))
        if unseen:
            raise UnseenError(f"no plan measured had {', '.join(unseen)}; measure this one.")
        row = self._row(counts)
        ratio = float(row @ self._weights)
        if not ratio > 0:
            raise UnseenError("the plan is too unlike those measured to predict what it costs; measure this one.")
        return ratio, row * self._priors / ratio

    def weight(self, feature: str) -> float:
        """What a full count of a feature costs, in units of the original's cost."""
        return float(self._weights[self._places[feature]])

    def _row(self, counts: Counts) -> np.ndarray:
        row = np.zeros(len(self.features))
        for name, amount in counts.items():
            if name in self._places:
                row[self._places[name]] = amount
        return row


def _priors(features: Sequence[str]) -> Iterator[np.ndarray]:
    """The priors of features, their scales in all combinations."""
    plain = np.array([prior_of(name) for name in features])
    groups = [group_of(name) for name in features]
    for rest, *scales in product(_REST, *_SCALES.values()):
        by_group = dict(zip(_SCALES, scales, strict=True))
        yield plain * np.array([1.0 if group == "fixed" else rest * by_group.get(group, 1.0) for group in groups])


def ridge(design: np.ndarray, noise: float) -> Ridge:
    """Least squares with unit normal priors, where every plan should come out as 1.

    Args:
        design: plans x features, in units of priors, each plan divided by its cost.
        noise: standard deviation of the relative error.
    """
    plans, features = design.shape
    inverse = np.linalg.inv(design.T @ design + noise**2 * np.eye(features))
    weights = inverse @ design.sum(axis=0)
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    left_out = (1 - design @ weights) / (1 - leverage)
    covariance = design @ design.T + noise**2 * np.eye(plans)
    _, logarithm = np.linalg.slogdet(covariance)
    evidence = -0.5 * float(np.ones(plans) @ np.linalg.solve(covariance, np.ones(plans))) - 0.5 * float(logarithm)
    return Ridge(weights, inverse, left_out, leverage, evidence)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one plan was seen to cost.

    Attributes:
        counts: of the plan.
        latency: of a request, in units of the original's in the same rounds.
        memory: at the peak of a fresh process, in units of the original's; None if not measured.
    """

    counts: Counts
    latency: float
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The costs of one model on one machine, runtime and workload.

    Attributes:
        key: all that the costs depend on; a table with another key is another table.
        measured: what it was learned from.
        peak_bytes: of the original; None if memory was not measured.
        seconds: how long it took to learn.
        copies: latencies of further copies of the original, in units of the copy that all were measured beside.
    """

    key: Mapping[str, Any]
    measured: tuple[Measured, ...]
    peak_bytes: int | None
    seconds: float
    copies: tuple[float, ...] = ()

    def latency(self) -> CostModel:
        """Fits latencies, in units of a copy of the original that lies neither well nor badly."""
        logs = [0.0, *map(log, self.copies)]
        middle, unit_error = exp(mean(logs)), 0.0
        if len(logs) > 1:
            # As of one more copy beside the mean of these: that is what a prediction will be compared with.
            width = float(t.ppf(0.5 + _CONFIDENCE / 2, len(logs) - 1))
            unit_error = width * stdev(logs) * sqrt(1 + 1 / len(logs))
        counts, ratios = [one.counts for one in self.measured], [one.latency / middle for one in self.measured]
        return CostModel(counts, ratios, unit_error=unit_error)

    def memory(self) -> CostModel | None:
        """Fits peaks of memory; None where none were measured."""
        known = [(one.counts, one.memory) for one in self.measured if one.memory is not None]
        counts, peaks = [of for of, _ in known], [peak for _, peak in known]
        return CostModel(counts, peaks, groups=OF_MEMORY) if known else None

    def to_json(self) -> dict[str, Any]:
        """What was measured; fits are made anew, they take milliseconds."""
        measured = [{"counts": dict(one.counts), "latency": one.latency, "memory": one.memory} for one in self.measured]
        return {
            "key": dict(self.key),
            "measured": measured,
            "peak_bytes": self.peak_bytes,
            "seconds": self.seconds,
            "copies": list(self.copies),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        measured = tuple(Measured(one["counts"], one["latency"], one["memory"]) for one in data["measured"])
        return cls(data["key"], measured, data["peak_bytes"], data["seconds"], tuple(data["copies"]))

"""What plans cost, in units of the original, before they are judged.

Bytes are counted. Latency and memory come from the run's table where it has one. Where candidates are measured one by
one they are learned from those measured so far: a Bayesian linear model whose prior is that layers cost alike, and that
integers and factors save something; so it says something from the first trial on.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ...profilers.counting import OF_LATENCY, OF_MEMORY, Shapes, counted, group_of, prior_of
from ...profilers.prediction import UnseenError
from ...spaces.plan import Plan
from ...spaces.plan_bytes import PlanBytes
from ..predictor import Predictor

# What a full count of a feature costs before anything was measured, in units of the original; all others cost nothing.
_BEFORE = {"latency": {"fixed": 0.05, "products": -0.5, "left out": -0.5}, "memory": {"fixed": 0.5, "left out": -0.3}}
_LAYERS = {"latency": 0.95, "memory": 0.4}
_GROUPS = {"latency": OF_LATENCY, "memory": OF_MEMORY}
# How far those may be off, in units of `prior_of`, and how noisy one measurement is.
_DOUBT, _NOISE = 0.5, 0.02
_LEAST = 0.01


class Costs:
    """Predicts what plans cost."""

    def __init__(self, sizes: PlanBytes, shapes: Shapes, predictor: Predictor | None) -> None:
        """Knows nothing of what was measured yet.

        Args:
            sizes: counts bytes.
            shapes: of the original.
            predictor: of the run; None where candidates are measured.
        """
        self._sizes, self._shapes, self._predictor = sizes, shapes, predictor
        self._counts: dict[Plan, Mapping[str, float]] = {}

    def of(self, what: str, plans: Sequence[Plan], told: Mapping[Plan, float]) -> np.ndarray:
        """Of every plan, in units of the original's cost.

        Args:
            what: "latency", "memory" or "size".
            plans: m.
            told: plan -> what it was seen to cost, in the same unit.

        Returns:
            m, above 0.
        """
        if what == "size":
            return np.array([self._sizes.of(plan) / self._sizes.original for plan in plans])
        found = np.array([self._predicted(what, plan) for plan in plans])
        unknown = np.flatnonzero(np.isnan(found))
        if len(unknown):
            found[unknown] = self._learned(what, [plans[place] for place in unknown], told)
        return found

    def _predicted(self, what: str, plan: Plan) -> float:
        """By the run's table; NaN where it does not know."""
        if self._predictor is None:
            return np.nan
        try:
            if what == "latency":
                return self._predictor.latency(plan).ratio
            return self._predictor.memory_ratio(plan)
        except UnseenError:
            return np.nan

    def _learned(self, what: str, plans: Sequence[Plan], told: Mapping[Plan, float]) -> np.ndarray:
        """By what was measured in this run."""
        known = [self._count(plan) for plan in told]
        wanted = [self._count(plan) for plan in plans]
        groups = _GROUPS[what]
        names = sorted({name for one in (*known, *wanted) for name in one if group_of(name) in groups})
        before = np.array([_before(what, name, len(self._shapes.layers)) for name in names])
        doubt = np.array([_DOUBT * prior_of(name) for name in names]) ** 2
        rows, ahead = (np.array([[one.get(name, 0.0) for name in names] for one in part]) for part in (known, wanted))
        guess = ahead @ before
        if told:
            costs = np.array(list(told.values()))
            shared = (rows * doubt) @ rows.T + np.diag((_NOISE * costs) ** 2)
            guess = guess + (ahead * doubt) @ rows.T @ np.linalg.solve(shared, costs - rows @ before)
        return np.maximum(guess, _LEAST)

    def _count(self, plan: Plan) -> Mapping[str, float]:
        if plan not in self._counts:
            self._counts[plan] = counted(plan, self._shapes)
        return self._counts[plan]


def _before(what: str, feature: str, stacks: int) -> float:
    if group_of(feature) == "layers":
        return _LAYERS[what] / stacks
    cost = _BEFORE[what].get(group_of(feature), 0.0)
    return cost if group_of(feature) == "fixed" else cost / stacks

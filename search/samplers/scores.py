"""How good plans are expected to be, by what a study was told."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import ndtr

from .features import as_matrix
from .guide import Guide, Sketch
from .improvement import Front
from .surrogate import Surrogate
from .told import Told

# Relative error that limits of costs reckon with; bytes are counted.
_COST_ERRORS = {"latency": 0.03, "memory": 0.03, "size": 0.001}
# Expected growths below it, in units of the original's costs times its quality's, say nothing.
_TINY = 1e-9


class Scores:
    """Scores plans of one space."""

    def __init__(self, guide: Guide, told: Told) -> None:
        """Fits the surrogate; plans not told of yet are taken to be as they are predicted.

        Args:
            guide: what is known of plans without judging them.
            told: what was told, the original among it.
        """
        self._guide, self._told = guide, told
        self._plans, self._losses = told.plans, np.array([told.losses[plan] for plan in told.plans])
        rows = as_matrix([plan.features for plan in self._plans])
        self._shape = Surrogate(rows, _bent(self._losses)).shape
        feasible = np.array([told.keeps_limits(plan) for plan in self._plans])
        costs = np.array([[told.costs[name][plan] for name in guide.costs] for plan in self._plans])
        costs = costs.reshape(len(self._plans), len(guide.costs))
        believed = sorted(told.open - told.losses.keys(), key=lambda one: one.plan.fingerprint)
        if believed:
            means, _ = self._predict(believed)
            self._plans, self._losses = [*self._plans, *believed], np.append(self._losses, means)
            costs = np.vstack([costs, _columns(self._costs(believed), guide.costs, len(believed))])
            feasible = np.append(feasible, np.full(len(believed), fill_value=True))
        losses = self._losses if guide.has_quality else np.full(len(self._plans), -np.inf)
        worst = told.worst_loss if guide.has_quality else 1.0
        reference = np.array([min(1.0, told.bounds.get(name, 1.0)) for name in guide.costs])
        self._front = Front(losses[feasible], costs[feasible], worst_loss=worst, reference=reference)

    def of(self, plans: Sequence[Sketch]) -> list[tuple[float, float]]:
        """Of every plan: its expected growth of the front, and what tells apart those of which hardly any is expected.

        Args:
            plans: not told of.
        """
        guide, told = self._guide, self._told
        means, deviations = self._predict(plans)
        costs = self._costs(plans)
        table = _columns(costs, guide.costs, len(plans))
        growth = (
            self._front.expected_growth(means, deviations, table) if guide.has_quality else self._front.growth(table)
        )
        for name, bound in told.bounds.items():
            growth *= ndtr((bound - costs[name]) / (_COST_ERRORS[name] * costs[name]))
        if not guide.has_quality and guide.limits.bounds_quality:
            growth *= ndtr((told.worst_loss - means) / deviations)
        short = self._front.shortfall(means, deviations, table)
        growth[growth < _TINY] = 0.0
        return list(zip(growth.tolist(), (-short).tolist(), strict=True))

    def _predict(self, plans: Sequence[Sketch]) -> tuple[np.ndarray, np.ndarray]:
        """Means and deviations of losses."""
        rows = as_matrix([plan.features for plan in (*self._plans, *plans)])
        known = len(self._plans)
        return Surrogate(rows[:known], _bent(self._losses), self._shape).predict(rows[known:])

    def _costs(self, plans: Sequence[Sketch]) -> dict[str, np.ndarray]:
        names = {*self._guide.costs, *self._told.bounds}
        return {name: self._guide.predict(name, plans, self._told.costs[name]) for name in sorted(names)}


def _columns(costs: Mapping[str, np.ndarray], names: Sequence[str], count: int) -> np.ndarray:
    return np.array([costs[name] for name in names]).reshape(len(names), count).T


def _bent(losses: np.ndarray) -> np.ndarray:
    """Losses beyond 1, where they no longer count, grow as their logarithm: how bad the bad ones are says little."""
    return np.where(losses < 1, losses, 1 + np.log(np.maximum(losses, 1)))

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

    def counted(self, plan: Plan) -> Mapping[str, float]:
        """What a plan has of everything that costs; see `profilers.counting.counted`."""
        return counted(plan, self._shapes)

    def predicted(self, what: str, plan: Plan) -> float | None:
        """What a plan costs, in units of the original's cost; None where only what was measured can tell.

        Args:
            what: "latency", "memory" or "size".
            plan: of this model.
        """
        if what == "size":
            return self._sizes.of(plan) / self._sizes.original
        if self._predictor is None:
            return None
        try:
            return self._predictor.latency(plan).ratio if what == "latency" else self._predictor.memory_ratio(plan)
        except UnseenError:
            return None

    def learned(
        self, what: str, wanted: Sequence[Mapping[str, float]], known: Sequence[Mapping[str, float]], told: np.ndarray
    ) -> np.ndarray:
        """The same, by what was measured in this run.

        Args:
            what: "latency" or "memory".
            wanted: what the plans asked for have of everything that costs, m.
            known: the same of those measured, n.
            told: what those were seen to cost, n.

        Returns:
            m, above 0.
        """
        groups = _GROUPS[what]
        names = sorted({name for one in (*known, *wanted) for name in one if group_of(name) in groups})
        before = np.array([_before(what, name, len(self._shapes.layers)) for name in names])
        doubt = np.array([_DOUBT * prior_of(name) for name in names]) ** 2
        rows, ahead = (np.array([[one.get(name, 0.0) for name in names] for one in part]) for part in (known, wanted))
        guess = ahead @ before
        if len(told):
            shared = (rows * doubt) @ rows.T + np.diag((_NOISE * told) ** 2)
            guess = guess + (ahead * doubt) @ rows.T @ np.linalg.solve(shared, told - rows @ before)
        return np.asarray(np.maximum(guess, _LEAST))


def _before(what: str, feature: str, stacks: int) -> float:
    if group_of(feature) == "layers":
        return _LAYERS[what] / stacks
    cost = _BEFORE[what].get(group_of(feature), 0.0)
    return cost if group_of(feature) == "fixed" else cost / stacks

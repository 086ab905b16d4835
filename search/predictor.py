"""What candidates cost without measuring them, as far as that is known well enough."""

from contextlib import suppress
from typing import Any, Self

from ..errors import MeasurementError
from ..profilers.counting import Shapes, counted
from ..profilers.estimates import Estimate, PredictedLatency, PredictedMemory
from ..profilers.prediction import CostModel, Table, UnseenError
from ..spaces.plan import Plan

# Mean relative leave-one-out error above which candidates are measured instead.
LARGEST_ERROR = 0.1


class Predictor:
    """Predicts plans from a table."""

    def __init__(self, table: Table, shapes: Shapes) -> None:
        """Fits both costs.

        Args:
            table: what was learned.
            shapes: of the original.

        Raises:
            MeasurementError: if too few plans were measured, or predictions of one from the others err too much.
                Where that is so of memory only, latency is predicted and memory is not.
        """
        self._table, self._shapes = table, shapes
        self._latency = _good_enough(table.latency(), "latency")
        self._memory: CostModel | None = None
        with suppress(MeasurementError):
            memory = table.memory()
            self._memory = None if memory is None else _good_enough(memory, "memory")

    @classmethod
    def or_reason(cls, table: Table, shapes: Shapes) -> tuple[Self | None, str]:
        """A predictor and nothing; or none, and why in words."""
        try:
            return cls(table, shapes), ""
        except MeasurementError as error:
            return None, str(error)

    def latency(self, plan: Plan) -> PredictedLatency:
        """Of one request.

        Raises:
            UnseenError: if the plan has something that no plan measured had.
        """
        return PredictedLatency.of(self._latency.predict(counted(plan, self._shapes)))

    def memory(self, plan: Plan) -> PredictedMemory:
        """Of a fresh process that serves it.

        Raises:
            UnseenError: if the plan has something that no plan measured had, or memory was not learned.
        """
        found = self._memory_estimate(plan)
        assert self._table.peak_bytes is not None
        return PredictedMemory.of(found, self._table.peak_bytes)

    def memory_ratio(self, plan: Plan) -> float:
        """The same in units of the original's.

        Raises:
            UnseenError: likewise.
        """
        return self._memory_estimate(plan).ratio

    def costs_no_more(self, cost: str, one: Plan, other: Plan) -> bool:
        """Whether the first of two plans surely costs no more than the second.

        Args:
            cost: "latency" or "memory".
            one: a plan.
            other: another.

        Raises:
            UnseenError: if either was not predicted.
        """
        model = self._latency if cost == "latency" else self._memory
        if model is None:
            raise UnseenError("memory was not measured for the table; measure these plans.")
        return model.costs_no_more(counted(one, self._shapes), counted(other, self._shapes))

    def _memory_estimate(self, plan: Plan) -> Estimate:
        if self._memory is None or self._table.peak_bytes is None:
            raise UnseenError("memory was not measured for the table; measure this plan.")
        return self._memory.predict(counted(plan, self._shapes))

    def facts(self) -> dict[str, Any]:
        """For reports: how many plans were learned from, in how many seconds, and the mean errors."""
        return {
            "plans": len(self._table.measured),
            "seconds": self._table.seconds,
            "latency_error": self._latency.error,
            "memory_error": None if self._memory is None else self._memory.error,
        }


def _good_enough(model: CostModel, what: str) -> CostModel:
    if model.error > LARGEST_ERROR:
        raise MeasurementError(
            f"predictions of {what} err by {model.error:.0%} on average, more than {LARGEST_ERROR:.0%} is not trusted."
        )
    return model

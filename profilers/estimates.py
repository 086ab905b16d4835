"""Costs that were predicted, in the forms in which measured ones are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

from ..errors import MeasurementError


@dataclass(frozen=True, slots=True)
class Estimate:
    """A predicted cost.

    Attributes:
        ratio: of the original's.
        half_width: to either side of the ratio, what 95 % of predictions err by at most.
    """

    ratio: float
    half_width: float

    def __post_init__(self) -> None:
        if not (isfinite(self.ratio) and self.ratio > 0 and isfinite(self.half_width) and self.half_width >= 0):
            raise MeasurementError(f"a predicted cost is finite and above 0, got {self.ratio} +- {self.half_width}.")

    @property
    def low(self) -> float:
        """Lower end of the interval; above 0."""
        return max(self.ratio - self.half_width, 0.01 * self.ratio)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.ratio + self.half_width


@dataclass(frozen=True, slots=True)
class PredictedLatency:
    """The time of one request, predicted; read like a measured `Latency`.

    Attributes:
        ratio: of own time to the baseline's; below 1 is faster.
        ratio_low: lower end of the interval that holds 95 % of errors.
        ratio_high: upper end.
    """

    ratio: float
    ratio_low: float
    ratio_high: float

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """An estimate of a latency."""
        return cls(estimate.ratio, estimate.low, estimate.high)

    @property
    def is_faster(self) -> bool:
        """Whether it is faster than the baseline beyond the error of the prediction."""
        return self.ratio_high < 1

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"predicted": True, "ratio": self.ratio, "low": self.ratio_low, "high": self.ratio_high}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(data["ratio"], data["low"], data["high"])


@dataclass(frozen=True, slots=True)
class PredictedMemory:
    """The peak of a process that serves a model, predicted; read like a measured `Memory`.

    Attributes:
        peak_bytes: most bytes held at once while it serves.
        low_bytes: lower end of the interval that holds 95 % of errors.
        high_bytes: upper end.
    """

    peak_bytes: int
    low_bytes: int
    high_bytes: int

    @classmethod
    def of(cls, estimate: Estimate, original_bytes: int) -> Self:
        """An estimate of a peak, given that of the original."""
        ends = (estimate.ratio, estimate.low, estimate.high)
        return cls(*(round(ratio * original_bytes) for ratio in ends))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"predicted": True, "peak_bytes": self.peak_bytes, "low": self.low_bytes, "high": self.high_bytes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(data["peak_bytes"], data["low"], data["high"])

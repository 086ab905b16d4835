"""What a measurement of time found: the ratio to a baseline with its interval, and every sample it rests on."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

import numpy as np

from ..errors import MeasurementError
from .intervals import Interval, ratio_of


@dataclass(frozen=True, slots=True)
class Latency:
    """The time of one request, measured beside a baseline.

    Attributes:
        samples_seconds: one per round, each the median of the turn's calls.
        ratio: median over the rounds of own time to baseline time; below 1 is faster. Over several loads, the geometric
            mean of their middles.
        ratio_low: lower end of the ratio's 95 % interval; see `intervals`.
        ratio_high: upper end.
        calls_seconds: of every timed request; empty in records from before they were kept.
        loads: rounds that each load of the models served; empty where they were loaded once.
        requests_per_second: served while timed, all streams together; None in records from before it was kept.
        warnings: what makes the measurement doubtful, in plain words.
        taken_cores: by other processes and machines meanwhile, on average; None where that is not known.
    """

    samples_seconds: tuple[float, ...]
    ratio: float
    ratio_low: float
    ratio_high: float
    calls_seconds: tuple[float, ...] = ()
    loads: tuple[int, ...] = ()
    requests_per_second: float | None = None
    warnings: tuple[str, ...] = ()
    taken_cores: float | None = None

    def __post_init__(self) -> None:
        numbers = (*self.samples_seconds, self.ratio, self.ratio_low, self.ratio_high, *self.calls_seconds)
        if not self.samples_seconds or not all(isfinite(number) and number > 0 for number in numbers):
            raise MeasurementError(f"latencies are finite and positive, got {numbers[:3]} ... {numbers[-3:]}.")
        if self.loads and sum(self.loads) != len(self.samples_seconds):
            raise MeasurementError(f"{sum(self.loads)} rounds of loads, but {len(self.samples_seconds)} samples.")

    @property
    def seconds(self) -> float:
        """Median time of one request in this measurement; compare ratios, not this, across measurements."""
        return statistics.median(self.samples_seconds)

    @property
    def is_faster(self) -> bool:
        """Whether it is faster than the baseline beyond the noise."""
        return self.ratio_high < 1

    @property
    def half_width(self) -> float:
        """Half the width of the ratio's interval, as a part of the ratio."""
        return Interval(self.ratio, self.ratio_low, self.ratio_high).half_width

    @property
    def throughput(self) -> float:
        """Requests served per second, all streams together."""
        return self.requests_per_second or 1 / statistics.fmean(self.samples_seconds)

    def percentile(self, percent: float) -> float:
        """The time within which so many of a hundred requests were served; from the rounds where no calls were kept.

        Args:
            percent: 0 to 100.
        """
        return float(np.percentile(self.calls_seconds or self.samples_seconds, percent))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, samples to the nanosecond."""
        return {
            "samples_seconds": [round(sample, 9) for sample in self.samples_seconds],
            "ratio": self.ratio,
            "low": self.ratio_low,
            "high": self.ratio_high,
            "calls_seconds": [round(call, 9) for call in self.calls_seconds],
            "loads": list(self.loads),
            "requests_per_second": self.requests_per_second,
            "warnings": list(self.warnings),
            **({} if self.taken_cores is None else {"taken_cores": self.taken_cores}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; what an older record lacks is empty."""
        return cls(
            tuple(data["samples_seconds"]),
            data["ratio"],
            data["low"],
            data["high"],
            tuple(data.get("calls_seconds", ())),
            tuple(data.get("loads", ())),
            data.get("requests_per_second"),
            tuple(data.get("warnings", ())),
            data.get("taken_cores"),
        )


def beside(one: Latency, other: Latency, seed: int = 0) -> Latency:
    """The same samples compared with another entrant than the baseline of their measurement.

    Args:
        one: a latency from `measure`.
        other: of the same measurement, round by round.
        seed: of the bootstrap.
    """
    found = ratio_of(one.samples_seconds, other.samples_seconds, one.loads, seed)
    rest = (one.calls_seconds, one.loads, one.requests_per_second, one.warnings, one.taken_cores)
    return Latency(one.samples_seconds, found.value, found.low, found.high, *rest)

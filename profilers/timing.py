"""The only stopwatch: interleaved rounds of a baseline and its rivals, and the median ratio with an interval.

On a shared machine the absolute time of one model drifts more than the difference between two. So all entrants run
in every round, in random order, and what is compared is each entrant's time to the baseline's time *of the same
round*. One untimed call opens each turn, because an entrant finds the caches full of the one before it.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

import numpy as np
from scipy.stats import bootstrap

from ..errors import MeasurementError

Clock = Callable[[], float]
Call = Callable[[], object]

CONFIDENCE = 0.95
_WARM_UP_WINDOW = 3
_WARM_UP_CALLS = 30
_STILL_GETTING_FASTER = 0.95


@dataclass(frozen=True, slots=True)
class Effort:
    """When a measurement is good enough.

    Attributes:
        seconds: no new round starts after this long, once `min_rounds` are done.
        half_width: stop as soon as every ratio's interval is this narrow, as a fraction of the ratio.
        min_rounds: rounds that are always run.
        max_rounds: rounds after which to stop in any case.
        calls: timed calls per turn; the turn counts as their median.
    """

    seconds: float = 20.0
    half_width: float = 0.01
    min_rounds: int = 9
    max_rounds: int = 200
    calls: int = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """The time of one request, measured beside a baseline.

    Attributes:
        samples_seconds: one per round, each the median of the turn's calls.
        ratio: median over the rounds of own time to baseline time; below 1 is faster.
        ratio_low: lower end of the ratio's 95 % bootstrap interval.
        ratio_high: upper end.
    """

    samples_seconds: tuple[float, ...]
    ratio: float
    ratio_low: float
    ratio_high: float

    def __post_init__(self) -> None:
        numbers = (*self.samples_seconds, self.ratio, self.ratio_low, self.ratio_high)
        if not self.samples_seconds or not all(isfinite(number) and number > 0 for number in numbers):
            raise MeasurementError(f"latencies are finite and positive, got {numbers[:3]} ... {numbers[-3:]}.")

    @property
    def seconds(self) -> float:
        """Median time of one request in this measurement; compare ratios, not this, across measurements."""
        return statistics.median(self.samples_seconds)

    @property
    def is_faster(self) -> bool:
        """Whether it is faster than the baseline beyond the noise."""
        return self.ratio_high < 1

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, samples to the nanosecond."""
        samples = [round(sample, 9) for sample in self.samples_seconds]
        return {"samples_seconds": samples, "ratio": self.ratio, "low": self.ratio_low, "high": self.ratio_high}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(tuple(data["samples_seconds"]), data["ratio"], data["low"], data["high"])


def measure(
    entrants: Mapping[str, Call],
    *,
    baseline: str,
    effort: Effort,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    on_round: Callable[[int], object] = lambda done: None,
) -> dict[str, Latency]:
    """Times all entrants side by side.

    Args:
        entrants: name -> one request, which must not return before its result is complete.
        baseline: the name of the entrant all ratios refer to.
        effort: when to stop.
        seed: of the order within the rounds and of the bootstrap.
        clock: seconds from any origin; a scripted one makes this function testable without waiting.
        on_round: told the number of rounds done.

    Returns:
        Name -> latency; that of the baseline has ratio 1 exactly.

    Raises:
        MeasurementError: if a time is zero, negative or not finite.
    """
    for call in entrants.values():
        _warm_up(call, clock)
    shuffled = random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in entrants}
    started = clock()
    for done in range(1, effort.max_rounds + 1):
        order = list(entrants)
        shuffled.shuffle(order)
        for name in order:
            samples[name].append(_turn(entrants[name], effort.calls, clock))
        on_round(done)
        if done < effort.min_rounds:
            continue
        is_over_time = clock() - started >= effort.seconds
        # The bootstrap takes about as long as a small model's turn: look at the intervals now and then only.
        if is_over_time or (done % effort.min_rounds == 0 and _is_narrow(samples, baseline, effort, seed)):
            break
    return {name: _latency(samples[name], samples[baseline], seed) for name in entrants}


def pooled(sessions: Sequence[Latency]) -> Latency:
    """One latency from several sessions, between which the models were loaded anew.

    Where a model happens to lie in memory moves its time by a few per cent, and no number of rounds with the same copy
    shows it. So the interval spans those of all sessions.

    Args:
        sessions: of the same model beside the same baseline, at least one.
    """
    samples = tuple(sample for session in sessions for sample in session.samples_seconds)
    return Latency(
        samples,
        statistics.median(session.ratio for session in sessions),
        min(session.ratio_low for session in sessions),
        max(session.ratio_high for session in sessions),
    )


def beside(one: Latency, other: Latency, seed: int = 0) -> Latency:
    """The same samples compared with another entrant than the baseline of their measurement.

    Args:
        one: a latency from `measure`.
        other: of the same measurement, round by round.
        seed: of the bootstrap.
    """
    return _latency(one.samples_seconds, other.samples_seconds, seed)


def _warm_up(call: Call, clock: Clock) -> None:
    """Calls until the calls stop getting faster."""
    times: list[float] = []
    for _ in range(_WARM_UP_CALLS):
        times.append(_seconds(call, clock))
        before, last = times[-2 * _WARM_UP_WINDOW : -_WARM_UP_WINDOW], times[-_WARM_UP_WINDOW:]
        if len(before) == _WARM_UP_WINDOW and statistics.median(last) > _STILL_GETTING_FASTER * statistics.median(
            before
        ):
            return


def _turn(call: Call, calls: int, clock: Clock) -> float:
    call()
    return statistics.median(_seconds(call, clock) for _ in range(calls))


def _seconds(call: Call, clock: Clock) -> float:
    started = clock()
    call()
    return clock() - started


def _is_narrow(samples: Mapping[str, Sequence[float]], baseline: str, effort: Effort, seed: int) -> bool:
    latencies = (_latency(samples[name], samples[baseline], seed) for name in samples)
    return all((late.ratio_high - late.ratio_low) / 2 <= effort.half_width * late.ratio for late in latencies)


def _latency(own: Sequence[float], baseline: Sequence[float], seed: int) -> Latency:
    if not np.isfinite([*own, *baseline]).all():
        raise MeasurementError("a call took a time that is not finite: the clock is broken.")
    if min(*own, *baseline) <= 0:
        raise MeasurementError("a call took no time at all: the clock is too coarse for this model.")
    ratios = np.asarray(own) / np.asarray(baseline)
    if np.ptp(ratios) == 0:
        low = high = float(ratios[0])
    else:
        interval = bootstrap(
            (ratios,), np.median, confidence_level=CONFIDENCE, method="percentile", n_resamples=999, rng=seed
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Latency(tuple(own), float(np.median(ratios)), low, high)

"""The only stopwatch: interleaved rounds of a baseline and its rivals, and the median ratio with an interval.

On a shared machine the absolute time of one model drifts more than the difference between two. So all entrants run
in every round, in random order, and what is compared is each entrant's time to the baseline's time *of the same
round*. One untimed call opens each turn, because an entrant finds the caches full of the one before it.

Where a model lies in memory moves its time by a few per cent, in all rounds alike. Whoever wants to know of the model,
and not of one copy of it, hands over how to load the entrants: they are loaded anew every few rounds, and the loads are
what the interval counts.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from ..errors import MeasurementError
from .conditions import Reading, taken_cores
from .intervals import Interval, ratio_of, trend_of
from .latency import Latency, beside
from .turns import Call, Clock, Requests, Stopwatch, Turn, requests_of, take_turn, warm_up

__all__ = ["ANEW", "Clock", "Effort", "Entrant", "Entrants", "Latency", "Requests", "beside", "measure", "wall_clock"]

Entrant = Call | Requests
Entrants = Mapping[str, Entrant]

wall_clock: Clock = time.perf_counter
# A warm-up takes at most this part of the time there is, all entrants together.
_WARM_UP_SHARE = 0.25
# The next look comes when as many rounds are done as seem to be needed, and some more; but within these bounds.
_NEXT_LOOK = (1.25, 4.0)
_SOME_MORE = 1.1
_LEAST_LOAD_ROUNDS = 2
_FEWEST_LOADS = 3


@dataclass(frozen=True, slots=True)
class Effort:
    """When a measurement is good enough.

    Attributes:
        seconds: no new round starts after this long, once `min_rounds` are done; nor a load that would not be done by
            then, once there are three.
        half_width: stop as soon as every ratio's interval is this narrow, as a fraction of the ratio.
        min_rounds: rounds that are always run, where entrants are not loaded anew.
        max_rounds: rounds after which to stop in any case.
        calls: timed calls per turn; the turn counts as their median.
        min_loads: how often entrants that can be loaded anew are loaded, unless time is up before.
        load_rounds: rounds with each load; fewer where `min_loads` would else not be done in time.
    """

    seconds: float = 20.0
    half_width: float = 0.01
    min_rounds: int = 9
    max_rounds: int = 200
    calls: int = 3
    min_loads: int = 8
    load_rounds: int = 5

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("min_rounds", "max_rounds", "calls", "load_rounds")}
        if min(counts.values()) < 1 or self.min_loads < 2:
            raise MeasurementError(f"an effort has at least one round and call, and two loads; got {self}.")


# For entrants that are loaded anew: noise lasts longer than a call, so more rounds tell more than more calls per turn.
ANEW = Effort(calls=1, load_rounds=8)


def measure(
    entrants: Entrants | Callable[[], Entrants],
    *,
    baseline: str,
    effort: Effort,
    seed: int = 0,
    clock: Clock = time.perf_counter,
    stopwatch: Stopwatch | None = None,
    read: Callable[[], Reading] = Reading.now,
    on_round: Callable[[int], object] = lambda done: None,
) -> dict[str, Latency]:
    """Times all entrants side by side.

    Args:
        entrants: name -> one request, which must not return before its result is complete, or several requests; or
            what loads all entrants anew, which is then called every few rounds. The old copies are let go only after
            the new ones are there, so that these come to lie elsewhere.
        baseline: the name of the entrant all ratios refer to.
        effort: when to stop.
        seed: of the order within the rounds and of the bootstrap.
        clock: seconds from any origin; a scripted one makes this function testable without waiting.
        stopwatch: what times one request, for instance a device's own; None takes the clock.
        read: the state of the machine, asked before and after.
        on_round: told the number of rounds done.

    Returns:
        Name -> latency; that of the baseline has ratio 1 exactly.

    Raises:
        MeasurementError: if a time is zero, negative or not finite, or the baseline is not among the entrants.
    """
    rounds = _Rounds(baseline, effort, seed, clock, stopwatch or _by(clock), on_round)
    before = read()
    if callable(entrants):
        rounds.run_loads(entrants)
    else:
        rounds.run_once(entrants)
    after = read()
    return rounds.latencies(after.warnings_since(before), taken_cores(before, after))


@dataclass(slots=True)
class _Rounds:
    """The rounds of one measurement, and when there are enough of them."""

    baseline: str
    effort: Effort
    seed: int
    clock: Clock
    stopwatch: Stopwatch
    on_round: Callable[[int], object]
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    loads: list[int] = field(default_factory=list)

    def run_once(self, entrants: Entrants) -> None:
        """Rounds of the same copies."""
        served, started, shuffled = self._welcome(entrants), self.clock(), random.Random(self.seed)
        look = self.effort.min_rounds
        for done in range(1, self.effort.max_rounds + 1):
            self._round(served, shuffled)
            if done < self.effort.min_rounds:
                continue
            if self.clock() - started >= self.effort.seconds:
                return
            if done >= look:
                excess = self._excess()
                if excess <= 1:
                    return
                look = _next_look(done, excess)

    def run_loads(self, load: Callable[[], Entrants]) -> None:
        """A few rounds of each of many copies."""
        effort, started, shuffled = self.effort, self.clock(), random.Random(self.seed)
        look, longest, share = effort.min_loads, 0.0, effort.seconds / effort.min_loads
        held = None
        while sum(self.loads) < effort.max_rounds or len(self.loads) < _FEWEST_LOADS:
            begun = self.clock()
            held = load()  # the ones before are held until these are there
            served = self._welcome(held)
            self.loads.append(0)
            while self.loads[-1] < effort.load_rounds:
                if self.loads[-1] >= _LEAST_LOAD_ROUNDS and self.clock() - begun >= share:
                    break
                self._round(served, shuffled)
                self.loads[-1] += 1
            longest, done = max(longest, self.clock() - begun), len(self.loads)
            # On a busy machine time may be up early: an interval over few loads is wide, but it holds what it says.
            if done >= _FEWEST_LOADS and self.clock() - started + longest > effort.seconds:
                return
            if done >= look:
                excess = self._excess()
                if excess <= 1:
                    return
                look = _next_look(done, excess)

    def latencies(self, warnings: tuple[str, ...], taken: float | None) -> dict[str, Latency]:
        """Name -> what its rounds say."""
        base = self._samples(self.baseline)
        trend = trend_of(base)
        if trend is not None:
            warnings += (
                f"the baseline became {abs(trend):.0%} {'slower' if trend > 0 else 'faster'} from start to end",
            )
        return {name: self._latency(name, base, warnings, taken) for name in self.turns}

    def _welcome(self, entrants: Entrants) -> dict[str, Requests]:
        """Warms all entrants up."""
        if self.baseline not in entrants:
            raise MeasurementError(f"the baseline {self.baseline!r} is not among the entrants {', '.join(entrants)}.")
        served = {name: requests_of(entrant) for name, entrant in entrants.items()}
        for name, requests in served.items():
            self.turns.setdefault(name, [])
            seconds = _WARM_UP_SHARE * self.effort.seconds / len(served)
            warm_up(requests, self.stopwatch, seconds=seconds, is_reload=len(self.loads) > 0)
        return served

    def _round(self, served: Mapping[str, Requests], shuffled: random.Random) -> None:
        order = list(served)
        shuffled.shuffle(order)
        for name in order:
            self.turns[name].append(take_turn(served[name], self.effort.calls, self.stopwatch, self.clock))
        self.on_round(len(self.turns[self.baseline]))

    def _excess(self) -> float:
        """How many times wider than wanted the widest interval is."""
        base = self._samples(self.baseline)
        widths = (self._ratio(self._samples(name), base).half_width for name in self.turns)
        widest, wanted = max(widths), self.effort.half_width
        # Written so that a width below 0 is never reached, and a width of 0 by rounds without noise.
        return 1.0 if widest <= wanted else widest / wanted if wanted > 0 else float("inf")

    def _latency(self, name: str, base: Sequence[float], warnings: tuple[str, ...], taken: float | None) -> Latency:
        turns, samples = self.turns[name], self._samples(name)
        found = self._ratio(samples, base)
        calls = tuple(seconds for turn in turns for seconds in turn.calls_seconds)
        served = len(calls) / sum(turn.busy_seconds for turn in turns)
        interval, loads = (found.value, found.low, found.high), tuple(self.loads)
        return Latency(tuple(samples), *interval, calls, loads, served, warnings, taken)

    def _ratio(self, own: Sequence[float], base: Sequence[float]) -> Interval:
        if not np.isfinite([*own, *base]).all():
            raise MeasurementError("a call took a time that is not finite: the clock is broken.")
        if min(*own, *base) <= 0:
            raise MeasurementError("a call took no time at all: the clock is too coarse for this model.")
        return ratio_of(own, base, self.loads, self.seed)

    def _samples(self, name: str) -> list[float]:
        return [turn.sample_seconds for turn in self.turns[name]]


def _next_look(done: int, excess: float) -> int:
    """After how many rounds, or loads, to look again: whoever looks all the time stops when chance looks narrow."""
    least, most = _NEXT_LOOK
    return ceil(done * min(most, max(least, _SOME_MORE * excess**2)))


def _by(clock: Clock) -> Stopwatch:
    def stopwatch(call: Call) -> float:
        started = clock()
        call()
        return clock() - started

    return stopwatch

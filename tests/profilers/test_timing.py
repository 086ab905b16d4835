"""The stopwatch under a scripted clock: nothing here waits, and what can be exact is."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from math import exp
from random import Random

import pytest
import torch

from paring.errors import MeasurementError
from paring.profilers.timing import Effort, Latency, beside, measure, pooled

QUICK = Effort(seconds=1e9, half_width=-1.0, min_rounds=5, max_rounds=15, calls=3)


class Stage:
    """A clock that only the entrants move, and a record of who was called.

    Times are sums of powers of two, so that differences of the clock are exact.
    """

    def __init__(self) -> None:
        self.now = 1024.0
        self.called: list[str] = []
        self.drift = 1.0

    def clock(self) -> float:
        return self.now

    def entrant(self, name: str, seconds: float | Iterator[float]) -> Callable[[], None]:
        def call() -> None:
            self.called.append(name)
            self.now += self.drift * (seconds if isinstance(seconds, float) else next(seconds))

        return call

    def entrants(self, **seconds: float) -> dict[str, Callable[[], None]]:
        return {name: self.entrant(name, each) for name, each in seconds.items()}

    def rounds(self, warm_up: int, calls: int) -> list[list[str]]:
        """Who had a turn in each round; a turn is one opening call and the timed ones."""
        turns = []
        for name, group in groupby(self.called[warm_up:]):
            count, rest = divmod(len(list(group)), calls + 1)
            assert rest == 0
            turns += [name] * count
        n = len(set(turns))
        return [turns[start : start + n] for start in range(0, len(turns), n)]


def test_ratios_are_exact() -> None:
    stage = Stage()
    entrants = stage.entrants(whole=1.0, half=0.5, double=2.0)
    found = measure(entrants, baseline="whole", effort=QUICK, clock=stage.clock)
    assert {name: latency.ratio for name, latency in found.items()} == {"whole": 1.0, "half": 0.5, "double": 2.0}
    assert {name: latency.seconds for name, latency in found.items()} == {"whole": 1.0, "half": 0.5, "double": 2.0}
    for latency in found.values():
        assert latency.ratio_low == latency.ratio == latency.ratio_high
        assert len(latency.samples_seconds) == 15
    assert [name for name, latency in found.items() if latency.is_faster] == ["half"]


def test_every_entrant_runs_once_per_round_in_changing_order() -> None:
    def orders(seed: int) -> list[list[str]]:
        stage = Stage()
        measure(stage.entrants(a=1.0, b=1.0, c=1.0), baseline="b", effort=QUICK, seed=seed, clock=stage.clock)
        return stage.rounds(warm_up=len(stage.called) - 15 * 3 * 4, calls=3)

    assert len(orders(0)) == 15
    assert all(sorted(order) == ["a", "b", "c"] for order in orders(0))
    assert len({tuple(order) for order in orders(0)}) >= 4
    assert orders(0) == orders(0) != orders(1)


def test_drift_of_the_machine_leaves_the_ratio_exact() -> None:
    """All times double over the run: whoever is timed later looks slower, unless each round is compared in itself."""
    stage = Stage()

    def slow_down(done: int) -> None:
        stage.drift = 1 + done / 16

    effort = replace(QUICK, max_rounds=17)
    entrants = stage.entrants(whole=1.0, quarter=0.25)
    found = measure(entrants, baseline="whole", effort=effort, clock=stage.clock, on_round=slow_down)
    assert found["whole"].samples_seconds == tuple(1 + done / 16 for done in range(17))
    assert found["quarter"].ratio == found["quarter"].ratio_low == found["quarter"].ratio_high == 0.25


def test_the_call_after_a_change_of_entrant_does_not_count() -> None:
    """The first call of a turn finds cold caches: here it takes eight times as long."""
    stage = Stage()

    def call(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            stage.now += seconds * (1.0 if stage.called and stage.called[-1] == name else 8.0)
            stage.called.append(name)

        return run

    found = measure({"a": call("a", 1.0), "b": call("b", 0.5)}, baseline="a", effort=QUICK, clock=stage.clock)
    alternating = [latency.samples_seconds for latency in found.values()]
    assert alternating == [(1.0,) * 15, (0.5,) * 15]


def test_a_turn_counts_as_its_median_call() -> None:
    stage = Stage()
    hiccups = iter([1.0] * 6 + [1.0, 1.0, 64.0, 2.0] * 15)
    entrants = {"a": stage.entrant("a", hiccups)}
    found = measure(entrants, baseline="a", effort=QUICK, clock=stage.clock)
    assert found["a"].samples_seconds == (2.0,) * 15


@pytest.mark.parametrize(
    ("effort", "rounds"),
    [
        (Effort(seconds=1e9, half_width=0.01, min_rounds=7, max_rounds=50), 7),
        (Effort(seconds=1e9, half_width=-1.0, min_rounds=7, max_rounds=50), 50),
        (Effort(seconds=1e9, half_width=0.01, min_rounds=7, max_rounds=3), 3),
        (Effort(seconds=0.0, half_width=-1.0, min_rounds=7, max_rounds=50), 7),
        (Effort(seconds=160.0, half_width=-1.0, min_rounds=7, max_rounds=50), 20),
        (Effort(seconds=160.5, half_width=-1.0, min_rounds=7, max_rounds=50), 21),
        (Effort(seconds=160.0, half_width=-1.0, min_rounds=7, max_rounds=50, calls=1), 40),
    ],
    ids=["narrow", "never narrow", "most rounds first", "no time", "time", "a round begun is ended", "one call"],
)
def test_when_it_stops(effort: Effort, rounds: int) -> None:
    """Two entrants of one second: a round takes 2 * (1 + calls) seconds."""
    stage, told = Stage(), list[int]()
    found = measure(stage.entrants(a=1.0, b=1.0), baseline="a", effort=effort, clock=stage.clock, on_round=told.append)
    assert [len(latency.samples_seconds) for latency in found.values()] == [rounds, rounds]
    assert told == list(range(1, rounds + 1))


def test_noise_keeps_it_going_until_the_interval_is_narrow() -> None:
    def rounds(half_width: float) -> int:
        draw, stage = Random(0), Stage()
        noisy = iter(lambda: exp(draw.gauss(0, 0.1)), None)
        effort = Effort(seconds=1e9, half_width=half_width, min_rounds=9, max_rounds=400, calls=1)
        found = measure(
            {"a": stage.entrant("a", 1.0), "b": stage.entrant("b", noisy)},
            baseline="a",
            effort=effort,
            clock=stage.clock,
        )["b"]
        assert (found.ratio_high - found.ratio_low) / 2 <= half_width * found.ratio
        return len(found.samples_seconds)

    assert 9 <= rounds(0.2) < rounds(0.04) < rounds(0.02) < 400


def test_warm_up_ends_when_calls_stop_getting_faster() -> None:
    def warm_up(*slow: float) -> int:
        stage = Stage()
        times = iter(lambda pending=list(slow): pending.pop(0) if pending else 1.0, None)
        found = measure({"a": stage.entrant("a", times)}, baseline="a", effort=QUICK, clock=stage.clock)
        assert found["a"].samples_seconds == (1.0,) * 15
        return len(stage.called) - 15 * 4

    assert warm_up() == 6
    assert warm_up(1024.0) == 6
    assert 10 <= warm_up(*(2.0**power for power in range(8, 0, -1))) <= 16


def test_warm_up_does_not_go_on_for_ever() -> None:
    stage = Stage()
    times = iter([2.0**-power for power in range(30)] + [1.0] * 60)
    measure({"a": stage.entrant("a", times)}, baseline="a", effort=QUICK, clock=stage.clock)
    assert len(stage.called) == 30 + 60


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_cannot_be_are_refused(seconds: float) -> None:
    stage = Stage()
    with pytest.raises(MeasurementError):
        measure(stage.entrants(a=1.0, b=seconds), baseline="a", effort=QUICK, clock=stage.clock)


def test_the_baseline_must_run() -> None:
    stage = Stage()
    with pytest.raises((MeasurementError, KeyError), match="whole"):
        measure(stage.entrants(a=1.0), baseline="whole", effort=QUICK, clock=stage.clock)


def test_the_interval_holds_the_true_ratio() -> None:
    """95 % intervals of noisy runs; 200 of them hold it 180 times or more, unless they are too narrow."""
    effort = Effort(seconds=1e9, half_width=-1.0, min_rounds=21, max_rounds=21, calls=1)
    held, widths = 0, []
    for seed in range(200):
        draw, stage = Random(seed), Stage()

        def noisy(seconds: float, draw: Random = draw) -> Iterator[float]:
            while True:
                yield seconds * exp(draw.gauss(0, 0.05))

        entrants = {"a": stage.entrant("a", noisy(1.0)), "b": stage.entrant("b", noisy(0.9))}
        found = measure(entrants, baseline="a", effort=effort, seed=seed, clock=stage.clock)["b"]
        held += found.ratio_low <= 0.9 <= found.ratio_high
        widths.append(found.ratio_high - found.ratio_low)
    assert held >= 180
    assert max(widths) < 0.15


def test_the_same_seed_gives_the_same_interval() -> None:
    def interval(seed: int) -> tuple[float, float]:
        draw, stage = Random(0), Stage()
        noisy = iter(lambda: exp(draw.gauss(0, 0.1)), None)
        entrants = {"a": stage.entrant("a", 1.0), "b": stage.entrant("b", noisy)}
        found = measure(entrants, baseline="a", effort=QUICK, seed=seed, clock=stage.clock)["b"]
        return found.ratio_low, found.ratio_high

    assert interval(0) == interval(0)


@pytest.mark.parametrize(
    "numbers",
    [((), 1.0, 1.0, 1.0), ((0.0,), 1.0, 1.0, 1.0), ((1.0,), float("nan"), 1.0, 1.0), ((1.0,), 1.0, 1.0, float("inf"))],
)
def test_a_latency_is_finite_and_positive(numbers: tuple[tuple[float, ...], float, float, float]) -> None:
    with pytest.raises(MeasurementError):
        Latency(*numbers)


def test_latency_json_round_trip() -> None:
    latency = Latency((0.001234567, 0.002), 0.5, 0.4, 0.625)
    assert Latency.from_json(json.loads(json.dumps(latency.to_json()))) == latency


@pytest.mark.device
def test_more_work_is_slower_and_the_same_work_is_not() -> None:
    """One 95 % interval in twenty misses; three of five do so once in a thousand times."""
    small, large = torch.ones(256, 256), torch.ones(256, 1024)
    entrants = {"a": lambda: small @ small, "again": lambda: small @ small, "four times": lambda: small @ large}
    effort = Effort(seconds=5.0, half_width=-1.0, min_rounds=21, max_rounds=31)
    runs = [measure(entrants, baseline="a", effort=effort, seed=seed) for seed in range(5)]
    assert all(found["four times"].ratio_low > 2 for found in runs)
    assert sum(found["again"].ratio_low <= 1 <= found["again"].ratio_high for found in runs) >= 3


def test_pooled_sessions_span_their_intervals() -> None:
    sessions = [
        Latency((2.0, 4.0), 0.5, 0.49, 0.51),
        Latency((3.0,), 0.6, 0.58, 0.62),
        Latency((5.0,), 0.52, 0.5, 0.53),
    ]
    assert pooled(sessions) == Latency((2.0, 4.0, 3.0, 5.0), 0.52, 0.49, 0.62)
    assert pooled(sessions[:1]) == sessions[0]


def test_the_same_samples_beside_another_entrant() -> None:
    one, other = Latency((2.0, 6.0, 4.0), 0.1, 0.1, 0.1), Latency((4.0, 4.0, 4.0), 0.2, 0.2, 0.2)
    found = beside(one, other)
    assert (found.samples_seconds, found.ratio) == ((2.0, 6.0, 4.0), 1.0)
    assert 0.5 <= found.ratio_low < 1 < found.ratio_high <= 1.5
    assert beside(other, other) == Latency((4.0, 4.0, 4.0), 1.0, 1.0, 1.0)

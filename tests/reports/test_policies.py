from collections.abc import Callable

import numpy as np
import pytest

from paring.errors import SettingError
from paring.reports.front import Point
from paring.reports.policies import best_first, cheapest_first, check_policy, cost_of, knee_first

MakePoint = Callable[..., Point]
# Milliseconds and quality; the baseline takes 20 ms.
Places = list[tuple[float, float]]


def points_at(make_point: MakePoint, places: Places) -> list[Point]:
    return [make_point(1, quality=quality, ratio=ms / 20, noise=0.001) for ms, quality in places]


def places_of(points: list[Point] | None) -> Places:
    found = [] if points is None else [(p.measures.latency_seconds or 0.0, p.measures.quality) for p in points]
    return [(round(seconds * 1e3, 6), quality) for seconds, quality in found]


def distance_from_line(place: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """The textbook form: twice the area of the triangle by the length of its base."""
    (x, y), (x1, y1), (x2, y2) = place, one, other
    return float(((y2 - y1) * x - (x2 - x1) * y + x2 * y1 - y2 * x1) / np.hypot(y2 - y1, x2 - x1))


FRONT: Places = [(20, 0.9), (16, 0.895), (10, 0.87), (4, 0.7)]


def test_orders_of_a_front_worked_out_by_hand(make_point: MakePoint) -> None:
    points = points_at(make_point, FRONT)
    assert places_of(cheapest_first(points, "latency")) == FRONT[::-1]
    assert places_of(best_first(points, "latency")) == FRONT
    # In units of 16 ms and 0.2: (0.75, 0.975) and (0.375, 0.85) lie 0.225 and 0.475 beyond the line, its ends on it.
    knee = places_of(knee_first(points, "latency"))
    assert knee[:2] == [FRONT[2], FRONT[1]]
    assert set(knee[2:]) == {FRONT[0], FRONT[3]}


@pytest.mark.parametrize("seed", range(20))
def test_the_knee_is_farthest_from_the_line_between_the_ends(make_point: MakePoint, seed: int) -> None:
    draw = np.random.default_rng(seed)
    ms = np.sort(draw.uniform(1, 40, size=8))
    places: Places = list(zip(ms.round(6).tolist(), np.sort(draw.uniform(0.3, 0.95, size=8)).tolist(), strict=True))
    scaled = (np.array(places) - places[0]) / (np.array(places[-1]) - places[0])
    away = [distance_from_line(place, scaled[0], scaled[-1]) for place in scaled]
    side = np.sign(distance_from_line(np.array([0.0, 1.0]), scaled[0], scaled[-1]))
    found = knee_first(points_at(make_point, places), "latency")
    if max(side * np.array(away)) < 1e-6:
        assert found is None
    else:
        assert places_of(found)[0] == places[int(np.argmax(side * np.array(away)))]


def test_what_does_not_move_the_knee(make_point: MakePoint) -> None:
    knee = FRONT[2]
    shrunk = [(ms / 4 + 1, 0.5 + quality / 10) for ms, quality in FRONT]
    assert places_of(knee_first(points_at(make_point, shrunk), "latency"))[0] == shrunk[2]
    beaten: Places = [(19, 0.5), (30, 0.86), (4, 0.6), (21, 0.9)]
    for order in (FRONT + beaten, beaten + FRONT, FRONT[::-1], FRONT + FRONT):
        assert places_of(knee_first(points_at(make_point, order), "latency"))[0] == knee


@pytest.mark.parametrize(
    "places",
    [
        [(20, 0.9)],
        [(20, 0.9), (20, 0.9)],
        [(20, 0.9), (10, 0.8)],
        [(20, 0.9), (15, 0.85), (10, 0.8)],
        [(20, 0.9), (15, 0.81), (10, 0.8)],
        [(20, 0.9), (25, 0.85), (30, 0.8)],
        [(20, 0.9), (20, 0.8)],
    ],
    ids=["one", "twice the same", "two", "on the line", "before the line", "one beats all", "of equal cost"],
)
def test_a_front_without_a_knee(make_point: MakePoint, places: Places) -> None:
    assert knee_first(points_at(make_point, places), "latency") is None


def test_size_is_the_cost_where_one_latency_was_not_measured(make_point: MakePoint) -> None:
    timed, untimed = make_point(1), make_point(2, ratio=None)
    assert (cost_of([timed]), cost_of([timed, untimed])) == ("latency", "size")


def test_an_unknown_policy_names_those_there_are() -> None:
    assert [check_policy(name) for name in ("fastest", "best", "knee")] == ["fastest", "best", "knee"]
    with pytest.raises(SettingError, match=r"unknown policy 'kne'; .* best, fastest, knee\. Did you mean 'knee'\?"):
        check_policy("kne")

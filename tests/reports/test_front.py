import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest

from paring.errors import RunError
from paring.profilers.timing import Latency
from paring.reports.dominance import hypervolume, non_dominated
from paring.reports.front import REFERENCE_LOSS, Front, Point, front_of, hypervolume_of
from paring.reports.front_table import row_of, table_of
from paring.search.objectives import OBJECTIVES, Limits
from paring.search.study import Record
from paring.search.trial import Final, State
from paring.spaces.plan import Plan

MakePoint = Callable[..., Point]
MakeFront = Callable[..., Front]
MakeFinal = Callable[..., Final]
MakeRecord = Callable[..., Record]

COLUMNS = [
    "plan", "quality", "quality_low", "quality_high", "drop", "drop_low", "drop_high", "search_quality",
    "search_quality_low", "search_quality_high", "latency_ms", "latency_low_ms", "latency_high_ms", "speedup",
    "memory_mb", "size_mb", "size_ratio", "kernels", "split", "fingerprint", "is_baseline", "tie",
]  # fmt: skip


def subsets(items: tuple[str, ...]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(items, size) for size in range(1, len(items) + 1)))


def brute_force_front(values: list[tuple[float, ...]]) -> list[bool]:
    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    return [
        not any(beats(other, own) for other in values) and own not in values[:index] for index, own in enumerate(values)
    ]


def inclusion_exclusion(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume of a union of boxes from the volumes of all their intersections."""
    corners = range(len(values))
    total = 0.0
    for size in range(1, len(values) + 1):
        for chosen in combinations(corners, size):
            sides = np.maximum(reference - values[list(chosen)].max(axis=0), 0.0)
            total += (-1) ** (size + 1) * sides.prod()
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [2, 4, 10_000], ids=["many ties", "some ties", "hardly a tie"])
def test_non_dominated_agrees_with_brute_force(objectives: int, levels: int) -> None:
    draw = np.random.default_rng(objectives * levels)
    for count in [0, 1, 2, *draw.integers(3, 30, size=60)]:
        values = draw.integers(levels, size=(count, objectives)).astype(float) - levels / 2
        expected = brute_force_front([tuple(row) for row in values.tolist()])
        assert non_dominated(values).tolist() == expected, values


def test_non_dominated_keeps_the_first_of_equals_and_drops_ties_in_one_objective() -> None:
    assert non_dominated(np.zeros((0, 3))).tolist() == []
    assert non_dominated(np.array([[5.0, 5.0]])).tolist() == [True]
    assert non_dominated(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])).tolist() == [
        True, False, True, False,
    ]  # fmt: skip
    assert non_dominated(np.array([[1.0, 3.0], [1.0, 2.0], [2.0, 2.0]])).tolist() == [False, True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_dominated_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(RunError, match="finite"):
        non_dominated(np.array([[1.0, 2.0], [0.0, bad]]))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_hypervolume_of_one_box(m: int) -> None:
    point, reference = np.arange(m, dtype=float), np.arange(m) + 0.5 * np.arange(1, m + 1)
    assert hypervolume(point[None], reference) == pytest.approx(np.prod(0.5 * np.arange(1, m + 1)), rel=1e-12)


@pytest.mark.parametrize(
    ("values", "reference", "volume"),
    [
        ([[3.0], [1.0], [2.0]], [4.0], 3.0),
        ([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]], [3.0, 3.0], 6.0),
        ([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [2.0, 2.0, 2.0], 4.0),
        ([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]], [2.0] * 4, 5.0),
    ],
    ids=["1", "2", "3", "4"],
)
def test_hypervolume_of_a_staircase(values: list[list[float]], reference: list[float], volume: float) -> None:
    assert hypervolume(np.array(values), np.array(reference)) == pytest.approx(volume, rel=1e-12)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_hypervolume_agrees_with_inclusion_and_exclusion(m: int) -> None:
    draw = np.random.default_rng(m)
    for count in [0, 1, *draw.integers(2, 7, size=40)]:
        values, reference = draw.normal(size=(count, m)), np.full(m, 0.7)
        # Rounded to one digit half the time, so that coordinates tie.
        values = values.round(1) if draw.random() < 0.5 else values
        assert hypervolume(values, reference) == pytest.approx(inclusion_exclusion(values, reference), rel=1e-9), values


@pytest.mark.parametrize("m", [2, 3, 4])
def test_what_does_not_change_a_hypervolume(m: int) -> None:
    draw = np.random.default_rng(m)
    values, reference = draw.random((5, m)), np.ones(m)
    volume = hypervolume(values, reference)
    outside = draw.random((4, m))
    outside[np.arange(4), draw.integers(m, size=4)] = [1.0, 1.5, 1.0, 99.0]
    assert hypervolume(outside, reference) == 0.0
    assert hypervolume(np.concatenate([values, outside]), reference) == pytest.approx(volume, rel=1e-12)
    assert hypervolume(np.concatenate([values, values[:3]]), reference) == pytest.approx(volume, rel=1e-12)
    assert hypervolume(np.concatenate([values, values + 0.1]), reference) == pytest.approx(volume, rel=1e-12)
    for order in (draw.permutation(5) for _ in range(10)):
        assert hypervolume(values[order], reference) == pytest.approx(volume, rel=1e-12)
    better = values[:1] - 0.1
    assert hypervolume(np.concatenate([values, better]), reference) > volume + 1e-3


@pytest.mark.parametrize("objectives", subsets(OBJECTIVES), ids=",".join)
def test_the_baseline_alone_has_volume_in_quality_alone(make_point: MakePoint, objectives: tuple[str, ...]) -> None:
    expected = REFERENCE_LOSS if objectives == ("quality",) else 0.0
    assert hypervolume_of([make_point()], make_point(), objectives) == pytest.approx(expected, rel=1e-12)


def test_hypervolume_is_in_units_of_the_baseline(make_point: MakePoint) -> None:
    member = make_point(1, quality=0.9 * 0.95, ratio=0.5, memory=50_000_000, size=20_000_000)
    gained = {"quality": REFERENCE_LOSS - 0.05, "latency": 0.5, "memory": 0.75, "size": 0.8}
    for objectives in subsets(OBJECTIVES):
        expected = np.prod([gained[name] for name in objectives])
        assert hypervolume_of([make_point(), member], make_point(), objectives) >= expected * (1 - 1e-9)
        assert hypervolume_of([member], make_point(), objectives) == pytest.approx(expected, rel=1e-9)
    lost = make_point(2, quality=0.9 * 0.89, ratio=0.1)
    assert hypervolume_of([lost], make_point(), ("quality", "latency")) == 0.0


def test_a_baseline_without_quality_has_no_hypervolume(make_point: MakePoint) -> None:
    assert hypervolume_of([make_point(1, ratio=0.5)], make_point(quality=0.0), ("quality", "latency")) == 0.0


def test_a_row_speaks_in_milliseconds_and_megabytes(make_point: MakePoint) -> None:
    point = make_point(
        1, 4, quality=0.85, ratio=0.5, noise=0.05, memory=123_000_000, size=40_000_000, searched=0.87, kernels="k"
    )
    row = row_of(point, make_point())
    expected = {
        "quality": 0.85, "quality_low": 0.82, "quality_high": 0.87, "drop": 0.05, "drop_low": 0.04, "drop_high": 0.07,
        "search_quality": 0.87,
        "search_quality_low": 0.84, "search_quality_high": 0.89,
        "latency_ms": 10.0, "latency_low_ms": 9.0, "latency_high_ms": 11.0, "speedup": 2.0,
        "memory_mb": 123.0, "size_mb": 40.0, "size_ratio": 2.5,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert {name: value for name, value in row.items() if name not in expected} == {
        "plan": "encoder 4/6 layers (without 1 4)",
        "kernels": "k",
        "split": "test",
        "fingerprint": point.plan.fingerprint,
        "is_baseline": False,
    }


def test_what_was_not_measured_is_none(make_point: MakePoint) -> None:
    row = row_of(make_point(1, ratio=None, memory=None), make_point(ratio=None, memory=None))
    missing = {"latency_ms", "latency_low_ms", "latency_high_ms", "speedup", "memory_mb", "search_quality"}
    missing |= {"search_quality_low", "search_quality_high"}
    assert {name for name, value in row.items() if value is None} == missing


def test_the_table_has_one_row_per_member(make_point: MakePoint, make_front: MakeFront) -> None:
    base, member = make_point(), make_point(1, ratio=0.5)
    table = table_of(make_front(base, base, member))
    assert list(table.columns) == COLUMNS
    assert table["latency_ms"].tolist() == [20.0, 10.0]
    assert table["is_baseline"].tolist() == [True, False]
    assert table["tie"].tolist() == [1, 2]


def test_the_table_of_an_empty_front_keeps_its_columns(make_point: MakePoint, make_front: MakeFront) -> None:
    table = table_of(make_front(make_point()))
    assert (len(table), list(table.columns)) == (0, COLUMNS)


def test_a_front_is_what_was_measured_whole(make_record: MakeRecord, make_final: MakeFinal) -> None:
    searched = (make_final(), make_final(1, quality=0.88, ratio=0.8), make_final(2, ratio=0.9), make_final(3))
    finals = (make_final(), make_final(1, quality=0.86, ratio=0.7), make_final(2, quality=0.8, ratio=0.75))
    front = front_of(make_record(*searched, finals=finals))
    assert (front.split, front.metric, front.objectives) == ("test", "accuracy", ("quality", "latency"))
    assert [point.plan for point in front.members] == [finals[0].plan, finals[1].plan]
    assert [point.plan for point in front.beaten] == [finals[2].plan]
    assert [(point.quality.value, point.search_quality) for point in front.members] == [(0.9, 0.9), (0.86, 0.88)]
    assert front.baseline == front.members[0]
    lost, gained = (0.9 - 0.86) / 0.9, 0.3
    assert front.hypervolume == pytest.approx((REFERENCE_LOSS - lost) * gained, rel=1e-9)


def test_a_searched_front_is_that_of_the_search_split(make_record: MakeRecord, make_final: MakeFinal) -> None:
    front = front_of(make_record(make_final(1, quality=0.8, ratio=0.5), make_final(), make_final(2, ratio=0.9)))
    assert front.split == "search"
    assert [str(point.plan) for point in front.members] == [
        "encoder 5/6 layers (without 2)",
        "encoder 5/6 layers (without 1)",
    ]
    assert [point.gain for point in front.members] == [None, None]
    assert not front.baseline.plan.stacks[0].dropped and front.baseline in front.beaten


def test_what_breaks_the_budget_is_on_no_front(make_record: MakeRecord, make_final: MakeFinal) -> None:
    limits = Limits(latency_seconds=0.015)
    record = make_record(make_final(), make_final(1, ratio=0.7), make_final(2, quality=0.95, ratio=0.8), limits=limits)
    front = front_of(record)
    assert [point.plan.stacks[0].dropped for point in front.members] == [(1,)]
    assert {point.plan.stacks[0].dropped for point in front.beaten} == {(), (2,)}
    assert front.baseline.is_baseline


def test_a_run_without_a_judged_baseline_has_no_front(make_record: MakeRecord, make_final: MakeFinal) -> None:
    fates = r"\(trials: 1 judged\); go on with the same `paring search` command"
    with pytest.raises(RunError, match=rf"no baseline of .* has numbers yet {fates}"):
        front_of(make_record(make_final(1)))


def test_a_run_without_numbers_says_what_became_of_its_trials(
    make_record: MakeRecord, make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"no trial of .* has numbers yet \(trials: none was finished\); go on"):
        front_of(make_record())
    shutil.rmtree(tmp_path / "made")
    failed = [(make_plan(), State.FAILED, "it answers NaN."), (make_plan(1), State.FAILED, "no")]
    record = make_record(*failed, (make_plan(2), State.OUT_OF_MEMORY, "killed by signal 9."))
    with pytest.raises(
        RunError, match=r"trials: 2 failed, 1 out of memory; the last said: killed by signal 9\); go on"
    ):
        front_of(record)


def test_a_front_knows_how_many_were_compared_and_what_there_is_to_choose_from(
    make_record: MakeRecord, make_final: MakeFinal
) -> None:
    front = front_of(make_record(make_final(), make_final(1, quality=0.95, ratio=0.5), make_final(2, quality=0.8)))
    assert front.judged == 3
    assert [point.plan.stacks[0].dropped for point in front.points] == [(1,), ()]


def ratios_of_ties(make_record: MakeRecord, candidates: list[Final]) -> list[list[float]]:
    """The latency ratios of the members of a front, group by group."""
    front = front_of(make_record(*candidates, finals=tuple(candidates)))
    groups: dict[int, list[float]] = {}
    for point, tie in zip(front.members, front.ties, strict=True):
        assert point.profile.latency
        groups.setdefault(tie, []).append(point.profile.latency.ratio)
    return list(groups.values())


def test_neighbours_within_the_noise_are_tied(make_record: MakeRecord, make_final: MakeFinal) -> None:
    candidates = [make_final(), make_final(1, quality=0.87, ratio=0.5), make_final(2, quality=0.86, ratio=0.49)]
    assert ratios_of_ties(make_record, candidates) == [[1.0], [0.5, 0.49]]


def test_members_of_another_quality_are_not_tied(make_record: MakeRecord, make_final: MakeFinal) -> None:
    candidates = [make_final(), make_final(1, quality=0.87, ratio=0.5), make_final(2, quality=0.5, ratio=0.49)]
    assert ratios_of_ties(make_record, candidates) == [[1.0], [0.5], [0.49]]


def test_a_group_of_ties_has_no_two_members_that_differ(make_record: MakeRecord, make_final: MakeFinal) -> None:
    qualities = {1: 0.89, 2: 0.88, 3: 0.87}
    stairs = [make_final(n, quality=quality, ratio=0.6 - 0.015 * n) for n, quality in qualities.items()]
    for group in ratios_of_ties(make_record, [make_final(), *stairs]):
        assert max(group) - min(group) <= 2 * 0.01 + 1e-9, group


def test_times_of_tokens_are_columns_only_where_they_were_measured(
    make_point: MakePoint, make_front: MakeFront
) -> None:
    def writing(point: Point, first: float, further: float | None) -> Point:
        late = Latency((first, first), 1.0, 1.0, 1.0)
        return replace(point, profile=replace(point.profile, first_token=late, seconds_per_token=further))

    base, other = writing(make_point(), 0.25, 0.002), writing(make_point(1, ratio=0.5), 0.125, None)
    found = table_of(make_front(base, base, other))
    assert set(found.columns) == {*COLUMNS, "first_token_ms", "further_token_ms"}
    assert found["first_token_ms"].tolist() == [250.0, 125.0]
    assert found["further_token_ms"].tolist() == [2.0, pytest.approx(float("nan"), nan_ok=True)]
    plain = make_point()
    assert list(table_of(make_front(plain, plain)).columns) == COLUMNS

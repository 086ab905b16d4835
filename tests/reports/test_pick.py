from collections.abc import Callable
from dataclasses import replace

import pytest

from paring.api import Study
from paring.errors import BudgetError, SettingError
from paring.reports.front import Front, Point
from paring.reports.pick import DEFAULT_LIMITS, pick_from
from paring.reports.relaxing import NothingFitsError
from paring.search.objectives import Limits
from paring.search.study import Record
from paring.search.trial import Final

MakePoint = Callable[..., Point]
MakeFront = Callable[..., Front]
MakeFinal = Callable[..., Final]
MakeRecord = Callable[..., Record]


@pytest.fixture
def front(make_point: MakePoint, make_front: MakeFront) -> Front:
    """20 ms at 0.9, 16 ms at 0.895, 10 ms at 0.87 and 4 ms at 0.7; the smallest is not the fastest."""
    return make_front(
        make_point(),
        make_point(),
        make_point(0, quality=0.895, ratio=0.8, memory=190_000_000, size=90_000_000),
        make_point(1, quality=0.87, ratio=0.5, memory=150_000_000, size=30_000_000),
        make_point(2, quality=0.7, ratio=0.2, memory=140_000_000, size=70_000_000),
    )


@pytest.mark.parametrize(
    ("limits", "dropped", "runners_up"),
    [
        (Limits(max_drop=0.5), (2,), [(1,), (0,)]),
        (Limits(max_drop=0.05), (1,), [(0,), ()]),
        (Limits(max_drop=0.0), (), []),
        (Limits(min_quality=0.89), (0,), [()]),
        (Limits(min_quality=0.89, latency_seconds=0.017), (0,), []),
        (Limits(latency_seconds=0.017), (0,), [(1,), (2,)]),
        (Limits(latency_seconds=0.005), (2,), []),
        (Limits(memory_bytes=160e6), (1,), [(2,)]),
        (Limits(size_bytes=75e6), (1,), [(2,)]),
        (Limits(max_drop=0.5, size_bytes=40e6), (1,), []),
        (None, (0,), [()]),
        (Limits(), (0,), [()]),
    ],
)
def test_cheapest_if_quality_is_bounded_else_best(
    front: Front, limits: Limits | None, dropped: tuple[int, ...], runners_up: list[tuple[int, ...]]
) -> None:
    pick = pick_from(front, limits)
    assert pick.point.plan.stacks[0].dropped == dropped
    assert [point.plan.stacks[0].dropped for point in pick.runners_up] == runners_up


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (None, "the fastest of 2 of 4 candidates that keep drop=0.01, on the test split"),
        (Limits(max_drop=0.5, size_bytes=75e6), "the fastest of 2 of 4 candidates that keep size_mb=75, drop=0.5, "),
        (Limits(latency_seconds=0.017), "the best accuracy of 3 of 4 candidates that keep latency_ms=17, "),
    ],
)
def test_the_reason_says_what_was_compared(front: Front, limits: Limits | None, reason: str) -> None:
    pick = pick_from(front, limits)
    assert pick.reason.startswith(reason)
    assert pick.limits == (limits or DEFAULT_LIMITS)


def test_of_equal_cost_the_better_and_of_equal_quality_the_faster(make_point: MakePoint, make_front: MakeFront) -> None:
    better, worse = make_point(1, quality=0.895, ratio=0.5), make_point(2, quality=0.892, ratio=0.5)
    faster = make_point(3, quality=0.895, ratio=0.4)
    assert pick_from(make_front(make_point(), worse, better)).point == better
    assert pick_from(make_front(make_point(), better, faster), Limits(latency_seconds=0.015)).point == faster


def test_the_baseline_is_a_candidate_even_off_the_front(make_point: MakePoint, make_front: MakeFront) -> None:
    base = make_point()
    pick = pick_from(make_front(base, make_point(1, quality=0.7, ratio=0.5)))
    assert (pick.point, pick.runners_up) == (base, ())


def test_size_counts_where_latency_was_not_measured(make_point: MakePoint, make_front: MakeFront) -> None:
    base = make_point(ratio=None)
    light = make_point(1, quality=0.895, ratio=None, size=10_000_000)
    lean = make_point(2, quality=0.898, ratio=None, size=60_000_000)
    front = make_front(base, lean, light, objectives=("quality", "size"))
    pick = pick_from(front)
    assert (pick.point, pick.runners_up) == (light, (lean, base))
    assert pick.reason.startswith("the smallest of 3 of 3 candidates")
    with pytest.raises(SettingError, match="latency was not measured"):
        pick_from(front, Limits(latency_seconds=0.01))


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (Limits(latency_seconds=0.001), "latency_ms=4"),
        (Limits(memory_bytes=1e6), "memory_mb=140"),
        (Limits(size_bytes=1e6), "size_mb=30"),
        (Limits(min_quality=0.99), "quality=0.9"),
        (Limits(latency_seconds=0.001, min_quality=0.91), "latency_ms=4, quality=0.9"),
    ],
)
def test_what_cannot_be_kept_names_the_tightest_that_can(front: Front, limits: Limits, named: str) -> None:
    with pytest.raises(BudgetError) as refused:
        pick_from(front, limits)
    assert f"no member of the front keeps {limits}; " in str(refused.value)
    assert f"each limit taken alone, is: {named}. Relax" in str(refused.value)


@pytest.mark.parametrize(
    ("limits", "numbers"),
    [
        (Limits(latency_seconds=1e-6), {"ratio": 1.2345612 / 20}),
        (Limits(size_bytes=1e3), {"size": 12_345_612}),
        (Limits(memory_bytes=1e3), {"memory": 123_456_123}),
        (Limits(min_quality=0.99), {"quality": 2 / 3}),
    ],
)
def test_the_limit_that_is_named_can_be_kept(
    make_point: MakePoint, make_front: MakeFront, limits: Limits, numbers: dict[str, float]
) -> None:
    member = make_point(1, noise=0.001, **numbers)
    front = make_front(make_point(quality=0.5) if limits.min_quality else make_point(), member)
    with pytest.raises(BudgetError) as refused:
        pick_from(front, limits)
    named = str(refused.value).split(" is: ")[1].split(". Relax")[0]
    assert pick_from(front, Limits.parse([named])).point == member


def test_no_pick_breaks_the_budget_of_its_search(make_record: MakeRecord, make_final: MakeFinal) -> None:
    budget = Limits(latency_seconds=0.015)
    record = make_record(make_final(), make_final(1, quality=0.7, ratio=0.5), limits=budget)
    with pytest.raises(BudgetError):
        Study(record.folder).pick()


def test_no_pick_breaks_the_budget_where_it_was_measured_whole(make_record: MakeRecord, make_final: MakeFinal) -> None:
    budget = Limits(latency_seconds=0.015)
    searched = (make_final(), make_final(1, ratio=0.74), make_final(2, quality=0.85, ratio=0.6))
    finals = (make_final(), make_final(1, ratio=0.77), make_final(2, quality=0.85, ratio=0.6))
    study = Study(make_record(*searched, finals=finals, limits=budget).folder)
    assert study.pick(drop=0.1).point.plan == finals[2].plan
    with pytest.raises(BudgetError):
        study.pick(drop=0.01)


@pytest.mark.parametrize(
    ("policy", "limits", "dropped", "kept"),
    [
        ("fastest", None, (0,), Limits(max_drop=0.01)),
        ("fastest", Limits(size_bytes=75e6), None, None),
        ("fastest", Limits(latency_seconds=0.017), (0,), Limits(latency_seconds=0.017, max_drop=0.01)),
        ("fastest", Limits(min_quality=0.8), (1,), Limits(min_quality=0.8)),
        ("best", None, (), Limits()),
        ("best", Limits(max_drop=0.05, latency_seconds=0.017), (0,), Limits(max_drop=0.05, latency_seconds=0.017)),
        ("knee", None, (1,), Limits()),
        ("knee", Limits(max_drop=0.05), (0,), Limits(max_drop=0.05)),
        ("knee", Limits(max_drop=0.01), (), Limits(max_drop=0.01)),
    ],
)
def test_policies_and_the_limits_they_fill_in(
    front: Front, policy: str, limits: Limits | None, dropped: tuple[int, ...] | None, kept: Limits | None
) -> None:
    if dropped is None:
        with pytest.raises(BudgetError, match=r"keeps size_mb=75, drop=0\.01; "):
            pick_from(front, limits, policy)
        return
    pick = pick_from(front, limits, policy)
    assert (pick.point.plan.stacks[0].dropped, pick.limits, pick.policy) == (dropped, kept, policy)


def test_the_reason_names_the_policy(front: Front) -> None:
    assert pick_from(front, None, "best").reason == "the best accuracy of 4 candidates, on the test split"
    assert pick_from(front, None, "knee").reason == (
        "the knee of accuracy against latency of 4 candidates, on the test split"
    )
    assert pick_from(front, Limits(max_drop=0.01), "knee").reason.startswith(
        "the best accuracy (there is no knee) of 2 of 4 candidates that keep drop=0.01"
    )


def test_a_policy_that_is_none_is_refused(front: Front) -> None:
    with pytest.raises(SettingError, match="unknown policy 'cheapest'"):
        pick_from(front, None, "cheapest")


def test_the_price_of_more_speed(front: Front) -> None:
    step = pick_from(front, Limits(max_drop=0.0)).step
    assert step is not None
    assert step.point.plan.stacks[0].dropped == (0,)
    assert step.gain == pytest.approx(20 / 16)
    # The original's gain over itself has no interval here but that of `make_final`: -0.02 to +0.01 around each.
    assert step.loss.value == pytest.approx(0.005)
    assert step.loss.low == pytest.approx(0.005 - (0.02**2 + 0.01**2) ** 0.5)
    assert step.loss.high == pytest.approx(0.005 + (0.01**2 + 0.02**2) ** 0.5)


def test_the_price_is_that_of_a_whole_step(make_point: MakePoint, make_front: MakeFront) -> None:
    near, far = make_point(1, quality=0.89, ratio=0.96), make_point(2, quality=0.85, ratio=0.9)
    front = make_front(make_point(), make_point(), near, far)
    step = pick_from(front, Limits(max_drop=0.0)).step
    assert step is not None and step.point == far
    assert pick_from(front, Limits(max_drop=0.02)).step is not None
    assert pick_from(front, Limits(max_drop=0.1)).step is None


def test_more_speed_keeps_every_limit_but_that_of_quality(make_point: MakePoint, make_front: MakeFront) -> None:
    heavy = make_point(1, quality=0.88, ratio=0.5, memory=300_000_000)
    light = make_point(2, quality=0.8, ratio=0.5, memory=100_000_000)
    front = make_front(make_point(), make_point(), heavy, light)
    step = pick_from(front, Limits(max_drop=0.0, memory_bytes=250e6)).step
    assert step is not None and step.point == light
    assert pick_from(front, Limits(max_drop=0.0, memory_bytes=250e6, size_bytes=1e8)).step == step


def test_without_latencies_the_step_is_one_of_size(make_point: MakePoint, make_front: MakeFront) -> None:
    base, light = make_point(ratio=None), make_point(1, quality=0.88, ratio=None, size=50_000_000)
    step = pick_from(make_front(base, base, light, objectives=("quality", "size")), Limits(max_drop=0.0)).step
    assert step is not None and (step.point, step.gain) == (light, 2.0)


def test_where_it_was_chosen_a_pick_looks_better(make_point: MakePoint, make_front: MakeFront) -> None:
    base = make_point(quality=0.9, searched=0.92)
    lucky = make_point(1, quality=0.895, ratio=0.5, searched=0.93)
    splits = pick_from(make_front(base, base, lucky)).splits
    assert splits is not None
    assert (splits.searched, splits.tested) == (lucky.searched, lucky.quality)
    assert splits.searched_drop == pytest.approx(-0.01)
    assert splits.tested_drop == pytest.approx(0.005)
    assert splits.flattery == pytest.approx(0.015)


def test_one_split_alone_says_nothing_of_luck(make_point: MakePoint, make_front: MakeFront) -> None:
    base = make_point(searched=0.9)
    for member in (make_point(1, ratio=0.5), make_point(1, ratio=0.5, searched=0.9, split="search")):
        assert pick_from(make_front(base, base, member)).splits is None


def refused(front: Front, limits: Limits) -> NothingFitsError:
    with pytest.raises(NothingFitsError) as error:
        pick_from(front, limits)
    return error.value


def test_what_to_relax_and_by_how_much(front: Front) -> None:
    error = refused(front, Limits(latency_seconds=0.008, max_drop=0.001))
    assert [(one.names, one.point.plan.stacks[0].dropped) for one in error.relaxations] == [
        (("max_drop",), (2,)),
        (("latency_seconds",), ()),
    ]
    drop, latency = error.relaxations
    assert drop.limits == Limits(latency_seconds=0.008, max_drop=drop.point.measures.drop)
    assert latency.limits == Limits(latency_seconds=0.02, max_drop=0.001)
    assert (
        "Relax drop from 0.001 to 0.2 (+0.2): encoder 5/6 layers (without 2), "
        "or latency_ms from 8 to 20 (150 % more): the original; or search longer."
    ) in str(error)


def test_the_least_is_relaxed_of_each_limit(make_point: MakePoint, make_front: MakeFront) -> None:
    near, far = make_point(1, quality=0.85, ratio=0.5), make_point(2, quality=0.8, ratio=0.5)
    error = refused(make_front(make_point(), make_point(), far, near), Limits(latency_seconds=0.011, max_drop=0.01))
    assert error.relaxations[0].point == near


def test_several_limits_are_relaxed_only_where_no_single_one_is_enough(
    make_point: MakePoint, make_front: MakeFront
) -> None:
    base = make_point()
    close = make_point(1, quality=0.85, ratio=0.5, size=50_000_000)
    front = make_front(base, base, close)
    error = refused(front, Limits(latency_seconds=0.009, size_bytes=45e6, max_drop=0.0))
    (one,) = error.relaxations
    assert (one.point, set(one.names)) == (close, {"latency_seconds", "size_bytes", "max_drop"})
    assert " and " in str(error)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(latency_seconds=0.0099),
        Limits(max_drop=0.00001, latency_seconds=0.0099),
        Limits(latency_seconds=0.001, size_bytes=1e3, memory_bytes=1e3, min_quality=0.95),
    ],
)
def test_limits_relaxed_as_printed_can_be_kept(make_point: MakePoint, make_front: MakeFront, limits: Limits) -> None:
    odd = make_point(1, quality=2 / 3, ratio=1.2345612 / 2, noise=0.001, memory=123_456_123, size=12_345_612)
    front = make_front(make_point(), make_point(), odd)
    for one in refused(front, limits).relaxations:
        assert one.limits.are_kept(one.point.measures)
        printed = Limits.parse([str(one.limits)])
        assert pick_from(front, printed, "best").point.measures.quality >= one.point.measures.quality


def test_a_limit_of_the_search_itself_is_named(make_point: MakePoint, make_front: MakeFront) -> None:
    front = replace(make_front(make_point(), make_point()), budget=Limits(latency_seconds=0.01))
    error = refused(front, Limits(max_drop=0.0))
    assert str(error).endswith("or search longer. latency_ms=10 is the budget of the search itself.")


@pytest.mark.parametrize("policy", [None, "fastest", "best", "knee"])
def test_a_run_of_one_candidate(make_point: MakePoint, make_front: MakeFront, policy: str | None) -> None:
    base = make_point(searched=0.9)
    pick = pick_from(make_front(base, base), None, policy)
    assert (pick.point, pick.runners_up, pick.step) == (base, (), None)
    assert pick.splits is not None and pick.splits.flattery == 0

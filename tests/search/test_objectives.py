import pytest

from paring.errors import SettingError
from paring.search.objectives import MEGABYTE, OBJECTIVES, Limits, Measures, check_objectives

BASELINE = Measures(0.9, 0.0, 0.010, 50e6, 40e6)
UNMEASURED = Measures(0.9, 0.0, None, None, 40e6)


@pytest.mark.parametrize(
    ("texts", "limits"),
    [
        ([], Limits()),
        (["latency_ms=10"], Limits(latency_seconds=0.01)),
        (["memory_mb=1.5"], Limits(memory_bytes=1_500_000)),
        (["size_mb=40"], Limits(size_bytes=40_000_000)),
        (["quality=0.8"], Limits(min_quality=0.8)),
        (["quality=-0.2"], Limits(min_quality=-0.2)),
        (["drop=0.02"], Limits(max_drop=0.02)),
        (["drop=0"], Limits(max_drop=0.0)),
        (["latency_ms=1e1,size_mb=40", " drop=0.02 ,"], Limits(0.01, None, 4e7, None, 0.02)),
    ],
)
def test_parse(texts: list[str], limits: Limits) -> None:
    assert Limits.parse(texts) == limits
    assert Limits.parse([str(limits)]) == limits


@pytest.mark.parametrize("size", [7_000_001, 7_000_002, 7_000_003])
def test_a_size_as_tables_have_it_keeps_a_limit_of_itself(size: int) -> None:
    assert size * 1e-6 * MEGABYTE < size  # how it would be missed
    assert Limits.parse([f"size_mb={size * 1e-6}"]) == Limits(size_bytes=size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=10", "unknown limit 'latency'.*drop, latency_ms, memory_mb, quality, size_mb.*mean 'latency_ms'"),
        ("size_mb=1,size_mb=2", "size_mb is given twice"),
        ("size_mb=nan", "size_mb must be a number, got 'nan'"),
        ("size_mb=inf", "size_mb must be a number, got 'inf'"),
        ("size_mb", "size_mb must be a number, got ''; write for instance size_mb=10"),
        ("size_mb=ten", "size_mb must be a number, got 'ten'"),
        ("latency_ms=-1", "latency must be above 0, got -0.001"),
        ("memory_mb=0", "memory must be above 0, got 0"),
        ("drop=-0.1", "drop of quality must be at least 0, got -0.1"),
    ],
)
def test_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Limits.parse([text])


@pytest.mark.parametrize(
    ("limits", "violations"),
    [
        (Limits(), {}),
        (Limits(latency_seconds=0.008), {"latency_seconds": 0.002}),
        (Limits(memory_bytes=60e6), {"memory_bytes": -10e6}),
        (Limits(size_bytes=40e6), {"size_bytes": 0.0}),
        (Limits(min_quality=0.95), {"min_quality": 0.05}),
        (Limits(min_quality=0.8, max_drop=0.01), {"min_quality": -0.1, "max_drop": -0.01}),
    ],
)
def test_violations(limits: Limits, violations: dict[str, float]) -> None:
    assert limits.violations(BASELINE) == pytest.approx(violations)
    assert limits.are_kept(BASELINE) == all(value <= 0 for value in violations.values())


@pytest.mark.parametrize("limits", [Limits(latency_seconds=1.0), Limits(memory_bytes=1e9)])
def test_a_limit_on_what_was_not_measured_is_refused(limits: Limits) -> None:
    with pytest.raises(SettingError, match=r"(latency|memory) was not measured"):
        limits.violations(UNMEASURED)
    assert len(limits.needed()) == 1
    assert Limits(size_bytes=1.0, min_quality=0.5, max_drop=0.1).needed() == set()


def test_nearest_is_the_best_reached_in_each_limit() -> None:
    limits = Limits(latency_seconds=0.001, size_bytes=1e6, min_quality=0.99, max_drop=0.001)
    reached = [BASELINE, Measures(0.8, 0.1, 0.004, 30e6, 20e6), Measures(0.85, 0.05, 0.006, 20e6, 30e6)]
    found = limits.nearest(reached)
    assert found.to_json() == pytest.approx(
        {"latency_seconds": 0.004, "size_bytes": 20e6, "min_quality": 0.9, "max_drop": 0.0}
    )


def test_nearest_as_printed_is_kept_by_the_candidate_that_reached_it() -> None:
    reached = Measures(0.87654321, 0.01234567, 0.0123456789, 317_123_456, 45_678_912)
    printed = str(Limits(1e-6, 1.0, 1.0, 1.0, 0.0).nearest([reached]))
    assert Limits.parse([printed]).are_kept(reached), printed


@pytest.mark.parametrize(
    ("objective", "value"), [("quality", -0.9), ("latency", 0.01), ("memory", 50e6), ("size", 40e6)]
)
def test_objectives_are_minimised(objective: str, value: float) -> None:
    assert BASELINE.minimised(objective) == value


@pytest.mark.parametrize("objective", ["latency", "memory"])
def test_objectives_that_were_not_measured(objective: str) -> None:
    with pytest.raises(SettingError, match=f"{objective} was not measured"):
        UNMEASURED.minimised(objective)


def test_check_objectives() -> None:
    assert check_objectives(["size", "quality", "size"]) == ("quality", "size")
    assert check_objectives(reversed(OBJECTIVES)) == OBJECTIVES
    with pytest.raises(SettingError, match=r"unknown objective 'latncy'.*Did you mean 'latency'"):
        check_objectives(["quality", "latncy"])
    with pytest.raises(SettingError, match=r"at least one objective.*quality, latency, memory, size"):
        check_objectives([])

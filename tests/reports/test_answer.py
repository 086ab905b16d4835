import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from paring.reports.answer import lines_of, refusal_to_json, to_json
from paring.reports.front import Front, Point
from paring.reports.pick import pick_from
from paring.reports.relaxing import NothingFitsError
from paring.search.objectives import Limits

MakePoint = Callable[..., Point]
MakeFront = Callable[..., Front]


@pytest.fixture
def front(make_point: MakePoint, make_front: MakeFront) -> Front:
    """20 ms at 0.9, 10 ms at 0.895 and, as fast within the noise, at 0.892, and 4 ms at 0.7."""
    members = (
        make_point(searched=0.92),
        make_point(1, quality=0.895, ratio=0.5, searched=0.93),
        make_point(2, quality=0.892, ratio=0.495, searched=0.9),
        make_point(3, quality=0.7, ratio=0.2),
    )
    return replace(make_front(members[0], *members), judged=60)


def test_a_pick_in_words(front: Front) -> None:
    lines = lines_of(pick_from(front, Limits(max_drop=0.01)), front)
    assert lines[0].startswith("encoder 5/6 layers (without 2) | accuracy 0.8920 | drop +0.0080 | 9.90 ms (2.02 times")
    assert lines[1:3] == (
        "It is the fastest of 3 of 4 candidates that keep drop=0.01, on the test split.",
        "It is faster than the original: 2.02 times as fast (95 % interval 1.98 to 2.06).",
    )
    assert lines[3].startswith("Next: encoder 5/6 layers (without 1)")
    assert lines[3].endswith(" | as fast within the noise")
    assert lines[4].startswith("Next: the original") and not lines[4].endswith("noise")
    # Drops of 0.008 and 0.2, each known to -0.01 and +0.02.
    assert lines[5:] == (
        "The next 5 % of speed costs 0.1920 of accuracy (95 % interval +0.1696 to +0.2144): "
        "encoder 5/6 layers (without 3), 2.48 times as fast.",
        "Searched among 60 candidates, accuracy was 0.9000 (0.8700 to 0.9200), drop +0.0200 on the search split; "
        "on test it is 0.8920 (0.8620 to 0.9120), drop +0.0080. Beside the original it looked 0.0120 worse where it "
        "was searched. Picked among 4 by the test numbers, these flatter it a little too.",
    )


def test_a_price_within_the_noise_is_called_that(front: Front) -> None:
    lines = lines_of(pick_from(front, Limits(max_drop=0.0)), front)
    assert lines[2] == "It is the original, unchanged."
    assert "costs 0.0050 of accuracy (95 % interval -0.0174 to +0.0274, which may be noise): " in lines[-1]
    assert "Searched" not in lines[-1]


def test_the_fastest_has_no_next_step(front: Front) -> None:
    pick = pick_from(front, Limits(max_drop=0.5))
    assert "Nothing on the front is 5 % faster." in lines_of(pick, front)
    assert to_json(pick, front)["next_step"] is None


def test_without_latencies_sizes_are_spoken_of(make_point: MakePoint, make_front: MakeFront) -> None:
    base, light = make_point(ratio=None), make_point(1, quality=0.88, ratio=None, size=50_000_000)
    front = make_front(base, base, light, objectives=("quality", "size"))
    assert any(
        line.startswith("The next 5 % of size costs 0.0200") and line.endswith(", 2.00 times as small.")
        for line in lines_of(pick_from(front, Limits(max_drop=0.0)), front)
    )
    lines = lines_of(pick_from(front, Limits(max_drop=0.5)), front)
    assert "It is NOT known to be faster than the original: latency was not measured." in lines
    assert "Nothing on the front is 5 % smaller." in lines


def test_a_run_that_goes_on_is_not_final(front: Front) -> None:
    pick = pick_from(front, Limits(max_drop=0.01))
    assert not any(line.startswith("Not final") for line in lines_of(pick, front))
    searched = replace(front, split="search")
    assert sum(line.startswith("Not final: ") for line in lines_of(pick, searched)) == 1
    assert (to_json(pick, front)["is_final"], to_json(pick, searched)["is_final"]) == (True, False)


def test_a_pick_for_programs(front: Front) -> None:
    pick = pick_from(front, Limits(max_drop=0.01))
    answer = json.loads(json.dumps(to_json(pick, front), allow_nan=False))
    assert answer["fingerprint"] == pick.point.plan.fingerprint
    assert (answer["policy"], answer["limits"], answer["speedup"]) == ("fastest", {"max_drop": 0.01}, 1 / 0.495)
    assert [one["speedup"] for one in answer["runners_up"]] == [2.0, 1.0]
    step = {name: answer["next_step"][name] for name in ("times_as_cheap", "loss", "loss_low", "loss_high")}
    expected = {"times_as_cheap": 0.495 / 0.2, "loss": 0.192, "loss_low": 0.192 - 5**0.5 / 100}
    assert step == pytest.approx({**expected, "loss_high": 0.192 + 5**0.5 / 100})
    assert answer["splits"] == {
        "search": {
            "quality": 0.9,
            "quality_low": 0.87,
            "quality_high": 0.92,
            "drop": pytest.approx(0.02),
            "examples": 2,
        },
        "test": {
            "quality": 0.892,
            "quality_low": pytest.approx(0.862),
            "quality_high": pytest.approx(0.912),
            "drop": pytest.approx(0.008),
            "examples": 2,
        },
        "flattery": pytest.approx(-0.012),
        "searched_among": 60,
        "picked_among": 4,
    }


def test_a_refusal_for_programs(front: Front) -> None:
    with pytest.raises(NothingFitsError) as refused:
        pick_from(front, Limits(latency_seconds=0.008, max_drop=0.01))
    answer = json.loads(json.dumps(refusal_to_json(refused.value, front), allow_nan=False))
    assert (answer["plan"], answer["limits"]) == (None, {"latency_seconds": 0.008, "max_drop": 0.01})
    assert answer["nearest"] == {"latency_seconds": pytest.approx(0.004), "max_drop": pytest.approx(0.0)}
    drop, latency = sorted(answer["relaxations"], key=lambda one: one["relaxed"][0], reverse=True)
    assert (drop["relaxed"], drop["latency_ms"]) == (["max_drop"], pytest.approx(4.0))
    assert (latency["relaxed"], latency["limits"]["latency_seconds"]) == (["latency_seconds"], pytest.approx(0.0099))

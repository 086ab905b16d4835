from collections.abc import Callable

import numpy as np
import pytest

from paring.reports.ablation import ablation
from paring.reports.dominance import hypervolume, non_dominated
from paring.reports.front import front_of, trial_point
from paring.reports.over_time import Volume, growth, reference_in_words
from paring.search.study import Record
from paring.search.trial import Final, State
from paring.spaces.plan import Plan

MakeFinal = Callable[..., Final]
MakePlan = Callable[..., Plan]
MakeRecord = Callable[..., Record]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_a_volume_that_grows_is_the_hypervolume_of_all_points_so_far(objectives: int) -> None:
    draw = np.random.default_rng(objectives)
    # On a coarse grid, so that points are equal to others, or lie on the bounds, now and then.
    points, reference = draw.integers(0, 9, (60, objectives)) / 8, np.ones(objectives)
    volume = Volume(objectives, reference)
    for count, point in enumerate(points, 1):
        before = volume.value
        grew = volume.add(point)
        known = points[:count]
        assert volume.value == pytest.approx(hypervolume(known[non_dominated(known)], reference))
        assert grew == (volume.value > before + 1e-12)


def test_growth_counts_what_keeps_the_budget_and_ends_with_the_last_trial(
    make_record: MakeRecord, make_final: MakeFinal, make_plan: MakePlan
) -> None:
    record = make_record(
        make_final(),
        make_final(1, quality=0.9, ratio=0.5),
        (make_plan(2), State.FAILED, "broken"),
        make_final(3, quality=0.88, ratio=0.6),
        make_final(4, quality=0.9, ratio=0.25),
        make_final(5, quality=0.5, ratio=0.1),
    )
    trials = record.trials()
    baseline = trial_point(trials[0])
    rows = growth(trials, baseline, record)
    # A tenth of the quality may be lost: of the whole area 0.1 x 1, half is left to win at half the time.
    assert [(row["trials"], row["hypervolume"]) for row in rows] == [
        (1, 0.0),
        (2, pytest.approx(0.05)),
        (5, pytest.approx(0.075)),
        (6, pytest.approx(0.075)),
    ]
    assert [row["minutes"] for row in rows] == sorted(row["minutes"] for row in rows)
    assert rows[-1]["hypervolume"] == pytest.approx(front_of(record).hypervolume)


def test_the_reference_point_is_said_in_words() -> None:
    assert reference_in_words(["quality", "latency", "size"]) == (
        "10% of the baseline's quality lost, at the baseline's own latency and size"
    )
    assert reference_in_words(["latency"]) == "the baseline's own latency"


def test_an_axis_left_out_leaves_the_trials_that_did_not_use_it(make_record: MakeRecord, make_final: MakeFinal) -> None:
    record = make_record(
        make_final(),
        make_final(1, quality=0.895, ratio=0.8),
        make_final(bits=True, quality=0.9, ratio=0.5),
        make_final(1, bits=True, quality=0.894, ratio=0.4),
        make_final(1, 2, bits=True, quality=0.7, ratio=0.2),
    )
    trials = record.trials()
    found = ablation(trials, trial_point(trials[0]), ("depth", "bits"), front_of(record))
    assert [(one.title, one.trials) for one in found] == [("all axes", 5), ("bits alone", 2), ("depth alone", 2)]
    whole, bits, depth = found
    assert whole.hypervolume == pytest.approx(front_of(record).hypervolume)
    assert bits.hypervolume == pytest.approx(0.1 * 0.5)
    assert depth.hypervolume == pytest.approx((0.1 - 0.005 / 0.9) * 0.2)
    assert [one.best and one.best.plan for one in found] == [trials[3].plan, trials[2].plan, trials[1].plan]


def test_three_axes_are_left_out_one_by_one_and_then_taken_alone(
    make_record: MakeRecord, make_final: MakeFinal
) -> None:
    record = make_record(make_final(), make_final(bits=True, ratio=0.5))
    trials = record.trials()
    found = ablation(trials, trial_point(trials[0]), ("assembly", "depth", "bits"), front_of(record))
    assert [one.title for one in found] == [
        "all axes", "without assembly", "without depth", "without bits", "assembly alone", "depth alone", "bits alone",
    ]  # fmt: skip
    assert [one.trials for one in found] == [2, 2, 2, 1, 1, 1, 2]


def test_one_axis_has_nothing_to_be_compared_with(make_record: MakeRecord, make_final: MakeFinal) -> None:
    record = make_record(make_final(), make_final(1, ratio=0.5))
    trials = record.trials()
    assert len(ablation(trials, trial_point(trials[0]), ("depth",), front_of(record))) == 1

import json
from math import sqrt

import numpy as np
import pytest

from paring.errors import MeasurementError
from paring.search.quality import Quality, difference, judge

Z = 1.959963984540054


def accuracy(labels: np.ndarray, outcomes: np.ndarray) -> float:
    return float(np.mean(labels == outcomes))


def mean(labels: np.ndarray, outcomes: np.ndarray) -> float:
    return float(outcomes.mean())


@pytest.mark.parametrize(
    ("right", "total", "low", "high"), [(8, 10, 0.490162, 0.943318), (10, 10, 0.722467, 1.0), (0, 10, 0.0, 0.277533)]
)
def test_accuracy_has_wilsons_interval(right: int, total: int, low: float, high: float) -> None:
    labels = np.ones(total)
    found = judge("accuracy", accuracy, labels, np.arange(total) < right, "search")
    assert (found.metric, found.value, found.split) == ("accuracy", right / total, "search")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    share = right / total
    centre = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_other_metrics_have_the_bootstrap_interval() -> None:
    outcomes = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    found = judge("mean", mean, np.zeros(2000), outcomes, "test")
    half = Z * outcomes.std() / sqrt(2000)
    assert found.value == outcomes.mean()
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=0.1)


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        labels = draw.integers(0, 2, 150).astype(float)
        one, other = (np.where(draw.random(150) < share, labels, 1 - labels) for share in (0.85, 0.75))
        found = difference(accuracy, labels, one.tolist(), other.tolist())
        covered += found.low <= 0.10 <= found.high
    # 57 of 60 are expected at 95 %; fewer than 51 has a probability of 0.1 %.
    assert covered >= 51


def test_a_difference_is_positive_where_the_one_is_better() -> None:
    labels = np.array([0.0, 1.0] * 50)
    wrong = np.where(np.arange(100) < 30, 1 - labels, labels)
    better, worse = difference(accuracy, labels, labels, wrong), difference(accuracy, labels, wrong, labels)
    assert better.value == -worse.value == pytest.approx(0.3)
    assert 0.2 < better.low < 0.3 < better.high < 0.4
    assert worse.high < 0


def test_equal_answers_differ_by_nothing() -> None:
    labels = np.random.default_rng(0).integers(0, 2, 40).astype(float)
    answers = np.random.default_rng(1).integers(0, 2, 40).astype(float)
    found = difference(accuracy, labels, answers, answers)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_examples_are_drawn_for_both_models_at_once() -> None:
    outcomes = np.arange(50.0) ** 2
    found = difference(mean, np.zeros(50), (outcomes + 1).tolist(), outcomes.tolist())
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1), abs=1e-9)


def test_a_single_example_is_judged() -> None:
    one = np.ones(1)
    assert judge("mean", mean, one, one, "search").value == 1
    assert difference(accuracy, one, one, np.zeros(1)).value == 1


def test_json_round_trip() -> None:
    quality = Quality("f1", 0.1 + 0.2, 0.1, 0.7, "search", (0.0, 1.0, 0.1))
    assert Quality.from_json(json.loads(json.dumps(quality.to_json()))) == quality
    judged = judge("accuracy", accuracy, np.ones(3), np.array([1, 0, 1]), "test")
    assert Quality.from_json(json.loads(json.dumps(judged.to_json()))) == judged
    assert judged.outcomes == (1, 0, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(MeasurementError, match="2 answers that are not finite"):
        judge("accuracy", accuracy, np.ones(4), np.array([1, value, 0, value]), "search")
    with pytest.raises(MeasurementError, match="not finite"):
        judge("accuracy", lambda labels, outcomes: value, np.ones(4), np.ones(4), "search")

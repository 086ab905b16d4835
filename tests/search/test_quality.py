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


def ratio(labels: np.ndarray, outcomes: np.ndarray) -> float:
    """Of two sums: a metric that needs two numbers per example."""
    hits, total = outcomes.sum(axis=0)
    return float(hits / total)


def statistics_of(count: int, seed: int, rate: float) -> np.ndarray:
    draw = np.random.default_rng(seed)
    totals = draw.integers(1, 30, count)
    return np.stack([draw.binomial(totals, rate), totals], axis=1).astype(float)


def test_statistics_of_examples_are_drawn_together() -> None:
    """The interval of a ratio of sums, against the delta method."""
    rows = statistics_of(1500, 0, 0.3)
    found = judge("ratio", ratio, np.zeros(1500), rows, "test")
    assert found.value == rows[:, 0].sum() / rows[:, 1].sum()
    residuals = (rows[:, 0] - found.value * rows[:, 1]) / rows[:, 1].mean()
    half = Z * residuals.std() / sqrt(1500)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=0.12)


def test_a_difference_of_statistics_is_paired() -> None:
    rows = statistics_of(200, 1, 0.5)
    better = rows + np.array([1, 0])
    one, other = (judge("ratio", ratio, np.zeros(200), found, "test").outcomes for found in (better, rows))
    found = difference(ratio, np.zeros(200), one, other)
    assert found.value == pytest.approx(200 / rows[:, 1].sum())
    assert 0 < found.low < found.value < found.high < 1.3 * found.value
    same = difference(ratio, np.zeros(200), other, other)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_json_round_trip_of_statistics() -> None:
    judged = judge("ratio", ratio, np.zeros(4), statistics_of(4, 2, 0.5), "test")
    assert len(judged.outcomes) == 4 and all(isinstance(row, tuple) and len(row) == 2 for row in judged.outcomes)
    again = Quality.from_json(json.loads(json.dumps(judged.to_json())))
    assert again == judged and hash(again) == hash(judged)


def test_statistics_that_are_not_finite_are_refused() -> None:
    rows = statistics_of(4, 2, 0.5)
    rows[1, 0] = np.nan
    with pytest.raises(MeasurementError, match="1 answers that are not finite"):
        judge("ratio", ratio, np.zeros(4), rows, "search")

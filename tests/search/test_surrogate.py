"""The surrogate finds what is additive, tells how sure it is, and stays quick."""

from collections.abc import Callable
from time import process_time

import numpy as np
import pytest

from paring.search.samplers.surrogate import Surrogate

FEATURES = 12


def rows_of(count: int, seed: int) -> np.ndarray:
    """Plans that have any of twelve features, the original first."""
    draw = np.random.default_rng(seed)
    return np.vstack([np.zeros(FEATURES), (draw.random((count - 1, FEATURES)) < 0.4) / FEATURES])


def additive(rows: np.ndarray) -> np.ndarray:
    return rows @ np.linspace(0.2, 2.0, FEATURES)


def plateau(rows: np.ndarray) -> np.ndarray:
    """Nothing is lost up to a point, and ever more from there on."""
    return 3 * np.maximum(0.0, additive(rows) - 0.3) ** 1.5


@pytest.mark.parametrize(("truth", "share"), [(additive, 0.15), (plateau, 0.35)])
def test_losses_are_found_within_their_intervals(truth: Callable[[np.ndarray], np.ndarray], share: float) -> None:
    """By how much a guess errs is a small share of how far plans differ, and where it errs it says so."""
    known, asked = rows_of(60, seed=1), rows_of(300, seed=2)
    losses = truth(known) + np.random.default_rng(3).normal(0, 0.01, 60)
    means, deviations = Surrogate(known, losses).predict(asked)
    errors = means - truth(asked)
    assert np.sqrt((errors**2).mean()) < share * truth(asked).std()
    assert (np.abs(errors) < 2 * deviations).mean() > 0.85
    assert deviations.mean() < 0.5 * truth(asked).std()


def test_far_from_all_plans_it_is_less_sure() -> None:
    known = rows_of(30, seed=1)
    surrogate = Surrogate(known, additive(known))
    _, deviations = surrogate.predict(np.vstack([known[:5], 3 * np.ones((1, FEATURES))]))
    assert deviations[5] > 3 * deviations[:5].max()


def test_the_original_alone_is_enough() -> None:
    means, deviations = Surrogate(np.zeros((1, 3)), np.zeros(1)).predict(np.eye(3))
    assert means == pytest.approx([0, 0, 0])
    assert np.isfinite(deviations).all()
    assert (deviations > 0).all()


def test_equal_plans_and_equal_losses_do_no_harm() -> None:
    rows = np.repeat(rows_of(4, seed=0), 5, axis=0)
    means, deviations = Surrogate(rows, np.full(20, 0.3)).predict(rows)
    assert np.isfinite(means).all()
    assert np.isfinite(deviations).all()


def test_a_shape_that_was_found_is_used_again() -> None:
    known = rows_of(40, seed=1)
    first = Surrogate(known, additive(known))
    again = Surrogate(known, additive(known), first.shape)
    asked = rows_of(10, seed=2)
    assert np.array_equal(first.predict(asked), again.predict(asked))


def test_three_hundred_plans_with_many_features_are_fitted_in_time() -> None:
    """A generous bound: it takes about 0.2 s."""
    draw = np.random.default_rng(0)
    rows = np.vstack([np.zeros(600), draw.random((299, 600)) / 600])
    begun = process_time()
    Surrogate(rows, rows.sum(axis=1)).predict(rows)
    assert process_time() - begun < 3.0

"""Expected growth of a front, against Monte Carlo with the hypervolume of reports, and against numbers by hand."""

import numpy as np
import pytest

from paring.reports.dominance import hypervolume
from paring.search.samplers.improvement import Front, expected_improvement

SAMPLES = 600


@pytest.mark.parametrize("n_costs", [0, 1, 2, 3])
def test_growth_is_the_mean_over_draws(n_costs: int) -> None:
    draw = np.random.default_rng(n_costs)
    known, reference = draw.random((7, n_costs + 1)), np.full(n_costs + 1, 0.9)
    front = Front(known[:, 0], known[:, 1:], worst_loss=0.9, reference=reference[1:])
    # Near the front, where something is to be gained.
    costs, means, deviations = 0.5 * draw.random((4, n_costs)), 0.6 * draw.random(4), 0.1 + 0.2 * draw.random(4)
    found = front.expected_growth(means, deviations, costs)
    before = hypervolume(known, reference)
    for own, mean, deviation, expected in zip(costs, means, deviations, found, strict=True):
        points = np.column_stack([draw.normal(mean, deviation, SAMPLES), np.tile(own, (SAMPLES, 1))])
        grown = [hypervolume(np.vstack([known, point]), reference) - before for point in points]
        # What no draw reached is worth next to nothing.
        assert expected == pytest.approx(np.mean(grown), abs=5 * np.std(grown) / SAMPLES**0.5 + 1e-5)
    assert (found > 0).any()


@pytest.mark.parametrize("n_costs", [1, 2, 3])
def test_costs_alone(n_costs: int) -> None:
    draw = np.random.default_rng(n_costs)
    known, asked, reference = draw.random((6, n_costs)), draw.random((20, n_costs)), np.full(n_costs, 0.9)
    front = Front(np.full(6, -np.inf), known, worst_loss=1.0, reference=reference)
    before = hypervolume(known, reference)
    grown = [hypervolume(np.vstack([known, one]), reference) - before for one in asked]
    assert front.growth(asked) == pytest.approx(grown)


def test_many_members_of_three_costs_are_counted_with_few_edges() -> None:
    """Costs are then rounded up, so growth is over- and never underestimated, and by little."""
    draw = np.random.default_rng(0)
    known, reference = draw.random((60, 4)), np.ones(4)
    front = Front(known[:, 0], known[:, 1:], worst_loss=1.0, reference=reference[1:])
    costs, before = 0.3 * draw.random((4, 3)), hypervolume(known, reference)
    found = front.expected_growth(np.full(4, 0.05), np.full(4, 1e-9), costs)
    exact = [hypervolume(np.vstack([known, [0.05, *own]]), reference) - before for own in costs]
    assert (found >= np.array(exact) - 1e-12).all()
    assert found == pytest.approx(exact, rel=0.3)


def test_an_empty_front_and_points_beyond_the_reference() -> None:
    front = Front(np.array([2.0]), np.array([[0.5]]), worst_loss=1.0, reference=np.array([1.0]))
    costs, sure = np.array([[0.25], [1.0], [1.5]]), np.full(3, 1e-9)
    assert front.expected_growth(np.zeros(3), sure, costs) == pytest.approx([0.75, 0, 0])
    assert front.expected_growth(np.full(3, 3.0), sure, costs).tolist() == [0, 0, 0]
    short = front.shortfall(np.full(3, 3.0), np.ones(3), costs)
    assert short[0] == 2
    assert short[0] < short[2]


def test_expected_improvement_by_hand() -> None:
    found = expected_improvement(np.array([0.0, 1.0, -np.inf]), np.zeros(3), np.ones(3))
    assert found == pytest.approx([0.3989422804, 1.0833154706, 0.0])

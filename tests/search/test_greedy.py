import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from paring.errors import SearchError, SettingError
from paring.search.greedy import Ties, greedy_order

# bert-base-uncased on RTE, chosen on the development set: the scores of every step as the authors of "Greedy-layer
# pruning" (arXiv 2105.14839) published them in github.com/deepopinion/greedy-layer-pruning, commit 698e4db.
PUBLISHED_ORDER = (5, 8, 7, 6, 10, 1)
PUBLISHED_STEPS = (
    {0: 0.625, 1: 0.628, 2: 0.628, 3: 0.588, 4: 0.606, 5: 0.671, 6: 0.657, 7: 0.653, 8: 0.65, 9: 0.617, 10: 0.614}
    | {11: 0.599},
    {0: 0.635, 1: 0.61, 2: 0.61, 3: 0.603, 4: 0.625, 6: 0.65, 7: 0.635, 8: 0.686, 9: 0.617, 10: 0.614, 11: 0.585},
    {0: 0.635, 1: 0.639, 2: 0.628, 3: 0.61, 4: 0.625, 6: 0.639, 7: 0.661, 9: 0.646, 10: 0.657, 11: 0.617},
    {0: 0.653, 1: 0.625, 2: 0.639, 3: 0.632, 4: 0.614, 6: 0.653, 9: 0.65, 10: 0.635, 11: 0.65},
    {0: 0.632, 1: 0.61, 2: 0.617, 3: 0.621, 4: 0.621, 9: 0.617, 10: 0.643, 11: 0.625},
    {0: 0.617, 1: 0.653, 2: 0.643, 3: 0.606, 4: 0.625, 9: 0.599, 11: 0.643},
)
SHAPES = [(1, 0), (1, 1), (2, 1), (4, 2), (5, 4), (7, 3), (9, 8)]


Score = Callable[[tuple[int, ...]], float]


class Asked:
    """A score that remembers what it was asked."""

    def __init__(self, score: Score) -> None:
        self.score, self.sets = score, list[tuple[int, ...]]()

    def __call__(self, removed: tuple[int, ...]) -> float:
        self.sets.append(removed)
        return self.score(removed)


def additive(worth: Sequence[float]) -> Score:
    return lambda removed: sum(worth) - sum(worth[layer] for layer in removed)


def noisy(seed: int, levels: int) -> Score:
    """A score per set of layers, with ties where there are few levels."""
    return lambda removed: random.Random(f"{seed} {sorted(removed)}").randrange(levels) / levels


def brute_force(n_layers: int, score: Score, depth: int, decimals: int | None, ties: Ties) -> list[int]:
    gone: list[int] = []
    while len(gone) < min(depth, n_layers - 1):
        left = sorted(set(range(n_layers)) - set(gone), reverse=ties == "high")
        values = [score((*gone, layer)) for layer in left]
        if decimals is not None:
            values = [round(value, decimals) for value in values]
        gone.append(left[values.index(max(values))])
    return gone


def test_published_log_of_greedy_layer_pruning() -> None:
    assert sum(len(step) for step in PUBLISHED_STEPS) == 57
    score = Asked(lambda removed: PUBLISHED_STEPS[len(removed) - 1][removed[-1]])
    found = greedy_order(12, score, 6, decimals=3, ties="high")
    assert found.order == PUBLISHED_ORDER
    assert found.scores == PUBLISHED_STEPS
    assert found.evaluations == len(score.sets) == 57
    assert all(removed[:-1] == PUBLISHED_ORDER[: len(removed) - 1] for removed in score.sets)


@pytest.mark.parametrize(
    ("worth", "ties", "order"),
    [
        ((5.0, 1.0, 4.0, 2.0), "high", (1, 3, 2)),
        ((1.0, 2.0, 3.0, 4.0), "high", (0, 1, 2)),
        ((1.0, 1.0, 1.0, 1.0), "high", (3, 2, 1)),
        ((1.0, 1.0, 1.0, 1.0), "low", (0, 1, 2)),
        ((2.0, 1.0, 2.0, 1.0), "low", (1, 3, 0)),
        ((-1.0, -3.0, 0.0, -2.0), "low", (1, 3, 0)),
    ],
)
def test_least_worth_goes_first(worth: tuple[float, ...], ties: Ties, order: tuple[int, ...]) -> None:
    assert greedy_order(4, additive(worth), 3, ties=ties).order == order


def test_a_step_is_scored_on_top_of_earlier_ones() -> None:
    table = {(0,): 0.5, (1,): 0.9, (2,): 0.8, (1, 0): 0.7, (1, 2): 0.1}
    score = Asked(table.__getitem__)
    found = greedy_order(3, score, 2)
    assert score.sets == [(0,), (1,), (2,), (1, 0), (1, 2)]
    assert found.order == (1, 0)
    assert found.scores == ({0: 0.5, 1: 0.9, 2: 0.8}, {0: 0.7, 2: 0.1})


def test_decimals_decide_what_a_tie_is() -> None:
    table = (0.9001, 0.9004, 0.9002)
    orders = {
        (decimals, ties): greedy_order(3, lambda removed: table[removed[-1]], 1, decimals=decimals, ties=ties).order
        for decimals in (None, 3)
        for ties in ("high", "low")
    }
    assert orders == {(None, "high"): (1,), (None, "low"): (1,), (3, "high"): (2,), (3, "low"): (0,)}


def test_scores_are_kept_unrounded() -> None:
    assert greedy_order(2, lambda removed: 0.12345, 1, decimals=1).scores == ({0: 0.12345, 1: 0.12345},)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_layers", "depth"), SHAPES)
def test_no_set_is_asked_for_twice(n_layers: int, depth: int, seed: int) -> None:
    score = Asked(noisy(seed, 4))
    found = greedy_order(n_layers, score, depth)
    steps = min(depth, n_layers - 1)
    asked = {frozenset(removed) for removed in score.sets}
    assert len(asked) == len(score.sets) == found.evaluations == n_layers * steps - steps * (steps - 1) // 2
    assert len(found.order) == len(set(found.order)) == len(found.scores) == steps


@pytest.mark.parametrize("ties", ["high", "low"])
@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("levels", [2, 7, 1000])
@pytest.mark.parametrize(("n_layers", "depth"), SHAPES)
def test_agrees_with_an_independent_implementation(
    n_layers: int, depth: int, levels: int, decimals: int | None, ties: Ties
) -> None:
    for seed in range(10):
        score = noisy(seed, levels)
        found = greedy_order(n_layers, score, depth, decimals=decimals, ties=ties)
        assert list(found.order) == brute_force(n_layers, score, depth, decimals, ties), f"seed {seed}"


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_is_an_answer(seed: int) -> None:
    orders = [greedy_order(6, noisy(seed, 3), depth).order for depth in range(6)]
    assert orders[0] == ()
    assert all(longer[:-1] == shorter for shorter, longer in pairwise(orders))


@pytest.mark.parametrize("depth", [3, 4, 99])
def test_one_layer_always_stays(depth: int) -> None:
    assert greedy_order(4, additive((1, 2, 3, 4)), depth).order == (0, 1, 2)
    assert greedy_order(1, additive((1,)), depth).order == ()


@pytest.mark.parametrize(
    ("n_layers", "depth", "ties", "message"),
    [
        (0, 1, "high", "n_layers >= 1 and depth >= 0, got 0 and 1"),
        (3, -1, "high", "n_layers >= 1 and depth >= 0, got 3 and -1"),
        (3, 1, "hihg", "tie rule 'hihg'.*high, low.*Did you mean 'high'"),
    ],
)
def test_refuses_illegal_settings(n_layers: int, depth: int, ties: Ties, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        greedy_order(n_layers, additive((1, 2, 3)), depth, ties=ties)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [(0,), (2,), (2, 1)])
def test_refuses_scores_that_are_not_finite(value: float, where: tuple[int, ...]) -> None:
    score = additive((2, 3, 1))
    with pytest.raises(SearchError, match=rf"{value} for the model without layers \({where[0]},"):
        greedy_order(3, lambda removed: value if removed == where else score(removed), 2)

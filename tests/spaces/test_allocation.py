"""Allocation against brute force over all combinations."""

import random
from itertools import product

import pytest

from paring.errors import BudgetError
from paring.spaces.allocation import Option, allocate


def problem(seed: int, parts: int = 5, ways: int = 4) -> dict[str, list[Option]]:
    draw = random.Random(seed)
    return {
        f"part{part}": [
            Option(f"way{way}", draw.uniform(1, 10), draw.uniform(0, 5) if way else 0.0) for way in range(ways)
        ]
        for part in range(parts)
    }


def total(options: dict[str, list[Option]], picked: dict[str, str]) -> tuple[float, float]:
    chosen = [next(o for o in options[part] if o.name == name) for part, name in picked.items()]
    return sum(o.cost for o in chosen), sum(o.harm for o in chosen)


def best_harm(options: dict[str, list[Option]], budget: float) -> float:
    return min(
        sum(o.harm for o in combination)
        for combination in product(*options.values())
        if sum(o.cost for o in combination) <= budget
    )


@pytest.mark.parametrize("seed", range(40))
def test_close_to_the_best_there_is(seed: int) -> None:
    """No better than brute force, and worse by no more than the one step that did not fit."""
    options = problem(seed)
    least = sum(min(o.cost for o in found) for found in options.values())
    for budget in (least, least * 1.2, least * 1.5, least * 3):
        cost, harm = total(options, allocate(options, budget))
        assert cost <= budget
        assert best_harm(options, budget) <= harm <= best_harm(options, budget) + 5.0


@pytest.mark.parametrize("price", [0.0, 0.1, 0.3, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("seed", range(20))
def test_exact_for_budgets_that_a_price_would_spend(seed: int, price: float) -> None:
    """Where every part takes what is best at one price per cost, nothing else of that total does less harm."""
    options = problem(seed)
    picked = {part: min(found, key=lambda o: o.harm + price * o.cost).name for part, found in options.items()}
    cost, harm = total(options, picked)
    assert harm == pytest.approx(best_harm(options, cost))
    assert total(options, allocate(options, cost * (1 + 1e-12)))[1] == pytest.approx(harm)


def test_a_known_answer() -> None:
    options = {
        "robust": [Option("float", 32, 0), Option("w8", 8, 0.01), Option("w4", 4, 0.02)],
        "fragile": [Option("float", 32, 0), Option("w8", 8, 1.0), Option("w4", 4, 9.0)],
    }
    assert allocate(options, 12) == {"robust": "w4", "fragile": "w8"}
    assert allocate(options, 36) == {"robust": "w4", "fragile": "float"}
    assert allocate(options, 64) == {"robust": "float", "fragile": "float"}
    assert allocate(options, 8) == {"robust": "w4", "fragile": "w4"}


def test_what_costs_more_and_harms_more_is_never_taken() -> None:
    options = {"part": [Option("float", 10, 0), Option("bad", 9, 5), Option("good", 8, 1)]}
    assert allocate(options, 9.5) == {"part": "good"}


def test_a_budget_out_of_reach_is_refused() -> None:
    with pytest.raises(BudgetError, match="cost 3"):
        allocate({"part": [Option("w4", 3, 1)]}, 2.9)

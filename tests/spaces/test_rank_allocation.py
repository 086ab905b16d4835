"""Ranks under a budget: against trying all, and at the edges."""

from itertools import product

import pytest
import torch
from torch import Tensor

from paring.errors import BudgetError
from paring.spaces.rank_allocation import allocate_ranks

SHAPES = {"one": (6, 4), "two": (6, 4), "wide": (3, 12)}


def falling(*values: float) -> Tensor:
    """Harms of rank 0 on, from squared singular values."""
    found = torch.tensor([*values, 0.0], dtype=torch.float64)
    return found.flip(0).cumsum(0).flip(0)


HARMS = {"one": falling(9, 4, 1, 0.1), "two": falling(2, 1, 0.5, 0.4), "wide": falling(30, 5, 3)}


def cost(part: str, rank: int | None) -> int:
    rows, columns = SHAPES[part]
    return rows * columns if rank is None else rank * (rows + columns)


@pytest.mark.parametrize("numbers", [35, 45, 60, 75, 84])
def test_no_choice_within_what_was_spent_does_less_harm(numbers: int) -> None:
    found = allocate_ranks(HARMS, SHAPES, numbers)
    spent = sum(cost(part, rank) for part, rank in found.items())
    assert spent <= numbers

    def harm(ranks: dict[str, int | None]) -> float:
        return sum(0.0 if rank is None else float(HARMS[part][rank]) for part, rank in ranks.items())

    menus = [[1, 2, None], [1, 2, None], [1, 2, None]]
    for ranks in product(*menus):
        other = dict(zip(SHAPES, ranks, strict=True))
        if sum(cost(part, rank) for part, rank in other.items()) <= spent:
            assert harm(found) <= harm(other) + 1e-9


def test_what_factors_would_not_make_smaller_stays() -> None:
    """Rank 3 of a 6 x 4 weight is 30 numbers, more than its 24."""
    assert allocate_ranks(HARMS, SHAPES, 1e9) == dict.fromkeys(SHAPES)
    assert allocate_ranks({"one": HARMS["one"]}, SHAPES, 23) == {"one": 2}


def test_a_budget_below_ranks_of_one_is_refused() -> None:
    with pytest.raises(BudgetError, match="cost 35, more than the budget of 34"):
        allocate_ranks(HARMS, SHAPES, 34)

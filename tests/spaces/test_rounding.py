"""Rounding with error feedback: where it must do nothing, where it must help, and that it is exact algebra."""

import pytest
import torch
from torch import Tensor

from paring.errors import PlanError
from paring.spaces.blocks import Quantised, quantise
from paring.spaces.precision import Precision
from paring.spaces.rounding import round_with_feedback

TEXTS = ["w4-64x64-pow2", "w4a8-64x64-pow2", "w3-1x32", "w2-1x32", "w3"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(rows: int, columns: int) -> Tensor:
    """Inputs that lie near a few directions, some columns ten times larger."""
    inputs = normal(rows, 12, seed=1) @ normal(12, columns, seed=2) + 0.1 * normal(rows, columns, seed=3)
    inputs[:, ::17] *= 10
    return inputs


def output_error(found: Quantised, weight: Tensor, inputs: Tensor) -> float:
    return float((inputs @ (found.dense() - weight).T).square().mean())


@pytest.mark.parametrize("text", TEXTS)
def test_outputs_err_less_than_after_rounding_to_the_nearest(text: str) -> None:
    weight, inputs, precision = normal(48, 100), correlated(400, 100), Precision.parse(text)
    moments = inputs.T @ inputs
    fed_back = output_error(round_with_feedback(weight, precision, moments), weight, inputs)
    nearest = output_error(quantise(weight, precision, importance=moments.diagonal()), weight, inputs)
    assert fed_back < 0.6 * nearest


@pytest.mark.parametrize("text", TEXTS)
def test_uncorrelated_inputs_give_the_nearest(text: str) -> None:
    weight, importance = normal(48, 100), torch.rand(100, generator=torch.Generator().manual_seed(0)) + 0.5
    found = round_with_feedback(weight, Precision.parse(text), torch.diag(importance))
    nearest = quantise(weight, Precision.parse(text), importance=importance)
    assert torch.equal(found.scale, nearest.scale)
    assert torch.equal(found.integers, nearest.integers)


@pytest.mark.parametrize("text", TEXTS)
def test_the_unit_of_the_inputs_does_not_matter(text: str) -> None:
    weight, inputs = normal(48, 100), correlated(400, 100)
    moments = inputs.T @ inputs
    one = round_with_feedback(weight, Precision.parse(text), moments)
    other = round_with_feedback(weight, Precision.parse(text), moments * 2.0**40)
    assert torch.equal(one.integers, other.integers)


def test_the_last_column_makes_up_for_the_first() -> None:
    """Two equal inputs: what matters is the sum of their weights, and the second is free to mend it."""
    weight = torch.tensor([[0.30, 0.30, 4.0], [-0.30, -0.30, -4.0]])
    moments = torch.ones(3, 3)
    moments[2], moments[:, 2] = 0, 0
    moments[2, 2] = 1
    found = round_with_feedback(weight, Precision(4, None, (1, None)), moments).dense()
    nearest = quantise(weight, Precision(4)).dense()
    assert bool(((found - weight)[:, :2].sum(dim=1).abs() < (nearest - weight)[:, :2].sum(dim=1).abs() - 0.1).all())


def test_inputs_never_seen_change_nothing_else() -> None:
    weight, inputs = normal(48, 100), correlated(400, 100)
    inputs[:, 7] = 0
    found = round_with_feedback(weight, Precision.parse("w4-1x50"), inputs.T @ inputs)
    assert torch.isfinite(found.dense()).all()
    assert torch.isfinite(round_with_feedback(weight, Precision(3), torch.zeros(100, 100)).dense()).all()


def test_integer_kernels_can_still_run_it() -> None:
    weight = normal(70, 100) * torch.logspace(-3, 1, 100)
    inputs = correlated(400, 100)
    found = round_with_feedback(weight, Precision.parse("w4a8-64x64-pow2"), inputs.T @ inputs)
    assert found.by_row() is not None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_damaged_weights_and_inputs_are_refused(bad: float) -> None:
    weight, moments = normal(4, 8), torch.eye(8)
    weight[0, 0] = bad
    with pytest.raises(PlanError, match="finite"):
        round_with_feedback(weight, Precision(4), moments)
    moments[0, 0] = bad
    with pytest.raises(PlanError, match="finite"):
        round_with_feedback(normal(4, 8), Precision(4), moments)

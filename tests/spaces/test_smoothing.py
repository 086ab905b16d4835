"""Factors that make the features of inputs alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paring.errors import PlanError
from paring.spaces.anatomy import anatomy_of
from paring.spaces.calibration import standing_linears
from paring.spaces.input_ranges import input_ranges
from paring.spaces.precision import Precision
from paring.spaces.quantised import QuantLinear
from paring.spaces.ranges import affine_range
from paring.spaces.smoothing import SmoothedSamples

W8A8 = Precision(8, 8)


class _Model(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.one = nn.Linear(features, 2)

    def forward(self, values: Tensor) -> Tensor:
        answers: Tensor = self.one(values)
        return answers


class _Bench:
    """Calibration batches for a single Linear."""

    def __init__(self, *batches: Tensor) -> None:
        self._batches = batches

    def calibration(self) -> list[dict[str, Tensor]]:
        return [{"values": batch} for batch in self._batches]


def seen(*batches: Tensor) -> SmoothedSamples:
    model = _Model(batches[0].shape[-1])
    bench: Any = _Bench(*batches)
    return SmoothedSamples.of(model, {"one": model.one}, bench)


def test_factors_by_hand() -> None:
    """Powers of 0.8 of the largest magnitudes over all batches, over their geometric mean."""
    factors = seen(torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[-3.0, 1.0, 0.0]])).factors("one")
    largest = torch.tensor([3.0, 2.0, 0.5], dtype=torch.float64)
    expected = (largest / largest.log().mean().exp()) ** 0.8
    torch.testing.assert_close(factors.double(), expected, rtol=2**-8, atol=0)
    assert factors.dtype == torch.bfloat16


@pytest.mark.parametrize("inputs", [torch.zeros(4, 3), torch.tensor([[0.0, 1.0, 1e30]])])
def test_features_hardly_seen_have_bounded_factors(inputs: Tensor) -> None:
    factors = seen(inputs).factors("one").float()
    assert torch.isfinite(factors).all() and (factors > 0).all()
    assert factors.max() / factors.min() <= 1000**0.8 * 1.02


def test_values_are_divided_and_hold_the_extremes() -> None:
    batches = torch.randn(3, 500, 40, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 9, 40)
    samples = seen(*batches)
    whole = batches / samples.factors("one").float()
    values = samples.values("one")
    assert values.min() == whole.min() and values.max() == whole.max()
    assert values.std().item() == pytest.approx(whole.std().item(), rel=0.05)


def test_unequal_features_are_rounded_better() -> None:
    """One feature a hundred times the others: with one range for all, the others have next to no codes left."""
    torch.manual_seed(0)
    inputs = torch.randn(512, 64) * torch.cat([torch.tensor([100.0]), torch.ones(63)])
    linear = nn.Linear(64, 32)
    linear.weight.data[:, 0] /= 100
    exact, samples = linear(inputs), seen(inputs)
    rough = QuantLinear(linear, W8A8, input_range=affine_range(inputs, 8))(inputs)
    ranges, factors = affine_range(samples.values("one"), 8), samples.factors("one")
    smooth = QuantLinear(linear, W8A8, input_range=ranges, input_factors=factors)(inputs)
    assert (smooth - exact).square().mean() < 0.05 * (rough - exact).square().mean()


def test_linears_with_one_input_share_factors_and_range(
    make_model: Callable[..., Any], make_bench: Callable[..., Any]
) -> None:
    model = make_model("bert")
    bench = make_bench(model)
    found = input_ranges(bench.anatomy.identity(), bench, W8A8)
    one, *others = (found[f"encoder.1.{kind}"] for kind in ("query", "key", "value"))
    for other in others:
        assert one.keys() == {"scale", "zero_point", "factors"}
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert found.keys() == dict(standing_linears(model, bench.anatomy.identity(), anatomy_of(model))).keys()


@pytest.mark.parametrize("text", ["w4a8-64x64-pow2", "w4a8", "w7a8"])
def test_only_weights_of_8_bits_take_factors_on(
    make_model: Callable[..., Any], make_bench: Callable[..., Any], text: str
) -> None:
    bench = make_bench(make_model("bert"))
    precision = Precision.parse(text)
    assert not precision.smooths_inputs
    assert all("factors" not in one for one in input_ranges(bench.anatomy.identity(), bench, precision).values())
    part = QuantLinear(nn.Linear(8, 4), precision, input_range=(0.1, 0))
    assert part.input_factors is None and part.input_range().inverse_factors is None


def test_damaged_inputs_are_refused() -> None:
    with pytest.raises(PlanError, match="finite"):
        affine_range(seen(torch.tensor([[float("nan"), 1.0]])).values("one"), 8)

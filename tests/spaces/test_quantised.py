from math import log10

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding

from paring.errors import PlanError
from paring.spaces.plan import Precision
from paring.spaces.quantised import QuantEmbedding, QuantLinear, affine_range, quantise_rows

Array = NDArray[np.float64]
BITS = range(2, 9)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def affine_by_hand(values: Tensor, scale: float, zero_point: int, bits: int) -> Array:
    codes = np.clip(np.rint(values.double().numpy() / scale) + zero_point, 0, 2**bits - 1)
    return (codes - zero_point) * scale


def affine_error(values: Tensor, scale: float, zero_point: int, bits: int) -> float:
    return float(np.square(affine_by_hand(values, scale, zero_point, bits) - values.double().numpy()).mean())


@pytest.mark.parametrize("bits", BITS)
def test_weights_are_never_off_by_more_than_half_a_step(bits: int) -> None:
    rows = normal(6, 1000) * torch.tensor([1.0, 1e-6, 1e6, 1.0, 1e-38, 1e-42])[:, None]
    rows[3, 7] = 1e30
    codes, scale = quantise_rows(rows, bits)
    assert codes.dtype == torch.int8
    assert int(codes.abs().max()) == 2 ** (bits - 1) - 1
    steps = (codes.double() * scale.double()[:, None] - rows.double()).abs() / scale.double()[:, None]
    assert float(steps.max()) <= 0.5 + 1e-5  # the quotient itself is rounded to float32


@pytest.mark.parametrize(
    ("row", "bits", "codes", "scale"),
    [
        ([1.0, -2.0, 3.4, 127.0], 8, [1, -2, 3, 127], 1.0),
        ([-1.0, 0.4, 0.6, 1.0], 2, [-1, 0, 1, 1], 1.0),
        ([0.0, 0.0, 0.0], 8, [0, 0, 0], 1.0),
        ([-0.25, -0.25], 8, [-127, -127], 0.25 / 127),
        ([7e20, 1.0, -1.0], 4, [7, 0, 0], 1e20),
        ([3.0], 3, [3], 1.0),
    ],
    ids=["integers", "two bits", "zero row", "constant row", "huge outlier", "one column"],
)
def test_known_rows(row: list[float], bits: int, codes: list[int], scale: float) -> None:
    got_codes, got_scale = quantise_rows(torch.tensor([row]), bits)
    assert got_codes.tolist() == [codes]
    assert got_scale.tolist() == pytest.approx([scale], rel=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_signal_to_noise_of_uniform_weights(bits: int) -> None:
    """A uniform signal of power 1/3 and noise of step^2 / 12, with a step of 1 / largest."""
    weight = torch.rand(32, 8192, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes, scale = quantise_rows(weight, bits)
    noise = (codes * scale[:, None] - weight).double().square().mean()
    expected = 10 * log10(4 * (2 ** (bits - 1) - 1) ** 2)
    assert 10 * log10(weight.double().square().mean() / noise) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weight = normal(3, 4)
    weight[1, 2] = bad
    with pytest.raises(PlanError, match="finite"):
        quantise_rows(weight, 8)


SAMPLES = {
    "normal": normal(5000),
    "uniform": torch.rand(5000, generator=torch.Generator().manual_seed(0)),
    "far above zero": normal(5000) + 50,
    "all negative": -normal(5000).abs() - 3,
    "one outlier": torch.cat([normal(5000), torch.tensor([100.0])]),
    "heavy tail": normal(5000) ** 5,
    "constant": torch.full((10,), 5.0),
    "one value": torch.tensor([-0.1]),
}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", SAMPLES)
def test_affine_range_is_no_worse_than_the_whole_range(name: str, bits: int) -> None:
    values, steps = SAMPLES[name], 2**bits - 1
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    plain = (high - low) / steps
    scale, zero_point = affine_range(values, bits)
    rounding = 1e-12 * float(values.double().square().mean())
    bound = affine_error(values, plain, round(-low / plain), bits) * 1.001 + rounding
    assert affine_error(values, scale, zero_point, bits) <= bound
    assert isinstance(zero_point, int)
    assert 0 <= zero_point <= steps
    assert affine_by_hand(torch.zeros(1), scale, zero_point, bits).tolist() == [0.0]


@pytest.mark.parametrize(
    ("values", "bits", "expected"),
    [
        (torch.arange(0.0, 256.0), 8, (1.0, 0)),
        (torch.arange(-128.0, 128.0), 8, (1.0, 128)),
        (torch.arange(-15.0, 1.0), 4, (1.0, 15)),
        (torch.zeros(7), 8, (1.0, 0)),
    ],
    ids=["codes", "signed", "negative", "zeros"],
)
def test_affine_range_of_a_grid_is_the_grid(values: Tensor, bits: int, expected: tuple[float, int]) -> None:
    assert affine_range(values, bits) == expected


def test_affine_range_clips_a_lone_outlier() -> None:
    values = torch.cat([normal(10_000), torch.tensor([100.0])])
    scale, _ = affine_range(values, 4)
    assert scale < 0.5 * (100 - float(values.min())) / 15


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(PlanError):
        affine_range(torch.tensor([1.0, bad, -1.0]), 8)


@pytest.mark.parametrize("unit", [2.0**-100, 2.0**-10, 2.0**10, 2.0**100])
def test_affine_range_does_not_depend_on_the_unit(unit: float) -> None:
    scale, zero_point = affine_range(normal(1000), 4)
    assert affine_range(normal(1000) * unit, 4) == (pytest.approx(scale * unit, rel=1e-6, abs=0), zero_point)


def test_affine_range_of_next_to_nothing_survives_float32() -> None:
    """The scale is stored as float32, where it must still be positive."""
    linear = QuantLinear(nn.Linear(4, 2), Precision(8, 8), input_range=affine_range(torch.full((4,), 1e-42), 8))
    assert linear.input_scale is not None
    assert float(linear.input_scale) > 0


@pytest.mark.parametrize("bits", BITS)
def test_embedding_is_a_look_up_in_the_dequantised_table(bits: int) -> None:
    table = nn.Embedding.from_pretrained(normal(50, 8), padding_idx=0)
    before = table.weight.clone()
    quantised = QuantEmbedding(table, Precision(bits))
    codes, scale = quantise_rows(before, bits)
    ids = torch.tensor([[0, 3, 49], [3, 3, 7]])
    assert torch.equal(quantised(ids), (codes.float() * scale[:, None])[ids])
    assert torch.equal(table.weight, before)
    assert quantised.padding_idx == 0


def test_scaled_embedding_scales_what_it_looked_up() -> None:
    table = BartScaledWordEmbedding(50, 8, 0, embed_scale=3.3)
    quantised = QuantEmbedding(table, Precision(8))
    codes, scale = quantise_rows(table.weight, 8)
    ids = torch.tensor([[0, 3, 49]])
    assert torch.equal(quantised(ids), (codes.float() * scale[:, None])[ids] * 3.3)


def test_a_table_and_an_output_share_their_rows() -> None:
    table, output = nn.Embedding(50, 8), nn.Linear(8, 50)
    rows = quantise_rows(table.weight, 8)
    one = QuantEmbedding(table, Precision(8), rows=rows)
    other = QuantLinear(output, Precision(8), input_range=None, rows=rows)
    assert one.codes is other.codes is rows[0]
    assert one.scale is other.scale is rows[1]
    assert torch.equal(other(torch.eye(8)) - output.bias, one(torch.arange(50)).T + output.bias - output.bias)


def test_embedding_has_no_inputs_to_quantise() -> None:
    with pytest.raises(PlanError, match="use w8"):
        QuantEmbedding(nn.Embedding(3, 2), Precision(8, 8))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("precision", [Precision(8, 8), Precision(4, 6), Precision(2, 2), Precision(8)], ids=str)
def test_linear_equals_numpy(precision: Precision, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(16, 5, bias=bias)
    before = linear.weight.clone()
    inputs = normal(2, 3, 16) * 3
    bits = precision.activation_bits
    found = None if bits is None else affine_range(inputs * 0.7, bits)
    seen = inputs.double().numpy() if found is None or bits is None else affine_by_hand(inputs, *found, bits)
    weight = before.detach().double().numpy()
    step = np.abs(weight).max(axis=1, keepdims=True) / (2 ** (precision.weight_bits - 1) - 1)
    expected = seen @ (np.rint(weight / step) * step).T
    if linear.bias is not None:
        expected = expected + linear.bias.detach().double().numpy()
    got = QuantLinear(linear, precision, input_range=found)(inputs)
    assert got.shape == (2, 3, 5)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(linear.weight, before)


def test_linear_without_a_range_is_refused() -> None:
    with pytest.raises(PlanError, match="8 bits need a calibrated range"):
        QuantLinear(nn.Linear(2, 2), Precision(8, 8), input_range=None)

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from paring.errors import PlanError, SettingError
from paring.spaces.ranges import CALIBRATIONS, affine_range, rounded_inputs

Array = NDArray[np.float64]
BITS = range(2, 9)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def affine_by_hand(values: Tensor, scale: float, zero_point: int, bits: int) -> Array:
    codes = np.clip(np.rint(values.double().numpy() / scale) + zero_point, 0, 2**bits - 1)
    return (codes - zero_point) * scale


def affine_error(values: Tensor, scale: float, zero_point: int, bits: int) -> float:
    return float(np.square(affine_by_hand(values, scale, zero_point, bits) - values.double().numpy()).mean())


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


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("name", SAMPLES)
def test_every_calibration_keeps_zero_and_covers_most(name: str, calibration: str) -> None:
    values = SAMPLES[name]
    scale, zero_point = affine_range(values, 8, calibration)
    assert scale > 0
    assert 0 <= zero_point <= 255
    assert affine_by_hand(torch.zeros(1), scale, zero_point, 8).tolist() == [0.0]
    off = np.abs(affine_by_hand(values, scale, zero_point, 8) - values.double().numpy())
    if calibration == "min_max":
        assert off.max() <= scale * 1.001  # the zero point is a whole number: up to half a step more than half a step


def test_percentile_leaves_the_outermost_out() -> None:
    values = torch.cat([normal(10_000), torch.tensor([1000.0, -1000.0])])
    assert affine_range(values, 8, "percentile")[0] < 10 / 255 < affine_range(values, 8, "min_max")[0]


def test_percentile_of_zeros_with_one_other() -> None:
    scale, _ = affine_range(torch.cat([torch.zeros(10_000), torch.tensor([1.0])]), 8, "percentile")
    assert scale > 0


def test_unknown_calibration_is_refused() -> None:
    with pytest.raises(SettingError, match="min_max"):
        affine_range(normal(10), 8, "minmax")


def test_inputs_without_bits_stay_as_they_are() -> None:
    values = normal(10)
    assert rounded_inputs(values, None, None, None) is values


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_symmetric_ranges_have_zero_in_the_middle_and_hold_both_ends(bits: int, calibration: str) -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)) + 0.7
    scale, zero_point = affine_range(values, bits, calibration, symmetric=True)
    assert zero_point == 2 ** (bits - 1)
    low, high = -zero_point * scale, (2**bits - 1 - zero_point) * scale
    if calibration == "min_max":
        assert low <= values.min() and values.max() <= high
        assert high == pytest.approx(values.max().item()) or low == pytest.approx(values.min().item())
    if calibration == "least_error":
        # Independently: every range that is one of 40 parts of what was seen.
        widest = max(values.max().item() / (2**bits - 1 - zero_point), -values.min().item() / zero_point)
        steps = [widest * (1 - 0.02 * part) for part in range(40)]
        codes = [(values / step).round().clamp(-zero_point, 2**bits - 1 - zero_point) * step for step in steps]
        errors = [(code - values).square().mean().item() for code in codes]
        assert scale == pytest.approx(steps[errors.index(min(errors))], rel=1e-5)

"""The one meaning of quantised inputs: affine codes with one calibrated scale and zero point per tensor."""

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import PlanError, SettingError

Calibration = Literal["least_error", "percentile", "min_max"]
CALIBRATIONS: tuple[str, ...] = get_args(Calibration)

# Candidate clipping ranges, as fractions of the observed range, tried for the least squared error.
_CLIP_FRACTIONS = tuple(1 - 0.02 * step for step in range(40))
# On each side, what lies beyond is clipped by "percentile".
_TAIL = 0.0005


def affine_range(
    values: Tensor, bits: int, calibration: str = "least_error", *, symmetric: bool = False
) -> tuple[float, int]:
    """The scale and zero point that quantise these values best.

    Args:
        values: a sample of what will be quantised, any shape, not empty.
        bits: 2 to 8.
        calibration: "least_error" takes the range of least squared error, "percentile" one that leaves out the
            outermost 0.05 % on each side, "min_max" all of it.
        symmetric: puts zero in the middle, at 2^(bits - 1), so that products need no corrections for it.

    Returns:
        Scale, positive; and zero point, 0 to 2^bits - 1. Zero is always represented exactly.

    Raises:
        PlanError: if a value is not finite.
        SettingError: if there is no such calibration.
    """
    if calibration not in CALIBRATIONS:
        raise SettingError.unknown("calibration", calibration, CALIBRATIONS)
    if not torch.isfinite(values).all():
        raise PlanError("inputs to quantise must be finite, got NaN or infinity: the model is damaged.")
    steps = 2**bits - 1
    unit = values.abs().max().item()
    if unit / steps < torch.finfo(torch.float32).tiny:
        return 1.0, 2 ** (bits - 1) if symmetric else 0
    # In units of the largest magnitude, so that squares neither overflow nor vanish.
    values = values / unit
    best = (float("inf"), 1.0, 0)
    for low, high in _candidates(values, calibration):
        if symmetric:
            zero_point = 2 ** (bits - 1)
            scale = max(high / (steps - zero_point), -low / zero_point)
        else:
            scale = (high - low) / steps
            zero_point = max(0, min(steps, round(-low / scale)))
        rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero_point, 0, steps)
        best = min(best, ((rounded - values).square().mean().item(), scale, zero_point))
    return best[1] * unit, best[2]


def range_tensors(scale: float, zero_point: int) -> dict[str, Tensor]:
    """A range as `Workbench.remember` keeps it: a float64 and an integer scalar."""
    return {"scale": torch.tensor(scale, dtype=torch.float64), "zero_point": torch.tensor(zero_point)}


def rounded_inputs(
    inputs: Tensor, scale: Tensor | None, zero_point: Tensor | None, bits: int | None, factors: Tensor | None = None
) -> Tensor:
    """The values that the codes of these inputs stand for; the inputs themselves where `bits` is None.

    Args:
        inputs: any shape, float.
        scale: scalar, calibrated.
        zero_point: scalar, calibrated.
        bits: 2 to 8, or None for inputs that stay float.
        factors: by which the features are divided first; the result stays so divided.
    """
    if bits is None:
        return inputs
    assert scale is not None and zero_point is not None
    inputs = inputs if factors is None else inputs * inverse_of(factors)
    return torch.fake_quantize_per_tensor_affine(inputs, scale, zero_point, 0, 2**bits - 1)


def inverse_of(factors: Tensor) -> Tensor:
    """What to multiply by instead of dividing: float32, the same numbers wherever codes are made."""
    return 1 / factors.float()


def _candidates(values: Tensor, calibration: str) -> Iterator[tuple[float, float]]:
    """Ranges to try; each holds 0."""
    if calibration == "percentile":
        ordered = values.flatten().sort().values
        beyond = int(_TAIL * ordered.numel())
        values = ordered[beyond : ordered.numel() - beyond]
    low, high = min(values.min().item(), 0.0), max(values.max().item(), 0.0)
    if low == high:  # all that is left is 0
        low, high = -1.0, 1.0
    for fraction in _CLIP_FRACTIONS if calibration == "least_error" else (1.0,):
        yield low * fraction, high * fraction

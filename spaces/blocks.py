"""The one meaning of quantised weights: integers times the scale of their block.

Integers of 8 bits are -127..127, those of b bits below -2^(b-1)..2^(b-1) - 1, and all of them 0 among others: a weight
that meets a large input had better be 0 than half a step beside it. A scale may be negative, so that the one integer
more lies on the side of the larger weights.

A scale is bfloat16, or a power of two that is stored in 8 bits; a block of zeros has the scale 0. Where inputs are
integers too, the exponents along a row stay so close together that shifting makes one row of 8-bit integers of it:
integer kernels then multiply the whole row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, log2, prod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import PlanError
from .packing import packed_width
from .precision import Precision

Clipping = Literal["abs_max", "least_error"]

_LARGEST_INTEGER = 127
# Powers of two are stored as their sign times exponent + 64: 1 to 127, and 0 for the scale 0.
_EXPONENT_OFFSET = 64
_LEAST_EXPONENT, _LARGEST_EXPONENT = 1 - _EXPONENT_OFFSET, 127 - _EXPONENT_OFFSET
# Scales tried for the least squared error, as fractions of that by the largest weight; 2 bits need the small ones.
_FRACTIONS = tuple(1 - 0.05 * step for step in range(16))
_HALVINGS = 5
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Quantised:
    """A quantised matrix.

    Attributes:
        integers: rows x columns, int8.
        scale: row blocks x column blocks, as it is stored: bfloat16; or int8 for powers of two, see `real_scale`.
        precision: bits, block and kind of scale.
    """

    integers: Tensor
    scale: Tensor
    precision: Precision

    def dense(self) -> Tensor:
        """What the integers stand for, rows x columns, float32."""
        rows, columns = self.integers.shape
        return self.integers.float() * spread(real_scale(self.scale), self.precision.block, rows, columns)

    def by_row(self) -> tuple[Tensor, Tensor] | None:
        """The same matrix with one scale per row, exactly, or None if 8-bit integers cannot say it.

        Returns:
            Integers, rows x columns, int8, -127..127, and scales, one per row, float32, positive.
        """
        rows, columns = self.integers.shape
        scale = real_scale(self.scale)
        smallest = torch.where(scale != 0, scale.abs(), torch.inf).amin(dim=1, keepdim=True)
        smallest = torch.where(smallest.isfinite(), smallest, torch.ones_like(smallest))
        factors = scale / smallest
        integers = self.integers * spread(factors, self.precision.block, rows, columns)
        if not torch.equal(factors, factors.round()) or (integers.abs() > _LARGEST_INTEGER).any():
            return None
        return integers.to(torch.int8), spread(smallest, (self.precision.block[0], None), rows, 1).flatten()


def integer_range(bits: int) -> tuple[int, int]:
    """The smallest and the largest integer that weights of so many bits may be."""
    return (-_LARGEST_INTEGER, _LARGEST_INTEGER) if bits == 8 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def codes_of(integers: Tensor, bits: int) -> Tensor:
    """The integers as they are packed, uint8: counted from the smallest; those of 8 bits as they lie in memory."""
    if bits == 8:
        return integers.view(torch.uint8)
    return (integers - integer_range(bits)[0]).to(torch.uint8)


def integers_of(codes: Tensor, bits: int) -> Tensor:
    """The inverse of `codes_of`, int8; those of 8 bits share the memory of their codes."""
    if bits == 8:
        return codes.view(torch.int8)
    return codes.to(torch.int8) + integer_range(bits)[0]


def quantise(
    weight: Tensor, precision: Precision, *, importance: Tensor | None = None, clipping: Clipping | None = None
) -> Quantised:
    """Rounds every weight to the nearest number its block has.

    Args:
        weight: rows x columns, float.
        precision: with 2 to 8 bits for weights.
        importance: of an error in each column, columns, at least 0; None if all matter alike.
        clipping: how scales are chosen; see `block_scales`.

    Raises:
        PlanError: if a weight is not finite.
    """
    check_finite(weight)
    scale = block_scales(weight, precision, importance=importance, clipping=clipping)
    rows, columns = weight.shape
    steps = spread(real_scale(scale), precision.block, rows, columns)
    return Quantised(nearest(weight.detach().float(), steps, _bits(precision)).to(torch.int8), scale, precision)


def block_scales(
    weight: Tensor, precision: Precision, *, importance: Tensor | None = None, clipping: Clipping | None = None
) -> Tensor:
    """The scale of every block.

    Args:
        weight: rows x columns, float, finite.
        precision: with 2 to 8 bits for weights.
        importance: of an error in each column, columns, at least 0; None if all matter alike.
        clipping: "abs_max" makes every weight fall within the range; "least_error" tries smaller scales too and takes
            that of the least squared error. None: abs_max for 8 bits, where clipping gains nothing, else least_error.

    Returns:
        As `Quantised.scale`. By abs_max, a power of two is less than twice as large as it need be.
    """
    bits = _bits(precision)
    clipping = clipping or ("abs_max" if bits == 8 else "least_error")
    blocks, weights = _cut(weight.detach().float(), importance, precision.block)
    best = torch.zeros(())
    least = torch.tensor(torch.inf, dtype=torch.float64)
    for scale in _candidates(blocks, precision, clipping):
        error = _error(blocks, weights, scale, bits)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    best = torch.where((blocks == 0).all(dim=3).all(dim=1), 0.0, best)
    if not precision.power_of_two:
        return best.to(torch.bfloat16)
    exponents = torch.log2(best.abs().clamp(min=_TINY))
    if precision.has_integer_inputs:
        # A row of blocks lies no further apart than shifting 8-bit integers allows.
        room = floor(log2(_LARGEST_INTEGER / -integer_range(bits)[0]))
        exponents = torch.maximum(exponents, exponents.amax(dim=1, keepdim=True) - room)
    return (best.sign() * (exponents + _EXPONENT_OFFSET)).to(torch.int8)


def nearest(weight: Tensor, steps: Tensor, bits: int) -> Tensor:
    """The nearest integers; 0 where the scale is 0.

    Args:
        weight: float.
        steps: the scale of each weight, float, of a shape that spreads to the weight's.
        bits: 2 to 8.

    Returns:
        Whole numbers, float, in the shape of the weight.
    """
    ratio = torch.where(steps != 0, weight / steps, torch.zeros_like(weight))
    return ratio.round_().clamp_(*integer_range(bits))


def real_scale(scale: Tensor) -> Tensor:
    """What a stored scale stands for, float32: itself, or sign(s) 2^(|s| - 64) and 0 for int8."""
    if scale.dtype != torch.int8:
        return scale.float()
    return scale.sign() * torch.exp2(scale.abs().float() - _EXPONENT_OFFSET)


def spread(scale: Tensor, block: tuple[int, int | None], rows: int, columns: int) -> Tensor:
    """One value per block -> one per weight, rows x columns."""
    tall, wide = block
    scale = scale.expand(-1, columns) if wide is None else scale.repeat_interleave(wide, dim=1)[:, :columns]
    return scale if tall == 1 else scale.repeat_interleave(tall, dim=0)[:rows]


def scale_shape(block: tuple[int, int | None], rows: int, columns: int) -> tuple[int, int]:
    """How many blocks there are along each side."""
    tall, wide = block
    return ceil(rows / tall), 1 if wide is None else ceil(columns / wide)


def packed_bytes(rows: int, columns: int, precision: Precision) -> int:
    """Bytes that a matrix takes, codes and scales; of 4 bytes a number where weights stay float.

    With 4 bits and blocks of 64 x 64 whose scales take 8 bits, that is 4 + 8 / 4096 bits a number: 7.996 times less
    than float32. Scales of 24 bits would make it 7.988.
    """
    if precision.weight_bits is None:
        return 4 * rows * columns
    if not precision.has_integer_weights:
        return 2 * rows * columns
    scales = prod(scale_shape(precision.block, rows, columns))
    return rows * packed_width(columns, precision.weight_bits) + scales * (1 if precision.power_of_two else 2)


def check_finite(weight: Tensor) -> None:
    """Refuses weights of a damaged model.

    Raises:
        PlanError: if a weight is not finite.
    """
    if not torch.isfinite(weight).all():
        raise PlanError("weights to quantise must be finite, got NaN or infinity: the model is damaged.")


def _bits(precision: Precision) -> int:
    """The bits of weights that are integers."""
    if precision.weight_bits is None or not precision.has_integer_weights:
        raise PlanError(f"only weights of 2 to 8 bits are quantised to integers, got {precision}.")
    return precision.weight_bits


def _cut(weight: Tensor, importance: Tensor | None, block: tuple[int, int | None]) -> tuple[Tensor, Tensor | None]:
    """The matrix as row blocks x rows x column blocks x columns, zeros beyond the edges; and the weights of errors."""
    rows, columns = weight.shape
    tall, wide = block[0], block[1] or columns
    beyond = (0, -columns % wide, 0, -rows % tall)
    shape = (ceil(rows / tall), tall, -1, wide)
    weights = None
    if importance is not None:
        weights = functional.pad(importance.float().expand(rows, columns), beyond).view(shape)
    return functional.pad(weight, beyond).view(shape), weights


def _candidates(blocks: Tensor, precision: Precision, clipping: Clipping) -> Iterator[Tensor]:
    """Scales to try, float32 but of values that can be stored; row blocks x column blocks."""
    bits = _bits(precision)
    smallest, largest = integer_range(bits)
    above, below = blocks.amax(dim=(1, 3)).clamp(min=0), (-blocks).amax(dim=(1, 3)).clamp(min=0)
    # The side of the larger weights gets the one integer more, and the scale its sign.
    sign = torch.where((above > below) & (largest != -smallest), -1.0, 1.0)
    # The least scale by which all weights fall within the range.
    exact = torch.maximum(torch.minimum(above, below) / largest, torch.maximum(above, below) / -smallest)
    exact = exact.clamp(min=_TINY)
    if precision.power_of_two:
        exponents = torch.ceil(torch.log2(exact))
        # The logarithm is rounded: one step more where that lost the largest weight.
        exponents = torch.where(torch.exp2(exponents) < exact, exponents + 1, exponents)
        for halvings in range(_HALVINGS if clipping == "least_error" else 1):
            yield sign * torch.exp2((exponents - halvings).clamp(_LEAST_EXPONENT, _LARGEST_EXPONENT))
    else:
        yield sign * _bfloat16_above(exact)
        for fraction in _FRACTIONS[1:] if clipping == "least_error" else ():
            yield sign * (exact * fraction).clamp(min=_TINY).to(torch.bfloat16).float()


def _bfloat16_above(values: Tensor) -> Tensor:
    """The least bfloat16 that is not below, of positive values."""
    rounded = values.to(torch.bfloat16)
    up = (rounded.view(torch.int16) + 1).view(torch.bfloat16)
    return torch.where(rounded.float() < values, up, rounded).float()


def _error(blocks: Tensor, weights: Tensor | None, scale: Tensor, bits: int) -> Tensor:
    """The squared error of every block with these scales, float64."""
    steps = scale[:, None, :, None]
    # Squared in units of the scale and scaled back in float64, so that squares neither overflow nor vanish.
    ratio = blocks / steps
    error = ratio.round().clamp_(*integer_range(bits)).sub_(ratio).square_()
    if weights is not None:
        error = error.mul_(weights)
    return error.sum(dim=(1, 3)).double() * scale.double().square()

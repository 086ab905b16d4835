"""Functions of integers through tables of 256 entries, as an integer processor computes them.

After *Blockwise Compression of Transformer-based Models without Retraining* (arXiv 2304.01483), where GELU, exp,
reciprocal and reciprocal square root are such tables; widths of entries and how inputs are normalised are ours. All is
computed in float tensors that hold exactly the integers' values.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# A row's largest exponential. Sums over 1024 keys stay below 2^24, so float32 holds them exactly.
EXPONENTIAL_UNIT = 2**14
_ENTRY_UNIT = 2**15


def affine_codes(values: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """The codes that `ranges.rounded_inputs` rounds to, as whole numbers of the dtype of the values.

    Args:
        values: any shape, float.
        scale: scalar, or of a shape that broadcasts; positive.
        zero_point: alike.
        bits: 2 to 8.
    """
    return (values * scale.reciprocal() + zero_point).round().clamp(0, 2**bits - 1)


def looked_up(table: Tensor, indices: Tensor) -> Tensor:
    """Entries of a one-dimensional table, float32, at whole numbers of any shape and dtype within it."""
    return table[indices.long()].float()


def function_table(
    function: Callable[[Tensor], Tensor], inputs: tuple[float, int], outputs: tuple[float, int], bits: int
) -> Tensor:
    """The code of the function's value for every input code: 2^bits, uint8.

    Args:
        function: elementwise.
        inputs: scale and zero point of what goes in.
        outputs: scale and zero point of what comes out.
        bits: of both, 2 to 8.
    """
    values = (torch.arange(2**bits, dtype=torch.float64) - inputs[1]) * inputs[0]
    results = function(values.float()).double()
    return (results / outputs[0] + outputs[1]).round().clamp(0, 2**bits - 1).to(torch.uint8)


def exponential_table(scale: float, bits: int) -> Tensor:
    """exp(-scale d) for d from 0 to 2^bits - 1, in units of 1 / `EXPONENTIAL_UNIT`: 2^bits, int16."""
    steps = torch.arange(2**bits, dtype=torch.float64)
    return (torch.exp(-scale * steps) * EXPONENTIAL_UNIT).round().to(torch.int16)


def reciprocal_table() -> Tensor:
    """1 / m for the middle of each of 256 parts of [1, 2), rounded to 16 bits: float32."""
    middles = 1 + (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    return _rounded_entries(1 / middles)


def reciprocal_root_table() -> Tensor:
    """1 / sqrt(m) for the middle of each of 128 parts of [1, 2), then of [2, 4), rounded to 16 bits: float32."""
    middles = 1 + (torch.arange(128, dtype=torch.float64) + 0.5) / 128
    return _rounded_entries(torch.rsqrt(torch.cat([middles, 2 * middles])))


def reciprocal(values: Tensor, table: Tensor) -> Tensor:
    """1 / values within 0.2 %, through 8 bits of the mantissa.

    Args:
        values: positive and normal, any shape, float32 or float64.
        table: from `reciprocal_table`.
    """
    exponents, parts = _normalised(values, 256)
    return looked_up(table, parts).to(values.dtype) * torch.pow(2.0, -exponents)


def reciprocal_root(values: Tensor, table: Tensor) -> Tensor:
    """1 / sqrt(values) within a hundred-thousandth: through a table, then one step of Newton's method.

    The table is entered with 7 bits of the mantissa and the parity of the exponent.

    Args:
        values: positive and normal, any shape, float32 or float64.
        table: from `reciprocal_root_table`.
    """
    exponents, parts = _normalised(values, 128)
    halves = torch.floor(exponents / 2)
    guess = looked_up(table, parts + 128 * (exponents - 2 * halves)).to(values.dtype) * torch.pow(2.0, -halves)
    return guess * (1.5 - 0.5 * values * guess * guess)


def _rounded_entries(entries: Tensor) -> Tensor:
    return ((entries * _ENTRY_UNIT).round() / _ENTRY_UNIT).float()


def _normalised(values: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Values as 2^exponent times a number of [1, 2), and in which of so many parts of [1, 2) that lies.

    The logarithm is rounded, so a value next to a power of two may get the exponent beside its own; the part is then
    the outermost one of that, which is as near.
    """
    exponents = torch.floor(torch.log2(values))
    mantissas = values * torch.pow(2.0, -exponents)
    return exponents, torch.floor((mantissas - 1) * parts).clamp(0, parts - 1)

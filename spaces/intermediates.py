"""Results between the Linears in integers: attention, softmax, activations and norms.

After *Blockwise Compression of Transformer-based Models without Retraining* (arXiv 2304.01483), where everything is
compressed. The modules compute what the integers mean, in float, on any device; that is slower than float. Softmax,
activations and norms go through the tables of `spaces/tables.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PlanError
from .attention import PRODUCTS, points_of
from .ranges import rounded_inputs
from .tables import (
    affine_codes,
    exponential_table,
    function_table,
    looked_up,
    reciprocal,
    reciprocal_root,
    reciprocal_root_table,
    reciprocal_table,
)

# Features of a norm that share a zero point, and a power of two of the norm's scale. Few, since single features of a
# residual stream are many times as large as all others.
NORM_BLOCK = 16

Found = Mapping[str, Tensor]


class Rounding(nn.Module):
    """Rounds to the values of affine codes. Buffers: `scale` (float32) and `zero_point` (int32), scalars."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, found: Found | None) -> None:
        """Takes a range.

        Args:
            bits: of the codes, 2 to 8.
            found: "scale" and "zero_point"; None for shapes only.
        """
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", _buffer(found, "scale", torch.float32))
        self.register_buffer("zero_point", _buffer(found, "zero_point", torch.int32))

    def forward(self, values: Tensor) -> Tensor:
        """Any shape, unchanged."""
        return rounded_inputs(values, self.scale, self.zero_point, self.bits)

    def codes(self, values: Tensor) -> Tensor:
        """The codes of these values, whole numbers in float."""
        return affine_codes(values, self.scale, self.zero_point, self.bits)

    def values(self, codes: Tensor) -> Tensor:
        """What codes stand for."""
        return (codes - self.zero_point) * self.scale

    def range(self) -> tuple[float, int]:
        """Scale and zero point."""
        return float(self.scale), int(self.zero_point)


class UnitRounding(nn.Module):
    """Rounds numbers of 0 to 1 to whole multiples of 1 / (2^bits - 1): a fixed range, nothing to calibrate."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, values: Tensor) -> Tensor:
        """Any shape, unchanged."""
        steps = 2**self.bits - 1
        return torch.fake_quantize_per_tensor_affine(values, 1 / steps, 0, 0, steps)


class BlockRounding(nn.Module):
    """Rounds the features of a tensor in blocks: one scale times a power of two, and one zero point, per block.

    Scales that differ by shifts only let sums over all features be sums of integers. Buffers: `scale` (float32
    scalar), `exponents` (blocks, int8, not negative) and `zero_point` (blocks, uint8).
    """

    scale: Tensor
    exponents: Tensor
    zero_point: Tensor

    def __init__(self, features: int, bits: int, found: Found | None) -> None:
        """Takes the ranges of `-(-features // NORM_BLOCK)` blocks.

        Args:
            features: of the last dimension.
            bits: of the codes, 2 to 8.
            found: "scale", "exponents" and "zero_point"; None for shapes only.
        """
        super().__init__()
        self.features, self.bits = features, bits
        blocks = (-(-features // NORM_BLOCK),)
        self.register_buffer("scale", _buffer(found, "scale", torch.float32))
        self.register_buffer("exponents", _buffer(found, "exponents", torch.int8, blocks))
        self.register_buffer("zero_point", _buffer(found, "zero_point", torch.uint8, blocks))

    def integers(self, values: Tensor) -> Tensor:
        """... x features: the values in units of `scale`, rounded to whole numbers."""
        shifts = self._by_feature(torch.pow(2.0, self.exponents.float()))
        zero_point = self._by_feature(self.zero_point.float())
        return (affine_codes(values, self.scale * shifts, zero_point, self.bits) - zero_point) * shifts

    def forward(self, values: Tensor) -> Tensor:
        """... x features, unchanged."""
        return self.integers(values) * self.scale

    def _by_feature(self, by_block: Tensor) -> Tensor:
        return by_block.repeat_interleave(NORM_BLOCK)[: self.features]


class TableActivation(nn.Module):
    """An activation function as a table from input codes to output codes. Buffers beside its ranges: `table`, uint8."""

    table: Tensor

    def __init__(self, function: nn.Module, bits: int, found: Found | None) -> None:
        """Makes the table.

        Args:
            function: the activation it stands in for, elementwise.
            bits: of inputs and outputs, 2 to 8.
            found: ranges of "inputs" and "outputs"; None for shapes only.
        """
        super().__init__()
        self.inputs, self.outputs = (Rounding(bits, _part(found, name)) for name in ("inputs", "outputs"))
        table = torch.empty(2**bits, dtype=torch.uint8, device="meta")
        if found is not None:
            with torch.no_grad():
                table = function_table(function, self.inputs.range(), self.outputs.range(), bits)
        self.register_buffer("table", table)

    def forward(self, values: Tensor) -> Tensor:
        """Any shape, unchanged."""
        return self.outputs.values(looked_up(self.table, self.inputs.codes(values)))


class TableSoftmax(nn.Module):
    """The softmax over keys in integers: codes in, exp and reciprocal through tables, codes of 0 to 1 out.

    Buffers beside those of its range: `exponentials` (2^bits, int16).
    """

    exponentials: Tensor
    reciprocals: Tensor

    def __init__(self, bits: int, found: Found | None) -> None:
        """Makes the tables.

        Args:
            bits: of scores and probabilities, 2 to 8.
            found: range of "scores"; None for shapes only.
        """
        super().__init__()
        self.bits = bits
        self.scores = Rounding(bits, _part(found, "scores"))
        exponentials = torch.empty(2**bits, dtype=torch.int16, device="meta")
        if found is not None:
            exponentials = exponential_table(self.scores.range()[0], bits)
        self.register_buffer("exponentials", exponentials)
        self.register_buffer("reciprocals", reciprocal_table(), persistent=False)

    def forward(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Scores, ... x keys, and where they count, of a shape that broadcasts -> probabilities.

        What does not count has probability 0 exactly, also where nothing counts.
        """
        codes = self.scores.codes(scores)
        counted = codes if allowed is None else codes.masked_fill(~allowed, 0)
        below = (counted.amax(-1, keepdim=True) - codes).clamp(min=0)
        weights = looked_up(self.exponentials, below)
        if allowed is not None:
            weights = weights.masked_fill(~allowed, 0)
        steps = 2**self.bits - 1
        inverse = reciprocal(weights.sum(-1, keepdim=True).clamp(min=1), self.reciprocals)
        probabilities: Tensor = (weights * (steps * inverse)).round().clamp(max=steps) / steps
        return probabilities


class TableNorm(nn.Module):
    """A layer norm, or T5's norm without mean: codes in blocks in and out, exact sums of integers between.

    The reciprocal square root goes through a table and one step of Newton's method. `weight` and `bias` stay as they
    are.
    """

    bias: Tensor | None
    roots: Tensor

    def __init__(self, norm: nn.Module, bits: int, found: Found | None) -> None:
        """Stands in for a norm.

        Args:
            norm: an `nn.LayerNorm` over the last dimension, or T5's; its parameters are shared.
            bits: of inputs and outputs, 2 to 8.
            found: ranges of "inputs" and "outputs" in blocks; None for shapes only.
        """
        super().__init__()
        own: Any = norm
        self.is_centred = isinstance(norm, nn.LayerNorm)
        self._epsilon = float(own.eps if self.is_centred else own.variance_epsilon)
        self.weight: nn.Parameter = own.weight
        self.register_parameter("bias", getattr(norm, "bias", None))
        self.features = self.weight.numel()
        self.inputs, self.outputs = (
            BlockRounding(self.features, bits, _part(found, name)) for name in ("inputs", "outputs")
        )
        self.register_buffer("roots", reciprocal_root_table(), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """... x features, unchanged."""
        normal = self.weight * self._normalised(self.inputs.integers(values)).to(values.dtype)
        rounded: Tensor = self.outputs(normal if self.bias is None else normal + self.bias)
        return rounded

    def _normalised(self, integers: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + epsilon) times features / features, so that all before the root is whole."""
        wide = integers.double()
        total = wide.sum(-1, keepdim=True) if self.is_centred else wide.new_zeros(())
        deviations = self.features * wide - total
        variance = self.features * wide.square().sum(-1, keepdim=True) - total.square()
        epsilon = (self._epsilon * (self.features / self.inputs.scale.double()).square()).round().clamp(min=1)
        normalised: Tensor = deviations * reciprocal_root(variance + epsilon, self.roots)
        return normalised


def set_intermediate(module: nn.Module, kind: str, paths: Sequence[str], bits: int, found: Found | None) -> None:
    """Puts what rounds results of one kind in place of what did not.

    Args:
        module: the layer, or the whole model; changed in place.
        kind: one of `PRODUCTS`, "softmax", "activation", or any kind of norm.
        paths: where the parts of this kind are.
        bits: 2 to 8.
        found: what was calibrated for these parts; None for shapes only.

    Raises:
        PlanError: if ranges are missing.
    """
    for number, path in enumerate(paths):
        part, own = module.get_submodule(path), _part(found, str(number))
        if kind in PRODUCTS:
            points = points_of(part)
            for name in PRODUCTS[kind]:
                setattr(points, name, Rounding(bits, _part(own, name)))
            if kind == "context":
                points.probabilities = UnitRounding(bits)
        elif kind == "softmax":
            points_of(part).softmax = TableSoftmax(bits, own)
        elif kind == "activation":
            module.set_submodule(path, TableActivation(part, bits, own))
        else:
            module.set_submodule(path, TableNorm(part, bits, own))


def _part(found: Found | None, name: str) -> Found | None:
    """What was found for one part."""
    if found is None:
        return None
    return {key.removeprefix(f"{name}."): tensor for key, tensor in found.items() if key.startswith(f"{name}.")}


def _buffer(found: Found | None, name: str, dtype: torch.dtype, shape: tuple[int, ...] = ()) -> Tensor:
    """A calibrated number of this shape and dtype, or its shape only."""
    if found is None:
        return torch.empty(shape, dtype=dtype, device="meta")
    if name not in found:
        raise PlanError("intermediate results in integers need calibrated ranges.")
    return found[name].to(dtype).reshape(shape).clone()

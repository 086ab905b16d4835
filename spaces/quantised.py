"""The modules that carry quantised numbers, and compute what they mean in float, on any device.

What weights mean is in `spaces/blocks.py`, what inputs mean in `spaces/ranges.py`. A module holds codes as they are
stored, packed. A runtime may lower it to integer kernels that give the same numbers up to the order of summation, and
up to inputs so close to the middle of two codes that they round apart.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import PlanError
from .blocks import Quantised, codes_of, integers_of, quantise, real_scale, scale_shape, spread
from .packing import pack, packed_width, unpack
from .precision import BFLOAT16, Precision
from .ranges import inverse_of, rounded_inputs

Stored = tuple[Tensor, Tensor]


def store(quantised: Quantised) -> Stored:
    """Packed codes, rows x packed width, uint8, and scales: what modules hold and files keep."""
    bits = quantised.precision.weight_bits
    assert bits is not None
    return pack(codes_of(quantised.integers, bits), bits), quantised.scale


def restore(stored: Stored, precision: Precision, columns: int) -> Quantised:
    """The inverse of `store`.

    Args:
        stored: packed codes and scales.
        precision: of the weights.
        columns: of the matrix; packing rounds its width up to whole bytes.
    """
    bits = precision.weight_bits
    assert bits is not None
    codes, scale = stored
    return Quantised(integers_of(unpack(codes, bits, columns), bits), scale, precision)


def remembered(quantised: Quantised) -> dict[str, Tensor]:
    """What `Workbench.remember` keeps of a matrix: its "codes" and "scales"."""
    codes, scales = store(quantised)
    return {"codes": codes, "scales": scales}


def recalled(found: Mapping[str, Tensor]) -> Stored | None:
    """The inverse of `remembered`, as modules take it; None where nothing was remembered."""
    return (found["codes"], found["scales"]) if "codes" in found else None


class _Codes(nn.Module):
    """A matrix as packed codes. Buffers: `codes` (rows x packed width, uint8) and `scale` (as in `Quantised`)."""

    codes: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, precision: Precision, stored: Stored | None) -> None:
        """Keeps what is given, uncopied; else rounds the weight, or takes its shape only where it has no data."""
        super().__init__()
        rows, self._columns = weight.shape
        self.precision = precision
        assert precision.weight_bits is not None
        self._bits = precision.weight_bits
        if stored is None and weight.is_meta:
            dtype = torch.int8 if precision.power_of_two else torch.bfloat16
            shape = scale_shape(precision.block, rows, self._columns)
            codes = torch.empty(rows, packed_width(self._columns, self._bits), dtype=torch.uint8, device="meta")
            stored = codes, torch.empty(shape, dtype=dtype, device="meta")
        codes, scale = stored or store(quantise(weight, precision))
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def quantised(self) -> Quantised:
        """The matrix, unpacked."""
        return restore((self.codes, self.scale), self.precision, self._columns)


class InputRange(NamedTuple):
    """What integer inputs mean: (code - zero_point) * scale, over the inverse factor of the feature.

    Attributes:
        scale: positive.
        zero_point: the code of 0.
        largest: code; the smallest is 0.
        inverse_factors: what inputs are multiplied by before they are rounded, in, float32; None where by nothing.
    """

    scale: float
    zero_point: int
    largest: int
    inverse_factors: Tensor | None

    def divided(self, inputs: Tensor) -> Tensor:
        """Inputs, ... x in, divided by their factors."""
        return inputs if self.inverse_factors is None else inputs * self.inverse_factors


def _factors(linear: nn.Linear, given: Tensor | None) -> Tensor:
    if given is not None:
        return given.to(torch.bfloat16)
    return torch.ones(linear.in_features, dtype=torch.bfloat16, device=linear.weight.device)


class QuantLinear(_Codes):
    """A Linear with quantised weights and, where calibrated, quantised inputs.

    Buffers beside those of its codes: `bias` (out) or None, for quantised inputs `input_scale` (float32) and
    `input_zero_point` (int32), both scalars, and for smoothed ones `input_factors` (in, bfloat16): inputs are divided
    by these before they are rounded, and the codes are those of the weight with its columns multiplied by them.
    """

    weight: None = None  # T5 asks its Linears for the type of their weight, to cast to it where there is one
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None
    input_factors: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        precision: Precision,
        *,
        input_range: tuple[float, int] | None,
        input_factors: Tensor | None = None,
        stored: Stored | None = None,
    ) -> None:
        """Quantises a Linear.

        Args:
            linear: what to stand in for; it is not changed.
            precision: bits of weights and inputs.
            input_range: scale and zero point of the inputs; may be None where inputs stay float, or where `linear`
                has no data (the meta device) because saved buffers will be loaded.
            input_factors: of the features, in, positive; where the precision smooths inputs, None means ones.
            stored: its weight, where it was rounded before or another part holds it too; None to round every weight to
                the nearest.
        """
        factors = _factors(linear, input_factors) if precision.smooths_inputs else None
        super().__init__(linear.weight if factors is None else linear.weight * factors, precision, stored)
        self.register_buffer("input_factors", factors)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        if not precision.has_integer_inputs:
            self.register_buffer("input_scale", None)
            self.register_buffer("input_zero_point", None)
            return
        if input_range is None and not linear.weight.is_meta:
            raise PlanError(f"inputs of {precision.activation_bits} bits need a calibrated range.")
        input_scale, zero_point = input_range or (1.0, 0)
        device = linear.weight.device
        self.register_buffer("input_scale", torch.tensor(input_scale, dtype=torch.float32, device=device))
        self.register_buffer("input_zero_point", torch.tensor(zero_point, dtype=torch.int32, device=device))

    def dense_weight(self) -> Tensor:
        """The weight these codes stand for, out x in, float32; it goes with inputs divided by their factors."""
        return self.quantised().dense()

    def input_range(self) -> InputRange:
        """The range of integer inputs, as numbers."""
        assert self.input_scale is not None and self.input_zero_point is not None
        assert self.precision.activation_bits is not None
        inverse = None
        if self.input_factors is not None and not bool((self.input_factors == 1).all()):
            inverse = inverse_of(self.input_factors)
        return InputRange(
            float(self.input_scale), int(self.input_zero_point), 2**self.precision.activation_bits - 1, inverse
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out."""
        inputs = rounded_inputs(
            inputs, self.input_scale, self.input_zero_point, self.precision.activation_bits, self.input_factors
        )
        return functional.linear(inputs, self.dense_weight(), self.bias)

    def extra_repr(self) -> str:
        """Shape and bits."""
        return f"{self.in_features}, {self.out_features}, {self.precision}"


class QuantEmbedding(_Codes):
    """An embedding table of quantised words; only those looked up are unpacked.

    `embed_scale` multiplies what was looked up, as the scaled word embeddings of BART-like models do.
    """

    def __init__(self, embedding: nn.Embedding, precision: Precision, *, stored: Stored | None = None) -> None:
        """Quantises a table; the original is not changed.

        Args:
            embedding: what to stand in for.
            precision: bits of the table.
            stored: the table, where it was rounded before or another part holds it too; None to round every number to
                the nearest.

        Raises:
            PlanError: if input bits are asked for: an embedding has no inputs to quantise.
        """
        if precision.activation_bits is not None:
            raise PlanError(f"an embedding has weights only, got {precision}; use w{precision.weight_bits}.")
        super().__init__(embedding.weight, precision, stored)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx = embedding.padding_idx
        self.embed_scale = float(getattr(embedding, "embed_scale", 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """... integer ids -> ... x width, float32."""
        found = unpack(functional.embedding(ids, self.codes), self._bits, self._columns)
        tall, wide = self.precision.block
        scale = real_scale(functional.embedding(ids // tall, self.scale))
        if wide is not None:
            scale = spread(scale.view(-1, scale.shape[-1]), (1, wide), 1, self._columns).view(found.shape)
        found = integers_of(found, self._bits) * scale
        return found if self.embed_scale == 1 else found * self.embed_scale

    def extra_repr(self) -> str:
        """Shape and bits."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.precision}"


class BFloat16Linear(nn.Module):
    """A Linear whose weights are bfloat16, and its inputs where the precision says so; sums are float32.

    Buffers: `rounded` (out x in, bfloat16), `bias` (out, float32) or None.
    """

    weight: None = None  # see `QuantLinear`
    rounded: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, precision: Precision) -> None:
        """Rounds a Linear; the original is not changed.

        Args:
            linear: what to stand in for.
            precision: w16 or w16a16.
        """
        super().__init__()
        self.in_features, self.out_features, self.precision = linear.in_features, linear.out_features, precision
        self.register_buffer("rounded", linear.weight.detach().to(torch.bfloat16))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        if self.precision.activation_bits == BFLOAT16:
            inputs = inputs.to(torch.bfloat16).float()
        return functional.linear(inputs.float(), self.rounded.float(), self.bias)

    def extra_repr(self) -> str:
        """Shape and bits."""
        return f"{self.in_features}, {self.out_features}, {self.precision}"

"""Float products of torch: one module per kernel, each with the meaning of the part it stands for.

Which of them a processor or a GPU gets is decided in `runtimes/torch.py`. Speeds are measured as in
`torch_integers.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..spaces.precision import BFLOAT16
from ..spaces.quantised import BFloat16Linear, QuantLinear
from .torch_integers import packed_for_fbgemm

Treated = QuantLinear | BFloat16Linear
Rounding = Callable[[Tensor], Tensor]

# Rounding weights to half precision may lose so much of their energy: 100 dB.
_FAITHFUL = 1e-10


class HalfLinear(nn.Module):
    """A float32 product by fbgemm that holds weights in half precision, which must not change them.

    It takes 0.85 to 1.0 of torch's own time from 32 tokens on, and 0.7 to 1.3 for one; and 2 bytes a weight.
    """

    weight: None = None  # see `QuantLinear`
    bias: Tensor | None
    scale: Tensor | None

    def __init__(self, meaning: Treated, weight: Tensor, scale: Tensor | None) -> None:
        """Packs the weight for the kernel.

        Args:
            meaning: what it stands for.
            weight: out x in, float32; see `half_weight`.
            scale: what every row of the product is multiplied with, float32, or None.
        """
        super().__init__()
        self._round = rounding_of(meaning)
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        with packed_for_fbgemm():
            self._packed = torch.ops.quantized.linear_prepack_fp16(weight, meaning.bias if scale is None else None)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if scale is None else meaning.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        inputs = inputs if self._round is None else self._round(inputs)
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(inputs, self._packed)
        if self.scale is None:
            return product
        return product.mul_(self.scale) if self.bias is None else torch.addcmul(self.bias, product, self.scale)


class PackedBFloat16Linear(nn.Module):
    """Inputs and weights in bfloat16 by oneDNN on the processor.

    It takes 0.5 to 0.6 of float32's time from 32 tokens on, and 0.8 to 1.6 for one. Sums are float32 inside, but the
    kernel rounds its outputs to bfloat16 as well, which the meaning does not: 56 dB.
    """

    weight: None = None  # see `QuantLinear`

    def __init__(self, meaning: BFloat16Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self._bias = meaning.in_features, meaning.out_features, meaning.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(meaning.rounded)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs.to(torch.bfloat16), self._packed, self._bias, "none", [], ""
        )
        return product.float()


class PlainBFloat16Linear(nn.Module):
    """Inputs and weights in bfloat16 by whatever torch has on the device; outputs are rounded as well."""

    weight: None = None  # see `QuantLinear`
    rounded: Tensor
    bias: Tensor | None

    def __init__(self, meaning: BFloat16Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        self.register_buffer("rounded", meaning.rounded)
        self.register_buffer("bias", meaning.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        product = functional.linear(inputs.to(torch.bfloat16), self.rounded).float()
        return product if self.bias is None else product.add_(self.bias)


class DenseLinear(nn.Module):
    """The meaning in float32, with the weight made dense once: for what has no kernel."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, meaning: Treated) -> None:
        super().__init__()
        self._round = rounding_of(meaning)
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        self.register_buffer("weight", dense_weight(meaning))
        self.register_buffer("bias", meaning.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        return functional.linear(inputs if self._round is None else self._round(inputs), self.weight, self.bias)


def dense_weight(meaning: Treated) -> Tensor:
    """The weight that a part stands for, out x in, float32."""
    return meaning.dense_weight() if isinstance(meaning, QuantLinear) else meaning.rounded.float()


def half_weight(meaning: Treated) -> tuple[Tensor, Tensor | None] | None:
    """The weight in numbers that half precision holds.

    Integers below 32 times a bfloat16 are such numbers; else a row's integers are, and its scale comes after the
    product. Only weights of 5 to 8 bits in blocks of some columns with bfloat16 scales are neither.

    Returns:
        Out x in, float32, and the scale of every row, float32, or None where it needs none; None if there are none.
    """
    weight = dense_weight(meaning)
    # In float64, since the squares of small weights vanish in float32.
    lost = (weight.half().float() - weight).double().square().sum()
    if lost <= _FAITHFUL * weight.double().square().sum():
        return weight, None
    by_row = meaning.quantised().by_row() if isinstance(meaning, QuantLinear) else None
    return None if by_row is None else (by_row[0].float(), by_row[1])


def rounding_of(meaning: Treated) -> Rounding | None:
    """What a part does to its inputs first, in float; None if nothing."""
    if meaning.precision.activation_bits is None:
        return None
    if isinstance(meaning, BFloat16Linear):
        assert meaning.precision.activation_bits == BFLOAT16
        return lambda inputs: inputs.to(torch.bfloat16).float()
    found = meaning.input_range()
    return lambda inputs: torch.fake_quantize_per_tensor_affine(
        found.divided(inputs), found.scale, found.zero_point, 0, found.largest
    )

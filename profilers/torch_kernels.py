"""What torch can multiply quantised Linears with: one module per kernel, each meaning what the part it replaces means.

Which of them a processor or a GPU gets is decided in `runtimes/torch.py`. Speeds below are median times relative to
torch's own float32 Linear, one thread of an AMD EPYC with AVX-512 and VNNI, shapes from 384 x 384 to 768 x 768.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..spaces.precision import BFLOAT16
from ..spaces.quantised import BFloat16Linear, QuantLinear

Treated = QuantLinear | BFloat16Linear
Rounding = Callable[[Tensor], Tensor]

_LARGEST_CODE = 255
# Rounding weights to half precision may lose so much of their energy: 100 dB.
_FAITHFUL = 1e-10
# What torch._int_mm asks for on CUDA: more rows of inputs than 16, other sides multiples of 8.
_LEAST_ROWS, _STEP = 17, 8


class FusedInt8Linear(nn.Module):
    """Integer inputs in one call of fbgemm, which rounds, multiplies and scales.

    It takes 0.3 of float32's time from 32 tokens on, and 0.4 to 1.1 for one, where float32 takes 16 to 70 microseconds.
    For processors with AVX-512 VNNI only: elsewhere fbgemm adds up in 16 bits and may saturate.
    """

    weight: None = None  # see `QuantLinear`

    def __init__(self, meaning: QuantLinear, integers: Tensor, scale: Tensor) -> None:
        """Packs the weight for the kernel.

        Args:
            meaning: with integer inputs.
            integers: its weight, out x in, int8.
            scale: of every row of it, float32.
        """
        super().__init__()
        self._input_scale, self._input_zero_point, largest = _input_range(meaning)
        # Inputs of fewer bits end earlier; the kernel itself ends at 0 and 255.
        self._highest = None if largest == _LARGEST_CODE else (largest - self._input_zero_point) * self._input_scale
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        zero_points = torch.zeros(self.out_features, dtype=torch.int64)
        with _fbgemm():
            weight = torch._make_per_channel_quantized_tensor(integers.contiguous(), scale.double(), zero_points, 0)
            self._packed = torch.ops.quantized.linear_prepack(weight, meaning.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        if self._highest is not None:
            inputs = inputs.clamp(max=self._highest)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            inputs, self._input_scale, self._input_zero_point, self._packed
        )
        return product


class Int8Linear(nn.Module):
    """Integer inputs in oneDNN's product, after rounding them in a call of its own.

    It takes 0.3 to 0.7 of float32's time from 32 tokens on, and 0.9 to 2.8 for one.
    """

    weight: None = None  # see `QuantLinear`

    def __init__(self, meaning: QuantLinear, integers: Tensor, scale: Tensor) -> None:
        """Packs the weight for the kernel.

        Args:
            meaning: with integer inputs.
            integers: its weight, out x in, int8.
            scale: of every row of it, float32.
        """
        super().__init__()
        self._input_scale, self._input_zero_point, self._largest_code = _input_range(meaning)
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        self._scale, self._bias = scale, meaning.bias
        self._zero_points = torch.zeros(self.out_features, dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(integers.contiguous(), None)
        with _quietly():
            self(torch.zeros(1, self.in_features))

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        codes = torch.quantize_per_tensor(inputs, self._input_scale, self._input_zero_point, torch.quint8).int_repr()
        if self._largest_code < _LARGEST_CODE:
            codes.clamp_(max=self._largest_code)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes,
            self._input_scale,
            self._input_zero_point,
            self._packed,
            self._scale,
            self._zero_points,
            self._bias,
            1.0,  # output scale and zero point: unused for a float output
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return product


class IntMmLinear(nn.Module):
    """Integer inputs by `torch._int_mm`, which runs on CUDA's tensor cores; any device has it, so any can test it.

    Codes lie around 0 for it: they are moved by half their range, and what that changes is a constant of every output.
    """

    weight: None = None  # see `QuantLinear`
    integers: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, meaning: QuantLinear, integers: Tensor, scale: Tensor) -> None:
        """Pads the weight as the product demands.

        Args:
            meaning: with integer inputs.
            integers: its weight, out x in, int8.
            scale: of every row of it, float32.
        """
        super().__init__()
        input_scale, zero_point, largest = _input_range(meaning)
        self._inverse_scale = 1 / input_scale
        self._shift = zero_point - 128
        self._highest = largest - 128
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        self._beyond = -self.in_features % _STEP
        steps = scale.double() * input_scale
        offset = -self._shift * integers.sum(dim=1).double() * steps
        if meaning.bias is not None:
            offset += meaning.bias
        padded = functional.pad(integers, (0, self._beyond, 0, -self.out_features % _STEP))
        self.register_buffer("integers", padded)
        self.register_buffer("scale", steps.float())
        self.register_buffer("offset", offset.float())

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        flat = inputs.reshape(-1, self.in_features)
        codes = (flat * self._inverse_scale).round_().add_(self._shift).clamp_(-128, self._highest).to(torch.int8)
        rows = len(codes)
        codes = functional.pad(codes, (0, self._beyond, 0, max(0, _LEAST_ROWS - rows)))
        product = torch._int_mm(codes, self.integers.t())[:rows, : self.out_features]
        return torch.addcmul(self.offset, product.float(), self.scale).view(*inputs.shape[:-1], self.out_features)


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
        with _fbgemm():
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

    It takes 0.5 to 0.6 of float32's time from 32 tokens on, and 0.8 to 1.6 for one. Sums are float32 inside, but the kernel rounds its outputs to bfloat16 as well, which the meaning does not: 56 dB.
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
    scale, zero_point, largest = _input_range(meaning)
    return lambda inputs: torch.fake_quantize_per_tensor_affine(inputs, scale, zero_point, 0, largest)


def _input_range(meaning: QuantLinear) -> tuple[float, int, int]:
    """Scale, zero point and largest code of integer inputs."""
    assert meaning.input_scale is not None and meaning.input_zero_point is not None
    assert meaning.precision.activation_bits is not None
    return float(meaning.input_scale), int(meaning.input_zero_point), 2**meaning.precision.activation_bits - 1


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's remark, once per process, that quantised tensor types will go.

    What is used of them are kernels that torch has under no other name: those that round and cast in one pass, 1.5 to
    2 times as fast as the same in elementwise operations, and fbgemm's.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantize.*")
        yield


@contextmanager
def _fbgemm() -> Iterator[None]:
    """Weights are packed for fbgemm; which library packs them is a setting of the whole process, and is put back."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with _quietly():
            yield
    finally:
        torch.backends.quantized.engine = engine

"""Integer products of torch: one module per kernel, each with the meaning of the part it stands for.

Which of them a processor or a GPU gets is decided in `runtimes/torch.py`. Speeds below are median times relative to
torch's own float32 Linear, one thread of an AMD EPYC with AVX-512 and VNNI, shapes from 384 x 384 to 768 x 768.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..spaces.quantised import QuantLinear

_LARGEST_CODE = 255
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
        self._range = found = meaning.input_range()
        # Inputs of fewer bits end earlier; the kernel itself ends at 0 and 255.
        self._highest = None if found.largest == _LARGEST_CODE else (found.largest - found.zero_point) * found.scale
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        zero_points = torch.zeros(self.out_features, dtype=torch.int64)
        with packed_for_fbgemm():
            weight = torch._make_per_channel_quantized_tensor(integers.contiguous(), scale.double(), zero_points, 0)
            self._packed = torch.ops.quantized.linear_prepack(weight, meaning.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        inputs = self._range.divided(inputs)
        if self._highest is not None:
            inputs = inputs.clamp(max=self._highest)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            inputs, self._range.scale, self._range.zero_point, self._packed
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
        self._range = meaning.input_range()
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        self._scale, self._bias = scale, meaning.bias
        self._zero_points = torch.zeros(self.out_features, dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(integers.contiguous(), None)
        with _quietly():
            self(torch.zeros(1, self.in_features))

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        inputs = self._range.divided(inputs)
        codes = torch.quantize_per_tensor(inputs, self._range.scale, self._range.zero_point, torch.quint8).int_repr()
        if self._range.largest < _LARGEST_CODE:
            codes.clamp_(max=self._range.largest)
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes,
            self._range.scale,
            self._range.zero_point,
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
    steps_per_unit: Tensor

    def __init__(self, meaning: QuantLinear, integers: Tensor, scale: Tensor) -> None:
        """Pads the weight as the product demands.

        Args:
            meaning: with integer inputs.
            integers: its weight, out x in, int8.
            scale: of every row of it, float32.
        """
        super().__init__()
        found = meaning.input_range()
        inverse = torch.ones(()) if found.inverse_factors is None else found.inverse_factors
        self.register_buffer("steps_per_unit", inverse / found.scale)
        self._shift = found.zero_point - 128
        self._highest = found.largest - 128
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        self._beyond = -self.in_features % _STEP
        steps = scale.double() * found.scale
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
        codes = (flat * self.steps_per_unit).round_().add_(self._shift).clamp_(-128, self._highest).to(torch.int8)
        rows = len(codes)
        codes = functional.pad(codes, (0, self._beyond, 0, max(0, _LEAST_ROWS - rows)))
        product = torch._int_mm(codes, self.integers.t())[:rows, : self.out_features]
        return torch.addcmul(self.offset, product.float(), self.scale).view(*inputs.shape[:-1], self.out_features)


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
def packed_for_fbgemm() -> Iterator[None]:
    """Weights are packed for fbgemm; which library packs them is a setting of the whole process, and is put back."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with _quietly():
            yield
    finally:
        torch.backends.quantized.engine = engine

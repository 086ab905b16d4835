"""Eager PyTorch, with oneDNN's integer matrix products on processors that have them."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig

from ...spaces.artefact import quiet_transformers
from ...spaces.blocks import Quantised
from ...spaces.build import copy_sharing_parameters
from ...spaces.quantised import QuantLinear
from ...spaces.ranges import rounded_inputs
from ...spaces.ties import tie, tied_names
from ...spaces.workbench import Inputs
from ..devices import Device
from ..machine import instruction_sets
from . import Executable, kernel_for, kernels_text

# Without one of these, 8-bit products are added up in 16 bits and may saturate: wrong numbers, so no kernel.
_EXACT_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8"}

# Weights made float at once: 2 MiB, about what a second-level cache holds.
_BLOCK = 2**19


class TorchExecutable:
    """A transformers model with its quantised Linears lowered to what the device runs best.

    Attributes:
        model: an ordinary module that can be called like the original.
        kernels: which quantised parts run on integer kernels.
    """

    def __init__(self, model: nn.Module, device: Device, kernels: str) -> None:
        self.model = model
        self.kernels = kernels
        self._device = device

    def __call__(self, inputs: Inputs) -> Tensor:
        """Model inputs, batch x tokens -> logits, on the CPU."""
        with torch.inference_mode():
            on_device = self._moved(inputs)
            labels = on_device.pop("labels", None)
            shift = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
            if labels is not None and shift is not None:
                # Shifted here: given the labels, the model would spend time on a loss that nobody asked for.
                on_device["decoder_input_ids"] = shift(labels)
            logits: Tensor = self.model(**on_device).logits
            self._device.synchronise()
            return logits.cpu()

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        """Token ids on the CPU, the decoder's start token first; see `Executable`."""
        model: Any = self.model
        # Quiet, because settings of the model that have no effect here would each be remarked on.
        with torch.inference_mode(), quiet_transformers():
            asked = _without_sampling(model.generation_config, new_tokens, beams, exactly=exactly)
            written: Tensor = model.generate(**self._moved(inputs), generation_config=asked)
            self._device.synchronise()
            return written.cpu()

    def _moved(self, inputs: Inputs) -> dict[str, Tensor]:
        return {name: tensor.to(self._device.torch_device) for name, tensor in inputs.items()}


def _without_sampling(own: GenerationConfig, new_tokens: int, beams: int, *, exactly: bool) -> GenerationConfig:
    """What is asked of `generate`; what is left unset here (special tokens, penalties) is as the model has it."""
    return GenerationConfig(
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens if exactly else min(own.min_new_tokens or 0, new_tokens),
        # A longer least length than is asked for would only be warned of.
        min_length=0 if exactly else min(own.min_length or 0, new_tokens),
        num_beams=beams,
        early_stopping=False if exactly else own.early_stopping,
        do_sample=False,
        use_cache=True,
        num_return_sequences=1,
        return_dict_in_generate=False,
    )


class TorchRuntime:
    """Runs everywhere torch does."""

    def absence(self, device: Device) -> str | None:
        """Never absent."""
        return None

    def refusal(self, model: nn.Module) -> str | None:
        """It runs every model of transformers."""
        return None

    def versions(self) -> Mapping[str, str]:
        """Nothing beside torch."""
        return {}

    def load(self, model: nn.Module, device: Device, *, threads: int) -> Executable:
        """Lowers the quantised Linears and moves the model to the device."""
        torch.set_num_threads(threads)
        is_cpu = device.torch_device.type == "cpu"
        # On the CPU untouched parameters stay shared with the original; moving to a device must not move those.
        own = copy_sharing_parameters(model) if is_cpu else copy.deepcopy(model)
        quantised = [(name, part) for name, part in own.named_modules() if isinstance(part, QuantLinear)]
        for name, part in quantised:
            own.set_submodule(name, lowered(part, is_cpu=is_cpu))
        ties = tied_names(own)
        own.to(device.torch_device)
        tie(own, ties)  # moving gives every holder of a table its own copy
        asked = [kernel_for(part.precision) for _, part in quantised]
        ran = ["int8" for part in own.modules() if isinstance(part, Int8Linear)]
        return TorchExecutable(own, device, kernels_text(asked, ran))

    def save(self, model: nn.Module, folder: Path) -> None:
        """Nothing: the exported tensors are torch's own."""


def lowered(part: QuantLinear, *, is_cpu: bool) -> nn.Module:
    """What runs the meaning of a quantised Linear best."""
    if is_cpu and part.precision.has_integer_inputs and has_int8_kernel():
        by_row = part.quantised().by_row()
        if by_row is not None:
            return Int8Linear(part, *by_row)
    if is_cpu and part.precision.activation_bits is None:
        return CodesLinear(part)
    return DenseQuantLinear(part)


def has_int8_kernel() -> bool:
    """Whether this processor multiplies matrices of 8-bit integers exactly."""
    return torch.backends.mkldnn.is_available() and bool(_EXACT_INT8.intersection(instruction_sets()))


class Int8Linear(nn.Module):
    """The meaning of a `QuantLinear` with integer inputs in one integer product; holds the kernel's weight only."""

    weight: None = None  # see `QuantLinear`

    def __init__(self, meaning: QuantLinear, integers: Tensor, scale: Tensor) -> None:
        """Packs the weight for the kernel.

        Args:
            meaning: with integer inputs.
            integers: its weight, out x in, int8.
            scale: of every row of it, float32.
        """
        super().__init__()
        assert meaning.input_scale is not None and meaning.input_zero_point is not None
        assert meaning.precision.activation_bits is not None
        self._largest_code = 2**meaning.precision.activation_bits - 1
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        self._input_scale = float(meaning.input_scale)
        self._input_zero_point = int(meaning.input_zero_point)
        self._scale, self._bias = scale, meaning.bias
        self._zero_points = torch.zeros(self.out_features, dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(integers.contiguous(), None)
        with warnings.catch_warnings():
            # torch warns once per process that quantised tensor types will go; what is used here is the kernel that
            # rounds and casts in one pass, 1.5 to 2 times as fast as the same in elementwise operations.
            warnings.filterwarnings("ignore", message=".*quantize_per_tensor.*")
            self(torch.zeros(1, self.in_features))

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        codes = torch.quantize_per_tensor(inputs, self._input_scale, self._input_zero_point, torch.quint8).int_repr()
        if self._largest_code < 255:
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


class CodesLinear(nn.Module):
    """The meaning of a `QuantLinear` with float inputs, for the CPU: weights stay integers, and may be shared.

    A few rows are made float in the processor's cache, and used there: less memory moves than with a dense weight.
    """

    integers: Tensor
    scale: Tensor
    bias: Tensor | None
    weight: None = None  # see `QuantLinear`

    def __init__(self, meaning: QuantLinear) -> None:
        super().__init__()
        found = meaning.quantised()
        self.register_buffer("integers", found.integers)
        self.register_buffer("scale", found.scale)
        self.register_buffer("bias", meaning.bias)
        self.precision = meaning.precision
        tall = meaning.precision.block[0]
        self._rows = max(1, _BLOCK // meaning.in_features // tall) * tall

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        scales = self.scale.split(self._rows // self.precision.block[0])
        blocks = [
            functional.linear(inputs, Quantised(integers, scale, self.precision).dense())
            for integers, scale in zip(self.integers.split(self._rows), scales, strict=True)
        ]
        product = torch.cat(blocks, dim=-1)
        return product if self.bias is None else product.add_(self.bias)


class DenseQuantLinear(nn.Module):
    """The meaning of a `QuantLinear` in float, with the weight made dense once: for what has no kernel."""

    input_scale: Tensor | None
    input_zero_point: Tensor | None
    weight: Tensor
    bias: Tensor | None

    def __init__(self, meaning: QuantLinear) -> None:
        super().__init__()
        self._input_bits = meaning.precision.activation_bits
        self.register_buffer("weight", meaning.dense_weight())
        self.register_buffer("bias", meaning.bias)
        self.register_buffer("input_scale", meaning.input_scale)
        self.register_buffer("input_zero_point", meaning.input_zero_point)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        inputs = rounded_inputs(inputs, self.input_scale, self.input_zero_point, self._input_bits)
        return functional.linear(inputs, self.weight, self.bias)


plugin = TorchRuntime()

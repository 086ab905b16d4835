"""Eager PyTorch, with the matrix products of fbgemm and oneDNN, or of CUDA, that were measured to win."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig

from ...spaces.artefact import quiet_transformers
from ...spaces.blocks import Quantised
from ...spaces.build import copy_sharing_parameters
from ...spaces.quantised import BFloat16Linear, QuantEmbedding, QuantLinear
from ...spaces.ties import tie, tied_names
from ...spaces.workbench import Inputs
from ..devices import Device
from ..factored_products import Settled, quicker_as_two, settle
from ..machine import EXACT_INT8, instruction_sets
from ..torch_floats import DenseLinear, HalfLinear, PackedBFloat16Linear, PlainBFloat16Linear, half_weight
from ..torch_integers import FusedInt8Linear, Int8Linear, IntMmLinear
from ..torch_tables import CodesLinear, LookupTable
from . import Executable, kernel_for, kernels_text

_NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
# Compute capabilities of CUDA devices.
_INT8_TENSOR_CORES, _BFLOAT16_TENSOR_CORES = (7, 5), (8, 0)
_TREATED = (QuantLinear, QuantEmbedding, BFloat16Linear)


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
        settled = settle(own, partial(quicker_as_two, ("torch", device.name, threads), partial(_products, device)))
        kernels = lower(own, device.torch_device, settled)
        ties = tied_names(own)
        own.to(device.torch_device)
        tie(own, ties)  # moving gives every holder of a table its own copy
        return TorchExecutable(own, device, kernels)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Nothing: the exported tensors are torch's own."""


def _products(device: Device, weights: Sequence[Tensor]) -> Callable[[Tensor], object]:
    """See `factored_products.MakeProducts`."""
    moved = [weight.to(device.torch_device) for weight in weights]
    # Moved once: in a model, inputs come from the layer before.
    known: dict[int, Tensor] = {}

    def multiply(inputs: Tensor) -> None:
        if id(inputs) not in known:
            known[id(inputs)] = inputs.to(device.torch_device)
        values = known[id(inputs)]
        with torch.inference_mode():
            for weight in moved:
                values = functional.linear(values, weight)
        device.synchronise()

    return multiply


def lower(model: nn.Module, device: torch.device, settled: Settled = Settled()) -> str:  # noqa: B008  (frozen)
    """Puts what runs best in place of every treated part, in place.

    Args:
        model: without factorised Linears that are to run as one.
        device: where it shall run.
        settled: what became of its factorised Linears.

    Returns:
        How many Linears run on the kernels they ask for, as `kernels_text` writes it.
    """
    parts = {name: part for name, part in model.named_modules(remove_duplicate=False) if isinstance(part, _TREATED)}
    tables = {part.codes.data_ptr() for part in parts.values() if isinstance(part, QuantEmbedding)}
    outputs = {part.codes.data_ptr() for part in parts.values() if isinstance(part, QuantLinear)}
    tied = _Unpacked(tables & outputs)
    done: dict[int, tuple[nn.Module, str | None]] = {}
    for name, part in parts.items():
        if id(part) not in done:
            done[id(part)] = _lowered(part, tied, device)
        model.set_submodule(name, done[id(part)][0])
    linears = {id(part): part for part in parts.values() if not isinstance(part, QuantEmbedding)}
    asked = [kernel_for(part.precision) for part in linears.values()]
    ran = [kernel for _, kernel in done.values() if kernel is not None]
    return kernels_text([*asked, *settled.asked], [*ran, *settled.ran])


class _Unpacked:
    """Numbers of parts, unpacked; those that several parts hold are unpacked once."""

    def __init__(self, tied: set[int]) -> None:
        """Takes where the codes lie that both lookups and an output hold."""
        self._tied = tied
        self._known: dict[int, Quantised] = {}

    def is_tied(self, part: QuantLinear | QuantEmbedding) -> bool:
        """Whether it holds codes that a part of another kind holds, too."""
        return part.codes.data_ptr() in self._tied

    def __call__(self, part: QuantLinear | QuantEmbedding) -> Quantised:
        """The numbers of one part."""
        if not self.is_tied(part):
            return part.quantised()
        if part.codes.data_ptr() not in self._known:
            self._known[part.codes.data_ptr()] = part.quantised()
        return self._known[part.codes.data_ptr()]


def _lowered(part: nn.Module, unpacked: _Unpacked, device: torch.device) -> tuple[nn.Module, str | None]:
    """What runs a part best, and the kernel that it runs on, or None for float."""
    is_cpu = device.type == "cpu"
    if isinstance(part, QuantEmbedding):
        table = LookupTable(part, unpacked(part), as_integers=unpacked.is_tied(part)) if is_cpu else part
        return table, None
    assert isinstance(part, QuantLinear | BFloat16Linear)
    kernel = kernel_for(part.precision)
    if isinstance(part, BFloat16Linear) and part.precision.activation_bits is not None and has_bfloat16(device):
        return PackedBFloat16Linear(part) if is_cpu else PlainBFloat16Linear(part), kernel
    if isinstance(part, QuantLinear) and part.precision.has_integer_inputs:
        product, by_row = int8_product(device), part.quantised().by_row()
        if product is not None and by_row is not None:
            return product(part, *by_row), kernel
    if not is_cpu:
        return DenseLinear(part), None
    if isinstance(part, QuantLinear) and unpacked.is_tied(part):
        return CodesLinear(part, unpacked(part)), kernel
    halves = half_weight(part) if has_half_kernel() else None
    if halves is not None:
        # Weights of 16 bits are multiplied as they are; those of fewer are not held as such, so nothing is claimed.
        is_whole = isinstance(part, BFloat16Linear) and part.precision.activation_bits is None
        return HalfLinear(part, *halves), kernel if is_whole else None
    if isinstance(part, QuantLinear) and part.precision.activation_bits is None:
        return CodesLinear(part, unpacked(part)), kernel
    return DenseLinear(part), None


def int8_product(device: torch.device) -> type[FusedInt8Linear | Int8Linear | IntMmLinear] | None:
    """The fastest exact product of 8-bit integers that a device has.

    fbgemm's takes half as long as oneDNN's for few tokens, and as long for many; but it does not know AMX.
    """
    if device.type == "cuda":
        return IntMmLinear if torch.cuda.get_device_capability(device) >= _INT8_TENSOR_CORES else None
    sets = set(instruction_sets())
    if device.type != "cpu" or not sets & EXACT_INT8:
        return None
    if "avx512_vnni" in sets and "amx_int8" not in sets and has_half_kernel():
        return FusedInt8Linear
    return Int8Linear if torch.backends.mkldnn.is_available() else None


def has_half_kernel() -> bool:
    """Whether this torch has fbgemm, as it has for x86."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 by itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _BFLOAT16_TENSOR_CORES
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and bool(_NATIVE_BFLOAT16.intersection(instruction_sets()))
    )


plugin = TorchRuntime()

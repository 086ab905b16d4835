"""OpenVINO on the processor: float32, and its integer kernels for quantised Linears.

A quantised Linear is handed over in torch's fake-quantise operators with paring's own scales; the conversion turns them
into FakeQuantize nodes, which OpenVINO lowers to integer products. Embeddings stay 8-bit tables.
"""

import copy
import inspect
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import SettingError
from ...spaces.artefact import quiet_transformers
from ...spaces.quantised import QuantLinear
from ...spaces.workbench import Inputs
from ..devices import Device
from . import Executable

# In the order in which the converted model takes them; the last only where the model does.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_PRODUCTS, _INTEGERS = ("FullyConnected", "MatMul"), ("i8", "u8")
_NO_DECODERS = "it runs encoders only, and this model has a decoder; use --runtime torch."
IR_FILE = "openvino_model.xml"


class OpenVinoExecutable:
    """A compiled OpenVINO model.

    Attributes:
        kernels: how many of the quantised Linears run in integers, as the compiled model says itself.
    """

    def __init__(self, compiled: Any, names: tuple[str, ...], quantised: int) -> None:
        self._compiled, self._names = compiled, names
        lowered = min(_integer_products(compiled), quantised)
        self.kernels = f"int8 {lowered}/{quantised} Linears" if quantised else "float"

    def __call__(self, inputs: Inputs) -> Tensor:
        """Model inputs, batch x tokens -> logits."""
        filled = {"token_type_ids": torch.zeros_like(inputs["input_ids"]), **inputs}
        logits = self._compiled({name: filled[name].numpy() for name in self._names})[0]
        return torch.from_numpy(logits.copy())

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        """Refused: paring converts no encoder-decoders."""
        raise SettingError(_NO_DECODERS)


class OpenVinoRuntime:
    """Runs on the processor, where openvino is installed."""

    def absence(self, device: Device) -> str | None:
        """It is an optional extra, and paring uses it on the processor only."""
        if find_spec("openvino") is None:
            return "it is not installed; pip install 'paring[openvino]'"
        return None if device.name == "cpu" else "paring uses it on the cpu only"

    def refusal(self, model: nn.Module) -> str | None:
        """Encoder-decoders need a decoder with a cache, which paring does not convert."""
        return _NO_DECODERS if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else None

    def versions(self) -> Mapping[str, str]:
        """Of OpenVINO."""
        return {"openvino": str(_openvino().__version__).partition("-")[0]}

    def load(self, model: nn.Module, device: Device, *, threads: int) -> Executable:
        """Converts and compiles; float parts run in float32, so that they compare with the other runtimes."""
        torch.set_num_threads(threads)
        converted, names, quantised = _convert(model)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Else Linears with 8-bit weights and float inputs would have their inputs quantised behind our back.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        return OpenVinoExecutable(_openvino().Core().compile_model(converted, "CPU", settings), names, quantised)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes OpenVINO's own format, weights not rounded to half precision."""
        converted, _, _ = _convert(model)
        _openvino().save_model(converted, folder / IR_FILE, compress_to_fp16=False)


class _FakeQuantLinear(nn.Module):
    """The meaning of a `QuantLinear` in torch's fake-quantise operators; ranges are constants of the graph."""

    weight: Tensor
    scale: Tensor | None
    zero_points: Tensor
    bias: Tensor | None

    def __init__(self, meaning: QuantLinear) -> None:
        super().__init__()
        precision = meaning.precision
        self._steps = None if precision.activation_bits is None else 2**precision.activation_bits - 1
        self._input_scale = 1.0 if meaning.input_scale is None else float(meaning.input_scale)
        self._input_zero_point = 0 if meaning.input_zero_point is None else int(meaning.input_zero_point)
        by_row = meaning.quantised().by_row()
        self.register_buffer("weight", meaning.dense_weight())
        self.register_buffer("scale", None if by_row is None else by_row[1])
        self.register_buffer("zero_points", torch.zeros(meaning.out_features, dtype=torch.int32))
        self.register_buffer("bias", meaning.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out."""
        if self._steps is not None:
            inputs = torch.fake_quantize_per_tensor_affine(
                inputs, self._input_scale, self._input_zero_point, 0, self._steps
            )
        weight = self.weight
        if self.scale is not None:
            weight = torch.fake_quantize_per_channel_affine(weight, self.scale, self.zero_points, 0, -127, 127)
        return functional.linear(inputs, weight, self.bias)


class _Logits(nn.Module):
    """A transformers model with positional inputs and nothing but logits."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self._names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs in the order of the names -> batch x outputs."""
        logits: Tensor = self.model(**dict(zip(self._names, inputs, strict=True))).logits
        return logits


def _openvino() -> Any:
    """The package, kept from reporting to its makers, which it does on import; without that package it is silent."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")


def _convert(model: nn.Module) -> tuple[Any, tuple[str, ...], int]:
    """The model in OpenVINO's form, the names of its inputs, and how many of its Linears are quantised."""
    own = copy.deepcopy(model)
    quantised = [(name, part) for name, part in own.named_modules() if isinstance(part, QuantLinear)]
    for name, part in quantised:
        own.set_submodule(name, _FakeQuantLinear(part))
    names = tuple(name for name in _INPUTS if name in inspect.signature(own.forward).parameters)
    # Token types of ones would be out of range for models that have but one type.
    ones = torch.ones(2, 8, dtype=torch.long)
    example = tuple(ones if name != "token_type_ids" else 0 * ones for name in names)
    with warnings.catch_warnings(), quiet_transformers(), torch.no_grad():
        # The tracer warns of branches on shapes; that the result holds for other shapes is what the tests check.
        warnings.simplefilter("ignore")
        converted = _openvino().convert_model(_Logits(own, names), example_input=example)
    for name, port in zip(names, converted.inputs, strict=True):
        port.get_tensor().set_names({name})
    return converted, names, len(quantised)


def _integer_products(compiled: Any) -> int:
    """Matrix products that the compiled model runs in integers."""
    count = 0
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        kind, precision = str(facts["layerType"].value), str(facts["runtimePrecision"].value)
        count += kind in _PRODUCTS and precision in _INTEGERS
    return count


plugin = OpenVinoRuntime()

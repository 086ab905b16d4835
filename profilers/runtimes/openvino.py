"""OpenVINO on the processor: float32, and its integer kernels for quantised Linears.

Quantised modules are handed over in the patterns of `profilers/openvino_patterns.py`; which kernels they became is read
from the compiled model (`profilers/openvino_kernels.py`).
"""

import inspect
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...spaces.artefact import quiet_transformers
from ...spaces.build import copy_sharing_parameters
from ...spaces.workbench import Inputs
from ..devices import Device
from ..openvino_kernels import Asked, kernels_asked, kernels_run
from ..openvino_patterns import finish, openvino, prepare
from . import Executable, kernels_text

# In the order in which the converted model takes them; the last only where the model does.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_NO_DECODERS = "it runs encoders only, and this model has a decoder; use --runtime torch."
IR_FILE = "openvino_model.xml"


class OpenVinoExecutable:
    """A compiled OpenVINO model.

    Attributes:
        kernels: how many of the treated Linears run on kernels of their own, as the compiled model says itself.
    """

    def __init__(self, compiled: Any, names: tuple[str, ...], asked: Mapping[str, Asked]) -> None:
        self._compiled, self._names = compiled, names
        self.kernels = kernels_text((one.kernel for one in asked.values()), kernels_run(compiled, asked))

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
        return {"openvino": str(openvino().__version__).partition("-")[0]}

    def load(self, model: nn.Module, device: Device, *, threads: int) -> Executable:
        """Converts and compiles; float parts run in float32, so that they compare with the other runtimes."""
        torch.set_num_threads(threads)
        converted, names, asked = _convert(model)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Else Linears with 8-bit weights and float inputs would have their inputs quantised behind our back.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        return OpenVinoExecutable(openvino().Core().compile_model(converted, "CPU", settings), names, asked)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes OpenVINO's own format: quantised weights in 4 or 8 bits, the others not rounded to half precision."""
        converted, _, _ = _convert(model)
        openvino().save_model(converted, folder / IR_FILE, compress_to_fp16=False)


class _Logits(nn.Module):
    """A transformers model with positional inputs and nothing but logits."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self._names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs in the order of the names -> batch x outputs."""
        logits: Tensor = self.model(**dict(zip(self._names, inputs, strict=True))).logits
        return logits


def _convert(model: nn.Module) -> tuple[Any, tuple[str, ...], dict[str, Asked]]:
    """The model in OpenVINO's form, the names of its inputs, and the kernels that its Linears ask for."""
    own = copy_sharing_parameters(model)
    told = prepare(own)
    names = tuple(name for name in _INPUTS if name in inspect.signature(own.forward).parameters)
    # Token types of ones would be out of range for models that have but one type.
    ones = torch.ones(2, 8, dtype=torch.long)
    example = tuple(ones if name != "token_type_ids" else 0 * ones for name in names)
    with warnings.catch_warnings(), quiet_transformers(), torch.no_grad():
        # The tracer warns of branches on shapes; that the result holds for other shapes is what the tests check.
        warnings.simplefilter("ignore")
        converted = openvino().convert_model(_Logits(own, names), example_input=example, extension=told or None)
    finish(converted)
    for name, port in zip(names, converted.inputs, strict=True):
        port.get_tensor().set_names({name})
    return converted, names, kernels_asked(model)


plugin = OpenVinoRuntime()

"""OpenVINO on the processor: float32, and its integer kernels for quantised Linears.

Quantised modules are handed over in the patterns of `profilers/openvino_patterns.py`; which kernels they became is read
from the compiled model (`profilers/openvino_kernels.py`).
"""

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from ..encoder_tracing import NO_DECODERS, Logits, as_arrays, example_inputs, input_names, refusal
from ..factored_products import Settled, quicker_as_two, settle
from ..openvino_kernels import Asked, kernels_asked, kernels_run
from ..openvino_patterns import finish, openvino, prepare, products
from . import Executable, kernels_text

IR_FILE = "openvino_model.xml"


class OpenVinoExecutable:
    """A compiled OpenVINO model.

    Attributes:
        kernels: how many of the treated Linears run on kernels of their own, as the compiled model says itself.
    """

    def __init__(self, compiled: Any, names: tuple[str, ...], asked: Mapping[str, Asked], settled: Settled) -> None:
        self._compiled, self._names = compiled, names
        # A request holds its inputs and outputs: several at once, in threads of their own, need one each.
        self._of_thread = threading.local()
        self.kernels = kernels_text(
            [*(one.kernel for one in asked.values()), *settled.asked], [*kernels_run(compiled, asked), *settled.ran]
        )

    def __call__(self, inputs: Inputs) -> Tensor:
        """Model inputs, batch x tokens -> logits."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        logits = self._of_thread.request.infer(as_arrays(inputs, self._names))[0]
        return torch.from_numpy(logits.copy())

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        """Refused: paring converts no encoder-decoders."""
        raise SettingError(NO_DECODERS)


class OpenVinoRuntime:
    """Runs on the processor, where openvino is installed."""

    def absence(self, device: Device) -> str | None:
        """It is an optional extra, and paring uses it on the processor only."""
        if find_spec("openvino") is None:
            return "it is not installed; pip install 'paring[openvino]'"
        return None if device.name == "cpu" else "paring uses it on the cpu only"

    def refusal(self, model: nn.Module) -> str | None:
        """Encoder-decoders are not converted."""
        return refusal(model)

    def versions(self) -> Mapping[str, str]:
        """Of OpenVINO."""
        return {"openvino": str(openvino().__version__).partition("-")[0]}

    def load(self, model: nn.Module, device: Device, *, threads: int) -> Executable:
        """Converts and compiles; float parts run in float32, so that they compare with the other runtimes."""
        torch.set_num_threads(threads)
        converted, names, asked, settled = _convert(model, threads)
        return OpenVinoExecutable(_compiled(converted, threads), names, asked, settled)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes OpenVINO's own format: quantised weights in 4 or 8 bits, the others not rounded to half precision."""
        converted, *_ = _convert(model, torch.get_num_threads())
        openvino().save_model(converted, folder / IR_FILE, compress_to_fp16=False)


def _compiled(converted: Any, threads: int) -> Any:
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Else Linears with 8-bit weights and float inputs would have their inputs quantised behind our back.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    return openvino().Core().compile_model(converted, "CPU", settings)


def _products(threads: int, weights: Sequence[Tensor]) -> Callable[[Tensor], object]:
    """See `factored_products.MakeProducts`."""
    request = _compiled(products(weights), threads).create_infer_request()
    return lambda inputs: request.infer([inputs.numpy()])


def _convert(model: nn.Module, threads: int) -> tuple[Any, tuple[str, ...], dict[str, Asked], Settled]:
    """The model in OpenVINO's form, the names of its inputs, the kernels its Linears ask for, and its factors."""
    own = copy_sharing_parameters(model)
    settled = settle(own, partial(quicker_as_two, ("openvino", threads), partial(_products, threads)))
    asked = kernels_asked(own)
    told = prepare(own)
    names = input_names(own)
    with warnings.catch_warnings(), quiet_transformers(), torch.no_grad():
        # The tracer warns of branches on shapes; that the result holds for other shapes is what the tests check.
        warnings.simplefilter("ignore")
        converted = openvino().convert_model(
            Logits(own, names), example_input=example_inputs(names), extension=told or None
        )
    finish(converted)
    for name, port in zip(names, converted.inputs, strict=True):
        port.get_tensor().set_names({name})
    return converted, names, asked, settled


plugin = OpenVinoRuntime()

"""ONNX Runtime on the processor: float32, its integer products, and weights of 4 and 8 bits that stay so in memory.

What the graph holds is in `profilers/onnx_export.py`; which kernels run is read from the graph as ONNX Runtime has
rewritten it.
"""

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...spaces.workbench import Inputs
from ..devices import Device
from ..encoder_tracing import NO_DECODERS, as_arrays, refusal
from ..factored_products import Pays, quicker_as_two
from ..machine import multiplies_int8_exactly
from ..onnx_export import OnnxModel, products_onnx, to_onnx
from . import Executable, kernels_text

_LIBRARIES = ("onnx", "onnxruntime")
_KERNELS = ("MatMulIntegerToFloat", "MatMulNBits", "DequantizeLinear")
_PROVIDERS, _ERRORS_ONLY = ["CPUExecutionProvider"], 3
# What protobuf can hold in one file, and some room for the graph itself.
_LARGEST_FILE = 2**31 - 2**24
ONNX_FILE = "model.onnx"


class OnnxExecutable:
    """A session of ONNX Runtime.

    Attributes:
        kernels: how many of the treated Linears run on kernels of their own, as the session's own graph says.
    """

    def __init__(self, session: Any, names: tuple[str, ...], kernels: str) -> None:
        self._session, self._names = session, names
        self.kernels = kernels

    def __call__(self, inputs: Inputs) -> Tensor:
        """Model inputs, batch x tokens -> logits."""
        (logits,) = self._session.run(None, as_arrays(inputs, self._names))
        return torch.from_numpy(logits)

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        """Refused: paring exports no encoder-decoders."""
        raise SettingError(NO_DECODERS)


class OnnxRuntime:
    """Runs on the processor, where onnxruntime and onnx are installed."""

    def absence(self, device: Device) -> str | None:
        """It is an optional extra, and paring uses it on the processor only."""
        if not all(map(find_spec, _LIBRARIES)):
            return "it is not installed; pip install 'paring[onnxruntime]'"
        return None if device.name == "cpu" else "paring uses it on the cpu only"

    def refusal(self, model: nn.Module) -> str | None:
        """Encoder-decoders are not exported."""
        return refusal(model)

    def versions(self) -> Mapping[str, str]:
        """Of ONNX Runtime, and of the library that writes its files."""
        return {"onnxruntime": str(_onnxruntime().__version__), "onnx": str(import_module("onnx").__version__)}

    def load(self, model: nn.Module, device: Device, *, threads: int) -> Executable:
        """Exports the model and opens a session; Linears with integer inputs run in float where sums would saturate."""
        torch.set_num_threads(threads)
        exported = to_onnx(model, integer_products=multiplies_int8_exactly(), pays=_pays(threads))
        with TemporaryDirectory() as folder:
            path = Path(folder, ONNX_FILE)
            write(exported, path)
            session, ran = _open(path, threads)
        _give_back_memory()
        settled = exported.settled
        kernels = kernels_text([*exported.asked, *settled.asked], [*ran, *settled.ran])
        return OnnxExecutable(session, exported.names, kernels)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes one ONNX file, and one more with the weights where they need more than 2 GB.

        Its integer products are there on any processor: on one that may saturate them it is not exact.
        """
        write(to_onnx(model, integer_products=True, pays=_pays(torch.get_num_threads())), folder / ONNX_FILE)


def _pays(threads: int) -> Pays:
    """Whether two products are quicker than one, here."""
    return partial(quicker_as_two, ("onnxruntime", threads), partial(_products, threads))


def _products(threads: int, weights: Sequence[Tensor]) -> Callable[[Tensor], object]:
    """See `factored_products.MakeProducts`."""
    session = _session(products_onnx(weights).SerializeToString(), threads)
    return lambda inputs: session.run(None, {"inputs": inputs.numpy()})


def write(exported: OnnxModel, path: Path) -> None:
    """Writes an ONNX file, and beside it `<name>.data` if it holds more than protobuf can."""
    size = sum(len(tensor.raw_data) for tensor in exported.proto.graph.initializer)
    import_module("onnx").save_model(
        exported.proto, path, save_as_external_data=size > _LARGEST_FILE, location=_data_name(path)
    )


def _data_name(path: Path) -> str:
    return f"{path.name}.data"


def _open(path: Path, threads: int) -> tuple[Any, list[str]]:
    """A session, and `kernel_for` of every Linear that runs on a kernel of its own."""
    runtime = _onnxruntime()
    rewritten = path.with_name(f"rewritten-{path.name}")
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.optimized_model_filepath = str(rewritten)
    options.add_session_config_entry("session.disable_prepacking", "1")
    if path.with_name(_data_name(path)).exists():
        name = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(name, _data_name(rewritten))
    runtime.InferenceSession(path, options, providers=_PROVIDERS)
    graph = import_module("onnx").load_model(rewritten, load_external_data=False).graph
    called = [str(node.name).partition(":") for node in graph.node if node.op_type in _KERNELS]
    # What was read is what runs. The session that rewrote it would keep all weights as they were, too.
    session = _session(rewritten, threads)
    return session, [kernel for kernel, colon, _ in called if colon]


def _session(model: Path | bytes, threads: int) -> Any:
    """A session of a graph as it is."""
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return runtime.InferenceSession(model, options, providers=_PROVIDERS)


def _give_back_memory() -> None:
    """Copies of the weights made on the way are freed, but glibc keeps the memory: more than the weights themselves."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@cache
def _onnxruntime() -> Any:
    """The package, kept from reporting to its makers, which some builds of it do."""
    runtime = import_module("onnxruntime")
    runtime.disable_telemetry_events()
    return runtime


plugin = OnnxRuntime()

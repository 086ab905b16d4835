"""Forward passes recorded once and launched as a whole (CUDA graphs), where shapes are fixed.

At batch 1 a GPU often waits for the processor to launch one kernel after the other. A recorded pass is launched once,
so beside the ordinary one it tells what launching costs.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import SettingError
from ..spaces.workbench import Inputs
from .devices import Device
from .runtimes import Executable

Work = Callable[[], Tensor]


class Recorder(Protocol):
    """A device that can record work."""

    def recorded(self, work: Work) -> Work:
        """The same work, which reads and writes the same memory every time, launched as a whole."""


class RecordedExecutable:
    """A model whose forward pass was recorded for inputs of one shape, and is recorded anew for those of another.

    Attributes:
        kernels: those of the model as it was.
    """

    def __init__(self, model: nn.Module, kernels: str, device: Device, recorder: Recorder) -> None:
        """Records nothing yet.

        Args:
            model: on the device.
            kernels: what its runtime said.
            device: where it lies.
            recorder: the same device, as what can record.
        """
        self.kernels = kernels
        self._model, self._device, self._recorder = model, device, recorder
        self._known: dict[tuple[tuple[str, tuple[int, ...]], ...], tuple[dict[str, Tensor], Work]] = {}

    def __call__(self, inputs: Inputs) -> Tensor:
        """Model inputs, batch x tokens, on the CPU -> logits on the CPU."""
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in sorted(inputs.items()))
        with torch.inference_mode():
            if shapes not in self._known:
                self._known[shapes] = self._record(inputs)
            places, work = self._known[shapes]
            for name, tensor in inputs.items():
                places[name].copy_(tensor)
            logits = work()
            self._device.synchronise()
            return logits.to("cpu", copy=True)  # the next launch writes over it

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        """Refused: the shapes of what is generated change from token to token."""
        raise SettingError("recorded passes cannot generate, because shapes change; leave out --cuda-graph.")

    def _record(self, inputs: Inputs) -> tuple[dict[str, Tensor], Work]:
        places = {name: tensor.to(self._device.torch_device).clone() for name, tensor in inputs.items()}

        def forward() -> Tensor:
            logits: Tensor = self._model(**places).logits
            return logits

        return places, self._recorder.recorded(forward)


def recorded(executable: Executable, device: Device) -> Executable:
    """An executable of the torch runtime, with its forward passes recorded.

    Args:
        executable: of the torch runtime, on the device.
        device: one that can record.

    Raises:
        SettingError: if runtime or device cannot.
    """
    model, record = getattr(executable, "model", None), getattr(device, "recorded", None)
    if not isinstance(model, nn.Module):
        raise SettingError("only the torch runtime can record passes; take --runtime torch, or leave out --cuda-graph.")
    if record is None:
        raise SettingError(f"{device.name} cannot record passes; take a CUDA device, or leave out --cuda-graph.")
    return RecordedExecutable(model, executable.kernels, device, device)  # type: ignore[arg-type]

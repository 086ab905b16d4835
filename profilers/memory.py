"""Peak memory of a saved model, measured in a fresh process that does nothing else: see `isolation`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import MeasurementError
from ..spaces import artefact
from . import devices, runtimes
from .devices import Device
from .isolation import Isolation
from .supervision import Allowance
from .workload import Workload
from .workload import request as serve

_CALLS = 5
# Left out of the JSON where they are unknown, so that what was recorded before they existed reads the same.
_OF_GPUS = ("device_used_bytes", "device_total_bytes")


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process needs to serve a model: on a GPU, what torch's allocator reserved there.

    Attributes:
        peak_bytes: most bytes held at once while it served. Loading is left out: what it needs more is the memory map
            of the file, which the system takes back when memory is short.
        runtime_bytes: held before the model was loaded: interpreter and libraries.
        loaded_bytes: held once the model was ready to call.
        device_used_bytes: in use on the GPU after serving, by all processes and the driver's contexts; None for CPUs.
        device_total_bytes: that the GPU has; None for CPUs.
    """

    peak_bytes: int
    runtime_bytes: int
    loaded_bytes: int
    device_used_bytes: int | None = None
    device_total_bytes: int | None = None

    def __post_init__(self) -> None:
        if min(count for count in asdict(self).values() if count is not None) < 0 or self.peak_bytes <= 0:
            raise MeasurementError(f"memory is counted in positive bytes, got {self}.")

    @property
    def weights_bytes(self) -> int:
        """What loading added: the weights, in the form in which the runtime holds them, and the code it brought in."""
        return self.loaded_bytes - self.runtime_bytes

    @property
    def activations_bytes(self) -> int:
        """What serving added at its peak: activations, and what the runtime works in."""
        return self.peak_bytes - self.loaded_bytes

    def to_json(self) -> dict[str, int]:
        """Plain numbers."""
        return {name: count for name, count in asdict(self).items() if count is not None or name not in _OF_GPUS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**data)


class MemoryMeter:
    """Measures saved models one by one; use it as a context manager, or `close` it."""

    def __init__(
        self,
        device: str,
        runtime: str,
        workload: Workload,
        *,
        timeout_seconds: float | None = 300.0,
        memory_limit_bytes: int | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            device: name of the device, as the user writes it.
            runtime: name of the runtime.
            workload: what each model is asked to serve.
            timeout_seconds: after which a measurement is ended; None for no limit.
            memory_limit_bytes: of main memory, resident in the process that measures; beyond it, the measurement is
                ended. None for no limit.
        """
        self._device, self._runtime, self._workload = device, runtime, workload
        self._isolation = Isolation(Allowance(timeout_seconds, memory_limit_bytes), forks=device == "cpu")

    def measure(self, folder: Path, workload: Workload | None = None) -> Memory:
        """Loads a saved model in a fresh process, serves the workload, and reads the peak.

        Args:
            folder: what `artefact.save` wrote.
            workload: another one than the meter's.

        Raises:
            MemoryError: if it ran out of memory, took more than it may, or was killed as the system does then.
            TimedOutError: if it took too long.
            MeasurementError: if it failed or crashed, or the model answered values that are not finite.
        """
        # The class of the model before the fork, so that its code is loaded once and counts as runtime.
        before = (artefact.model_class, (str(folder),))
        asked = workload or self._workload
        found = self._isolation.run(_of_model, folder, self._device, self._runtime, asked, before=before)
        memory: Memory = found.value("measuring memory")
        return memory

    def close(self) -> None:
        """Ends the helper process."""
        self._isolation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def loaded_request(folder: Path, device: Device, runtime: str, workload: Workload) -> Callable[[], Tensor]:
    """Loads a saved model onto a device; what it gives serves one request.

    Args:
        folder: what `artefact.save` wrote.
        device: where it runs.
        runtime: name of what runs it.
        workload: what it serves.

    Raises:
        ParingError: if the model cannot be loaded, or the workload is longer than its positions.
    """
    model, _ = artefact.load(folder)
    inputs = workload.inputs(model.config)
    executable = runtimes.find(runtime).load(model, device, threads=workload.threads)
    return partial(serve, executable, inputs, workload)


def count_non_finite(answers: Tensor) -> int:
    """How many values of an answer are NaN or infinite; tokens never are."""
    return int((~torch.isfinite(answers)).sum()) if answers.is_floating_point() else 0


def check_finite(answers: Tensor) -> None:
    """Looks at what a model answered; tokens are always finite.

    Raises:
        MeasurementError: if a value is NaN or infinite.
    """
    bad = count_non_finite(answers)
    if bad:
        raise MeasurementError(
            f"a model answers finite values, got NaN or infinity in {bad} of {answers.numel()}; its weights are "
            "damaged, or the precision is too coarse for its activations. Check the original, or allow more bits."
        )


def memory_of(load: Callable[[], Callable[[], Tensor]], device: Device) -> Memory:
    """Loads, serves and reads the peak in this process, which must be fresh.

    Args:
        load: gives what serves one request.
        device: whose memory is read.

    Raises:
        MemoryError: if the device has not enough; what this process held there is given back.
        MeasurementError: if an answer is not finite.
    """
    with devices.clean_after_failure(device):
        return _measured(load, device)


def _measured(load: Callable[[], Callable[[], Tensor]], device: Device) -> Memory:
    # The first operation brings in some megabytes of torch, which are not the model's.
    torch.ones(2).sum().item()
    runtime_bytes, _ = device.memory()
    call = load()
    loaded_bytes, _ = device.memory()
    device.restart_peak()
    for _ in range(_CALLS - 1):
        call()
    answers = call()
    device.synchronise()
    _, peak_bytes = device.memory()
    check_finite(answers)
    return Memory(peak_bytes, runtime_bytes, loaded_bytes, *_of_device(device))


def _of_device(device: Device) -> tuple[int, int] | tuple[()]:
    """Bytes in use and in all on a GPU."""
    if device.torch_device.type != "cuda":
        return ()
    free, total = torch.cuda.mem_get_info(device.torch_device)
    return total - free, total


def _of_model(folder: Path, device: str, runtime: str, workload: Workload) -> Memory:
    """The job of `MemoryMeter`."""
    found = devices.find(device)
    return memory_of(partial(loaded_request, folder, found, runtime, workload), found)

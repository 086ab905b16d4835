"""NVIDIA GPUs."""

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ...errors import SettingError
from ..nvml import throttled_nanoseconds
from ..timing import wall_clock
from ..turns import Call
from . import Device

# What the context of CUDA and its libraries take before the first tensor.
_LEAST_FREE = 512 * 2**20
# Libraries set themselves up in the first calls, which must not be recorded.
_CALLS_BEFORE_RECORDING = 3


@dataclass(frozen=True)
class Cuda:
    """One GPU, with the memory that torch's allocator holds on it.

    Attributes:
        name: "cuda:<index>".
    """

    name: str

    @property
    def torch_device(self) -> torch.device:
        """The device of the same name."""
        return torch.device(self.name)

    def facts(self) -> Mapping[str, str]:
        """Model name, compute capability, memory and the CUDA version of torch."""
        found = torch.cuda.get_device_properties(self.torch_device)
        return {
            "name": found.name,
            "capability": f"{found.major}.{found.minor}",
            "memory_bytes": str(found.total_memory),
            "cuda": str(torch.version.cuda),
        }

    def synchronise(self) -> None:
        """Waits for all streams of the GPU."""
        torch.cuda.synchronize(self.torch_device)

    def memory(self) -> tuple[int, int]:
        """Bytes that torch's allocator reserves, now and at their peak; the driver's own context comes on top."""
        return torch.cuda.memory_reserved(self.torch_device), torch.cuda.max_memory_reserved(self.torch_device)

    def restart_peak(self) -> None:
        """For this GPU."""
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def clock(self) -> float:
        """The wall clock: requests bring their results to the CPU, so what is timed is complete."""
        return wall_clock()

    def throttled(self) -> int | None:
        """For how long the GPU slowed down for heat or power, as its driver says."""
        return throttled_nanoseconds(str(torch.cuda.get_device_properties(self.torch_device).uuid))

    def release(self) -> None:
        """Everything that torch's allocator kept for later."""
        gc.collect()
        torch.cuda.empty_cache()

    def stopwatch(self, call: Call) -> float:
        """Seconds between two events of the GPU around a call; for `measure(stopwatch=...)`.

        Beside the wall clock it leaves out what the CPU does before the first kernel and after the last. Where the GPU
        waits for the CPU to launch kernels, that waiting is in both.
        """
        with torch.cuda.device(self.torch_device):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3

    def recorded(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """The same work as a CUDA graph: always the same kernels on the same memory, launched as a whole.

        Args:
            work: on tensors that stay where they are; must not ask the GPU anything while it runs.

        Returns:
            What launches it and returns its result, which the next launch writes over.
        """
        with torch.cuda.device(self.torch_device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_CALLS_BEFORE_RECORDING):
                    work()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = work()

        def launch() -> torch.Tensor:
            graph.replay()
            return result

        return launch


class Cudas:
    """All GPUs this process may use."""

    is_real = True

    def present(self) -> tuple[str, ...]:
        """By index, as `CUDA_VISIBLE_DEVICES` orders them."""
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()

    def absence(self) -> str:
        """Whether torch or the machine lacks CUDA, or the environment hides it."""
        if torch.version.cuda is None:
            return "torch was built without CUDA; install a build of torch for CUDA, see pytorch.org"
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            return "CUDA_VISIBLE_DEVICES hides all GPUs; unset it"
        return "torch sees no CUDA GPU or driver; `nvidia-smi` tells whether the driver runs"

    def open(self, name: str) -> Device:
        """The GPU of this name.

        Raises:
            SettingError: if others have taken it.
        """
        device = torch.device(name)
        try:
            free, total = torch.cuda.mem_get_info(device)
        except RuntimeError as error:
            cause = str(error).partition("\n")[0]
            raise SettingError(
                f"{name} cannot be used: {cause}; take another of {', '.join(self.present())}."
            ) from error
        if free + torch.cuda.memory_reserved(device) < _LEAST_FREE:
            raise SettingError(
                f"{name} is taken by others: {free / 1e9:.1f} of {total / 1e9:.1f} GB are free; wait, end what "
                f"`nvidia-smi` shows, or take another of {', '.join(self.present())}."
            )
        return Cuda(name)


plugin = Cudas()

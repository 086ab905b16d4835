"""NVIDIA GPUs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from . import Device


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


class Cudas:
    """All GPUs this process may use."""

    def present(self) -> tuple[str, ...]:
        """By index, as `CUDA_VISIBLE_DEVICES` orders them."""
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()

    def absence(self) -> str:
        """Whether torch or the machine lacks CUDA."""
        return "torch was built without CUDA" if torch.version.cuda is None else "torch sees no CUDA GPU or driver"

    def open(self, name: str) -> Device:
        """The GPU of this name."""
        return Cuda(name)


plugin = Cudas()

"""The processor of this machine."""

import ctypes
import gc
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from ..conditions import processor_throttled
from ..machine import processor_name
from ..timing import wall_clock
from ..topology import keep_to, numa_nodes
from . import Device

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True)
class Cpu:
    """The processor, or one NUMA node of it, with the memory of this process.

    Attributes:
        name: "cpu", or "cpu:1" for a node.
    """

    name: str = "cpu"

    @property
    def torch_device(self) -> torch.device:
        """The processor; a node of it is a matter of which cores this process may use."""
        return torch.device("cpu")

    def facts(self) -> Mapping[str, str]:
        """The model name."""
        return {"name": processor_name()}

    def synchronise(self) -> None:
        """Nothing: calls return when their work is done."""

    def memory(self) -> tuple[int, int]:
        """Resident bytes, now and at their peak."""
        return psutil.Process().memory_info().rss, _peak_bytes()

    def restart_peak(self) -> None:
        """Linux allows it; elsewhere the peak counts from the start of the process."""
        if _CLEAR_REFS.exists():
            _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")

    def clock(self) -> float:
        """The wall clock."""
        return wall_clock()

    def throttled(self) -> int | None:
        """How often its cores slowed down for heat."""
        return processor_throttled()

    def release(self) -> None:
        """What nobody refers to any more, and what the allocator kept of it."""
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)


def _peak_bytes() -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Cpus:
    """There is one, always; where it has several NUMA nodes, each is a device of its own besides."""

    is_real = True

    def present(self) -> tuple[str, ...]:
        """The processor with all cores this process may use, then its nodes, where there are several."""
        nodes = numa_nodes()
        return ("cpu", *(f"cpu:{node}" for node in nodes if len(nodes) > 1))

    def absence(self) -> str:
        """Never the case."""
        return "every machine has a processor"

    def open(self, name: str) -> Device:
        """The processor; for one node of it, this process is kept to the node's cores from now on."""
        _, colon, node = name.partition(":")
        if colon:
            keep_to(numa_nodes()[int(node)])
        return Cpu(name)


plugin = Cpus()

"""The processor of this machine."""

import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

from ..machine import processor_name
from . import Device

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class Cpu:
    """The processor, with the memory of this process."""

    name = "cpu"
    torch_device = torch.device("cpu")

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


def _peak_bytes() -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Cpus:
    """There is one, always."""

    def present(self) -> tuple[str, ...]:
        """The processor."""
        return ("cpu",)

    def absence(self) -> str:
        """Never the case."""
        return "every machine has a processor"

    def open(self, name: str) -> Device:
        """The processor."""
        return Cpu()


plugin = Cpus()

"""What NVIDIA's driver tells of GPUs, where the package nvidia-ml-py is there; nothing is asked of it on import."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any


@cache
def library() -> Any | None:
    """The package, initialised; None where it or the driver is missing."""
    if find_spec("pynvml") is None:
        return None
    nvml = import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def handle_of(uuid: str) -> Any | None:
    """The driver's handle of a GPU; None where it cannot be had.

    Args:
        uuid: as torch writes it, with or without "GPU-". Indices do not do: `CUDA_VISIBLE_DEVICES` renumbers them.
    """
    nvml = library()
    if nvml is None:
        return None
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
    except nvml.NVMLError:
        return None


def throttled_nanoseconds(uuid: str) -> int | None:
    """For how long a GPU slowed down for heat or power so far; None where the driver does not say."""
    nvml, handle = library(), handle_of(uuid)
    if nvml is None or handle is None:
        return None
    spent = []
    for policy in (nvml.NVML_PERF_POLICY_THERMAL, nvml.NVML_PERF_POLICY_POWER):
        try:
            spent.append(int(nvml.nvmlDeviceGetViolationStatus(handle, policy).violationTime))
        except nvml.NVMLError:
            continue
    return sum(spent) if spent else None


def spent_millijoules(uuid: str) -> int | None:
    """What a GPU used since its driver was loaded; None where it does not say (before Volta)."""
    nvml, handle = library(), handle_of(uuid)
    if nvml is None or handle is None:
        return None
    try:
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except nvml.NVMLError:
        return None

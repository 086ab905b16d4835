"""Energy of serving, from the counters of the processor's package (RAPL) or of the GPU's driver."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from ..errors import MeasurementError
from .conditions import whole_number
from .devices import Device
from .nvml import library, spent_millijoules
from .turns import Clock, Requests

POWERCAP = Path("/sys/class/powercap")
_SECONDS = 2.0
_JOULES_PER_MICROJOULE, _JOULES_PER_MILLIJOULE = 1e-6, 1e-3


@dataclass(frozen=True, slots=True)
class Energy:
    """What a request takes from the supply.

    Attributes:
        joules_per_request: of the whole package or GPU, what it takes when idle included; None where unknown.
        source: what was read, or why nothing could be.
    """

    joules_per_request: float | None
    source: str

    def __post_init__(self) -> None:
        joules = self.joules_per_request
        if joules is not None and not (isfinite(joules) and joules >= 0):
            raise MeasurementError(f"energy is a finite number of joules, got {joules}.")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"joules_per_request": self.joules_per_request, "source": self.source}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(data["joules_per_request"], data["source"])


class Meter(Protocol):
    """A counter of energy."""

    @property
    def source(self) -> str:
        """What it reads, in words."""

    def joules(self) -> float:
        """Since any moment; only differences mean something. Ask at least once in a few minutes."""


class Rapl:
    """The packages of the processor, added up; a package holds its cores and what else lies on it."""

    source = "RAPL, whole processor packages"

    def __init__(self, packages: tuple[Path, ...]) -> None:
        """Takes the folders of the packages; `rapl` finds them."""
        self._packages = packages
        self._ranges = [whole_number(package / "max_energy_range_uj") for package in packages]
        self._last = [self._read(package) for package in packages]
        self._passed = 0

    def joules(self) -> float:
        """A counter that ran over since it was last asked went on from 0."""
        now = [self._read(package) for package in self._packages]
        for before, after, span in zip(self._last, now, self._ranges, strict=True):
            if after < before and span is None:
                raise MeasurementError(
                    "the processor's energy counter ran over, and does not say where; measure again."
                )
            self._passed += after - before + (span + 1 if after < before and span is not None else 0)
        self._last = now
        return self._passed * _JOULES_PER_MICROJOULE

    def _read(self, package: Path) -> int:
        found = whole_number(package / "energy_uj")
        if found is None:
            raise MeasurementError(f"{package / 'energy_uj'} can no longer be read.")
        return found


@dataclass(frozen=True, slots=True)
class Nvml:
    """One GPU, as its driver counts.

    Attributes:
        uuid: of the GPU.
    """

    uuid: str

    @property
    def source(self) -> str:
        """The driver."""
        return "NVML, the whole GPU"

    def joules(self) -> float:
        """Since the driver was loaded."""
        spent = spent_millijoules(self.uuid)
        if spent is None:
            raise MeasurementError("the driver no longer tells the energy of the GPU.")
        return spent * _JOULES_PER_MILLIJOULE


def meter_for(device: Device, powercap: Path = POWERCAP) -> Meter | str:
    """What reads the energy of a device, or why nothing can.

    Args:
        device: where requests are served.
        powercap: where the system keeps the counters of the processor.
    """
    if device.torch_device.type == "cuda":
        return _nvml(device)
    if device.facts().get("name") == "simulated":
        return "a simulated device uses none"
    return rapl(powercap)


def rapl(powercap: Path = POWERCAP) -> Rapl | str:
    """The processor's packages, or why they cannot be read.

    Args:
        powercap: where the system keeps the counters of the processor.
    """
    zones = sorted(powercap.glob("intel-rapl:[0-9]*"))
    packages = tuple(zone for zone in zones if zone.name.count(":") == 1 and _name_of(zone).startswith("package"))
    if not packages:
        return "this system shows no energy counters of the processor (virtual machines seldom do)"
    closed = [package for package in packages if whole_number(package / "energy_uj") is None]
    if closed:
        return f"{closed[0] / 'energy_uj'} may not be read; let root run `chmod a+r` on it"
    return Rapl(packages)


def energy_of(
    entrant: Requests, meter: Meter | str, *, clock: Clock, synchronise: Callable[[], object], seconds: float = _SECONDS
) -> Energy:
    """Serves for a while and divides what was used by the requests.

    Args:
        entrant: whose requests are served in turn, one at a time.
        meter: what reads the counter, or why nothing can.
        clock: in seconds.
        synchronise: returns when the device has done everything.
        seconds: for how long; counters are read by the millisecond or, on GPUs, by the tenth of a second.
    """
    if isinstance(meter, str):
        return Energy(None, meter)
    for call in entrant.calls:
        call()
    synchronise()
    before, started, served = meter.joules(), clock(), 0
    while served == 0 or clock() - started < seconds:
        for call in entrant.calls:
            call()
        served += len(entrant.calls)
    synchronise()
    return Energy((meter.joules() - before) / served, meter.source)


def _nvml(device: Device) -> Nvml | str:
    uuid = str(torch.cuda.get_device_properties(device.torch_device).uuid)
    if library() is None:
        return "the package nvidia-ml-py or the driver's library is missing; pip install nvidia-ml-py"
    if spent_millijoules(uuid) is None:
        return "this GPU does not count its energy; those from Volta on do"
    return Nvml(uuid)


def _name_of(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="ascii").strip()
    except OSError:
        return ""

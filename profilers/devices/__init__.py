"""Where a model runs: one file is one kind of device, and its file name is its name ("cuda:1" is the second cuda)."""

from collections.abc import Mapping
from typing import Protocol, cast

import torch

from ...errors import SettingError
from ...spaces import plugins


class Device(Protocol):
    """The contract of one device of this machine."""

    @property
    def name(self) -> str:
        """As the user writes it, "cpu" or "cuda:0"."""

    @property
    def torch_device(self) -> torch.device:
        """Where torch puts tensors for it."""

    def facts(self) -> Mapping[str, str]:
        """What it says of itself: model name, driver, ..."""

    def synchronise(self) -> None:
        """Returns when all work given to the device is done."""

    def memory(self) -> tuple[int, int]:
        """Bytes this process holds on the device now, and the most it held since the peak was started anew."""

    def restart_peak(self) -> None:
        """Starts the peak anew, where the system allows it."""


class DeviceKind(Protocol):
    """What a device file offers."""

    def present(self) -> tuple[str, ...]:
        """Names of the devices of this kind on this machine, the default one first."""

    def absence(self) -> str:
        """Why `present` is empty, where it is."""

    def open(self, name: str) -> Device:
        """The device of this name, one of `present`."""


def kinds() -> tuple[str, ...]:
    """The kinds of device there are files for."""
    return plugins.names(__name__)


def kind(name: str) -> DeviceKind:
    """The kind of device of this name.

    Raises:
        SettingError: if there is none.
    """
    return cast(DeviceKind, plugins.load(__name__, name, "device"))


def find(name: str) -> Device:
    """The device of this name.

    Args:
        name: "cpu", "cuda" (the first one) or "cuda:1".

    Raises:
        SettingError: if the kind is unknown, or this machine has no such device.
    """
    family = kind(name.partition(":")[0])
    present = family.present()
    if not present:
        here = [device for other in kinds() for device in kind(other).present()]
        raise SettingError(
            f"there is no device {name!r} here: {family.absence()}; this machine has: {', '.join(here)}."
        )
    if ":" in name and name not in present:
        raise SettingError(f"there is no device {name!r} here; of this kind there are: {', '.join(present)}.")
    return family.open(name if ":" in name else present[0])

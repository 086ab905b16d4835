"""Where a model runs: one file is one kind of device, and its file name is its name ("cuda:1" is the second cuda)."""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, cast

import torch

from ...errors import SettingError
from ...spaces import plugins
from ..supervision import is_out_of_memory


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

    def clock(self) -> float:
        """Seconds from any origin, for timing what runs on it; a simulated device owns its time."""

    def throttled(self) -> int | None:
        """How often, or for how long, it slowed itself down so far, in any unit; None where it does not say."""

    def release(self) -> None:
        """Gives back what it keeps for later, so that a failure for want of memory leaves it clean."""


class DeviceKind(Protocol):
    """What a device file offers."""

    @property
    def is_real(self) -> bool:
        """Whether a machine can have one; what is not real is never offered, and opened only by who knows of it."""

    def present(self) -> tuple[str, ...]:
        """Names of the devices of this kind on this machine, the default one first."""

    def absence(self) -> str:
        """Why `present` is empty, where it is."""

    def open(self, name: str) -> Device:
        """The device of this name, one of `present`."""


def kinds() -> tuple[str, ...]:
    """The kinds of device a machine can have, as far as there are files for them."""
    return tuple(name for name in files() if kind(name).is_real)


def files() -> tuple[str, ...]:
    """Every kind there is a file for, simulated ones too."""
    return plugins.names(__name__)


def kind(name: str) -> DeviceKind:
    """The kind of device of this name, a simulated one too.

    Raises:
        SettingError: if there is none; the message lists the real ones.
    """
    if name not in files():
        raise SettingError.unknown("device", name, kinds())
    return cast(DeviceKind, plugins.load(__name__, name, "device"))


def find(name: str) -> Device:
    """The device of this name.

    Args:
        name: "cpu", "cuda" (the first one) or "cuda:1".

    Raises:
        SettingError: if the kind is unknown, or this machine has no such device, or nothing can run on it now.
    """
    family = kind(name.partition(":")[0])
    if not family.is_real:
        raise SettingError.unknown("device", name, kinds())
    present = family.present()
    if not present:
        here = [device for other in kinds() for device in kind(other).present()]
        raise SettingError(
            f"there is no device {name!r} here: {family.absence()}; this machine has: {', '.join(here)}."
        )
    if ":" in name and name not in present:
        raise SettingError(f"there is no device {name!r} here; of this kind there are: {', '.join(present)}.")
    return family.open(name if ":" in name else present[0])


@contextmanager
def clean_after_failure(device: Device) -> Iterator[None]:
    """Work on a device that may ask for more memory than there is.

    Raises:
        MemoryError: instead of whatever said that memory ran out; what the device kept is given back before.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        cause = str(error).partition("\n")[0] or "no more is to be had"
        # What failed still holds its tensors, for whoever would look into the traceback.
        traceback.clear_frames(error.__traceback__)
        device.release()
        raise MemoryError(f"memory ran out on {device.name}: {cause}") from error

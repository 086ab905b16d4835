"""A device with scripted costs and a time of its own, for tests: no machine has one, and none is ever offered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from . import Device


@dataclass
class Simulated:
    """Computes on the CPU; how long that seems to take, and what memory, a script says.

    Attributes:
        name: "simulated:<anything>".
        cost_seconds: asked at every synchronisation, which is when work is complete: by how much the time goes on.
        held_bytes: what `memory` answers, now and at its peak.
        throttles: what `throttled` answers.
        now: the time of the device, in seconds.
        released: how often `release` was asked for.
    """

    name: str = "simulated:0"
    cost_seconds: Callable[[], float] = field(default=lambda: 0.001)
    held_bytes: tuple[int, int] = (0, 0)
    throttles: int | None = None
    now: float = 0.0
    released: int = 0

    @property
    def torch_device(self) -> torch.device:
        """Where it really computes."""
        return torch.device("cpu")

    def facts(self) -> Mapping[str, str]:
        """That it is none."""
        return {"name": "simulated"}

    def synchronise(self) -> None:
        """Lets its time go on by what the script says."""
        self.now += self.cost_seconds()

    def memory(self) -> tuple[int, int]:
        """As scripted."""
        return self.held_bytes

    def restart_peak(self) -> None:
        """Its peak becomes what it holds."""
        self.held_bytes = (self.held_bytes[0], self.held_bytes[0])

    def clock(self) -> float:
        """Its own time."""
        return self.now

    def throttled(self) -> int | None:
        """As scripted."""
        return self.throttles

    def release(self) -> None:
        """Counts how often it was asked."""
        self.released += 1


class Simulations:
    """There are none on any machine; `open` makes one."""

    is_real = False

    def present(self) -> tuple[str, ...]:
        """None."""
        return ()

    def absence(self) -> str:
        """It is none of a machine."""
        return "it exists in tests only"

    def open(self, name: str) -> Device:
        """A fresh one, with its time at 0."""
        return Simulated(name)


plugin = Simulations()

"""The state of the machine while something is measured: who else works on it, and whether it slows itself down."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

SYSTEM = Path("/sys/devices/system")
# The system counts in hundredths of a second: over less than this, shares of time mean nothing.
_SHORTEST_SECONDS = 0.5
_OTHERS_CORES = 0.1
_STEAL_CORES = 0.02
_SLOWER_CLOCK = 0.1
# Beside more work of others than this nothing is measured that should be compared later.
MOST_CORES = 0.25


@dataclass(frozen=True, slots=True)
class Reading:
    """What the counters of the machine say at one moment; two of them tell what happened in between.

    Attributes:
        elapsed_seconds: since the machine started.
        busy_seconds: that the cores open to this process worked, for whomever, summed over the cores.
        stolen_seconds: that a hypervisor gave them to other machines.
        own_seconds: that this process worked.
        throttled: how often, or for how long, the device slowed itself down for heat or power; None where it does not
            say.
        megahertz: mean clock rate of the cores now; None where the system does not say.
    """

    elapsed_seconds: float
    busy_seconds: float
    stolen_seconds: float
    own_seconds: float
    throttled: int | None = None
    megahertz: float | None = None

    @classmethod
    def now(cls, throttled: Callable[[], int | None] | None = None) -> Self:
        """The counters of this machine.

        Args:
            throttled: asks the device measured; None asks the processor.
        """
        every = psutil.cpu_times(percpu=True)
        here = [every[core] for core in allowed_cores() if core < len(every)] or every
        idle = sum(times.idle + getattr(times, "iowait", 0.0) for times in here)
        stolen = sum(getattr(times, "steal", 0.0) for times in here)
        # Time of guests is counted in that of their owners, too.
        total = sum(sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0) for times in here)
        own = psutil.Process().cpu_times()
        return cls(
            total / len(here),
            total - idle - stolen,
            stolen,
            own.user + own.system,
            (throttled or processor_throttled)(),
            clock_rate(),
        )

    def warnings_since(self, before: "Reading") -> tuple[str, ...]:
        """What makes a measurement between two readings doubtful, in plain words; empty where nothing does."""
        elapsed = self.elapsed_seconds - before.elapsed_seconds
        found = []
        if self.throttled is not None and before.throttled is not None and self.throttled > before.throttled:
            found.append("the device slowed itself down for heat or power while it was measured; cool it, or wait")
        if elapsed < _SHORTEST_SECONDS:
            return tuple(found)
        others = others_cores(before, self)
        if others >= _OTHERS_CORES:
            found.append(
                f"other processes took {others:.2f} cores while it was measured; measure again when they have ended"
            )
        stolen = (self.stolen_seconds - before.stolen_seconds) / elapsed
        if stolen >= _STEAL_CORES:
            found.append(f"the hypervisor gave {stolen:.2f} cores to other machines while it was measured")
        if self.megahertz and before.megahertz and self.megahertz < (1 - _SLOWER_CLOCK) * before.megahertz:
            rates = f"from {before.megahertz:.0f} to {self.megahertz:.0f} MHz"
            found.append(f"the processor's clock fell {rates} while it was measured")
        return tuple(found)


def taken_cores(before: Reading, after: Reading) -> float | None:
    """How many cores others took between two readings: other processes, and through the hypervisor other machines.

    Returns:
        None where the readings are too close to each other to tell.
    """
    elapsed = after.elapsed_seconds - before.elapsed_seconds
    if elapsed < _SHORTEST_SECONDS:
        return None
    return others_cores(before, after) + (after.stolen_seconds - before.stolen_seconds) / elapsed


def others_cores(before: Reading, after: Reading) -> float:
    """How many of the cores open to this process were taken by others between two readings, on average."""
    elapsed = after.elapsed_seconds - before.elapsed_seconds
    if elapsed <= 0:
        return 0.0
    others = (after.busy_seconds - before.busy_seconds) - (after.own_seconds - before.own_seconds)
    return max(0.0, others / elapsed)


def allowed_cores() -> tuple[int, ...]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def processor_throttled(system: Path = SYSTEM) -> int | None:
    """How often the processor slowed itself down for heat since it started; None where it does not say.

    Args:
        system: where the system keeps what it knows of its devices.
    """
    counters = [*system.glob("cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")]
    counts = [number for path in counters if (number := whole_number(path)) is not None]
    return sum(counts) if counts else None


def clock_rate(system: Path = SYSTEM) -> float | None:
    """Mean clock rate of the cores that this process may use, in MHz; None where the system does not say."""
    paths = [system / f"cpu/cpu{core}/cpufreq/scaling_cur_freq" for core in allowed_cores()]
    rates = [number for path in paths if (number := whole_number(path)) is not None]
    return sum(rates) / len(rates) / 1e3 if rates else None


def whole_number(path: Path) -> int | None:
    """The number in a file of the system; None where there is no such file, or it may not be read."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None

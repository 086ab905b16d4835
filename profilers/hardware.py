"""What of a machine stays when its software is replaced, and what of the software may move a number."""

import hashlib
import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from .conditions import SYSTEM, allowed_cores
from .machine import Machine

_DRIVER = Path("/proc/driver/nvidia/version")
# Of what a device says of itself, what belongs to its software.
_SOFTWARE_FACTS = ("cuda", "driver")


def hardware_of(machine: Machine) -> str:
    """12 hexadecimal digits of what cannot be upgraded: the device, its facts, cores, instruction sets and memory.

    Two machines of one make and size have the same: numbers of the one are a fair guess for the other, and a machine
    that was started anew is still itself.
    """
    content = {
        "device": machine.device,
        "facts": {name: fact for name, fact in machine.facts.items() if name not in _SOFTWARE_FACTS},
        "cores": machine.cores,
        "instruction_sets": list(machine.instruction_sets),
        "memory_gib": round(machine.memory_bytes / 2**30),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def software_of(machine: Machine) -> dict[str, str]:
    """What can be upgraded: system, libraries, and the software a device's facts name."""
    facts = {name: fact for name, fact in machine.facts.items() if name in _SOFTWARE_FACTS}
    return {"system": machine.system, **machine.versions, **facts}


def settings_here(system: Path = SYSTEM, driver: Path = _DRIVER) -> dict[str, str]:
    """What of this machine can be set or upgraded and is no library: paring, clock governor, NVIDIA's driver.

    Args:
        system: where the system keeps what it knows of its devices.
        driver: where NVIDIA's driver says its version.
    """
    found = {"paring": version("paring")}
    paths = [system / f"cpu/cpu{core}/cpufreq/scaling_governor" for core in allowed_cores()]
    governors = sorted({text for path in paths if (text := _read(path))})
    if governors:
        found["governor"] = ", ".join(governors)
    named = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)", _read(driver))
    if named:
        found["driver"] = named.group(1)
    return found


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """What differs between the software of two measurements, in words.

    Args:
        before: name -> version or setting.
        now: the same, later.
    """
    return tuple(
        f"{name} {before.get(name, 'absent')} to {now.get(name, 'absent')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8").strip()
    except (OSError, ValueError):
        return ""

"""The machine a number was measured on: two numbers compare only if their fingerprints match."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import psutil

# The instruction sets that decide which integer and half-precision kernels a processor has.
_NAMED_SETS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "i8mm",
)
_LIBRARIES = ("torch", "transformers")
# Without one of these, products of 8-bit integers are added up in 16 bits, where they may saturate.
EXACT_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8"}


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides how fast the same model runs.

    Attributes:
        device: the device measured, "cpu" or "cuda:0".
        facts: what the device says of itself, for instance its model name.
        cores: processor cores this process may use.
        instruction_sets: those of the processor that matter for speed.
        memory_bytes: main memory.
        system: operating system and its release.
        versions: of Python and of the libraries that run the model.
    """

    device: str
    facts: Mapping[str, str]
    cores: int
    instruction_sets: tuple[str, ...]
    memory_bytes: int
    system: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls, device: str, facts: Mapping[str, str], runtime_versions: Mapping[str, str]) -> Self:
        """This machine, now."""
        return cls(
            device,
            dict(facts),
            available_cores(),
            instruction_sets(),
            psutil.virtual_memory().total,
            f"{platform.system()} {platform.release()}",
            {"python": platform.python_version(), **library_versions(), **runtime_versions},
        )

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits; memory counts in whole GiB, since a kernel update moves the bytes a little."""
        content = {**self.to_json(), "memory_bytes": round(self.memory_bytes / 2**30)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**data, "instruction_sets": tuple(data["instruction_sets"])})


def available_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def processor_name() -> str:
    """The processor's model name."""
    for key, value in _cpuinfo():
        if key == "model name":
            return value
    return platform.processor() or platform.machine()


@cache
def instruction_sets() -> tuple[str, ...]:
    """Those of `_NAMED_SETS` that the processor has; empty where the system does not say."""
    for key, value in _cpuinfo():
        if key in ("flags", "Features"):
            flags = set(value.split())
            return tuple(name for name in _NAMED_SETS if name in flags)
    return ()


def multiplies_int8_exactly() -> bool:
    """Whether the usual kernels give exact products of matrices of 8-bit integers on this processor."""
    return bool(EXACT_INT8.intersection(instruction_sets()))


def library_versions() -> dict[str, str]:
    """Versions of the libraries every measurement depends on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> list[tuple[str, str]]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf8").splitlines() if path.exists() else []
    pairs = (line.partition(":") for line in lines)
    return [(key.strip(), value.strip()) for key, _, value in pairs]

"""What one model costs on one machine under one workload."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..errors import MeasurementError
from .memory import Memory
from .timing import Latency


@dataclass(frozen=True, slots=True)
class Profile:
    """The costs of one model; two compare only if machine and workload match.

    Attributes:
        stored_bytes: of all its tensors.
        kernels: which of its quantised parts ran on integer kernels.
        machine: fingerprint of the machine.
        workload: in words.
        latency: of one request beside the baseline; None if not asked for.
        memory: of a fresh process that serves it; None if not asked for.
    """

    stored_bytes: int
    kernels: str
    machine: str
    workload: str
    latency: Latency | None = None
    memory: Memory | None = None

    def __post_init__(self) -> None:
        if self.stored_bytes <= 0:
            raise MeasurementError(f"a model takes more than no bytes, got {self.stored_bytes}.")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "stored_bytes": self.stored_bytes,
            "kernels": self.kernels,
            "machine": self.machine,
            "workload": self.workload,
            "latency": None if self.latency is None else self.latency.to_json(),
            "memory": None if self.memory is None else self.memory.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        latency, memory = data["latency"], data["memory"]
        return cls(
            data["stored_bytes"],
            data["kernels"],
            data["machine"],
            data["workload"],
            None if latency is None else Latency.from_json(latency),
            None if memory is None else Memory.from_json(memory),
        )

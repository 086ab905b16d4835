"""What one model costs on one machine under one workload."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..errors import MeasurementError
from .energy import Energy
from .estimates import PredictedLatency, PredictedMemory
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
        latency: of one request beside the baseline, measured or predicted; None if not asked for.
        memory: of a fresh process that serves it, measured or predicted; None if not asked for.
        first_token: of a request that ends after its first token, beside the baseline's; None if not measured.
        seconds_per_token: for every further token of the request; None if not measured, or lost in the noise.
        energy: of a request, or why it cannot be read; None where nobody asked.
    """

    stored_bytes: int
    kernels: str
    machine: str
    workload: str
    latency: Latency | PredictedLatency | None = None
    memory: Memory | PredictedMemory | None = None
    first_token: Latency | None = None
    seconds_per_token: float | None = None
    energy: Energy | None = None

    def __post_init__(self) -> None:
        if self.stored_bytes <= 0:
            raise MeasurementError(f"a model takes more than no bytes, got {self.stored_bytes}.")

    @property
    def is_predicted(self) -> bool:
        """Whether latency or memory was predicted, not measured."""
        return isinstance(self.latency, PredictedLatency) or isinstance(self.memory, PredictedMemory)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "stored_bytes": self.stored_bytes,
            "kernels": self.kernels,
            "machine": self.machine,
            "workload": self.workload,
            "latency": None if self.latency is None else self.latency.to_json(),
            "memory": None if self.memory is None else self.memory.to_json(),
            "first_token": None if self.first_token is None else self.first_token.to_json(),
            "seconds_per_token": self.seconds_per_token,
            "energy": None if self.energy is None else self.energy.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        latency, memory, first = data["latency"], data["memory"], data.get("first_token")
        energy = data.get("energy")
        return cls(
            data["stored_bytes"],
            data["kernels"],
            data["machine"],
            data["workload"],
            None if latency is None else (PredictedLatency if "predicted" in latency else Latency).from_json(latency),
            None if memory is None else (PredictedMemory if "predicted" in memory else Memory).from_json(memory),
            None if first is None else Latency.from_json(first),
            data.get("seconds_per_token"),
            None if energy is None else Energy.from_json(energy),
        )

"""What the original costs here, as a search measured it: what all ratios are multiplied by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..profilers.memory import Memory
from ..profilers.timing import Latency
from ..spaces.plan import Plan
from .study import Record


@dataclass(frozen=True, slots=True)
class Reference:
    """The original, measured.

    Attributes:
        seconds: of a request.
        noise: the original beside itself.
        memory: at the peak of a fresh process; None if not measured.
    """

    seconds: float
    noise: Latency
    memory: Memory | None

    @classmethod
    def of(cls, record: Record, identity: Plan) -> Self | None:
        """What a run measured; None if it has not judged the original yet.

        Args:
            record: of the run.
            identity: the plan of the original.
        """
        original = record.judged().get(identity.fingerprint)
        if record.reference_seconds is None or record.noise is None or original is None or original.profile is None:
            return None
        memory = original.profile.memory
        return cls(record.reference_seconds, record.noise, memory if isinstance(memory, Memory) else None)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        memory = None if self.memory is None else self.memory.to_json()
        return {"seconds": self.seconds, "noise": self.noise.to_json(), "memory": memory}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        memory = None if data["memory"] is None else Memory.from_json(data["memory"])
        return cls(data["seconds"], Latency.from_json(data["noise"]), memory)

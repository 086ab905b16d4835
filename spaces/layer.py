"""Which trained layer stands in a slot."""

import re
from dataclasses import dataclass
from typing import Self

from ..errors import PlanError


@dataclass(frozen=True, slots=True, order=True)
class Layer:
    """Which trained layer stands in a slot.

    Attributes:
        index: 0-based; of the original layer where `granularity` is 1, else of the group of originals it stands for.
        granularity: how many consecutive original layers it does the work of; 1 is an original layer.
    """

    index: int
    granularity: int = 1

    def __post_init__(self) -> None:
        if self.index < 0 or self.granularity < 1:
            raise PlanError(f"a layer needs index >= 0 and granularity >= 1, got {self.index} and {self.granularity}.")

    @property
    def originals(self) -> range:
        """Indices of the original layers whose work it does."""
        return range(self.index * self.granularity, (self.index + 1) * self.granularity)

    def __str__(self) -> str:
        return str(self.index) if self.granularity == 1 else f"m{self.granularity}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` writes: "4" is original layer 4, "m2.1" the second modular layer of granularity 2."""
        match = re.fullmatch(r"(?:m(\d+)\.)?(\d+)", text)
        if match is None:
            raise PlanError(f"a layer is written '4' or 'm2.1', got {text!r}.")
        return cls(int(match[2]), int(match[1] or 1))

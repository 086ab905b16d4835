"""Which precisions a search may choose from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..errors import SettingError
from .families import INTERMEDIATES
from .precision import Precision
from .ranges import CALIBRATIONS

# The choice of a part that is given no precision.
FLOAT = "float"


@dataclass(frozen=True, slots=True)
class Palette:
    """Which precisions a search may choose from, beside float; the gentlest first.

    Attributes:
        linears: for the Linears of every layer.
        tables: for the parts outside the stacks: tables of words and positions, the pooler. Weights only.
        intermediates: for results inside a layer that no Linear takes in; bits of activations only. Often none: most
            kernels keep them float, and rounding them then costs time.
        calibration: how the ranges of activations are found.
        kinds: of intermediate results that `intermediates` are for, such as "scores"; none means all of them.
    """

    linears: tuple[Precision, ...] = (Precision(8, 8), Precision(4, 8, (64, 64), power_of_two=True))
    tables: tuple[Precision, ...] = (Precision(8), Precision(4, None, (1, 64)), Precision(3, None, (1, 64)))
    intermediates: tuple[Precision, ...] = ()
    calibration: str = "least_error"
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.calibration not in CALIBRATIONS:
            raise SettingError.unknown("calibration", self.calibration, CALIBRATIONS)
        for kind in self.kinds:
            if kind not in INTERMEDIATES:
                raise SettingError.unknown("kind of intermediate result", kind, INTERMEDIATES)
        if self.kinds and not self.intermediates:
            raise SettingError(f"{', '.join(self.kinds)} need precisions of intermediate results; give 'a8'.")
        for precision in self.linears:
            if precision.weight_bits is None:
                raise SettingError(f"precisions of Linears have bits of weights, got {precision}; write w8{precision}.")
        for precision in self.tables:
            if not precision.has_integer_weights or precision.activation_bits is not None:
                raise SettingError(f"precisions of tables are like 'w8' or 'w4-64x64-pow2', got {precision}.")
        for precision in self.intermediates:
            if precision.weight_bits is not None or not precision.has_integer_inputs:
                raise SettingError(f"precisions of intermediate results are like 'a8', got {precision}.")
        for precisions in (self.linears, self.tables, self.intermediates):
            if len(set(precisions)) < len(precisions):
                raise SettingError(f"each precision is given once, got {', '.join(map(str, precisions))}.")

    def between(self, kinds: Iterable[str]) -> tuple[str, ...]:
        """Those of these kinds of intermediate results that may have a precision."""
        if not self.intermediates:
            return ()
        return tuple(kind for kind in kinds if not self.kinds or kind in self.kinds)

    def to_json(self) -> dict[str, Any]:
        """Precisions as they are written; kinds are left out where all are meant."""
        return {
            "linears": list(map(str, self.linears)),
            "tables": list(map(str, self.tables)),
            "intermediates": list(map(str, self.intermediates)),
            "calibration": self.calibration,
            **({"kinds": list(self.kinds)} if self.kinds else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        precisions = {name: tuple(map(Precision.parse, data[name])) for name in ("linears", "tables", "intermediates")}
        return cls(**precisions, calibration=data["calibration"], kinds=tuple(data.get("kinds", ())))


DEFAULT_PALETTE = Palette()

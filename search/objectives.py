"""What a search optimises, and the limits it must keep. Inside, every objective is minimised; here it turns once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from math import isclose, isfinite
from typing import Any, Self

from ..errors import MeasurementError, SettingError

OBJECTIVES = ("quality", "latency", "memory", "size")

MEGABYTE = 1_000_000
# As the user writes a limit -> the measure it bounds, and what one of the user's units is in ours.
_LIMITS: Mapping[str, tuple[str, float]] = {
    "latency_ms": ("latency_seconds", 1e-3),
    "memory_mb": ("memory_bytes", MEGABYTE),
    "size_mb": ("size_bytes", MEGABYTE),
    "quality": ("min_quality", 1.0),
    "drop": ("max_drop", 1.0),
}


@dataclass(frozen=True, slots=True)
class Measures:
    """The numbers of one candidate that objectives and limits speak of.

    Attributes:
        quality: of the metric; larger is better.
        drop: quality of the baseline less quality.
        latency_seconds: of one request; None if not measured.
        memory_bytes: at the peak; None if not measured.
        size_bytes: stored.
    """

    quality: float
    drop: float
    latency_seconds: float | None
    memory_bytes: float | None
    size_bytes: float

    def __post_init__(self) -> None:
        numbers = (self.quality, self.drop, self.latency_seconds, self.memory_bytes, self.size_bytes)
        if not all(number is None or isfinite(number) for number in numbers):
            raise MeasurementError(f"what is measured is finite, got {numbers}.")

    def minimised(self, objective: str) -> float:
        """The value of an objective, turned so that smaller is better.

        Raises:
            SettingError: if it was not measured.
        """
        values = {
            "quality": -self.quality,
            "latency": self.latency_seconds,
            "memory": self.memory_bytes,
            "size": self.size_bytes,
        }
        value = values[objective]
        if value is None:
            raise SettingError(f"{objective} was not measured in this run.")
        return float(value)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an acceptable candidate keeps; None bounds nothing.

    Attributes:
        latency_seconds: at most, per request.
        memory_bytes: at most, at the peak.
        size_bytes: at most, stored.
        min_quality: at least.
        max_drop: quality may be at most so far below the baseline's.
    """

    latency_seconds: float | None = None
    memory_bytes: float | None = None
    size_bytes: float | None = None
    min_quality: float | None = None
    max_drop: float | None = None

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Reads limits as the user writes them, for instance "latency_ms=10" or "latency_ms=10,size_mb=40".

        Raises:
            SettingError: if a name is unknown, given twice, or its value is not a legal number.
        """
        found: dict[str, float] = {}
        for part in (part.strip() for text in texts for part in text.split(",") if part.strip()):
            name, _, value = part.partition("=")
            if name not in _LIMITS:
                raise SettingError.unknown("limit", name, _LIMITS)
            field, unit = _LIMITS[name]
            if field in found:
                raise SettingError(f"the limit {name} is given twice; give it once.")
            number = _number(name, value) * unit
            # A size that is copied from a table in MB shall not be missed by a rounding error.
            whole = float(round(number))
            found[field] = whole if unit == MEGABYTE and isclose(number, whole, rel_tol=1e-12) else number
        if found.get("max_drop", 0.0) < 0:
            raise SettingError(f"a limit on the drop of quality must be at least 0, got {found['max_drop']}.")
        return cls(**found)

    def __post_init__(self) -> None:
        for name in ("latency_seconds", "memory_bytes", "size_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(f"a limit on {name.partition('_')[0]} must be above 0, got {value}.")

    def violations(self, measures: Measures) -> dict[str, float]:
        """For each limit set, by how much it is broken, in its own unit; 0 or less keeps it.

        Raises:
            SettingError: if a bounded number was not measured.
        """
        for name in ("latency", "memory"):
            bound = self.latency_seconds if name == "latency" else self.memory_bytes
            if bound is not None:
                measures.minimised(name)
        pairs = {
            "latency_seconds": (measures.latency_seconds, self.latency_seconds),
            "memory_bytes": (measures.memory_bytes, self.memory_bytes),
            "size_bytes": (measures.size_bytes, self.size_bytes),
            "min_quality": (-measures.quality, None if self.min_quality is None else -self.min_quality),
            "max_drop": (measures.drop, self.max_drop),
        }
        return {name: got - bound for name, (got, bound) in pairs.items() if bound is not None and got is not None}

    def and_also(self, others: Self) -> Self:
        """The limits that keep both these and the others."""
        both = {**self.to_json()}
        for name, bound in others.to_json().items():
            tighter = max if name == "min_quality" else min
            both[name] = tighter(both[name], bound) if name in both else bound
        return type(self)(**both)

    def least_quality(self, baseline: float) -> float | None:
        """What the quality must be at least to keep both limits on it; None where there is none.

        Args:
            baseline: quality of the original on the same split.
        """
        drop = None if self.max_drop is None else baseline - self.max_drop
        bounds = [bound for bound in (self.min_quality, drop) if bound is not None]
        return max(bounds, default=None)

    def nearest(self, reached: Sequence[Measures]) -> Self:
        """These limits, each loosened or tightened to the best that any of the candidates reached in it.

        Args:
            reached: numbers of the candidates, at least one.
        """
        best = {name: min(self.violations(measures)[name] for measures in reached) for name in self.to_json()}
        signs = {"min_quality": -1.0}
        return type(self)(**{name: bound + signs.get(name, 1.0) * best[name] for name, bound in self.to_json().items()})

    def are_kept(self, measures: Measures) -> bool:
        """Whether no limit is broken."""
        return all(violation <= 0 for violation in self.violations(measures).values())

    def needed(self) -> set[str]:
        """Objectives that must be measured to know whether the limits are kept."""
        return {name for name in ("latency", "memory") if getattr(self, _bounded(name)) is not None}

    @property
    def bounds_quality(self) -> bool:
        """Whether there is a limit on quality."""
        return self.min_quality is not None or self.max_drop is not None

    def to_json(self) -> dict[str, Any]:
        """The limits that are set, in our units."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) is not None
        }

    def __str__(self) -> str:
        texts = []
        for name, (field, unit) in _LIMITS.items():
            value = getattr(self, field)
            if value is not None:
                texts.append(
                    f"{name}={_loosely(value / unit, ROUND_FLOOR if field == 'min_quality' else ROUND_CEILING)}"
                )
        return ", ".join(texts)


def check_objectives(names: Iterable[str]) -> tuple[str, ...]:
    """Objectives without repeats, in their standing order.

    Raises:
        SettingError: if one is unknown, or none is given.
    """
    wanted = set(names)
    for name in wanted:
        if name not in OBJECTIVES:
            raise SettingError.unknown("objective", name, OBJECTIVES)
    if not wanted:
        raise SettingError(f"at least one objective is needed; the legal values are: {', '.join(OBJECTIVES)}.")
    return tuple(name for name in OBJECTIVES if name in wanted)


def _bounded(objective: str) -> str:
    return {"latency": "latency_seconds", "memory": "memory_bytes"}[objective]


def _loosely(value: float, rounding: str) -> str:
    """Six digits, rounded so that what kept the limit still keeps it as printed."""
    exact = Decimal(f"{value:.12g}")
    return f"{float(Context(prec=6, rounding=rounding).create_decimal(exact)):g}"


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise SettingError(f"the limit {name} must be a number, got {text!r}; write for instance {name}=10.")
    return value

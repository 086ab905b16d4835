"""What to relax, and by how much, where no candidate keeps all limits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import BudgetError
from ..search.objectives import Limits
from .front import Point

_QUALITY_LIMITS = ("min_quality", "max_drop")


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Limits that a candidate keeps, next to those that none does.

    Attributes:
        names: the limits to relax, as fields of `Limits`.
        wanted: the limits asked for.
        limits: the same with those of `names` relaxed as far as needed and no farther.
        point: the candidate that then fits.
    """

    names: tuple[str, ...]
    wanted: Limits
    limits: Limits
    point: Point

    def __str__(self) -> str:
        return " and ".join(map(self._one, self.names))

    def _one(self, name: str) -> str:
        """For instance "latency_ms from 5 to 7.82 (56 % more)"."""
        before, after = getattr(self.wanted, name), getattr(self.limits, name)
        title, _, old = _only(name, before).partition("=")
        new = _only(name, after).partition("=")[2]
        percent = 100 * (after / before - 1) if before else 0.0
        more = f"{percent:.0f} % more" if percent >= 10 else f"{percent:.2g} % more"
        return f"{title} from {old} to {new} ({f'{after - before:+.2g}' if name in _QUALITY_LIMITS else more})"


class NothingFitsError(BudgetError):
    """No candidate keeps the limits.

    Attributes:
        limits: what was asked for.
        nearest: the tightest that can be kept, each limit taken alone.
        relaxations: what would do, the least first.
    """

    def __init__(self, points: Sequence[Point], limits: Limits, budget: Limits) -> None:
        """Finds out what would do.

        Args:
            points: all candidates, none of which keeps the limits; at least one.
            limits: what was asked for, with the budget of the search.
            budget: of the search, which no pick can relax.
        """
        self.limits = limits
        self.nearest = limits.nearest([point.measures for point in points])
        self.relaxations = relaxations(points, limits)
        fixes = ", or ".join(f"{one}: {_named(one.point)}" for one in self.relaxations)
        fixed = sorted({name for one in self.relaxations for name in one.names if getattr(budget, name) is not None})
        ours = "".join(f" {_only(name, getattr(budget, name))} is the budget of the search itself." for name in fixed)
        super().__init__(
            f"no member of the front keeps {limits}; the best reached, each limit taken alone, is: {self.nearest}. "
            f"Relax {fixes}; or search longer.{ours}"
        )


def relaxations(points: Sequence[Point], limits: Limits) -> list[Relaxation]:
    """What would do: every single limit that can be relaxed so that a candidate keeps all; else several at once.

    Args:
        points: candidates that do not keep the limits; at least one.
        limits: at least one is set.

    Returns:
        Those of one limit each, the least relaxed first as a part of what it was (quality and its drop as a part of the
        candidate's quality); where none of them is enough, the one of several limits whose largest part is least.
    """
    broken = [{name: by for name, by in limits.violations(point.measures).items() if by > 0} for point in points]
    found: dict[tuple[str, ...], tuple[float, Relaxation]] = {}
    for point, missed in zip(points, broken, strict=True):
        part = max(_part(name, by, limits, point) for name, by in missed.items())
        one = Relaxation(tuple(missed), limits, _relaxed(limits, missed, point), point)
        if one.names not in found or part < found[one.names][0]:
            found[one.names] = part, one
    least = sorted(found.values(), key=lambda pair: pair[0])
    return [one for _, one in least if len(one.names) == 1] or [least[0][1]]


def _relaxed(limits: Limits, missed: Iterable[str], point: Point) -> Limits:
    """The limits with those missed set to what was reached."""
    got = point.measures
    reached = {
        "latency_seconds": got.latency_seconds,
        "memory_bytes": got.memory_bytes,
        "size_bytes": got.size_bytes,
        "min_quality": got.quality,
        "max_drop": got.drop,
    }
    return replace(limits, **{name: reached[name] for name in missed})


def _part(name: str, by: float, limits: Limits, point: Point) -> float:
    whole = point.measures.quality if name in _QUALITY_LIMITS else getattr(limits, name)
    return float(by / abs(whole)) if whole else float("inf")


def _only(name: str, value: float) -> str:
    """One limit as the user writes it."""
    return str(Limits(**{name: value}))


def _named(point: Point) -> str:
    return "the original" if point.is_baseline else str(point.plan)

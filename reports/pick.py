"""One answer from a front, with its reason."""

from dataclasses import dataclass

from ..errors import BudgetError
from ..search.objectives import Limits
from .front import Front, Point

# Where the user names no limit at all, a pick may lose this much of the metric.
DEFAULT_LIMITS = Limits(max_drop=0.01)


@dataclass(frozen=True, slots=True)
class Pick:
    """The answer.

    Attributes:
        point: what to deploy.
        limits: what it keeps.
        reason: in words, why this one.
        runners_up: the next best, at most two.
    """

    point: Point
    limits: Limits
    reason: str
    runners_up: tuple[Point, ...]


def pick_from(front: Front, limits: Limits | None = None) -> Pick:
    """Chooses the cheapest member if quality is bounded, else the best one within the bounds on cost.

    Args:
        front: of a run.
        limits: what the answer must keep, beside the budget of the search; None, or no limit set, means a drop of at
            most 0.01.

    Raises:
        BudgetError: if no member keeps the limits; it names the tightest that can be kept.
    """
    limits = (DEFAULT_LIMITS if limits is None or limits == Limits() else limits).and_also(front.budget)
    points = [*front.members, *([] if front.baseline in front.members else [front.baseline])]
    fit = [point for point in points if limits.are_kept(point.measures)]
    if not fit:
        nearest = limits.nearest([point.measures for point in points])
        raise BudgetError(
            f"no member of the front keeps {limits}; the best reached, each limit taken alone, is: {nearest}. "
            "Relax what is nearest, or search longer."
        )
    cost = "latency" if all(point.measures.latency_seconds is not None for point in fit) else "size"
    is_quality_bounded = limits.min_quality is not None or limits.max_drop is not None
    if is_quality_bounded:
        fit.sort(key=lambda point: (point.measures.minimised(cost), -point.measures.quality))
        what = "the fastest" if cost == "latency" else "the smallest"
    else:
        fit.sort(key=lambda point: (-point.measures.quality, point.measures.minimised(cost)))
        what = f"the best {front.metric}"
    reason = f"{what} of {len(fit)} of {len(points)} candidates that keep {limits}, on the {front.split} split"
    return Pick(fit[0], limits, reason, tuple(fit[1:3]))

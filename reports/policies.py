"""Which of several acceptable candidates to deploy: the orders that a pick may follow."""

from collections.abc import Sequence

import numpy as np

from ..errors import SettingError
from .dominance import non_dominated
from .front import Point

POLICIES = ("fastest", "best", "knee")


def check_policy(name: str) -> str:
    """The name of a policy.

    Raises:
        SettingError: if there is none of this name.
    """
    if name not in POLICIES:
        raise SettingError.unknown("policy", name, POLICIES)
    return name


def cost_of(points: Sequence[Point]) -> str:
    """What candidates cost: "latency", or "size" where the latency of one was not measured."""
    return "latency" if all(point.measures.latency_seconds is not None for point in points) else "size"


def cheapest_first(points: Sequence[Point], cost: str) -> list[Point]:
    """The policy "fastest": by rising cost, of equal cost the better first."""
    return sorted(points, key=lambda point: (point.measures.minimised(cost), -point.measures.quality))


def best_first(points: Sequence[Point], cost: str) -> list[Point]:
    """The policy "best": by falling quality, of equal quality the cheaper first."""
    return sorted(points, key=lambda point: (-point.measures.quality, point.measures.minimised(cost)))


def knee_first(points: Sequence[Point], cost: str) -> list[Point] | None:
    """The policy "knee": by falling distance beyond the line between the cheapest and the best candidate.

    The knee is the candidate that lies farthest from that line on the side of the ideal, after [Das1999]; quality and
    cost are scaled so that each runs from 0 to 1 between the two ends, as their units do not compare. Before the knee
    little quality buys much speed, after it much quality buys little. [Branke2004] and [Deb2010] compare this
    definition with others. It depends on the ends: a limit that keeps out what nobody would deploy moves the knee.

    [Das1999] I. Das: On characterizing the "knee" of the Pareto curve based on Normal-Boundary Intersection.
        Structural Optimization 18, 107-115.
    [Branke2004] J. Branke, K. Deb, H. Dierolf, M. Osswald: Finding knees in multi-objective optimization. PPSN VIII.
    [Deb2010] K. Deb, S. Gupta: Understanding knee points in bicriteria problems. KanGAL report 2010005.

    Args:
        points: at least one.
        cost: "latency" or "size".

    Returns:
        All points, the knee first; None where no point lies beyond the line, for instance where there are only two.
    """
    values = np.array([[point.measures.minimised(cost), -point.measures.quality] for point in points])
    ends = values[non_dominated(values)]
    ideal, span = ends.min(axis=0), np.ptp(ends, axis=0)
    if not span.all():
        return None
    # Of the scaled plane, with the ideal in its origin, both ends lie on cost + lost quality = 1.
    beyond = 1 - ((values - ideal) / span).sum(axis=1)
    if beyond.max() <= np.sqrt(np.finfo(float).eps):
        return None
    return [points[index] for index in np.argsort(-beyond, kind="stable")]

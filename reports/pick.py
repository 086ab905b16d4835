"""One answer from a front, with its reason, what lies next to it, and how far to trust it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from ..search.objectives import Limits
from ..search.quality import Difference, Quality
from .front import Front, Point
from .policies import best_first, cheapest_first, check_policy, cost_of, knee_first
from .relaxing import NothingFitsError

# Where the user names no limit at all, a pick may lose this much of the metric.
DEFAULT_LIMITS = Limits(max_drop=0.01)
# How much faster than the pick the step is that a pick tells the price of.
NEXT_SPEED = 1.05


@dataclass(frozen=True, slots=True)
class Step:
    """What the next 5 % of speed (of size where latency was not measured) would cost.

    Attributes:
        point: of all that are at least so much cheaper than the pick, the best.
        gain: how many times as fast as the pick it is.
        loss: of quality against the pick, with a 95 % interval.
    """

    point: Point
    gain: float
    loss: Difference


@dataclass(frozen=True, slots=True)
class Splits:
    """A candidate on the split that chose it and on the one that did not: the winner's curse, as far as it shows.

    The best of many noisy numbers is lucky more often than not: a candidate tends to look better where it was chosen.

    Attributes:
        searched: quality on the search split.
        tested: quality on the test split.
        searched_drop: how far it is below the original on the search split.
        tested_drop: the same on the test split.
    """

    searched: Quality
    tested: Quality
    searched_drop: float
    tested_drop: float

    @property
    def flattery(self) -> float:
        """How much better it looks against the original on the split that chose it."""
        return self.tested_drop - self.searched_drop


@dataclass(frozen=True, slots=True)
class Pick:
    """The answer.

    Attributes:
        point: what to deploy.
        limits: what it keeps.
        reason: in words, why this one.
        runners_up: the next best, at most two.
        policy: by which they were ordered, one of `POLICIES`.
        step: what more speed would cost; None where nothing on the front is 5 % faster.
        splits: quality where it was chosen and where it was not; None where it was judged on one split only.
    """

    point: Point
    limits: Limits
    reason: str
    runners_up: tuple[Point, ...]
    policy: str = "fastest"
    step: Step | None = None
    splits: Splits | None = None


def pick_from(front: Front, limits: Limits | None = None, policy: str | None = None) -> Pick:
    """Chooses one member of a front.

    Args:
        front: of a run.
        limits: what the answer must keep, beside the budget of the search; None, or no limit set, means a drop of at
            most 0.01, but for the policies "best" and "knee", which need none.
        policy: "fastest" takes the fastest (where latency was not measured the smallest) within quality: where nothing
            bounds that, within a drop of 0.01. "best" takes the best quality within the limits. "knee" takes the one
            from which on speed becomes dear, see `policies.knee_first`; where the front has no knee, the best. None is
            "fastest" where quality is bounded, else "best".

    Raises:
        SettingError: if there is no such policy.
        NothingFitsError: if no member keeps the limits; it says the tightest that can be kept, and what to relax.
    """
    limits, policy = _asked(front, limits, policy)
    points = front.points
    fit = [point for point in points if limits.are_kept(point.measures)]
    if not fit:
        raise NothingFitsError(points, limits, front.budget)
    cost = cost_of(fit)
    ordered, what = _ordered(fit, policy, cost, front.metric)
    kept = f" that keep {limits}" if limits != Limits() else ""
    among = f"{len(fit)} of {len(points)} candidates{kept}" if kept else f"{len(fit)} candidates"
    return Pick(
        ordered[0],
        limits,
        f"{what} of {among}, on the {front.split} split",
        tuple(ordered[1:3]),
        policy,
        next_step(points, ordered[0], limits),
        splits_of(ordered[0], front.baseline),
    )


def next_step(points: Sequence[Point], pick: Point, limits: Limits) -> Step | None:
    """What the next 5 % of speed would cost in quality, all limits but those of quality being kept.

    Args:
        points: to choose from.
        pick: one of them.
        limits: that the pick keeps.
    """
    costs = Limits(limits.latency_seconds, limits.memory_bytes, limits.size_bytes)
    cost = cost_of(points)
    least = pick.measures.minimised(cost) / NEXT_SPEED
    faster = [point for point in points if point.measures.minimised(cost) <= least and costs.are_kept(point.measures)]
    if not faster:
        return None
    best = best_first(faster, cost)[0]
    return Step(best, pick.measures.minimised(cost) / best.measures.minimised(cost), _loss(pick, best))


def splits_of(point: Point, baseline: Point) -> Splits | None:
    """A candidate and the original on both splits; None where one of the four judgements is missing."""
    if point.searched is None or baseline.searched is None or point.quality.split == point.searched.split:
        return None
    searched_drop = baseline.searched.value - point.searched.value
    return Splits(point.searched, point.quality, searched_drop, baseline.quality.value - point.quality.value)


def _asked(front: Front, limits: Limits | None, policy: str | None) -> tuple[Limits, str]:
    """Limits and policy with what was left open filled in."""
    if policy is None and (limits is None or limits == Limits()):
        limits = DEFAULT_LIMITS
    limits = (limits or Limits()).and_also(front.budget)
    is_bounded = limits.min_quality is not None or limits.max_drop is not None
    policy = check_policy(policy or ("fastest" if is_bounded else "best"))
    return (limits.and_also(DEFAULT_LIMITS) if policy == "fastest" and not is_bounded else limits), policy


def _ordered(fit: Sequence[Point], policy: str, cost: str, metric: str) -> tuple[list[Point], str]:
    """The candidates in the order of a policy, and what the first of them is."""
    if policy == "fastest":
        return cheapest_first(fit, cost), "the fastest" if cost == "latency" else "the smallest"
    by_knee = knee_first(fit, cost) if policy == "knee" else None
    if by_knee is not None:
        return by_knee, f"the knee of {metric} against {cost}"
    what = f"the best {metric}"
    return best_first(fit, cost), f"{what} (there is no knee)" if policy == "knee" else what


def _loss(pick: Point, other: Point) -> Difference:
    """By how much the pick is better, from the intervals of both, taken as independent [Zou2008].

    Where both were compared with the original on the same examples, what they share makes the true interval narrower.

    [Zou2008] G. Y. Zou, A. Donner: Construction of confidence limits about effect measures: a general approach.
        Statistics in Medicine 27, 1693-1702.
    """
    a, b = (point.gain or point.quality for point in (pick, other))
    lost = a.value - b.value
    return Difference(
        lost, lost - hypot(a.value - a.low, b.high - b.value), lost + hypot(a.high - a.value, b.value - b.low)
    )

"""The front of a study on this machine, beside the one where it was searched: who left, who came, what to deploy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import BudgetError
from ..profilers.estimates import PredictedLatency
from ..profilers.timing import Latency
from ..search.finals import measures_of
from ..search.objectives import Limits
from ..spaces.plan import Plan
from .bundling import NEAR_FRONT
from .carried import Carried, Member
from .front import Front, Point, front_from
from .pick import Pick, pick_from
from .remeasure import Failed, Remeasured


@dataclass(frozen=True, slots=True)
class Move:
    """A plan that left the front, or came to it.

    Attributes:
        plan: which.
        reason: why, in words.
    """

    plan: Plan
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What to deploy on one machine.

    Attributes:
        pick: the choice; None where nothing keeps the limits.
        refusal: why there is none; empty where there is one.
    """

    pick: Pick | None
    refusal: str = ""

    @property
    def plan(self) -> Plan | None:
        """What to deploy."""
        return None if self.pick is None else self.pick.point.plan

    def __str__(self) -> str:
        return "nothing" if self.pick is None else called(self.pick.point.plan)


@dataclass(frozen=True, slots=True)
class NewFront:
    """The front here, and what is new about it.

    Attributes:
        front: all plans as measured here; quality on the test split.
        left: plans of the front of the search that are not on this one.
        came: plans of this front that were not on that one.
        answer: what to deploy here.
        earlier: what to deploy on the machine of the search, by the same limits.
        reason: why the two differ, or that they do not.
    """

    front: Front
    left: tuple[Move, ...]
    came: tuple[Move, ...]
    answer: Answer
    earlier: Answer
    reason: str

    @property
    def pick_changes(self) -> bool:
        """Whether another plan should be deployed here."""
        return self.answer.plan != self.earlier.plan


def new_front(
    carried: Carried, found: Sequence[Remeasured], failed: Sequence[Failed] = (), limits: Limits | None = None
) -> NewFront:
    """Compares the front here with the one of the search.

    Args:
        carried: the study.
        found: its plans as measured here, the baseline first.
        failed: those that cannot be measured here.
        limits: what the pick must keep; None as `pick_from`.
    """
    points = {one.plan: _point(one, found[0]) for one in found}
    front = _front(list(points.values()), carried)
    on_front = {point.plan for point in front.members}
    left = [one for one in found if one.member.was_on_front and one.plan not in on_front]
    came = [one for one in found if not one.member.was_on_front and one.plan in on_front]
    unsure = {one.plan for one in found if not one.is_verified}
    answer, earlier = _answer(front, limits, unsure), picked_where_searched(carried, limits)
    gone = [Move(one.member.plan, f"it cannot run here: {one.cause}") for one in failed if one.member.was_on_front]
    return NewFront(
        front,
        (*(Move(one.plan, _why_left(points[one.plan], points, carried)) for one in left), *gone),
        tuple(Move(one.plan, _why_came(one)) for one in came),
        answer,
        earlier,
        _why_pick(answer, earlier, points, carried),
    )


def picked_where_searched(carried: Carried, limits: Limits | None = None) -> Answer:
    """What to deploy on the machine of the search.

    Args:
        carried: the study.
        limits: what the pick must keep; None as `pick_from`.
    """
    return _answer(_searched(carried), limits, set())


def called(plan: Plan) -> str:
    """A plan in words."""
    return "the original" if plan.is_identity else str(plan)


def _point(one: Remeasured, baseline: Remeasured) -> Point:
    late = baseline.profile.latency
    assert isinstance(late, Latency)
    measures = measures_of(one.quality.value, baseline.quality.value, one.profile, late.seconds)
    return Point(one.plan, one.quality, one.profile, measures, one.gain, None, one.plan.is_identity)


def _front(points: Sequence[Point], carried: Carried) -> Front:
    fit = [point for point in points if carried.budget.are_kept(point.measures)]
    return front_from(points, fit, carried.objectives, carried.budget)


def _searched(carried: Carried) -> Front:
    """The front where the study was searched, of what was measured whole there."""
    finals = [member.final for member in carried.members if not _is_near(member)]
    points = [
        Point(one.plan, one.quality, one.profile, one.measures, one.gain, None, one.plan.is_identity) for one in finals
    ]
    front = _front(points, carried)
    kept = {member.plan for member in carried.members if member.was_on_front}
    return replace(front, members=tuple(point for point in front.members if point.plan in kept))


def _is_near(member: Member) -> bool:
    return member.place == NEAR_FRONT


def _answer(front: Front, limits: Limits | None, unsure: set[Plan]) -> Answer:
    """What to deploy: nothing whose quality is not known here."""
    known = replace(front, members=tuple(point for point in front.members if point.plan not in unsure))
    try:
        return Answer(pick_from(known, limits))
    except BudgetError as error:
        return Answer(None, str(error))


def _why_left(point: Point, points: dict[Plan, Point], carried: Carried) -> str:
    if not carried.budget.are_kept(point.measures):
        return f"it breaks the budget {carried.budget} here"
    objectives = carried.objectives
    own = [point.measures.minimised(name) for name in objectives]
    for other in points.values():
        values = [other.measures.minimised(name) for name in objectives]
        if values != own and all(a <= b for a, b in zip(values, own, strict=True)):
            if not carried.budget.are_kept(other.measures):
                continue
            return f"{called(other.plan)} is no worse here in anything{_time(other, point)}"
    return "another plan equals it in everything"


def _time(one: Point, other: Point) -> str:
    """How the times of two points compare, where they were measured."""
    times = one.measures.latency_seconds, other.measures.latency_seconds
    if times[0] is None or times[1] is None:
        return ""
    unsure = ", which the noise may explain" if _overlap(one, other) else ""
    return f" and takes {times[0] / times[1]:.3f} of its time{unsure}"


def _overlap(one: Point, other: Point) -> bool:
    a, b = one.profile.latency, other.profile.latency
    return a is not None and b is not None and a.ratio_low <= b.ratio_high and b.ratio_low <= a.ratio_high


def _why_came(one: Remeasured) -> str:
    late, there = one.profile.latency, one.member.final.profile.latency
    assert isinstance(late, Latency)
    was = "it was only searched there, and nearly on the front" if _is_near(one.member) else "it was beaten there"
    if there is None:
        return was
    about = "about " if isinstance(there, PredictedLatency) else ""
    return f"{was}; it takes {late.ratio:.3f} of the original's time here, {about}{there.ratio:.3f} there"


def _why_pick(answer: Answer, earlier: Answer, points: dict[Plan, Point], carried: Carried) -> str:
    """Why another plan should be deployed here, or that none should."""
    if answer.plan == earlier.plan:
        return f"the pick stays {answer}"
    if answer.pick is None:
        return f"nothing can be picked here: {answer.refusal}"
    if earlier.plan is None:
        return f"{answer} is to be deployed here; where it was searched, nothing kept the limits"
    change = f"the pick changes from {earlier} to {answer}"
    if earlier.plan not in points:
        return f"{change}: the earlier one cannot run here"
    new, old = answer.pick.point, points[earlier.plan]
    broken = {name for name, by in answer.pick.limits.violations(old.measures).items() if by > 0}
    if broken:
        return f"{change}: the earlier one breaks the limit on {', '.join(sorted(broken))} here"
    there = {member.plan: member.final.profile.latency for member in carried.members}
    before = there[new.plan], there[old.plan]
    if before[0] is None or before[1] is None:
        return f"{change}, which is no worse{_time(new, old)}"
    return (
        f"{change}, which{_time(new, old).removeprefix(' and')} here and {before[0].ratio / before[1].ratio:.3f} there"
    )

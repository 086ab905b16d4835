"""What each axis gave: the search's own trials, counted again without those that used the axis.

It needs no further search, and so it says at most what an axis gave: a search that had left it out would have spent all
its trials on the others, and found more. The page says so.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BudgetError
from ..search.objectives import Limits
from ..search.trial import State, Trial
from .dominance import non_dominated
from .front import Front, Point, hypervolume_of, trial_point
from .pick import pick_from
from .plan_picture import changed_axes


@dataclass(frozen=True, slots=True)
class Ablated:
    """What the trials come to that use no other axes than these.

    Attributes:
        axes: those that may differ from their identity.
        title: the same in words.
        trials: how many trials that is, the baseline included.
        hypervolume: of their front on the search split; see `front.hypervolume_of`.
        best: the pick among them under the same limits; None where none keeps them.
    """

    axes: tuple[str, ...]
    title: str
    trials: int
    hypervolume: float
    best: Point | None


def ablation(trials: Sequence[Trial], baseline: Point, axes: Sequence[str], front: Front) -> list[Ablated]:
    """All axes first, then all but each one, then each one alone.

    Args:
        trials: of the run.
        baseline: the original on the search split.
        axes: that were searched.
        front: of the run, for what was optimised and the budget.
    """
    subsets = {tuple(axes): "all axes"}
    for axis in axes:
        subsets.setdefault(tuple(name for name in axes if name != axis), f"without {axis}")
    for axis in axes:
        subsets.setdefault((axis,), f"{axis} alone")
    subsets.pop((), None)
    if len(axes) == 2:
        # Without the one is the other alone, which is the plainer way to say it.
        subsets = {chosen: "all axes" if len(chosen) == 2 else f"{chosen[0]} alone" for chosen in subsets}
    judged = [trial for trial in trials if trial.state == State.JUDGED and trial.plan is not None]
    return [_of_axes(chosen, title, judged, baseline, front) for chosen, title in subsets.items()]


def _of_axes(axes: tuple[str, ...], title: str, judged: Sequence[Trial], baseline: Point, front: Front) -> Ablated:
    points = [trial_point(trial) for trial in judged if trial.plan is not None and changed_axes(trial.plan) <= {*axes}]
    found = front_among(points, baseline, front.objectives, front.budget)
    try:
        best: Point | None = pick_from(found).point
    except BudgetError:
        best = None
    return Ablated(axes, title, len(points), found.hypervolume, best)


def front_among(points: Collection[Point], baseline: Point, objectives: tuple[str, ...], budget: Limits) -> Front:
    """The front of some points of one session, as a `Front` without ties.

    Args:
        points: all of which keep the budget.
        baseline: of the same session.
        objectives: what is optimised.
        budget: of the run.
    """
    known = list(points)
    values = np.array([[point.measures.minimised(name) for name in objectives] for point in known])
    stays = non_dominated(values.reshape(len(known), len(objectives)))
    members = tuple(point for point, is_member in zip(known, stays, strict=True) if is_member)
    volume = hypervolume_of(members, baseline, objectives)
    split, metric, ties = baseline.quality.split, baseline.quality.metric, tuple(range(1, len(members) + 1))
    return Front(split, metric, objectives, baseline, members, (), volume, ties, budget)

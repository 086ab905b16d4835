"""What a study was told so far, in units in which objectives can be compared: the original costs 1 and loses 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from ...spaces.axes import Choice
from .guide import COSTS, Guide, Sketch

# The loss of quality at which it no longer counts, where no limit says so: as reports have it.
_WORST_LOSS = 0.1
# The least unit of losses, in parts of the original's quality: differences below it are mostly chance.
_LEAST_LOSS = 0.01
_SLIGHTLY = 1e-6


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of the plans of a study.

    Attributes:
        losses: plan -> quality lost, in a unit in which about 1 no longer counts; those that were judged.
        costs: cost -> plan -> what it was seen to cost, in units of the original; the same plans.
        open: plans proposed and not told of yet.
        closed: plans that have no numbers and never will.
        choices: plan -> the choice that led to it; of those judged.
        worst_loss: at which quality no longer counts.
        bounds: cost -> the most it may be, in units of the original; those without a limit are left out.
    """

    losses: Mapping[Sketch, float]
    costs: Mapping[str, Mapping[Sketch, float]]
    open: frozenset[Sketch]
    closed: frozenset[Sketch]
    choices: Mapping[Sketch, Choice]
    worst_loss: float
    bounds: Mapping[str, float]

    @classmethod
    def of(cls, study: Study, guide: Guide) -> Self | None:
        """Reads a study.

        Args:
            study: its finished trials, and those that run.
            guide: of its space.

        Returns:
            None where the original was not told of yet.
        """
        guide.forget()
        measures: dict[Sketch, Mapping[str, float]] = {}
        choices: dict[Sketch, Choice] = {}
        opened, closed = set[Sketch](), set[Sketch]()
        for trial in study.get_trials(deepcopy=False):
            choice = _choice(trial, guide)
            if choice is None or trial.state == TrialState.WAITING:
                continue
            plan = guide.sketch(choice)
            if trial.state == TrialState.RUNNING:
                opened.add(plan)
            elif (found := _measures(trial, guide)) is None:
                closed.add(plan)
            else:
                measures.setdefault(plan, found)
                choices.setdefault(plan, choice)
        origin = measures.get(guide.sketch(guide.space.identity()))
        if origin is None:
            return None
        qualities, whole = [one.get("quality", 0.0) for one in measures.values()], origin.get("quality", 0.0)
        unit, worst_loss = _unit(whole, qualities, guide)
        costs = {
            name: {plan: one[name] / origin[name] for plan, one in measures.items() if name in one}
            for name in COSTS
            if origin.get(name)
        }
        losses = {plan: (whole - quality) / unit for plan, quality in zip(measures, qualities, strict=True)}
        bounds = {name: bound / origin[name] for name, bound in guide.bounds.items()}
        return cls(losses, costs, frozenset(opened), frozenset(closed), choices, worst_loss, bounds)

    @property
    def plans(self) -> list[Sketch]:
        """Those judged, in the order they were told."""
        return list(self.losses)

    @property
    def n_known(self) -> int:
        """How many plans were proposed so far; one that was cut off and tried again counts once."""
        return len(self.losses.keys() | self.open | self.closed)

    def is_known(self, plan: Sketch) -> bool:
        """Whether it was proposed before."""
        return plan in self.losses or plan in self.open or plan in self.closed

    def keeps_limits(self, plan: Sketch) -> bool:
        """Whether a plan that was judged keeps all limits."""
        own = all(self.costs[name][plan] <= bound for name, bound in self.bounds.items())
        return own and self.losses[plan] <= max(self.worst_loss, 0.0)

    def front(self, costs: Sequence[str], *, has_quality: bool) -> list[Sketch]:
        """The plans that no other one beats, those that break a limit left out unless all do.

        Args:
            costs: that are objectives.
            has_quality: whether quality is one, too.
        """
        kept = [plan for plan in self.plans if self.keeps_limits(plan)] or self.plans
        columns = [[self.costs[name][plan] for plan in kept] for name in costs]
        values = np.array([*columns, *([[self.losses[plan] for plan in kept]] if has_quality else [])]).T
        return [plan for plan, own in zip(kept, values, strict=True) if not _is_beaten(own, values)]


def _is_beaten(own: np.ndarray, values: np.ndarray) -> bool:
    return bool(((values <= own).all(axis=1) & (values < own).any(axis=1)).any())


def _choice(trial: FrozenTrial, guide: Guide) -> Choice | None:
    """A trial's value of every parameter, in the order of the space; None where one is missing."""
    identity = guide.space.identity()
    if not all(name in trial.params for name in identity):
        return None
    return {name: trial.params[name] for name in identity}


def _measures(trial: FrozenTrial, guide: Guide) -> Mapping[str, float] | None:
    """Quality and costs of a trial; None where it has no numbers."""
    if trial.state != TrialState.COMPLETE:
        return None
    told = dict(zip(guide.objectives, trial.values, strict=True))
    found = {name: -value if name == "quality" else value for name, value in told.items()}
    # A candidate that was dropped before it was judged in full has a guess instead.
    own = trial.user_attrs.get("measures") or trial.user_attrs.get("dropped", {}).get("measures", {})
    return found | _recorded(own)


def _recorded(measures: Mapping[str, Any]) -> dict[str, float]:
    """What the record of a search says beside the objectives, see `objectives.Measures`."""
    names = {"quality": "quality", "latency": "latency_seconds", "memory": "memory_bytes", "size": "size_bytes"}
    found = {name: measures.get(field) for name, field in names.items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def _unit(origin: float, qualities: Sequence[float], guide: Guide) -> tuple[float, float]:
    """The unit of losses, and the loss at which quality no longer counts, in that unit."""
    least = guide.limits.least_quality(origin)
    size = abs(origin) or float(np.std(qualities)) or 1.0
    worst = _WORST_LOSS * size if least is None else max(origin - least, 0.0)
    unit = max(worst, _LEAST_LOSS * size)
    return unit, worst / unit + _SLIGHTLY

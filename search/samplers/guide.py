"""What is known of plans without judging them."""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from ...errors import BudgetError
from ...spaces.allocation import Option, allocate
from ...spaces.axes import Choice, Value
from ...spaces.plan import Plan
from ...spaces.space import Space
from ..objectives import Limits
from .costs import Costs
from .features import Counts, Features

# So many plans are remembered from one proposal to the next; each looks at some three hundred.
_MOST_REMEMBERED = 4000
# Costs in the order of the standing objectives.
COSTS = ("latency", "memory", "size")

Options = Mapping[str, Sequence[Option]]


class Sketch:
    """A plan and what is known of it. Each is itself only: a guide makes one per plan, so that they compare quickly.

    Attributes:
        plan: the plan.
    """

    def __init__(self, plan: Plan, features: Features, costs: Costs) -> None:
        """Looks nothing up yet."""
        self.plan = plan
        self._features, self._costs = features, costs
        self._predicted: dict[str, float | None] = {}

    @cached_property
    def features(self) -> Counts:
        """What it has of everything that may harm quality."""
        return self._features.of(self.plan)

    @cached_property
    def counted(self) -> Mapping[str, float]:
        """What it has of everything that costs."""
        return self._costs.counted(self.plan)

    def predicted(self, cost: str) -> float | None:
        """See `Costs.predicted`."""
        if cost not in self._predicted:
            self._predicted[cost] = self._costs.predicted(cost, self.plan)
        return self._predicted[cost]


class Guide:
    """What is known of the plans of one space.

    Attributes:
        space: whose choices are proposed.
        objectives: what is optimised, in the order in which trials are told of it.
        limits: what must be kept.
    """

    def __init__(
        self,
        space: Space,
        resolve: Callable[[Choice], tuple[Plan, bool]],
        features: Features,
        costs: Costs,
        *,
        objectives: tuple[str, ...],
        limits: Limits,
        options: Sequence[Options] = (),
    ) -> None:
        """Takes what is known.

        Args:
            space: whose choices are proposed.
            resolve: a choice -> its plan, without judging anything, and whether that is sure: what only a judgement
                could tell may be guessed, and be otherwise later.
            features: of plans, for the surrogate of quality.
            costs: of plans.
            objectives: what is optimised, in the order in which trials are told of it.
            limits: what must be kept.
            options: for each axis of which that is known, parameter -> its choices with their cost in bytes and their
                predicted harm.
        """
        self.space, self.objectives, self.limits = space, objectives, limits
        self._resolve, self._features, self._costs, self._options = resolve, features, costs, [*filter(None, options)]
        self._by_choice: dict[tuple[Value, ...], Sketch] = {}
        self._by_plan: dict[str, Sketch] = {}

    @property
    def has_quality(self) -> bool:
        """Whether quality is an objective."""
        return "quality" in self.objectives

    @property
    def costs(self) -> tuple[str, ...]:
        """The objectives that are costs."""
        return tuple(name for name in self.objectives if name != "quality")

    @property
    def bounds(self) -> dict[str, float]:
        """Cost -> the most it may be, in seconds or bytes; those without a limit are left out."""
        limits = (self.limits.latency_seconds, self.limits.memory_bytes, self.limits.size_bytes)
        return {name: bound for name, bound in zip(COSTS, limits, strict=True) if bound is not None}

    def forget(self) -> None:
        """Lets go of what is remembered, where that has become much; sketches made before are none of this guide's."""
        if len(self._by_plan) > _MOST_REMEMBERED:
            self._by_choice.clear()
            self._by_plan.clear()

    def sketch(self, choice: Choice) -> Sketch:
        """What is known of the plan of a choice; the same object for all choices that lead to the same plan."""
        key = tuple(choice.values())
        if key in self._by_choice:
            return self._by_choice[key]
        plan, is_sure = self._resolve(choice)
        found = self._by_plan.setdefault(plan.fingerprint, Sketch(plan, self._features, self._costs))
        if is_sure:
            self._by_choice[key] = found
        return found

    def predict(self, cost: str, sketches: Sequence[Sketch], told: Mapping[Sketch, float]) -> np.ndarray:
        """What plans cost, in units of the original's cost.

        Args:
            cost: "latency", "memory" or "size".
            sketches: of the plans, m.
            told: what others were seen to cost, in the same unit.

        Returns:
            m, above 0.
        """
        known = [one.predicted(cost) for one in sketches]
        found = np.array([np.nan if one is None else one for one in known])
        unknown = np.flatnonzero(np.isnan(found))
        if len(unknown):
            wanted = [sketches[place].counted for place in unknown.tolist()]
            seen = [one.counted for one in told]
            found[unknown] = self._costs.learned(cost, wanted, seen, np.array(list(told.values())))
        return found

    def allocated(self, draw: random.Random) -> dict[str, Value] | None:
        """A choice that saves as many bytes as is drawn, by one axis or several, where it harms least; None if unknown.

        Args:
            draw: random numbers.
        """
        if not self._options:
            return None
        found = self.space.identity()
        for options in draw.sample(self._options, draw.randint(1, len(self._options))):
            costs = [[option.cost for option in ways] for ways in options.values()]
            least, most = sum(map(min, costs)), sum(map(max, costs))
            try:
                found |= allocate(options, draw.uniform(least, most))
            except BudgetError:  # by rounding, at the least budget
                continue
        return found

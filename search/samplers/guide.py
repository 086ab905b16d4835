"""What is known of plans without judging them."""

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...errors import BudgetError
from ...spaces.allocation import Option, allocate
from ...spaces.axes import Choice, Value
from ...spaces.plan import Plan
from ...spaces.space import Space
from ..objectives import Limits
from .costs import Costs
from .features import Counts, Features

# So many plans are remembered; a proposal looks at some four hundred.
_MOST_REMEMBERED = 6000
# Costs in the order of the standing objectives.
COSTS = ("latency", "memory", "size")


Options = Mapping[str, Sequence[Option]]


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
        resolve: Callable[[Choice], Plan],
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
            resolve: a choice -> its plan, without judging anything.
            features: of plans, for the surrogate of quality.
            costs: of plans.
            objectives: what is optimised, in the order in which trials are told of it.
            limits: what must be kept.
            options: for each axis of which that is known, parameter -> its choices with their cost in bytes and their
                predicted harm.
        """
        self.space, self.objectives, self.limits = space, objectives, limits
        self._resolve, self._features, self._costs, self._options = resolve, features, costs, [*filter(None, options)]
        self._plans: dict[tuple[Value, ...], Plan] = {}
        self._counts: dict[Plan, Counts] = {}

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

    def resolve(self, choice: Choice) -> Plan:
        """The plan of a choice, remembered for a while."""
        key = tuple(choice.values())
        if key not in self._plans:
            if len(self._plans) > _MOST_REMEMBERED:
                self._plans.clear()
            self._plans[key] = self._resolve(choice)
        return self._plans[key]

    def features(self, plan: Plan) -> Counts:
        """See `Features.of`; remembered for a while."""
        if plan not in self._counts:
            if len(self._counts) > _MOST_REMEMBERED:
                self._counts.clear()
            self._counts[plan] = self._features.of(plan)
        return self._counts[plan]

    def predict(self, cost: str, plans: Sequence[Plan], told: Mapping[Plan, float]) -> np.ndarray:
        """See `Costs.of`."""
        return self._costs.of(cost, plans, told)

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

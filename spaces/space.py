"""The search space of a model: the parameters of the chosen axes, and how a choice becomes a plan."""

from collections.abc import Iterable, Iterator, Mapping
from math import prod

from ..errors import SettingError
from . import axes
from .anatomy import Anatomy
from .axes import Choice, Parameter, Value
from .plan import Plan
from .workbench import Workbench


class Space:
    """All that may be varied in one model.

    Attributes:
        anatomy: of the original model.
        axes: names of the axes searched, in the order they are applied.
        parameters: axis -> its parameters.
    """

    def __init__(self, anatomy: Anatomy, chosen: Iterable[str]) -> None:
        """Collects the parameters of the chosen axes.

        Raises:
            SettingError: if an axis does not exist, has nothing to vary, or none is chosen.
        """
        self.anatomy = anatomy
        self.axes = axes.ordered(chosen)
        self.parameters: Mapping[str, tuple[Parameter, ...]] = {
            name: axes.load(name).parameters(anatomy) for name in self.axes
        }

        for name, parameters in self.parameters.items():
            if not parameters:
                depths = ", ".join(f"{stack.name} of {stack.n_layers} layers" for stack in anatomy.stacks)
                raise SettingError(
                    f"the axis {name!r} has nothing to vary in a {anatomy.family} with {depths}; leave it out"
                    + ("." if name != "assembly" else ", or give granularities that divide a stack.")
                )

    @property
    def size(self) -> int:
        """How many choices there are; different choices may resolve to the same plan."""
        return prod(len(parameter.choices) for parameter in self)

    def __iter__(self) -> Iterator[Parameter]:
        """All parameters, axis by axis."""
        for parameters in self.parameters.values():
            yield from parameters

    def identity(self) -> dict[str, Value]:
        """The choice that changes nothing."""
        return {parameter.name: parameter.choices[0] for parameter in self}

    def resolve(self, choice: Choice, bench: Workbench) -> Plan:
        """The plan of a choice: every axis edits in turn.

        Args:
            choice: a legal value for every parameter.
            bench: where axes look up what an edit depends on.

        Raises:
            SettingError: if a parameter is missing or set to something illegal.
        """
        for parameter in self:
            if choice.get(parameter.name) not in parameter.choices:
                legal = ", ".join(map(str, parameter.choices))
                raise SettingError(f"{parameter.name} must be one of {legal}, got {choice.get(parameter.name)!r}.")
        plan = self.anatomy.identity()
        for name in self.axes:
            own = {parameter.name: choice[parameter.name] for parameter in self.parameters[name]}
            plan = axes.load(name).edit(plan, own, bench)
        return plan

    def uniform_choices(self) -> list[dict[str, Value]]:
        """Choices that set all parameters of an axis alike, gentlest first: the points known to be worth a look.

        Level n of an axis sets each of its parameters to its n-th choice (or its last). All combinations of levels
        are listed by their sum, so the identity comes first, then one step along one axis, and so on.
        """
        combinations: list[tuple[int, dict[str, Value]]] = [(0, {})]
        for axis in self.axes:
            combinations = [
                (total + level, choice | own)
                for total, choice in combinations
                for level, own in enumerate(self.levels(axis))
            ]
        return [choice for _, choice in sorted(combinations, key=lambda entry: entry[0])]

    def levels(self, axis: str) -> list[dict[str, Value]]:
        """The settings of one axis that set all its parameters alike, see `uniform_choices`; the first changes nothing.

        Args:
            axis: one that is searched.
        """
        parameters = self.parameters[axis]
        return [
            {one.name: one.choices[min(level, len(one.choices) - 1)] for one in parameters}
            for level in range(max(len(one.choices) for one in parameters))
        ]

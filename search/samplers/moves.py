"""Choices to look at: local moves from known ones, crosses of two, and draws from the whole space."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from ...spaces.axes import Choice, Parameter, Value
from ...spaces.space import Space
from ..untaught import drawn_choice

Move = Callable[[dict[str, Value]], None]


class Moves:
    """Makes new choices of one space."""

    def __init__(self, space: Space, draw: random.Random, allocate: Callable[[random.Random], Choice | None]) -> None:
        """Finds which parameters belong together.

        Args:
            space: what is searched.
            draw: random numbers.
            allocate: makes a choice that saves as much as it draws, where it harms least; or none, if nothing is known.
        """
        self._space, self._draw, self._allocate = space, draw, allocate
        self._parameters = {one.name: one for one in space if len(one.choices) > 1}
        self._groups = _groups(list(self._parameters.values()))
        alike: defaultdict[tuple[str, tuple[Value, ...]], list[str]] = defaultdict(list)
        for one in self._parameters.values():
            alike[one.name.partition(".")[0], one.choices].append(one.name)
        self._exchangeable = [names for names in alike.values() if len(names) > 1]

    def near(self, choice: Choice) -> dict[str, Value]:
        """A choice one move away; sometimes two or three."""
        found = dict(choice)
        moves: list[Move] = [self._step, self._step, self._set, self._shift_group, self._set_group]
        if self._exchangeable:
            moves.append(self._swap)
        for _ in range(self._draw.choices((1, 2, 3), weights=(6, 3, 1))[0]):
            self._draw.choice(moves)(found)
        return found

    def cross(self, one: Choice, other: Choice) -> dict[str, Value]:
        """Some groups of parameters as in one choice, the rest as in the other."""
        found = dict(one)
        by_axis = self._draw.random() < 0.5
        sides: dict[str, bool] = {}
        for name in found:
            key = name.partition(".")[0] if by_axis else name.rpartition(".")[0]
            if sides.setdefault(key, self._draw.random() < 0.5):
                found[name] = other[name]
        return found

    def far(self) -> dict[str, Value]:
        """A choice from anywhere: drawn, or allocated under a budget with the axes that allocate nothing drawn."""
        drawn = drawn_choice(self._space, self._draw)
        allocated = self._allocate(self._draw) if self._draw.random() < 0.5 else None
        if allocated is None:
            return drawn
        # Axes that the allocation leaves alone are as they were drawn.
        first = self._space.identity()
        used = {name.partition(".")[0] for name, value in allocated.items() if value != first[name]}
        return {name: allocated[name] if name.partition(".")[0] in used else drawn[name] for name in drawn}

    def _step(self, choice: dict[str, Value]) -> None:
        """One parameter a level up or down."""
        one = self._draw.choice(list(self._parameters.values()))
        choice[one.name] = _shifted(one, choice[one.name], self._draw.choice((-1, 1)))

    def _set(self, choice: dict[str, Value]) -> None:
        """One parameter to anything."""
        one = self._draw.choice(list(self._parameters.values()))
        choice[one.name] = self._draw.choice(one.choices)

    def _shift_group(self, choice: dict[str, Value]) -> None:
        """One kind in all layers, or one layer in all kinds, a level up or down."""
        by = self._draw.choice((-1, 1))
        for name in self._draw.choice(self._groups):
            choice[name] = _shifted(self._parameters[name], choice[name], by)

    def _set_group(self, choice: dict[str, Value]) -> None:
        """The same, all set to one value."""
        names = self._draw.choice(self._groups)
        value = self._draw.choice(self._parameters[names[0]].choices)
        for name in names:
            if value in self._parameters[name].choices:
                choice[name] = value

    def _swap(self, choice: dict[str, Value]) -> None:
        """The values of two parameters that have the same choices, such as two layers' bits."""
        one, other = self._draw.sample(self._draw.choice(self._exchangeable), 2)
        choice[one], choice[other] = choice[other], choice[one]


def _shifted(parameter: Parameter, value: Value, by: int) -> Value:
    """The choice so many levels on; the last one where there are none further."""
    place = parameter.choices.index(value) + by
    return parameter.choices[min(max(place, 0), len(parameter.choices) - 1)]


def _groups(parameters: Sequence[Parameter]) -> list[list[str]]:
    """Names of parameters that differ in their layer only, in their kind only, and those of a whole axis."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for one in parameters:
        axis, *middle, last = one.name.split(".")
        found[f"{axis} all"].append(one.name)
        found[f"{axis} {'.'.join(middle)} *"].append(one.name)
        found[f"{axis} * {last}"].append(one.name)
    unique: Mapping[tuple[str, ...], None] = dict.fromkeys(tuple(names) for names in found.values())
    return [list(names) for names in unique]

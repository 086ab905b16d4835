"""Which part gets which precision, under a budget: the least predicted harm that a number of bytes or seconds buys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import BudgetError


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that may be done to a part.

    Attributes:
        name: of the choice, "float" or a precision.
        cost: bytes or seconds, at least 0.
        harm: predicted, at least 0, adding up over parts.
    """

    name: str
    cost: float
    harm: float


def allocate(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, str]:
    """One option for every part, of about the least total harm that the budget allows.

    From the cheapest options on, the step along a part's lower convex hull that saves most harm per cost is taken, and
    what does not fit is left out: exact up to the first step that does not fit.

    Args:
        options: part -> what may be done to it, at least one.
        budget: the largest total cost.

    Returns:
        Part -> name of its option.

    Raises:
        BudgetError: if even the cheapest options cost more.
    """
    hulls = {part: _hull(found) for part, found in options.items()}
    picked = dict.fromkeys(hulls, 0)
    spent = sum(hull[0].cost for hull in hulls.values())
    if spent > budget:
        raise BudgetError(f"the cheapest precisions cost {spent:.6g}, more than the budget of {budget:.6g}; raise it.")
    steps = [
        (
            (hull[step - 1].harm - hull[step].harm) / (hull[step].cost - hull[step - 1].cost),
            hull[step].cost - hull[step - 1].cost,
            part,
            step,
        )
        for part, hull in hulls.items()
        for step in range(1, len(hull))
    ]
    for _, cost, part, step in sorted(steps, key=lambda entry: (-entry[0], entry[2], entry[3])):
        if picked[part] == step - 1 and spent + cost <= budget:
            picked[part] = step
            spent += cost
    return {part: hull[picked[part]].name for part, hull in hulls.items()}


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull of harm over cost, cheapest first; harm falls and cost rises along it."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.cost, option.harm)):
        if hull and option.harm >= hull[-1].harm:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(left: Option, right: Option) -> float:
    """Harm per cost on the way from one option to a dearer one; below 0."""
    return (right.harm - left.harm) / (right.cost - left.cost)

"""Parameters of a space as Optuna has them."""

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from ...spaces.axes import Parameter


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Integers as an ordered range, names as categories.

    Args:
        parameter: of a space.
    """
    numbers = [choice for choice in parameter.choices if isinstance(choice, int)]
    if numbers and parameter.choices == tuple(range(numbers[0], numbers[0] + len(parameter.choices))):
        return IntDistribution(numbers[0], numbers[-1])
    return CategoricalDistribution(parameter.choices)

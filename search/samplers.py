"""Who proposes the next choice: Optuna's samplers, by name."""

from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from ..errors import SettingError

NAMES = ("tpe", "nsga2", "random")
_POPULATION = 20


def sampler(name: str, *, seed: int) -> BaseSampler:
    """A sampler of Optuna; limits reach it as the constraints of the trials.

    Args:
        name: one of `NAMES`.
        seed: of its random numbers.

    Raises:
        SettingError: if there is no such sampler.
    """
    if name == "tpe":
        return TPESampler(seed=seed)
    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=_POPULATION)
    if name == "random":
        return RandomSampler(seed=seed)
    raise SettingError.unknown("sampler", name, NAMES)

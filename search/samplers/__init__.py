"""Who proposes the next choice: the sampler made for this, Optuna's by name, or any object of Optuna's kind."""

from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from ...errors import SettingError
from .guide import Guide
from .guided import GuidedSampler

NAMES = ("guided", "tpe", "nsga2", "gp", "random")
# What a run folder says of a sampler that was an object; see `name_of`.
_OBJECT = "object "
_POPULATION = 20


def sampler(which: str | BaseSampler, *, seed: int, guide: Guide) -> BaseSampler:
    """A sampler; limits reach those of Optuna as the constraints of the trials.

    Args:
        which: one of `NAMES`, or an object, which is returned as it is, with its own seed.
        seed: of its random numbers.
        guide: what is known of plans; for the sampler made for this.

    Raises:
        SettingError: if there is no such sampler, or it was an object and is given by its name now.
    """
    check(which)
    if isinstance(which, BaseSampler):
        return which
    if which.startswith(_OBJECT):
        raise SettingError(
            f"the run was made with an {which}, of which it knows only the name; give such an object again, in Python."
        )
    if which == "guided":
        return GuidedSampler(guide, seed=seed)
    if which == "tpe":
        return TPESampler(seed=seed)
    if which == "nsga2":
        return NSGAIISampler(seed=seed, population_size=_POPULATION)
    if which == "gp":
        return GPSampler(seed=seed)
    return RandomSampler(seed=seed)


def check(which: str | BaseSampler) -> None:
    """Refuses what is no sampler.

    Raises:
        SettingError: if it is a name that no sampler has.
    """
    if isinstance(which, str) and which not in NAMES and not which.startswith(_OBJECT):
        raise SettingError.unknown("sampler", which, NAMES)


def name_of(which: str | BaseSampler) -> str:
    """The name of a sampler, or in words what kind of object it is, for a run folder."""
    return which if isinstance(which, str) else f"{_OBJECT}{type(which).__name__}"

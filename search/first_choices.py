"""The choices a search begins with, those first that say most: so that few trials are enough to see the whole range."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from optuna.samplers import BaseSampler

from ..spaces.allocation import Option, allocate
from ..spaces.axes import Choice, Value
from ..spaces.space import Space
from .hints import Hints

# How many times smaller than the original the models of allocated bits are to be; and of allocated factors and
# assemblies the layers.
BIT_RATIOS = (3.0, 4.5, 6.0, 7.5, 9.0)
LAYER_RATIOS = (1.25, 1.5, 2.0, 3.0)
# The sampler made for this needs so many of them; further ones say less than what it would try instead (see
# benchmarks/known_truth.py).
_LEAST, _MOST = 5, 8
# An axis is gone along in so many steps of so many that would be all of it: harsher ones lose too much to matter.
_STEPS, _ALL_STEPS = 4, 6
# Trials of a search that is bounded by time.
_USUAL_TRIALS = 60


def n_starts(sampler: str | BaseSampler, trials: int | None) -> int:
    """How many of a search's trials are starting points: Optuna's samplers make less of what they are told than ours.

    Args:
        sampler: its name, or one of Optuna's.
        trials: of the search; None if it is bounded by time only.
    """
    trials = trials or _USUAL_TRIALS
    return min(max(_LEAST, trials // 3), _MOST) if sampler == "guided" else max(1, trials // 2)


def starting_choices(space: Space, hints: Hints) -> list[dict[str, Value]]:
    """Choices worth a look before any sampler knows anything.

    Args:
        space: what is searched.
        hints: what is known of its parts.

    Returns:
        Each once, the identity first. Where bits are searched beside other axes, then those along the front
        (`_with_bits`). Then in turns: every axis alone, bits first, from gentle to harsh (for depth, that is the
        greedy path); and, the middle before the ends, bits allocated under budgets of bytes, such factors with every
        part in its first precision, such assemblies, and such factors. Last, combinations of axes, all set alike.
    """
    identity = space.identity()
    alone = [[identity | level for level in space.levels(axis)[1:]] for axis in reversed(space.axes)]
    budgets = [hints.whole / ratio - hints.rest for ratio in BIT_RATIOS]
    bits = list(_middle_first(_allocated(space, hints.bits, budgets)))
    factors, assemblies = allocated_layers(space, hints.factors), allocated_layers(space, hints.assemblies)
    both = [choice | level for choice in factors for level in _gentlest_bits(space)[:1]]
    turns = zip_longest(*alone, bits, *map(_middle_first, (both, assemblies, factors)))
    told = [choice for turn in turns for choice in turn if choice is not None]
    listed = (identity, *_with_bits(space, bits[:1]), *told, *space.uniform_choices())
    unique = {tuple(choice.values()): choice for choice in listed}
    return [dict(choice) for choice in unique.values()]


def _with_bits(space: Space, allocated: Sequence[Choice]) -> Iterator[Choice]:
    """Bits alone, then some steps of every other axis from gentle to harsh, in turns, with all bits set alike.

    What several axes save they save together, so the front is made of plans that use all of them: these lie along it.
    The two gentlest precisions alternate, so that the steps say something of both.

    Args:
        space: what is searched; nothing if bits are not, or nothing else is.
        allocated: bits that are not set alike, to be looked at after the first step.
    """
    identity, precisions = space.identity(), _gentlest_bits(space)
    along = [_steps(space.levels(axis)) for axis in space.axes if axis != "bits"]
    if not precisions or not along:
        return
    yield identity | precisions[0]
    for step, levels in enumerate(zip(*along, strict=True), start=1):
        for turn, level in enumerate(levels):
            if level is not None:
                yield identity | level | precisions[(step + turn) % len(precisions)]
        if step == 1:
            yield from allocated


def _steps(levels: Sequence[dict[str, Value]]) -> list[dict[str, Value] | None]:
    """The level of an axis at each step along it; None where the axis has so few that it stays where it is."""
    taken = [max(1, round(step * len(levels) / _ALL_STEPS)) for step in range(1, _STEPS + 1)]
    return [None if level in taken[:place] else levels[level] for place, level in enumerate(taken)]


def _middle_first(choices: Sequence[Choice]) -> Iterator[Choice]:
    """Halves the list again and again: the middle, then the middles of both halves, and so on."""
    waiting = [choices]
    while waiting:
        part = waiting.pop(0)
        if part:
            middle = len(part) // 2
            yield part[middle]
            waiting += [part[:middle], part[middle + 1 :]]


def allocated_layers(space: Space, options: Mapping[str, Sequence[Option]]) -> list[dict[str, Value]]:
    """Choices that change nothing but these parameters, of least predicted harm at each ratio that can be reached.

    Args:
        space: what is searched.
        options: parameter -> its choices, the first of which leaves all as it is; see `LAYER_RATIOS`.
    """
    whole = sum(found[0].cost for found in options.values())
    return _allocated(space, options, [whole / ratio for ratio in LAYER_RATIOS])


def _allocated(
    space: Space, options: Mapping[str, Sequence[Option]], budgets: Sequence[float]
) -> list[dict[str, Value]]:
    """Choices of least predicted harm within each budget that can be met."""
    least = sum(min(option.cost for option in found) for found in options.values())
    met = [budget for budget in budgets if options and budget >= least]
    return [{**space.identity(), **allocate(options, budget)} for budget in met]


def _gentlest_bits(space: Space) -> list[dict[str, Value]]:
    """The two gentlest settings of all bits alike; none where bits are not searched."""
    return space.levels("bits")[1:3] if "bits" in space.axes else []

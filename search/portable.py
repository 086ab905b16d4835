"""Which candidates of a study are worth measuring on another machine: the front, and what nearly belongs to it."""

from collections.abc import Sequence
from dataclasses import replace

from .objectives import Limits, Measures
from .trial import Trial

# Two kernels whose times differ by up to this part on one machine may come in the other order on the next.
_WITHIN = 0.25
# Whose number another machine changes by as much: a model's bytes are the same everywhere, and its peak nearly so.
_COST = "latency"


def nearly_best(
    trials: Sequence[Trial], objectives: Sequence[str], budget: Limits, *, known: set[str], most: int
) -> list[Trial]:
    """Candidates that would be best if they were a little faster, as they may be elsewhere.

    Args:
        trials: of the study, finished.
        objectives: what was optimised.
        budget: limits of the study; those on time and memory are asked anew on each machine.
        known: fingerprints of plans that are measured in any case.
        most: how many at most.

    Returns:
        Those first that need least; none that would have to save more than a quarter.
    """
    lasting = replace(budget, latency_seconds=None, memory_bytes=None)
    fit = [
        (trial, trial.told)
        for trial in trials
        if trial.plan is not None and trial.told is not None and lasting.are_kept(trial.told)
    ]
    every = [measures for _, measures in fit]
    found = []
    for trial, measures in fit:
        assert trial.plan is not None
        if trial.plan.fingerprint not in known:
            found.append((shortfall(measures, every, objectives), trial.number, trial))
    return [trial for short, _, trial in sorted(found, key=lambda entry: entry[:2]) if short <= _WITHIN][:most]


def shortfall(one: Measures, others: Sequence[Measures], objectives: Sequence[str]) -> float:
    """By what part the latency of a candidate would have to fall before no other one beats it.

    Args:
        one: the candidate.
        others: all candidates, itself allowed.
        objectives: what is optimised.

    Returns:
        0 where none beats it, 1 where it is beaten however fast it is.
    """
    needed = 0.0
    for other in others:
        pairs = {name: (one.minimised(name), other.minimised(name)) for name in objectives}
        if any(theirs > own for own, theirs in pairs.values()) or all(own == theirs for own, theirs in pairs.values()):
            continue
        # It is beaten by this one until it is faster.
        needed = max(needed, 1 - pairs[_COST][1] / pairs[_COST][0] if _COST in pairs else 1.0)
    return needed

"""Candidates that surely are not wanted go before all examples of the search split are asked.

A candidate races against one trial that was judged in full and surely costs no more (`search/heats.py` has what becomes
of it). Costs count with their error. Where both were predicted from one table, what all its predictions share says
nothing about which of them is dearer, so they are compared as a pair; else the rival's cost at its highest must be no
more than the candidate's at its lowest. The rival is the best of those by its own quality on the whole split, so it is
chosen without a look at the candidate's answers.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..profilers.estimates import PredictedLatency, PredictedMemory
from ..profilers.prediction import UnseenError
from ..profilers.profile import Profile
from ..spaces.plan import Plan
from .heats import Rival
from .quality import Quality
from .trial import State, Trial

# Cost, one plan and another, both predicted -> whether the first surely costs no more.
Pairing = Callable[[str, Plan, Plan], bool]


@dataclass(frozen=True, slots=True)
class _Judged:
    """Of a trial, what rivals need."""

    plan: Plan | None
    profile: Profile
    quality: Quality


class Race:
    """Who may beat whom in one run."""

    def __init__(self, objectives: Sequence[str], pairing: Pairing | None = None) -> None:
        """Nobody is in it yet.

        Args:
            objectives: what is optimised.
            pairing: compares predicted costs; None compares their intervals.
        """
        self._costs = [name for name in objectives if name != "quality"]
        self._pairing = pairing
        self._judged: dict[int, _Judged] = {}

    def enter(self, trial: Trial) -> None:
        """A trial that was judged in full and keeps the budget may beat others from now on; others are ignored."""
        if trial.state == State.JUDGED and trial.quality is not None and trial.profile is not None:
            self._judged[trial.number] = _Judged(trial.plan, trial.profile, trial.quality)

    def rival(self, plan: Plan | None, profile: Profile) -> Rival | None:
        """Whom a candidate with these costs must beat; None where nobody surely costs no more.

        Args:
            plan: the candidate.
            profile: of it, with all costs that are optimised.
        """
        cheaper = [
            (one.quality.value, -number)
            for number, one in self._judged.items()
            if all(self._costs_no_more(cost, one, plan, profile) for cost in self._costs)
        ]
        if not cheaper:
            return None
        number = -max(cheaper)[1]
        return Rival(number, self._judged[number].quality)

    def plan(self, rival: Rival) -> Plan | None:
        """That of a rival in this race."""
        return self._judged[rival.number].plan

    def _costs_no_more(self, cost: str, one: _Judged, plan: Plan | None, profile: Profile) -> bool:
        are_predicted = _is_predicted(cost, one.profile) and _is_predicted(cost, profile)
        if self._pairing is not None and are_predicted and one.plan is not None and plan is not None:
            with suppress(UnseenError):  # an earlier table of this run knew more
                return self._pairing(cost, one.plan, plan)
        return _bounds(cost, one.profile)[1] <= _bounds(cost, profile)[0]


def _is_predicted(cost: str, profile: Profile) -> bool:
    found = {"latency": profile.latency, "memory": profile.memory}.get(cost)
    return isinstance(found, PredictedLatency | PredictedMemory)


def _bounds(cost: str, profile: Profile) -> tuple[float, float]:
    """The least and the most that a candidate costs: latency in units of the baseline's, else bytes."""
    if cost == "latency":
        assert profile.latency is not None
        return profile.latency.ratio_low, profile.latency.ratio_high
    if cost == "memory":
        memory = profile.memory
        assert memory is not None
        if isinstance(memory, PredictedMemory):
            return memory.low_bytes, memory.high_bytes
        return memory.peak_bytes, memory.peak_bytes
    return profile.stored_bytes, profile.stored_bytes

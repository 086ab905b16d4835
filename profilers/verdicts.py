"""Whether plans became faster or slower since they were last measured here, and what cannot be told.

What is compared is each plan's ratio to the original *of its own session*: absolute times of a machine drift by more
than the differences that matter. Three things move such a ratio although the plan is the same. Chance within a session
is in its interval. Between sessions ratios scatter further, because memory, clocks and neighbours favour one kind of
work over another; how much is learned from the sessions there are, beginning with a guess (`scatter`). And a new
library may move the original: then the ratio changes though the plan did not, which only its own time, unsure as it
is, can tell. So that one odd session misleads nobody, what is compared with is the middle of the last few, back to when
software last changed. While others work on the machine, ratios scatter by more than any of this: then nothing is
called faster or slower.

A change of the whole machine leaves all ratios as they were. It shows in the original's own time, against how that
time scattered before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import exp, inf, log, sqrt
from statistics import fmean, median, stdev

import numpy as np
from scipy.stats import t

from .conditions import MOST_CORES
from .hardware import changes
from .history import Entry, Session
from .intervals import Interval, middle_of
from .scatter import (
    BELIEF,
    COMPARED,
    alike,
    disturbance_of,
    freedom_of,
    plans_of,
    scatter_of,
    share_of,
    stretch,
    variance_of,
)

# A smaller change is never reported, however sure; and within the larger one a plan that shows none is the same.
LEAST, SAME = 0.02, 0.05
# The chance that any plan of a session is called faster or slower though none is.
_MISTAKES = 0.01
# The whole machine: sessions to know its scatter by, the chance of a mistake, and the least change.
_SESSIONS, _LATEST, _MACHINE_MISTAKES, _MACHINE_LEAST = 5, 20, 0.001, 0.1
_MACHINE = "the whole machine"


class Verdict(StrEnum):
    """What became of a plan's latency."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One plan, or the whole machine, against an earlier session.

    Attributes:
        plan: fingerprint; "" for the machine.
        label: in words.
        verdict: what became of it.
        change: now over before, with its 95 % interval: of the ratio to the original; for the machine, of the time of
            the original. None where there is nothing to compare with.
        own: the plan's own time, now over before; None likewise.
        chance: that pure accident shows such a change, corrected for the number of plans; None likewise.
        reason: in words.
    """

    plan: str
    label: str
    verdict: Verdict
    change: Interval | None
    own: float | None
    chance: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Verdicts:
    """A session against what was measured before in the same context.

    Attributes:
        plans: every plan but the original.
        machine: the original's own time.
        against: the earlier sessions that plans are compared with, in their order; empty where there is none.
        changed: what software or setting differs between the two, in words.
        scatter: of log ratios from session to session, beyond their intervals.
    """

    plans: tuple[Judgement, ...]
    machine: Judgement
    against: tuple[Session, ...]
    changed: tuple[str, ...]
    scatter: float

    @property
    def regressions(self) -> tuple[Judgement, ...]:
        """What became slower."""
        return tuple(one for one in (self.machine, *self.plans) if one.verdict == Verdict.SLOWER)


def verdicts_on(now: Session, past: Sequence[Session], against: Session | None = None) -> Verdicts:
    """Judges a session.

    Args:
        now: the session.
        past: earlier ones in the same context, in their order.
        against: the one of them to compare plans with; None for the middle of the last seven of one software. Sessions
            beside which others worked count only where there are no others.
    """
    quiet = [session for session in past if disturbance_of(session) <= MOST_CORES] or list(past)
    compared = [against] if against is not None else alike(quiet, COMPARED)
    scatter, learned = scatter_of(quiet)
    changed = changes(compared[-1].software, now.software) if compared else ()
    steps = {entry.plan: _step(entry, compared, scatter, learned) for entry in plans_of(now).values()}
    chances = _holm({plan: step.chance for plan, step in steps.items() if step is not None})
    judged = tuple(
        _unknown(entry, "it was never measured in this context before")
        if (step := steps[entry.plan]) is None
        else _judged(entry, step, chances[entry.plan], changed)
        for entry in plans_of(now).values()
    )
    doubt = _disturbed(now, compared)
    plans = tuple(_doubted(one, doubt) for one in judged)
    return Verdicts(plans, _doubted(_machine(now, quiet), doubt), tuple(compared), changed, scatter)


def _disturbed(now: Session, compared: Sequence[Session]) -> str:
    """Who worked beside the measurements, in words; empty where that was little."""
    meanwhile, before = disturbance_of(now), max(map(disturbance_of, compared), default=0.0)
    if max(meanwhile, before) <= MOST_CORES:
        return ""
    return f"others took {meanwhile:.2f} cores now and {before:.2f} before; measure again when they have ended"


def _doubted(one: Judgement, doubt: str) -> Judgement:
    """Other work moves ratios, and times still more: beside it nothing is called faster or slower."""
    if not doubt or one.verdict not in (Verdict.FASTER, Verdict.SLOWER):
        return one
    return replace(one, verdict=Verdict.CANNOT_TELL, reason=f"it looks {one.verdict}, but {doubt}")


@dataclass(frozen=True, slots=True)
class _Step:
    """By how much a log ratio changed, and how sure that is."""

    value: float
    error: float
    freedom: float
    own: float

    @property
    def chance(self) -> float:
        """That pure accident shows such a change."""
        return float(2 * t.sf(abs(self.value) / self.error, self.freedom))


def _step(now: Entry, compared: Sequence[Session], scatter: float, learned: int) -> _Step | None:
    """From the middle of earlier sessions to this one; None where none of them measured the plan."""
    before = [known[now.plan].latency for known in map(plans_of, compared) if now.plan in known]
    if not before:
        return None
    share = share_of(len(before))
    value = log(now.latency.ratio) - middle_of(np.log([one.ratio for one in before]))
    parts = [
        (variance_of(now.latency), freedom_of(now.latency)),
        (share * fmean(map(variance_of, before)), sum(map(freedom_of, before))),
        ((1 + share) * scatter**2, BELIEF + learned),
    ]
    whole = sum(variance for variance, _ in parts)
    freedom = whole**2 / sum(variance**2 / count for variance, count in parts)  # [Welch1947]
    return _Step(value, sqrt(whole), freedom, now.latency.seconds / median(one.seconds for one in before))


def _judged(now: Entry, step: _Step, chance: float, changed: Sequence[str]) -> Judgement:
    reach = stretch(step.freedom) * step.error
    change = Interval(exp(step.value), exp(step.value - reach), exp(step.value + reach))
    verdict, reason = _word(change, chance, step.own, changed)
    return Judgement(now.plan, now.label, verdict, change, step.own, chance, reason)


def _word(change: Interval, chance: float, own: float, changed: Sequence[str]) -> tuple[Verdict, str]:
    """The verdict on a change, and why."""
    if chance < _MISTAKES and abs(log(change.value)) >= log(1 + LEAST):
        verdict = Verdict.SLOWER if change.value > 1 else Verdict.FASTER
        if changed and (own > 1) != (change.value > 1):
            return Verdict.CANNOT_TELL, (
                f"beside the original it is {verdict}, but its own time did not move that way (x {own:.3f}): the "
                f"original may have changed, with {', '.join(changed)}"
            )
        cause = f"since {', '.join(changed)}" if changed else "though no software changed"
        return verdict, f"its ratio to the original changed by more than chance explains, {cause}"
    if change.low >= 1 / (1 + SAME) and change.high <= 1 + SAME:
        return Verdict.SAME, f"no change of {SAME:.0%} or more, and none that is sure and above {LEAST:.0%}"
    return Verdict.CANNOT_TELL, f"the interval reaches beyond {SAME:.0%}; measure for longer, or on a quieter machine"


def _machine(now: Session, past: Sequence[Session]) -> Judgement:
    """The original's own time against that of the sessions since software last changed."""
    times = [log(session.baseline.latency.seconds) for session in alike(past, _LATEST)]
    if not times:
        return _unknown(None, "it was never measured in this context before")
    step = log(now.baseline.latency.seconds) - fmean(times)
    if len(times) < _SESSIONS:
        reason = (
            f"{len(times)} earlier sessions with one software; from {_SESSIONS} on a machine's own scatter is known"
        )
        return Judgement("", _MACHINE, Verdict.CANNOT_TELL, Interval(exp(step), 0.0, inf), None, None, reason)
    freedom, width = len(times) - 1, max(stdev(times), 1e-9) * sqrt(1 + 1 / len(times))
    chance = float(2 * t.sf(abs(step) / width, freedom))
    reach = stretch(freedom) * width
    change = Interval(exp(step), exp(step - reach), exp(step + reach))
    if chance < _MACHINE_MISTAKES and abs(step) >= log(1 + _MACHINE_LEAST):
        verdict = Verdict.SLOWER if step > 0 else Verdict.FASTER
        changed = changes(past[-1].software, now.software)
        cause = f"since {', '.join(changed)}" if changed else "though no software changed"
        reason = (
            f"the original takes x {exp(step):.3f} of its time, beyond its scatter over {len(times)} sessions, {cause}"
        )
        return Judgement("", _MACHINE, verdict, change, exp(step), chance, reason)
    if 1 / (1 + _MACHINE_LEAST) <= exp(step) <= 1 + _MACHINE_LEAST:
        reason = f"the original's time is within {_MACHINE_LEAST:.0%} of its mean over {len(times)} sessions"
        return Judgement("", _MACHINE, Verdict.SAME, change, exp(step), chance, reason)
    reason = f"the original's time differs, but no more than it may by its scatter over {len(times)} sessions"
    return Judgement("", _MACHINE, Verdict.CANNOT_TELL, change, exp(step), chance, reason)


def _unknown(entry: Entry | None, reason: str) -> Judgement:
    plan, label = ("", _MACHINE) if entry is None else (entry.plan, entry.label)
    return Judgement(plan, label, Verdict.CANNOT_TELL, None, None, None, reason)


def _holm(chances: Mapping[str, float]) -> dict[str, float]:
    """Chances corrected for their number, so that all of them together err as rarely as one should [Holm1979]."""
    corrected, largest = {}, 0.0
    for rank, plan in enumerate(sorted(chances, key=lambda plan: chances[plan])):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[plan]))
        corrected[plan] = largest
    return corrected

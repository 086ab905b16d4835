"""How the ratios and times of one context scatter from session to session, learned from the sessions there are."""

from collections.abc import Mapping, Sequence
from functools import cache
from math import log, sqrt
from statistics import fmean, median

import numpy as np
from scipy.stats import t

from .hardware import changes
from .history import Entry, Session
from .intervals import CONFIDENCE, middle_of
from .latency import Latency

# Log ratios of two sessions scatter by so much if nothing is known; it counts as much as so many sessions.
BELIEVED, BELIEF = 0.012, 4
# So many of the latest sessions are compared with; the variance of their middle is so many times that of their mean.
COMPARED, _MIDDLE = 7, 1.05
# The median of squares of normal numbers, as a part of their mean.
_MEDIAN_OF_SQUARES = 0.4549


def scatter_of(past: Sequence[Session]) -> tuple[float, int]:
    """How log ratios scatter about the middle of those before, beyond what their intervals say, by one software.

    That is what a new session is compared with, so slow drifts count as they do there.

    Args:
        past: sessions of one context, in their order.

    Returns:
        A standard deviation, and by how many sessions it was learned.
    """
    surplus: list[float] = []
    learned = 0
    for number, now in enumerate(past):
        before = [one for one in alike(past[:number], COMPARED) if not changes(one.software, now.software)]
        found = [_surplus(entry, before) for entry in plans_of(now).values()]
        learned += any(one is not None for one in found)
        surplus += [one for one in found if one is not None]
    if not learned:
        return BELIEVED, 0
    # The median, so that plans that really changed are no scatter.
    seen = max(0.0, median(surplus))
    return sqrt((BELIEF * BELIEVED**2 + learned * seen) / (BELIEF + learned)), learned


def _surplus(now: Entry, before: Sequence[Session]) -> float | None:
    """What is left of a squared step when chance within sessions is taken off; None where the plan is new."""
    known = [plans_of(one)[now.plan].latency for one in before if now.plan in plans_of(one)]
    if not known:
        return None
    share = share_of(len(known))
    step = log(now.latency.ratio) - middle_of(np.log([one.ratio for one in known]))
    chance = variance_of(now.latency) + share * fmean(map(variance_of, known))
    return (step**2 / _MEDIAN_OF_SQUARES - chance) / (1 + share)


def share_of(count: int) -> float:
    """The variance of the middle of so many numbers, as a part of the variance of one."""
    return (_MIDDLE if count > 2 else 1.0) / count


def alike(past: Sequence[Session], most: int) -> list[Session]:
    """The latest sessions, back to when software last changed.

    Args:
        past: sessions of one context, in their order.
        most: how many at most.
    """
    found: list[Session] = []
    for session in reversed(past):
        if len(found) == most or (found and changes(session.software, found[0].software)):
            break
        found.insert(0, session)
    return found


def disturbance_of(session: Session) -> float:
    """How many cores others took at most while any part of a session was timed; 0 where nobody asked."""
    return max((entry.latency.taken_cores or 0.0 for entry in session.entries), default=0.0)


def plans_of(session: Session) -> Mapping[str, Entry]:
    """Fingerprint -> what was measured, of every plan but the original, whose ratio is 1 by definition."""
    return {entry.plan: entry for entry in session.entries if not entry.is_baseline}


def variance_of(late: Latency) -> float:
    """Of the logarithm of a ratio, from its own interval."""
    reach = log(late.ratio_high / late.ratio_low) / 2
    return (reach / stretch(freedom_of(late))) ** 2


def freedom_of(late: Latency) -> int:
    """Degrees of freedom of a ratio's interval: its loads less one.

    Where models were loaded once, a fourth of its rounds, because neighbours say much the same.
    """
    return max(1, len(late.loads) - 1 if len(late.loads) > 1 else len(late.samples_seconds) // 4)


@cache
def stretch(freedom: float) -> float:
    """Half a 95 % interval, in standard errors."""
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))

"""How the ratios and times of one context scatter from session to session, learned from the sessions there are."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from math import log, sqrt
from statistics import fmean, median

from scipy.stats import t

from .hardware import changes
from .history import Entry, Session
from .intervals import CONFIDENCE
from .latency import Latency

# Log ratios of two sessions scatter by so much if nothing is known; it counts as much as so many pairs of sessions.
BELIEVED, BELIEF = 0.012, 4
# The median of squares of normal numbers, as a part of their mean.
_MEDIAN_OF_SQUARES = 0.4549


def scatter_of(past: Sequence[Session]) -> tuple[float, int]:
    """How log ratios scatter from session to session beyond what their intervals say, where no software changed.

    Args:
        past: sessions of one context, in their order.

    Returns:
        A standard deviation, and by how many pairs of neighbouring sessions it was learned.
    """
    steps: list[float] = []
    known: list[float] = []
    pairs = 0
    for before, now in pairwise(past):
        plans = plans_of(before)
        both = [(entry.latency, plans[entry.plan].latency) for entry in plans_of(now).values() if entry.plan in plans]
        if both and not changes(before.software, now.software):
            pairs += 1
            steps += [log(one.ratio / other.ratio) ** 2 for one, other in both]
            known += [variance_of(one) + variance_of(other) for one, other in both]
    if not pairs:
        return BELIEVED, 0
    # The median, so that plans that really changed are no scatter.
    surplus = max(0.0, median(steps) / _MEDIAN_OF_SQUARES - fmean(known)) / 2
    return sqrt((BELIEF * BELIEVED**2 + pairs * surplus) / (BELIEF + pairs)), pairs


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

"""How sure a ratio of times is: intervals that hold what they say for noise that lasts and for models that move.

Two things make the rounds of a measurement worth less than their number. Noise lasts for several rounds, so neighbours
say the same twice; and where a model happens to lie in memory moves its time by a few per cent in all rounds alike. For
the first, whole stretches of rounds are drawn anew (moving-block bootstrap, [Kunsch1989]); the second shows only where
the models are loaded anew, and then the loads are the sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb, exp, log, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, norm, t

CONFIDENCE = 0.95
_RESAMPLES = 999
# Above this, no record that is short enough to wait for tells noise from drift.
_STRONGEST = 0.9
_BLOCKS = 4
_SURE = 0.001
_DRIFT = 0.05

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and the ends of its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end, at most `value`.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of its width, as a part of the estimate."""
        return (self.high - self.low) / 2 / self.value


def ratio_of(own: Sequence[float], baseline: Sequence[float], loads: Sequence[int] = (), seed: int = 0) -> Interval:
    """The ratio of two models' times from rounds that both ran in.

    Args:
        own: seconds, one per round.
        baseline: seconds in the same rounds.
        loads: how many rounds in a row every load of the models served; with fewer than two loads the interval speaks
            of the models as they lie in memory, with more of models as they may come to lie.
        seed: of the bootstrap.

    Returns:
        The median ratio; over several loads, the geometric mean of their middles.
    """
    ratios = np.asarray(own, dtype=float) / np.asarray(baseline, dtype=float)
    if len(loads) < 2:
        return of_rounds(ratios, seed)
    ends = np.cumsum([0, *loads])
    # In logarithms, so that the ratio of b to a is one over that of a to b.
    return of_loads([exp(middle_of(np.log(ratios[start:end]))) for start, end in pairwise(ends)])


def of_loads(ratios: Sequence[float]) -> Interval:
    """The interval over loads: Student's t of the logarithms.

    Args:
        ratios: one per load, at least two. How rounds of one load depend on each other does not matter here.
    """
    logarithms = np.log(ratios)
    n = len(logarithms)
    middle = float(logarithms.mean())
    reach = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * logarithms.std(ddof=1) / sqrt(n))
    return Interval(exp(middle), exp(middle - reach), exp(middle + reach))


def middle_of(values: Numbers) -> float:
    """The median of the means of all pairs [HodgesLehmann1963]: as robust as few rounds need, and surer than a median.

    Args:
        values: at least one.
    """
    one, other = np.triu_indices(len(values))
    return float(np.median((values[one] + values[other]) / 2))


def of_rounds(ratios: Numbers, seed: int) -> Interval:
    """The interval of the median of one load's rounds, by the moving-block bootstrap.

    The percentiles are widened as Student's t is wider than the normal distribution [Hesterberg2015]; so few rounds do
    not look surer than they are.

    Args:
        ratios: one per round, in their order.
        seed: of the bootstrap.
    """
    n, middle = len(ratios), float(np.median(ratios))
    if n < 2 or np.ptp(ratios) == 0:
        return Interval(middle, middle, middle)
    length = block_length(ratios)
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, n - length + 1, (_RESAMPLES, -(-n // length)))
    drawn = (starts[:, :, None] + np.arange(length)).reshape(_RESAMPLES, -1)[:, :n]
    blocks = max(2.0, n / length)
    tail = norm.cdf(sqrt(blocks / (blocks - 1)) * t.ppf((1 - CONFIDENCE) / 2, blocks - 1))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (tail, 1 - tail))
    return Interval(middle, min(float(low), middle), max(float(high), middle))


def block_length(values: Numbers) -> int:
    """How many neighbours must be drawn together so that noise which lasts is seen.

    The best length for first-order autoregressive noise [Carlstein1986], whose correlation is read from the signs about
    the median: a hiccup of the machine counts no more than any other round. Never below the cube root of the rounds,
    because short records show too little of their correlation.
    """
    n = len(values)
    signs = np.sign(values - np.median(values))
    signs = signs - signs.mean()
    variance = float((signs**2).mean())
    seen = float((signs[1:] * signs[:-1]).mean()) / variance if variance else 0.0
    # Short records understate it by about 2 / n [Kendall1954]; the sine is for Gaussian numbers with such signs.
    lasting = min(_STRONGEST, sin(pi / 2 * min(1.0, max(0.0, seen) + 2 / n)))
    best = (6 * n * (lasting / (1 - lasting**2)) ** 2) ** (1 / 3)
    return max(1, min(round(float(max(best, n ** (1 / 3)))), n // _BLOCKS))


def trend_of(samples: Sequence[float]) -> float | None:
    """By what part the last third of a series differs from the first, where that is no accident.

    Args:
        samples: seconds of one model, round by round.

    Returns:
        0.1 for 10 % slower at the end; None where it did not drift by 5 % or more, or chance may explain it.
    """
    third = len(samples) // 3
    if third < 3:
        return None
    first, last = samples[:third], samples[-third:]
    change = float(np.median(last) / np.median(first)) - 1
    chance = float(mannwhitneyu(first, last).pvalue)
    # Two groups of so few cannot differ more surely than this.
    surest = 2 / comb(2 * third, third)
    return change if abs(log(1 + change)) >= log(1 + _DRIFT) and chance <= max(_SURE, surest) else None

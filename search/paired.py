"""How likely it is that a model which seems worse on a part of a split is not worse on all of it.

The part is drawn by what the examples say, which no model has a hand in, so it is a random sample of the split.
"""

from math import ceil

import numpy as np
from scipy.stats import binom, bootstrap, hypergeom, t

from .quality import Score

# Of the standard error; it is known to 5 % then.
_RESAMPLES = 200
# So close to a whole number is one: 0.9 of 10 examples are 9.
_ROUNDING = 1e-9


def sign_test(one: np.ndarray, other: np.ndarray) -> float:
    """Exact, for models whose answers are right or wrong (McNemar's test, one-sided).

    Were the models equally good on the whole split, those examples of the part where they differ would fall to either
    side at most as unevenly as fair coins.

    Args:
        one: whether the answer to each example of the part is right.
        other: the same of the other model.

    Returns:
        How likely so few examples would fall to `one` if it were as good as `other`; 1 where they answer alike.
    """
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binom.cdf(wins, wins + losses, 0.5))


def level_test(right: int, drawn: int, examples: int, level: float) -> float:
    """Exact, for one model whose answers are right or wrong.

    Args:
        right: answers to the part.
        drawn: examples of the part.
        examples: of the split.
        level: share of right answers that is asked for, 0 to 1.

    Returns:
        How likely so few right answers would be if it reached the level on the whole split.
    """
    needed = min(max(ceil(level * examples - _ROUNDING), 0), examples)
    return float(hypergeom.cdf(right, examples, needed, drawn))


def paired_test(score: Score, labels: np.ndarray, one: np.ndarray, other: np.ndarray, *, margin: float = 0.0) -> float:
    """For any metric, also of a corpus: Student's t with the standard error of a paired bootstrap.

    Args:
        score: labels and outcomes -> value, larger is better.
        labels: n, of the part.
        one: n or n x k, a model's outcomes.
        other: the other model's.
        margin: by how much `one` may be worse.

    Returns:
        How likely such a difference would be if `one` were worse by no more than the margin; 1 where it is not seen to
        be.
    """

    def gain(rows: np.ndarray) -> float:
        return score(labels[rows], one[rows]) - score(labels[rows], other[rows])

    rows = np.arange(len(labels))
    short = gain(rows) + margin
    if short >= 0:
        return 1.0
    found = bootstrap((rows,), gain, vectorized=False, method="percentile", n_resamples=_RESAMPLES, rng=0)
    if found.standard_error == 0:  # they differ by the same however examples are drawn
        return 0.0
    return float(t.cdf(short / found.standard_error, len(rows) - 1))

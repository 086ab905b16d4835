"""What quality a plan will have, and how surely: a Gaussian process on features of plans.

The original, whose features are all 0, loses nothing by definition. From there a loss grows with what a plan has of
each feature, and what is left over is smooth. So the covariance has a linear part and a Matérn one of smoothness 5/2.
How much of each, how smooth, and how much noise, is what makes the losses told so far likeliest ([Rasmussen2006],
chapter 5). The scale has a closed form: it is integrated out under a vague prior.

[Rasmussen2006]: Rasmussen, Williams, "Gaussian Processes for Machine Learning", MIT Press, 2006.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.spatial.distance import cdist

# Tried in all combinations: the part of the linear covariance; lengths in units of the median distance between plans;
# and the noise as a part of the whole.
_LINEAR = (0.1, 0.5, 0.9)
_LENGTHS = (0.5, 1.0, 2.0)
_NOISES = (0.002, 0.01, 0.04, 0.15)
# More plans say no more about these three, and take the cube of the time.
_MOST_TO_CHOOSE_BY = 160
# The scale of losses is 1 in their own unit, as surely as so many plans would say.
_PRIOR_PLANS = 2.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Which covariance.

    Attributes:
        linear: part of the linear covariance; the rest is smooth.
        length: over which plans grow unlike, see `_LENGTHS`.
        noise: as a part of the whole.
    """

    linear: float
    length: float
    noise: float


class Surrogate:
    """A fit to what was told so far."""

    def __init__(self, rows: np.ndarray, losses: np.ndarray, shape: Shape | None = None) -> None:
        """Fits.

        Args:
            rows: features of every plan told, n x d, n at least 1; those of the original are 0.
            losses: of quality, n, finite, in a unit in which about 1 matters.
            shape: of the covariance; None to find the likeliest, in a tenth of a second, however many plans there are.
        """
        self._rows = rows
        self._size = float((rows**2).sum(axis=1).mean()) or 1.0
        distances = cdist(rows, rows)
        self._usual = float(np.median(distances[distances > 0])) if distances.any() else 1.0
        self.shape = shape or self._likeliest(losses)
        self._lower = self._factor(self.shape, rows)
        self._weights = cho_solve((self._lower, True), losses)
        self._scale = (_PRIOR_PLANS + float(losses @ self._weights)) / (_PRIOR_PLANS + len(losses))

    def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses of plans not told of.

        Args:
            rows: m x d.

        Returns:
            Means and standard deviations of what will be told, its noise included; m each.
        """
        shape = self.shape
        shared = self._covariance(shape, rows, self._rows)
        solved = solve_triangular(self._lower, shared.T, lower=True)
        own = shape.linear * (rows**2).sum(axis=1) / self._size + 1 - shape.linear
        variance = own + shape.noise - (solved**2).sum(axis=0)
        return shared @ self._weights, np.sqrt(self._scale * np.maximum(variance, shape.noise))

    def _likeliest(self, losses: np.ndarray) -> Shape:
        chosen = np.unique(np.linspace(0, len(losses) - 1, _MOST_TO_CHOOSE_BY).round().astype(int))
        shapes = [Shape(*one) for one in product(_LINEAR, _LENGTHS, _NOISES)]
        evidence = [_evidence(self._factor(shape, self._rows[chosen]), losses[chosen]) for shape in shapes]
        return shapes[int(np.argmax(evidence))]

    def _factor(self, shape: Shape, rows: np.ndarray) -> np.ndarray:
        """The lower Cholesky factor of the covariance of what is told of these plans."""
        return np.linalg.cholesky(self._covariance(shape, rows, rows) + shape.noise * np.eye(len(rows)))

    def _covariance(self, shape: Shape, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Between plans, without noise."""
        smooth = _matern(cdist(one, other) / (shape.length * self._usual))
        return np.asarray(shape.linear / self._size * (one @ other.T) + (1 - shape.linear) * smooth)


def _matern(distances: np.ndarray) -> np.ndarray:
    scaled = np.sqrt(5.0) * distances
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))


def _evidence(lower: np.ndarray, losses: np.ndarray) -> float:
    """Logarithm of how likely the losses are, up to a constant."""
    solved = solve_triangular(lower, losses, lower=True)
    count = len(losses) + _PRIOR_PLANS
    return float(-0.5 * count * np.log(_PRIOR_PLANS + solved @ solved) - np.log(np.diag(lower)).sum())

"""By how much a plan is expected to grow the front's hypervolume, when its costs are known and its quality is not.

The volume that a point of loss l and costs c adds is an integral over all costs u that are no better than c: at each,
how much lower l is than the least loss that the front reaches at costs u. Its expectation has the same form, with the
expected improvement of one number inside; and the front's least loss is constant within the cells of a grid.
"""

from itertools import pairwise

import numpy as np
from scipy.special import ndtr

# Edges of cells along one cost; with more of them, members of the front are taken to cost as much as the next edge.
_MOST_EDGES = {0: 0, 1: 400, 2: 48, 3: 24}


class Front:
    """What is known to be reachable, cut into cells of costs.

    Attributes:
        reference: the costs beyond which nothing counts, k.
    """

    def __init__(self, losses: np.ndarray, costs: np.ndarray, *, worst_loss: float, reference: np.ndarray) -> None:
        """Finds the least loss in every cell.

        Args:
            losses: of the plans told, n; -inf where quality is no objective.
            costs: likewise, n x k, k from 0 to 3.
            worst_loss: at which quality no longer counts.
            reference: the costs beyond which nothing counts, k.
        """
        self.reference = reference
        counts = (costs < reference).all(axis=1) & (losses < worst_loss)
        losses, costs = losses[counts], costs[counts]
        n_costs = len(reference)
        self._edges = [_edges(costs[:, axis], float(end), n_costs) for axis, end in enumerate(reference)]
        least = np.full([len(edges) - 1 for edges in self._edges], worst_loss)
        for loss, own in zip(losses, costs, strict=True):
            first = tuple(int(np.searchsorted(edges, cost)) for edges, cost in zip(self._edges, own, strict=True))
            behind = tuple(slice(place, None) for place in first)
            least[behind] = np.minimum(least[behind], loss)
        self._levels, places = np.unique(least, return_inverse=True)
        self._places = places.reshape(least.shape)

    def expected_growth(self, means: np.ndarray, deviations: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """What each plan is expected to add.

        Args:
            means: of the loss, m.
            deviations: of the loss, m, above 0.
            costs: m x k.

        Returns:
            Expected growth of the hypervolume, m, in units of loss times costs.
        """
        gains = expected_improvement(self._levels[None], means[:, None], deviations[:, None])
        return self._sum(gains, costs)

    def growth(self, costs: np.ndarray) -> np.ndarray:
        """The same where quality is no objective: what costs alone add, m."""
        gains = np.broadcast_to(np.isfinite(self._levels), (len(costs), len(self._levels)))
        return self._sum(gains.astype(float), costs)

    def shortfall(self, means: np.ndarray, deviations: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """How many deviations each plan is expected to fall short of what its costs reach already, m.

        It tells plans apart whose expected growth is too small for a number.
        """
        places = tuple(
            np.clip(np.searchsorted(edges, costs[:, axis], side="right") - 1, 0, len(edges) - 2)
            for axis, edges in enumerate(self._edges)
        )
        reached = self._levels[self._places[places]]
        over = sum((np.maximum(costs[:, axis] - end, 0) for axis, end in enumerate(self.reference)), np.zeros(1))
        return np.asarray((means - np.maximum(reached, -1e3)) / deviations + 1e3 * over)

    def _sum(self, gains: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """Gains per level, m x levels, times how much of each plan's volume lies at that level."""
        found = gains[:, self._places]
        for axis, edges in reversed(list(enumerate(self._edges))):
            overlap = np.maximum(edges[1:] - np.maximum(edges[:-1], costs[:, axis, None]), 0.0)
            shape = (len(costs), *(1,) * axis, len(edges) - 1)
            found = (found * overlap.reshape(shape)).sum(axis=-1)
        return np.asarray(found)


def expected_improvement(levels: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """The expectation of how far a normal number lies below a level, 0 where it does not; -inf is below all."""
    with np.errstate(invalid="ignore"):
        scaled = (levels - means) / deviations
        density = np.exp(-0.5 * scaled**2) / np.sqrt(2 * np.pi)
        found = deviations * (scaled * ndtr(scaled) + density)
    return np.where(np.isfinite(scaled), np.maximum(found, 0.0), 0.0)


def _edges(costs: np.ndarray, end: float, n_costs: int) -> np.ndarray:
    """From -inf over what the front's members cost to the reference, rising."""
    inner = np.unique(costs)
    most = _MOST_EDGES[n_costs]
    if len(inner) > most:
        inner = inner[np.unique(np.linspace(0, len(inner) - 1, most).round().astype(int))]
    edges = np.array([-np.inf, *inner, end])
    assert all(one < other for one, other in pairwise(edges))
    return edges

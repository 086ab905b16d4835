"""Which of many points no other one beats, and the volume that they dominate; all numbers are minimised."""

import numpy as np

from ..errors import RunError


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Which points no other one beats.

    Args:
        values: n x m, finite, all minimised. Of equal points only the first stays.

    Returns:
        n booleans.

    Raises:
        RunError: if a value is not finite.
    """
    if not np.isfinite(values).all():
        raise RunError("a front needs finite values; a trial of the run is damaged.")
    stays = np.ones(len(values), dtype=bool)
    for index, point in enumerate(values):
        no_worse = (values <= point).all(axis=1)
        better = (values < point).any(axis=1)
        equal_before = (values == point).all(axis=1) & (np.arange(len(values)) < index)
        stays[index] = not ((no_worse & better) | equal_before).any()
    return stays


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume dominated by the points and bounded by the reference, exact, by slicing along the last objective.

    Args:
        values: n x m, finite, all minimised, any order.
        reference: m; a point not better in every objective adds nothing.
    """
    inside = values[(values < reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    if inside.shape[1] == 2:
        # A staircase in one sweep; without it the volumes of a long search's history take minutes.
        inside = inside[np.argsort(inside[:, 0], kind="stable")]
        widths = np.diff(np.append(inside[:, 0], reference[0]))
        return float((widths * (reference[1] - np.minimum.accumulate(inside[:, 1]))).sum())
    order = np.argsort(inside[:, -1], kind="stable")
    inside = inside[order]
    upper = np.append(inside[1:, -1], reference[-1])
    depths = upper - inside[:, -1]
    slices = (
        depth * hypervolume(inside[: count + 1, :-1], reference[:-1]) for count, depth in enumerate(depths) if depth
    )
    return float(sum(slices))

"""Rounding with error feedback: what one column is rounded off by, the columns after it make up for.

After *GPTQ* (Frantar, Ashkboos, Hoefler, Alistarh; arXiv 2210.17323). Nothing is trained; the second moments of a
Linear's inputs say how columns can stand in for each other.
"""

import torch
from torch import Tensor

from .blocks import Quantised, block_scales, check_finite, nearest, real_scale, spread
from .precision import Precision

# Added to the diagonal, as a part of its mean: keeps columns whose inputs were hardly seen from being trusted.
_DAMPING = 0.01
# Columns that are corrected one by one before the rest is corrected at once.
_GROUP = 64


def round_with_feedback(weight: Tensor, precision: Precision, moments: Tensor) -> Quantised:
    """Rounds the columns of a weight one by one, each error spread over the columns still to come.

    Columns with the largest inputs go first, while there are many others to make up for them.

    Args:
        weight: out x in, float.
        precision: with 2 to 8 bits for weights.
        moments: in x in, symmetric: the sum of x x^T over inputs x, times any positive number.

    Returns:
        Scales are those of least error, weighted by the moments' diagonal; the expected squared error of the outputs
        is less than after rounding to the nearest wherever inputs are correlated.

    Raises:
        PlanError: if a weight or a moment is not finite.
    """
    check_finite(weight)
    check_finite(moments)
    assert precision.weight_bits is not None
    rows, columns = weight.shape
    scale = block_scales(weight, precision, importance=moments.diagonal())
    order = moments.diagonal().argsort(descending=True, stable=True)
    factor = _inverse_factor(moments[order][:, order])
    # Columns as rows, so that each lies together in memory.
    steps = spread(real_scale(scale), precision.block, rows, columns).t()[order]
    left = weight.detach().float().t()[order]
    integers = torch.empty_like(left)
    for start in range(0, columns, _GROUP):
        stop = min(start + _GROUP, columns)
        errors = torch.empty(stop - start, rows)
        for column in range(start, stop):
            integers[column] = nearest(left[column], steps[column], precision.weight_bits)
            error = (left[column] - integers[column] * steps[column]) / factor[column, column]
            left[column + 1 : stop].addr_(factor[column, column + 1 : stop], error, alpha=-1)
            errors[column - start] = error
        left[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    return Quantised(integers[order.argsort()].t().contiguous().to(torch.int8), scale, precision)


def _inverse_factor(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped moments, float32."""
    moments = moments.double()
    mean = float(moments.diagonal().mean())
    damped = moments + torch.eye(len(moments), dtype=torch.float64) * (_DAMPING * mean if mean > 0 else 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()

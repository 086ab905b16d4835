"""Matrices as products of two thin ones: every weight W_l of a stack becomes L_l R, with one R for all of them.

What is least depends on the method. Where errors are weighed (`error_metrics.py`), the least for one matrix is a
truncated SVD between roots of the metrics; for several, rights and lefts are found in turns, each exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PlanError, SettingError
from .blocks import check_finite
from .error_metrics import Metric, metric_of
from .factor_sizes import FORMS, check_size
from .seen import Seen

TWO_FACTOR_METHODS = tuple(name for name, form in FORMS.items() if form == "two_factors")
# Methods that need to know what calibration shows.
SEEING_METHODS = ("fisher", "activation", "sensitivity")
# Turns, and steps of conjugate gradients in each: the first few gain most, and wide layers take seconds for one.
_ROUNDS = 4
_STEPS = 2
_STOP = 1e-3


@dataclass(frozen=True, slots=True)
class TwoFactors:
    """Weights of one kind as products: W_l is about lefts[l] @ right.

    Attributes:
        lefts: out x rank each, float32.
        right: rank x in, float32; all matrices share it.
        bias_changes: what is added to the bias of each Linear, out; None where nothing is.
    """

    lefts: tuple[Tensor, ...]
    right: Tensor
    bias_changes: tuple[Tensor | None, ...]

    def dense(self) -> tuple[Tensor, ...]:
        """The products: out x in each."""
        return tuple(left @ self.right for left in self.lefts)


def factorise(
    method: str, weights: Sequence[Tensor], rank: int, seen: Sequence[Seen] = (), *, move_bias: bool = True
) -> TwoFactors:
    """Factorises the weights of one kind, all with the same right factor.

    Args:
        method: one of `TWO_FACTOR_METHODS`: "svd" errs least in the weights; "fisher" weighs their rows by what
            changing them does to the answers (FWSVD, Hsu et al., arXiv 2207.00112); "unit_svd" is the SVD of rows of
            length 1, with their lengths restored (what a linear autoencoder converges to); "activation" errs least in
            the outputs over the calibration inputs; "sensitivity" in what these do to the answers.
        weights: of Linears, each out x in; at least one.
        rank: of the products.
        seen: what calibration shows of each Linear, where the method needs it.
        move_bias: whether the Linears have a bias, which can then take up what the mean input loses; only the last two
            methods do that.

    Raises:
        SettingError: if the method is unknown, the rank is not from 1 to the smaller side of the stack, or nothing was
            seen where it is needed.
        PlanError: if the weights do not stack, or are not finite.
    """
    if method not in TWO_FACTOR_METHODS:
        raise SettingError.unknown("two-factor method", method, TWO_FACTOR_METHODS)
    stacked = stack(weights)
    check_size(method, len(stacked), stacked.shape[1], rank)
    if method in SEEING_METHODS and len(seen) != len(weights):
        raise SettingError(
            f"{method} needs what calibration shows of each of the {len(weights)} weights, got it of {len(seen)}; give "
            f"it, or take one of {', '.join(name for name in TWO_FACTOR_METHODS if name not in SEEING_METHODS)}."
        )
    if method in ("activation", "sensitivity"):
        metrics = [metric_of(method, own, centred=move_bias) for own in seen]
        found = _least([weight.detach().double() for weight in weights], metrics, rank)
        means = [own.mean if move_bias else None for own in seen]
    else:
        lengths = _row_weights(method, stacked, seen)
        left, right = truncated(stacked * lengths, rank)
        left = left / lengths
        if method == "unit_svd":
            left = left * (stacked.norm(dim=1) / (left @ right).norm(dim=1).clamp_min(1e-30)).unsqueeze(1)
        found, means = (list(left.split([len(weight) for weight in weights])), right), [None] * len(weights)
    lefts, right = _balanced(*found)
    changes = [
        None if mean is None else ((weight.double() - left @ right) @ mean).float()
        for weight, left, mean in zip(weights, lefts, means, strict=True)
    ]
    return TwoFactors(tuple(left.float() for left in lefts), right.float(), tuple(changes))


def factorise_words(table: Tensor, rank: int, metric: Metric) -> TwoFactors:
    """Factorises a table of words by what errors of its rows cost.

    Args:
        table: words x width.
        rank: of the product.
        metric: as `metric_of_words` finds it.

    Raises:
        SettingError: if the rank is not from 1 to the smaller side of the table.
        PlanError: if the table is not finite.
    """
    weight = stack([table])
    check_size("sensitivity", len(weight), weight.shape[1], rank)
    lefts, right = _balanced(*_least([weight], [metric], rank))
    return TwoFactors((lefts[0].float(),), right.float(), (None,))


def stack(weights: Sequence[Tensor]) -> Tensor:
    """The weights above each other, float64.

    Raises:
        PlanError: if they do not stack, or are not finite.
    """
    shapes = [tuple(weight.shape) for weight in weights]
    if not weights or any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
        raise PlanError(f"weights that share a factor must be matrices of equal width, got the shapes {shapes}.")
    for weight in weights:
        check_finite(weight)
    return torch.cat([weight.detach().double() for weight in weights])


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of this rank: n x rank, and rank x m with orthonormal rows, whatever its own rank is."""
    # From the eigenvectors of the smaller square, which is far quicker than a whole SVD.
    if len(matrix) < matrix.shape[1]:
        basis = matrix.t() @ torch.linalg.eigh(matrix @ matrix.t()).eigenvectors[:, -rank:]
        basis = torch.linalg.qr(basis).Q
    else:
        basis = torch.linalg.eigh(matrix.t() @ matrix).eigenvectors[:, -rank:]
    return matrix @ basis, basis.t()


def _row_weights(method: str, stacked: Tensor, seen: Sequence[Seen]) -> Tensor:
    """What the rows of a stack are multiplied by before its SVD; rows x 1, all positive."""
    if method == "svd":
        return torch.ones(len(stacked), 1, dtype=stacked.dtype)
    if method == "fisher":
        found = torch.cat([own.fisher for own in seen]).sqrt()
    else:
        found = 1 / stacked.norm(dim=1).clamp_min(1e-30)
    # A row that no answer depends on keeps a little weight, so that it can be divided by.
    return found.clamp_min(1e-6 * float(found.max()) or 1.0).unsqueeze(1)


def _least(weights: Sequence[Tensor], metrics: Sequence[Metric], rank: int) -> tuple[list[Tensor], Tensor]:
    """Lefts and the right of least error: closed for one weight, in turns for several."""
    shared = sum((metric.inputs for metric in metrics[1:]), metrics[0].inputs) / len(metrics)
    factor = torch.linalg.cholesky(shared)
    rows = [metric.turned(weight, factor) for weight, metric in zip(weights, metrics, strict=True)]
    _, basis = truncated(torch.cat(rows), rank)
    right = torch.linalg.solve_triangular(factor, basis, upper=False, left=False)
    lefts = _best_lefts(weights, metrics, right)
    if len(weights) == 1:
        return lefts, right
    error = float("inf")
    for _ in range(_ROUNDS):
        right = _better_right(weights, metrics, lefts, right)
        lefts = _best_lefts(weights, metrics, right)
        changes = (weight - left @ right for weight, left in zip(weights, lefts, strict=True))
        before, error = error, sum(metric.error(change) for metric, change in zip(metrics, changes, strict=True))
        if error > (1 - _STOP) * before:
            break
    return lefts, right


def _best_lefts(weights: Sequence[Tensor], metrics: Sequence[Metric], right: Tensor) -> list[Tensor]:
    """The lefts of least error for a right; the metric of the outputs does not matter to them."""
    found = []
    for weight, metric in zip(weights, metrics, strict=True):
        seen = metric.inputs @ right.t()
        found.append(torch.linalg.solve(right @ seen, (weight @ seen).t()).t())
    return found


def _better_right(
    weights: Sequence[Tensor], metrics: Sequence[Metric], lefts: Sequence[Tensor], right: Tensor
) -> Tensor:
    """A right of less error for these lefts: conjugate gradients, as preconditioned as if all inputs were alike."""
    pulled = [metric.weigh(left) for left, metric in zip(lefts, metrics, strict=True)]
    squares = [left.t() @ own for left, own in zip(lefts, pulled, strict=True)]
    inner = sum(squares[1:], squares[0])
    # Lefts of weights of a lower rank than asked for have columns of nought.
    inner = torch.linalg.cholesky(inner + torch.eye(len(inner)).double() * max(1e-12 * float(inner.trace()), 1e-300))
    outer = torch.linalg.cholesky(sum((metric.inputs for metric in metrics[1:]), metrics[0].inputs) / len(metrics))

    def normal(candidate: Tensor) -> Tensor:
        terms = [square @ candidate @ metric.inputs for square, metric in zip(squares, metrics, strict=True)]
        return sum(terms[1:], terms[0])

    def precondition(residual: Tensor) -> Tensor:
        return torch.cholesky_solve(torch.cholesky_solve(residual, inner).t(), outer).t()

    wanted = [own.t() @ weight @ metric.inputs for own, weight, metric in zip(pulled, weights, metrics, strict=True)]
    residual = sum(wanted[1:], wanted[0]) - normal(right)
    direction = precondition(residual)
    product = (residual * direction).sum()
    for _ in range(_STEPS):
        if float(product) <= 0:
            break
        image = normal(direction)
        length = product / (direction * image).sum()
        right = right + length * direction
        residual = residual - length * image
        ready = precondition(residual)
        product, before = (residual * ready).sum(), product
        direction = ready + product / before * direction
    return right


def _balanced(lefts: Sequence[Tensor], right: Tensor) -> tuple[list[Tensor], Tensor]:
    """The same products, with every row of the right as long as its column of all lefts: both round well then."""
    tall = torch.cat(list(lefts)).norm(dim=0)
    share = (right.norm(dim=1) / tall.clamp_min(1e-30)).sqrt().clamp_min(1e-30)
    return [left * share for left in lefts], right / share.unsqueeze(1)

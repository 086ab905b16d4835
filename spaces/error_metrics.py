"""What an error of a weight costs, by what calibration shows of it: in the outputs, or in the answers.

With input metric C and output metric G, an error E costs trace(G E C E^T): the squared error of the outputs over the
calibration inputs where C is their second moment and G the identity; and what that does to the answers, to first
order, where G is the second moment of the gradients at the outputs (the Kronecker-factored Fisher matrix of Martens
and Grosse, arXiv 1503.05671).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .seen import Seen, WordsSeen

# The share of a metric that is spread over all directions alike, since few examples show but few of them. Found on
# SST-2: inputs may have from 0.01 to 0.1; the gradients of 256 sentences, each in one direction, need about a half.
_SPREAD_INPUTS, _SPREAD_OUTPUTS = 0.05, 0.5


@dataclass(frozen=True, slots=True)
class Metric:
    """What an error costs: trace(outputs E inputs E^T) for an error E of the weight.

    Attributes:
        inputs: in x in, symmetric, positive definite, float64.
        outputs: out x out, the same; or, where it is diagonal, out; None for the identity.
    """

    inputs: Tensor
    outputs: Tensor | None = None

    def error(self, change: Tensor) -> float:
        """Of a change of the weight, out x in."""
        change = change.double()
        return float((self.weigh(change) * (change @ self.inputs)).sum())

    def weigh(self, rows: Tensor) -> Tensor:
        """Rows, out x anything, times the metric of the outputs."""
        if self.outputs is None:
            return rows
        return self.outputs @ rows if self.outputs.dim() == 2 else self.outputs.unsqueeze(1) * rows

    def turned(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """A weight in coordinates in which the sum of its squares is its error; `inputs` is a root of that metric."""
        rows = weight.detach().double() @ inputs
        if self.outputs is None:
            return rows
        if self.outputs.dim() == 1:
            return self.outputs.sqrt().unsqueeze(1) * rows
        turned: Tensor = torch.linalg.cholesky(self.outputs).t() @ rows
        return turned


def metric_of(method: str, seen: Seen, *, centred: bool) -> Metric:
    """What an error costs by "activation" or "sensitivity".

    Args:
        method: which of the two.
        seen: what calibration shows of the Linear.
        centred: whether its bias takes up the mean of what the inputs lose.
    """
    inputs, outputs = seen.moment / seen.count, None
    if centred:
        inputs = inputs - torch.outer(seen.mean, seen.mean)
    if method == "sensitivity":
        outputs = _spread(seen.gradient / seen.answers, _SPREAD_OUTPUTS)
    return Metric(_spread(inputs, _SPREAD_INPUTS), outputs)


def metric_of_words(seen: WordsSeen) -> Metric:
    """What an error of a table of words costs: rows as often as words come up, columns by what answers make of them.

    Every word counts once more than it came up, since others will.
    """
    return Metric(_spread(seen.gradient / seen.counts.sum(), _SPREAD_INPUTS), (seen.counts + 1) / seen.answers)


def harms(weight: Tensor, metric: Metric) -> Tensor:
    """What a weight's best products of every rank cost: those of rank 0, 1, up to its smaller side, float64.

    With the metric of "sensitivity" these are squared changes of the centred logits, mean over answers, as
    `sensitivity.py` predicts of rounding; harms of several parts may be compared and added up.
    """
    turned = metric.turned(weight, torch.linalg.cholesky(metric.inputs))
    square = turned @ turned.t() if len(turned) < turned.shape[1] else turned.t() @ turned
    values = torch.linalg.eigvalsh(square).clamp_min(0)
    return torch.cat([values.new_zeros(1), values.cumsum(0)]).flip(0)


def _spread(moment: Tensor, share: float) -> Tensor:
    """The same trace, a share of it in all directions alike; the identity where nothing was seen."""
    mean, identity = float(moment.diagonal().mean()), torch.eye(len(moment)).double()
    return (1 - share) * moment + share * mean * identity if mean > 0 else identity

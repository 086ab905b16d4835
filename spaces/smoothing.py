"""Factors that make the features of an input alike, before all of them share one scale.

After *SmoothQuant* (Xiao, Lin, Seznec, Wu, Demouth, Han; arXiv 2211.10438): a Linear's inputs are divided by factors,
feature by feature, and the columns of its weight multiplied, so its outputs stay what they were. The paper weighs
inputs against weights; here factors depend on the inputs alone, so that Linears with one input in common have the same
ones and a runtime rounds that input once.
"""

import torch
from torch import Tensor, nn

from .calibration import drawn_rows, watch
from .workbench import Workbench

# How much of the features' differences the factors take on. With 0.7 to 0.8 the squared change of the logits of MiniLM
# on SST-2 was a sixth of that without factors.
_POWER = 0.8
# Features hardly seen in calibration count as a thousandth of the largest, so that no value of theirs explodes.
_LEAST = 1e-3


class SmoothedSamples:
    """What calibration batches show of the inputs of Linears, their features made alike."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Tensor]] = {}
        self._lows: dict[str, Tensor] = {}
        self._highs: dict[str, Tensor] = {}

    @classmethod
    def of(cls, model: nn.Module, parts: dict[str, nn.Linear], bench: Workbench) -> "SmoothedSamples":
        """Runs the calibration batches through a model.

        Args:
            model: in evaluation mode.
            parts: Linears of the model by name.
            bench: whose batches are run.

        Raises:
            PlanError: if the batches do not run, or never reach a part.
        """
        samples = cls()
        watch(model, parts, bench, samples._look)
        return samples

    def factors(self, name: str) -> Tensor:
        """The factors of a Linear's inputs: features, bfloat16, positive, around 1."""
        largest = torch.maximum(self._lows[name].abs(), self._highs[name].abs())
        if not largest.max() > 0:
            return torch.ones_like(largest, dtype=torch.bfloat16)
        powers = largest.clamp(min=_LEAST * largest.max()) ** _POWER
        return (powers / powers.log().mean().exp()).to(torch.bfloat16)

    def values(self, name: str) -> Tensor:
        """A sample of the inputs of a Linear, divided by their factors, and its extremes; one-dimensional."""
        factors = self.factors(name).float()
        ends = (self._lows[name] / factors).min(), (self._highs[name] / factors).max()
        return torch.cat([(torch.cat(self._rows[name]) / factors).flatten(), torch.stack(ends)])

    def _look(self, name: str, inputs: Tensor) -> None:
        rows = inputs.detach().float().flatten(0, -2)
        low, high = rows.amin(0), rows.amax(0)
        self._rows.setdefault(name, []).append(drawn_rows(rows))
        self._lows[name] = torch.minimum(self._lows.get(name, low), low)
        self._highs[name] = torch.maximum(self._highs.get(name, high), high)

"""How much the answers change when Linears get other weights, on calibration examples."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .workbench import Workbench


class HeldOut:
    """One calibration batch and the model's own answers to it.

    For choosing among fits that were not made with it: neither search nor test examples take part.
    """

    def __init__(self, model: nn.Module, linears: Mapping[str, nn.Linear], bench: Workbench) -> None:
        """Runs the model once.

        Args:
            model: in evaluation mode; not changed.
            linears: those of its Linears whose weights are going to be exchanged.
            bench: whose last calibration batch is taken.
        """
        self._model, self._batch = model, dict(bench.calibration()[-1])
        self._linears = list(linears.values())
        self._paths = {id(parameter): path for path, parameter in model.named_parameters()}
        self._answers = self._run({})

    def error(self, weights: Sequence[Tensor], bias_changes: Sequence[Tensor | None]) -> float:
        """The mean squared change of the logits.

        Args:
            weights: out x in each, in the order of the Linears.
            bias_changes: what is added to their biases, out each; None where nothing is.
        """
        changed = {}
        for linear, weight, change in zip(self._linears, weights, bias_changes, strict=True):
            changed[self._paths[id(linear.weight)]] = weight
            if change is not None:
                changed[self._paths[id(linear.bias)]] = linear.bias + change
        return float((self._run(changed) - self._answers).square().mean())

    def _run(self, changed: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = functional_call(self._model, changed, kwargs=self._batch).logits
        return logits

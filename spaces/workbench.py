"""What an axis is handed when it must learn something first.

The search supplies the workbench; an axis sees plain batches and finished answers, never a task or a data set.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from .anatomy import Anatomy
from .plan import Plan

Inputs = Mapping[str, Tensor]
Material = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class RemovalOrder:
    """In which order the layers of a stack go.

    Attributes:
        order: slot positions, the first to go first; every prefix is a legal removal.
        weights: the name of the weights that belong to the model with the first k + 1 slots gone; "original" where
            nothing was trained.
    """

    order: tuple[int, ...]
    weights: tuple[str, ...]


class Workbench(Protocol):
    """Where axes learn. Every answer is remembered, so asking twice costs nothing."""

    @property
    def anatomy(self) -> Anatomy:
        """Of the original model."""

    @property
    def is_taught(self) -> bool:
        """Whether what is learned counts; where models are only timed, any numbers of the right shapes serve."""

    def build(self, plan: Plan) -> nn.Module:
        """The compressed model of a plan, on the CPU, in evaluation mode."""

    def calibration(self) -> Sequence[Inputs]:
        """Batches of model inputs from a split that is neither searched nor tested on."""

    def removal_order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        """The greedy order of an assembled stack, at least `depth` removals long, found when first needed."""

    def modular_layers(self) -> Material:
        """Stack and layer, such as "encoder.m2.1" -> its parameters; all are trained when one is first needed."""

    def remember(self, key: str, learn: Callable[[], Material]) -> Material:
        """What `learn` returns, kept under a key of content for this and later runs."""

    def report(self, share: float, now: str) -> None:
        """Says what share of what is being learned is done, and a few words on it; for whoever watches."""

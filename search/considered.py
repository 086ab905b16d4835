"""A workbench for plans that are only considered: nothing is scored to say which layers they would lack.

A sampler looks at hundreds of plans for each that it proposes, and every tiling of a stack has a greedy order of its
own. So an order that no proposal needed yet is guessed. What is known of it is taken as it is; then go those that did
least harm in the last step that was scored. Where none was, pieces go as the layers do that they stand for.
"""

from collections.abc import Callable, Sequence

from torch import nn

from ..spaces.anatomy import Anatomy
from ..spaces.plan import Plan
from ..spaces.workbench import Inputs, Material, RemovalOrder
from .workbench import LocalWorkbench


class ConsideringBench:
    """Implements `spaces.workbench.Workbench`; all but removal orders is that of the workbench it stands for.

    Attributes:
        n_guesses: how many orders were guessed so far.
    """

    def __init__(self, bench: LocalWorkbench) -> None:
        """Stands for a workbench."""
        self._bench, self.n_guesses = bench, 0

    @property
    def anatomy(self) -> Anatomy:
        """Of the original."""
        return self._bench.anatomy

    @property
    def is_taught(self) -> bool:
        """As there."""
        return self._bench.is_taught

    def build(self, plan: Plan) -> nn.Module:
        """The compressed model of a plan."""
        return self._bench.build(plan)

    def calibration(self) -> Sequence[Inputs]:
        """As there."""
        return self._bench.calibration()

    def modular_layers(self) -> Material:
        """As there."""
        return self._bench.modular_layers()

    def remember(self, key: str, learn: Callable[[], Material]) -> Material:
        """As there."""
        return self._bench.remember(key, learn)

    def report(self, share: float, now: str) -> None:
        """As there."""
        self._bench.report(share, now)

    def removal_order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        """The greedy order as far as it is known, and from there on a guess."""
        removal = self._bench.removal
        known, scores = removal.known(plan, stack, depth)
        missing = depth - len(known.order)
        if missing <= 0:
            return known
        self.n_guesses += 1
        left = set(plan.stack(stack).standing) - set(known.order)
        worth = scores if scores else self._worth(plan, stack)
        # The highest first where nothing tells them apart.
        rest = sorted(left, key=lambda position: (-worth[position], -position))[:missing]
        return removal.weighed(plan, stack, (*known.order, *rest))

    def _worth(self, plan: Plan, stack: str) -> dict[int, float]:
        """Slot -> how well it can be spared, by when the layers that it stands for go from the original."""
        original, slots = self.anatomy.identity(), plan.stack(stack).slots
        n_layers = len(original.stack(stack).slots)
        if plan.stack(stack) == original.stack(stack):
            return dict.fromkeys(range(n_layers), 0.0)
        order = self.removal_order(original, stack, n_layers - 1).order
        turn = {layer: place for place, layer in enumerate(order, start=1)}
        return {
            position: -float(sum(turn.get(layer, n_layers) for layer in slot.layer.originals))
            for position, slot in enumerate(slots)
            if slot.layer is not None
        }

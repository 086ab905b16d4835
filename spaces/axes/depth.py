"""How many layers go, in the greedy order of [Peer2022].

[Peer2022]: Peer, Stabinger, Engl, Rodriguez-Sanchez, "Greedy-layer pruning", Pattern Recognition Letters 157, 2022,
arXiv 2105.14839. Removing a layer skips it; nothing is copied or merged.
"""

from dataclasses import replace

from torch import nn

from ..anatomy import Anatomy
from ..plan import ORIGINAL_WEIGHTS, Plan, Slot
from ..workbench import Material, Workbench
from . import Choice, Parameter, Site


class Depth:
    """One integer per stack: how many of its layers are removed, 0 to all but one."""

    def parameters(self, anatomy: Anatomy) -> tuple[Parameter, ...]:
        """`depth.<stack>`: 0 to n - 1 removals."""
        return tuple(Parameter(f"depth.{stack.name}", tuple(range(stack.n_layers))) for stack in anatomy.stacks)

    def edit(self, plan: Plan, choice: Choice, bench: Workbench) -> Plan:
        """Empties the first k slots of the removal order.

        The order is that of the assembled stack with all others whole: on an encoder-decoder it was the same however
        many layers the encoder had lost, and one order per depth of the encoder would cost more than the search. Where
        weights are trained on the way, each stack is trained on without the layers of those before it.

        A stack that an earlier axis made shorter than k + 1 layers keeps its last layer.
        """
        whole = bench.anatomy.identity()
        for stack in plan.stacks:
            depth = min(int(choice[f"depth.{stack.name}"]), len(stack.standing) - 1)
            if depth == 0:
                continue
            among = whole.with_stack(stack) if plan.weights == ORIGINAL_WEIGHTS else plan
            found = bench.removal_order(among, stack.name, depth)
            gone = set(found.order[:depth])
            slots = tuple(Slot(None) if position in gone else slot for position, slot in enumerate(stack.slots))
            plan = replace(plan.with_stack(replace(stack, slots=slots)), weights=found.weights[depth - 1])
        return plan

    def prepare(self, plan: Plan, bench: Workbench) -> Material:
        """Nothing: an empty slot needs no material."""
        return {}

    def realise(self, module: nn.Module, site: Site, material: Material | None) -> nn.Module:
        """Leaves what stands as it is: `build` already left the empty slots out."""
        return module


plugin = Depth()

"""Modular-layer assembly: one trained layer stands for two, three or six ([Zhou2023]).

The modular layers are trained once, by the bench; this axis only chooses which of them stand, and puts them there.

[Zhou2023]: Zhou, Le Bras, Choi, "Modular Transformers: Compressing Transformers into Modularized Layers for Flexible
Efficient Inference", Findings of ACL 2023, arXiv 2306.02379.
"""

from torch import nn

from ...errors import PlanError
from ..anatomy import Anatomy
from ..plan import Plan, Slot, Stack
from ..tilings import block_length, layers_of, read, tilings, written
from ..workbench import Material, Workbench
from . import Choice, Parameter, Site


class Assembly:
    """One choice for every block of a stack: the sizes of the pieces that cover it."""

    def parameters(self, anatomy: Anatomy) -> tuple[Parameter, ...]:
        """`assembly.<stack>.<block>`: an aligned tiling, such as "1,1,2,2"; none for a stack that nothing divides."""
        return tuple(
            Parameter(f"assembly.{stack.name}.{block}", tuple(map(written, tilings(length, stack.granularities))))
            for stack in anatomy.stacks
            if stack.granularities
            for length in [block_length(stack.granularities)]
            for block in range(stack.n_layers // length)
        )

    def edit(self, plan: Plan, choice: Choice, bench: Workbench) -> Plan:
        """Covers every stack with the chosen pieces; a shorter stack has fewer slots."""
        for stack in bench.anatomy.stacks:
            if not stack.granularities:
                continue
            blocks = range(stack.n_layers // block_length(stack.granularities))
            sizes = [size for block in blocks for size in read(str(choice[f"assembly.{stack.name}.{block}"]))]
            if any(size > 1 for size in sizes):
                plan = plan.with_stack(Stack(stack.name, tuple(map(Slot, layers_of(sizes)))))
        return plan

    def prepare(self, plan: Plan, bench: Workbench) -> Material:
        """The parameters of those modular layers that stand; nothing is trained for a plan without any.

        Returns:
            Stack and layer, such as "encoder.m2.1" -> name of a parameter inside the layer -> its value.
        """
        wanted = [
            f"{stack.name}.{slot.layer}"
            for stack in plan.stacks
            for slot in stack.slots
            if slot.layer is not None and slot.layer.granularity > 1
        ]
        if not wanted:
            return {}
        known = bench.modular_layers()
        if missing := sorted(set(wanted) - set(known)):
            raise PlanError(f"the plan needs the modular layers {', '.join(missing)}, which were not trained.")
        return {name: known[name] for name in wanted}

    def realise(self, module: nn.Module, site: Site, material: Material | None) -> nn.Module:
        """Gives the module, which is like one of the originals it stands for, the trained parameters."""
        if site.layer is not None and site.layer.granularity > 1 and material is not None:
            name = f"{site.name.partition('.')[0]}.{site.layer}"
            if name not in material:
                raise PlanError(f"the modular layer {name} stands in {site.name}, but its parameters were not given.")
            module.load_state_dict(material[name], strict=True, assign=True)
            module.requires_grad_(False)
        return module


plugin = Assembly()

"""Where the weights of a part are learned from: one model for all plans in which they stand alike."""

from dataclasses import replace

from .anatomy import Anatomy
from .plan import ORIGINAL_WEIGHTS, Layer, Plan, Slot


def home_of(plan: Plan, name: str, layer: Layer | None, anatomy: Anatomy) -> tuple[Plan, str]:
    """The plan of the whole float model in which a part's weights are learned from, and the part's name there.

    A layer is treated once, with the inputs it sees among its own like: an original in the original model, a modular
    layer among those of its granularity. So what was learned serves all structures it stands in. Weights trained for
    one structure are treated in that one.

    Args:
        plan: whose part it is.
        name: site and kind, such as "encoder.3.query" or "outside.embeddings".
        layer: what stands at the site; None outside the stacks.
        anatomy: of the original.
    """
    if plan.weights != ORIGINAL_WEIGHTS:
        return plan.whole(), name
    home = anatomy.identity()
    if layer is None:
        return home, name
    stack, _, kind = name.split(".", 2)
    if layer.granularity > 1:
        for old in home.stacks:
            if layer.granularity in anatomy.stack(old.name).granularities:
                slots = (Slot(Layer(i, layer.granularity)) for i in range(len(old.slots) // layer.granularity))
                home = home.with_stack(replace(old, slots=tuple(slots)))
    return home, f"{stack}.{layer.index}.{kind}"

"""Weights of fewer than 8 bits: which are rounded in which model, once for all plans."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from .anatomy import Anatomy
from .blocks import Quantised, quantise
from .calibration import input_moments, standing_linears
from .plan import ORIGINAL_WEIGHTS, Layer, Plan, Slot, Treatment
from .precision import Precision
from .quantised import store
from .rounding import round_with_feedback
from .workbench import Material, Workbench


def rounded_weights(plan: Plan, bench: Workbench) -> Material:
    """The weights of a plan that have fewer than 8 bits, rounded with error feedback; of 8, the nearest is as good.

    Returns:
        Site name and kind, such as "encoder.3.query" -> {"codes", "scales"}, as modules hold them.
    """
    found = {}
    for name, layer, treatment in _below_8_bits(plan):
        assert treatment.precision is not None
        home, home_name = _home(plan, name, layer, bench.anatomy)
        found[name] = rounded_model(home, treatment.precision, bench, outside=layer is None)[home_name]
    return found


def rounded_model(home: Plan, precision: Precision, bench: Workbench, *, outside: bool) -> Material:
    """The weights of a model in float, rounded to one precision of fewer than 8 bits.

    Args:
        home: the plan of the model.
        precision: with 2 to 7 bits for weights.
        bench: where it is built and calibrated.
        outside: whether the parts outside the stacks are rounded, or those inside.

    Returns:
        Site name and kind -> {"codes", "scales"}: Linears with error feedback; tables, which have no inputs to learn
        from, to the nearest.
    """
    palette = bench.anatomy.palette.tables if outside else bench.anatomy.palette.linears
    together = [other for other in palette if other.has_integer_weights and other.weight_bits != 8]
    if precision not in together:
        together = [precision]
    # All that a search may ask for, since the inputs are gone through for all at once.
    words = hashlib.sha256(" ".join(map(str, together)).encode()).hexdigest()[:12]
    # A change of the scales, the order of columns or the correction changes the version.
    key = f"rounding-1-{'outside' if outside else 'stacks'}-{home.fingerprint}-{words}"
    found = bench.remember(key, partial(_round, home, together, bench, outside))
    prefix = f"{precision} "
    return {name.removeprefix(prefix): stored for name, stored in found.items() if name.startswith(prefix)}


def _below_8_bits(plan: Plan) -> Iterator[tuple[str, Layer | None, Treatment]]:
    """Site name and kind, layer and treatment of every part whose weights are rounded to fewer than 8 bits."""
    places = [
        (f"{stack.name}.{position}", slot.layer, slot.treatments)
        for stack in plan.stacks
        for position, slot in enumerate(stack.slots)
    ]
    for site, layer, treatments in [*places, ("outside", None, plan.outside)]:
        for kind, treatment in treatments.items:
            bits = None if treatment.precision is None else treatment.precision.weight_bits
            if bits is not None and bits < 8:
                yield f"{site}.{kind}", layer, treatment


def _home(plan: Plan, name: str, layer: Layer | None, anatomy: Anatomy) -> tuple[Plan, str]:
    """The plan in which a part's weights are rounded, and the part's name there.

    A layer is rounded once, with the inputs it sees among its own like: an original in the original model, a modular
    layer among those of its granularity. So its codes serve all structures it stands in. Weights trained for one
    structure are rounded in that one.
    """
    if plan.weights != ORIGINAL_WEIGHTS:
        return plan.in_float(), name
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


def _round(home: Plan, precisions: Sequence[Precision], bench: Workbench, outside: bool) -> Material:
    """Precision, a space, and the name of a part -> its weights."""
    model = bench.build(home)
    linears = {
        name: part
        for name, part in standing_linears(model, home, bench.anatomy)
        if name.startswith("outside.") == outside
    }
    tables = {}
    for kind, path in bench.anatomy.outside.items() if outside else ():
        part = model.get_submodule(path)
        if isinstance(part, nn.Embedding):
            tables[f"outside.{kind}"] = part
    moments = input_moments(model, linears, bench) if linears else {}
    found = {}
    for precision in precisions:
        for name, linear in linears.items():
            found[f"{precision} {name}"] = _material(round_with_feedback(linear.weight, precision, moments[name]))
        for name, table in tables.items():
            found[f"{precision} {name}"] = _material(quantise(table.weight, precision))
    return found


def _material(quantised: Quantised) -> dict[str, Tensor]:
    """As it is remembered."""
    codes, scales = store(quantised)
    return {"codes": codes, "scales": scales}

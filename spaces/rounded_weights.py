"""Weights of fewer than 8 bits: which are rounded in which model, once for all plans."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

from torch import nn

from .anatomy import Anatomy
from .blocks import quantise
from .calibration import input_moments, standing_linears
from .plan import ORIGINAL_WEIGHTS, Layer, Plan, Slot
from .precision import Precision
from .quantised import remembered
from .rounding import round_with_feedback
from .workbench import Material, Workbench


def rounded_weights(plan: Plan, bench: Workbench) -> Material:
    """The weights of a plan that have fewer than 8 bits, rounded with error feedback; of 8, the nearest is as good.

    Returns:
        Site name and kind, such as "encoder.3.query" -> {"codes", "scales"}, as modules hold them.
    """

    # Many parts have one home, and what is remembered of it may lie on a disk.
    @cache
    def all_of(home: Plan, together: tuple[Precision, ...], outside: bool) -> Material:
        return _all_rounded(home, together, bench, outside=outside)

    found = {}
    for name, layer, precision in _below_8_bits(plan):
        outside = layer is None
        home, home_name = _home(plan, name, layer, bench.anatomy)
        found[name] = all_of(home, _together(precision, bench, outside=outside), outside)[f"{precision} {home_name}"]
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
    found = _all_rounded(home, _together(precision, bench, outside=outside), bench, outside=outside)
    prefix = f"{precision} "
    return {name.removeprefix(prefix): stored for name, stored in found.items() if name.startswith(prefix)}


def _together(precision: Precision, bench: Workbench, *, outside: bool) -> tuple[Precision, ...]:
    """All that a search may ask for beside this precision, since the inputs are gone through for all at once."""
    palette = bench.anatomy.palette.tables if outside else bench.anatomy.palette.linears
    together = tuple(other for other in palette if other.has_integer_weights and other.weight_bits != 8)
    return together if precision in together else (precision,)


def _all_rounded(home: Plan, together: Sequence[Precision], bench: Workbench, *, outside: bool) -> Material:
    """Precision, a space, and the name of a part -> its weights; remembered."""
    words = hashlib.sha256(" ".join(map(str, together)).encode()).hexdigest()[:12]
    # A change of the scales, the order of columns or the correction changes the version.
    key = f"rounding-1-{'outside' if outside else 'stacks'}-{home.fingerprint}-{words}"
    return bench.remember(key, partial(_round, home, together, bench, outside))


def _below_8_bits(plan: Plan) -> Iterator[tuple[str, Layer | None, Precision]]:
    """Site name and kind, layer and precision of every part whose weights are rounded to fewer than 8 bits."""
    for name, layer, precision in plan.precisions():
        if precision.weight_bits is not None and precision.weight_bits < 8:
            yield name, layer, precision


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
            found[f"{precision} {name}"] = remembered(round_with_feedback(linear.weight, precision, moments[name]))
        for name, table in tables.items():
            found[f"{precision} {name}"] = remembered(quantise(table.weight, precision))
    return found

"""Bits per slot and kind, after *Blockwise Compression of Transformer-based Models without Retraining*.

(Dong, Chen; arXiv 2304.01483.) The paper's outline is public, its rules are not: block shapes, scales, clipping and
rounding are ours, see docs/architecture.md. What quantised numbers mean is in `spaces/blocks.py` and
`spaces/ranges.py`; this axis decides where they are used, calibrates inputs and rounds weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ...errors import PlanError
from ..anatomy import Anatomy
from ..blocks import Quantised, quantise
from ..calibration import input_moments, input_samples, standing_linears
from ..intermediate_ranges import intermediate_ranges
from ..intermediates import set_intermediate
from ..plan import ORIGINAL_WEIGHTS, Layer, Plan, Slot, Treatment, Treatments
from ..precision import Precision
from ..quantised import BFloat16Linear, QuantEmbedding, QuantLinear, Stored, store
from ..ranges import affine_range
from ..rounding import round_with_feedback
from ..workbench import Material, Workbench
from . import Choice, Parameter, Site, Value

FLOAT = "float"
# Of fewer bits, weights are rounded with error feedback; of 8, the nearest is as good.
_NEAREST_IS_GOOD = 8


class Bits:
    """One choice for every Linear kind of every slot, and one for every part outside the stacks."""

    def parameters(self, anatomy: Anatomy) -> tuple[Parameter, ...]:
        """`bits.<stack>.<slot>.<kind>` and `bits.<kind>`: "float" or a precision of the anatomy's palette."""
        linears = (FLOAT, *map(str, anatomy.palette.linears))
        tables = (FLOAT, *map(str, anatomy.palette.tables))
        inside = (
            Parameter(f"bits.{stack.name}.{slot}.{kind}", linears)
            for stack in anatomy.stacks
            for slot in range(stack.n_layers)
            for kind in stack.linears
        )
        outside = (Parameter(f"bits.{kind}", tables) for kind in anatomy.outside)
        results = (FLOAT, *map(str, anatomy.palette.intermediates))
        between = (Parameter(f"bits.{name}", results) for name in _intermediates(anatomy))
        return (*inside, *outside, *between)

    def edit(self, plan: Plan, choice: Choice, bench: Workbench) -> Plan:
        """Sets precisions; choices for a slot in which nothing stands have no effect."""
        for stack in plan.stacks:
            places = bench.anatomy.stack(stack.name)
            kinds = (*places.linears, *(places.intermediates if bench.anatomy.palette.intermediates else ()))
            slots = list(stack.slots)
            for position, slot in enumerate(slots):
                if slot.layer is None:
                    continue
                wanted = {kind: choice[f"bits.{stack.name}.{position}.{kind}"] for kind in kinds}
                slots[position] = replace(slot, treatments=_set(slot.treatments, wanted))
            plan = plan.with_stack(replace(stack, slots=tuple(slots)))
        kinds = (*bench.anatomy.outside, *(bench.anatomy.intermediates if bench.anatomy.palette.intermediates else ()))
        wanted = {kind: choice[f"bits.{kind}"] for kind in kinds}
        return replace(plan, outside=_set(plan.outside, wanted))

    def prepare(self, plan: Plan, bench: Workbench) -> Material:
        """Ranges of inputs and intermediate results, seen in the float model of this structure, and rounded weights.

        Returns:
            Site name and kind, joined by a dot -> {"scale", "zero_point"} of its inputs where those are quantised,
            and {"codes", "scales"} of its weights where those have fewer than 8 bits; for intermediate results see
            `intermediate_ranges`.
        """
        found = {name: dict(ranges) for name, ranges in intermediate_ranges(plan, bench).items()}
        for bits in sorted(set(_input_bits(plan).values())):
            structure, calibration = plan.in_float(), bench.anatomy.palette.calibration
            key = f"bits-{structure.fingerprint}-{bits}-{calibration}"
            ranges = bench.remember(key, partial(_calibrate, structure, bench, bits))
            for name, wanted in _input_bits(plan).items():
                if wanted == bits:
                    found.setdefault(name, {}).update(ranges[name])
        for name, layer, treatment in _rounded(plan):
            assert treatment.precision is not None
            home, home_name = _home(plan, name, layer, bench.anatomy)
            # Inputs of 8 bits or none: the weights are rounded alike, but for how far scales may lie apart.
            key = f"rounding-{home.fingerprint}-{treatment.precision}"
            rounding = bench.remember(key, partial(_round_all, home, treatment.precision, bench))
            found.setdefault(name, {}).update(rounding[home_name])
        return found

    def realise(self, module: nn.Module, site: Site, material: Material | None) -> nn.Module:
        """Puts a quantised module under the old name of each part that has a precision."""
        for kind, treatment in site.treatments.items:
            precision = treatment.precision
            if precision is None:
                continue
            found = {} if material is None else material.get(f"{site.name}.{kind}", {})
            if kind in site.intermediates:
                assert precision.activation_bits is not None
                ranges = None if material is None else found
                set_intermediate(module, kind, site.intermediates[kind], precision.activation_bits, ranges)
                continue
            part = module.get_submodule(site.parts[kind])
            if isinstance(part, nn.Embedding):
                _quantise_table(module, part.weight, precision, found)
            elif isinstance(part, nn.Linear):
                module.set_submodule(site.parts[kind], _quantised_linear(part, precision, found))
            else:
                raise PlanError(f"{site.name}.{kind} is a {type(part).__name__}, which has no quantised form.")
        return module


def _quantised_linear(linear: nn.Linear, precision: Precision, found: Mapping[str, Tensor]) -> nn.Module:
    if not precision.has_integer_weights:
        return BFloat16Linear(linear, precision)
    input_range = (float(found["scale"]), int(found["zero_point"])) if "scale" in found else None
    return QuantLinear(linear, precision, input_range=input_range, stored=_stored(found))


def _quantise_table(module: nn.Module, table: Tensor, precision: Precision, found: Mapping[str, Tensor]) -> None:
    """Replaces every part that holds this table, lookups and the output tied to them, around one set of codes.

    A code's scale belongs to a row: a word of a lookup, an output channel of the output. So both mean the same numbers.
    """
    # By name, since one module may stand at several places.
    parts = {
        name: part
        for name, part in module.named_modules(remove_duplicate=False)
        if getattr(part, "weight", None) is table
    }
    stored = _stored(found)
    if stored is None and not table.is_meta:
        stored = store(quantise(table, precision))
    for name, part in parts.items():
        if isinstance(part, nn.Embedding):
            module.set_submodule(name, QuantEmbedding(part, precision, stored=stored))
        elif isinstance(part, nn.Linear):
            module.set_submodule(name, QuantLinear(part, precision, input_range=None, stored=stored))
        else:
            raise PlanError(
                f"{name} shares a table of words, but is a {type(part).__name__}: it has no quantised form."
            )


def _set(old: Treatments, wanted: Mapping[str, Value]) -> Treatments:
    """The treatments with the precisions of these kinds set to the chosen ones."""
    for kind, value in wanted.items():
        precision = None if value == FLOAT else Precision.parse(str(value))
        old = old.with_(kind, replace(old.get(kind), precision=precision))
    return old


def _intermediates(anatomy: Anatomy) -> Iterator[str]:
    """Stack, slot and kind, joined by dots, of the intermediate results; those outside the stacks by kind only."""
    if anatomy.palette.intermediates:
        for stack in anatomy.stacks:
            yield from (f"{stack.name}.{slot}.{kind}" for slot in range(stack.n_layers) for kind in stack.intermediates)
        yield from anatomy.intermediates


def _input_bits(plan: Plan) -> dict[str, int]:
    """Site name and kind, joined by a dot -> bits of its inputs, where those are integers."""
    return {
        f"{stack.name}.{position}.{kind}": treatment.precision.activation_bits
        for stack in plan.stacks
        for position, slot in enumerate(stack.slots)
        for kind, treatment in slot.treatments.items
        if treatment.precision is not None
        and treatment.precision.activation_bits is not None
        and treatment.precision.has_integer_inputs
        and treatment.precision.weight_bits is not None
    }


def _calibrate(structure: Plan, bench: Workbench, bits: int) -> Material:
    """Runs the calibration batches through the float model and fits a range to the inputs of every Linear."""
    model = bench.build(structure)
    parts = dict(standing_linears(model, structure, bench.anatomy))
    samples = input_samples(model, parts, bench)
    ranges = {name: affine_range(values, bits, bench.anatomy.palette.calibration) for name, values in samples.items()}
    return {
        name: {"scale": torch.tensor(scale, dtype=torch.float64), "zero_point": torch.tensor(zero_point)}
        for name, (scale, zero_point) in ranges.items()
    }


def _rounded(plan: Plan) -> Iterator[tuple[str, Layer | None, Treatment]]:
    """Site name and kind, layer and treatment of every part whose weights are rounded to fewer than 8 bits."""
    places = [
        (f"{stack.name}.{position}", slot.layer, slot.treatments)
        for stack in plan.stacks
        for position, slot in enumerate(stack.slots)
    ]
    for site, layer, treatments in [*places, ("outside", None, plan.outside)]:
        for kind, treatment in treatments.items:
            bits = None if treatment.precision is None else treatment.precision.weight_bits
            if bits is not None and bits < _NEAREST_IS_GOOD:
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


def _round_all(home: Plan, precision: Precision, bench: Workbench) -> Material:
    """Rounds all weights of a model to one precision: Linears with error feedback, tables of words to the nearest."""
    model = bench.build(home)
    parts = dict(standing_linears(model, home, bench.anatomy))
    moments = input_moments(model, parts, bench)
    found = {
        name: _material(round_with_feedback(part.weight, precision, moments.pop(name))) for name, part in parts.items()
    }
    if precision.activation_bits is None:
        for kind, path in bench.anatomy.outside.items():
            part = model.get_submodule(path)
            if isinstance(part, nn.Embedding):
                found[f"outside.{kind}"] = _material(quantise(part.weight, precision))
    return found


def _material(quantised: Quantised) -> dict[str, Tensor]:
    """As it is remembered."""
    codes, scales = store(quantised)
    return {"codes": codes, "scales": scales}


def _stored(material: Mapping[str, Tensor]) -> Stored | None:
    """The inverse of `_material`; None where nothing was remembered."""
    return (material["codes"], material["scales"]) if "codes" in material else None


plugin = Bits()

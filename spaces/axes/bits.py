"""Bits per slot and kind, after *Blockwise Compression of Transformer-based Models without Retraining*.

(Dong, Chen; arXiv 2304.01483.) The paper's outline is public, its rules are not: block shapes, scales, clipping and
rounding are ours, see docs/architecture.md. What quantised numbers mean is in `spaces/blocks.py` and
`spaces/ranges.py`; this axis decides where they are used, calibrates inputs and rounds weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor, nn

from ...errors import PlanError
from ..anatomy import Anatomy
from ..blocks import quantise
from ..factor_bytes import keep_the_smaller
from ..factored import TABLES, FactoredLinear, pieces
from ..input_ranges import input_ranges
from ..intermediate_ranges import intermediate_ranges
from ..intermediates import set_intermediate
from ..palette import FLOAT
from ..plan import Plan, Treatment, Treatments
from ..precision import Precision
from ..quantised import BFloat16Linear, QuantEmbedding, QuantLinear, recalled, store
from ..rounded_weights import rounded_weights
from ..ties import holders
from ..workbench import Material, Workbench
from . import Choice, Parameter, Site, Value


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
        """Sets precisions; choices for a slot in which nothing stands have no effect.

        Where a Linear has factors as well and would be larger so than with one of both, the smaller of the two is kept.
        """
        palette = bench.anatomy.palette
        for stack in plan.stacks:
            places = bench.anatomy.stack(stack.name)
            kinds = (*places.linears, *palette.between(places.intermediates))
            slots = list(stack.slots)
            for position, slot in enumerate(slots):
                if slot.layer is None:
                    continue
                wanted = {kind: choice[f"bits.{stack.name}.{position}.{kind}"] for kind in kinds}
                slots[position] = replace(slot, treatments=_set(slot.treatments, wanted))
            plan = plan.with_stack(replace(stack, slots=keep_the_smaller(tuple(slots), places.shapes)))
        kinds = (*bench.anatomy.outside, *palette.between(bench.anatomy.intermediates))
        wanted = {kind: choice[f"bits.{kind}"] for kind in kinds}
        return replace(plan, outside=_set(plan.outside, wanted))

    def prepare(self, plan: Plan, bench: Workbench) -> Material:
        """Ranges of inputs and intermediate results, seen in the float model of this structure, and rounded weights.

        Returns:
            Site name and kind, joined by a dot, and the name of the piece where the part is factorised -> {"scale",
            "zero_point"} and perhaps {"factors"} of its inputs where those are quantised, and {"codes", "scales"} of
            its weights where those have fewer than 8 bits; for intermediate results see `intermediate_ranges`.
        """
        found = {name: dict(ranges) for name, ranges in intermediate_ranges(plan, bench).items()}
        found.update({name: dict(stored) for name, stored in rounded_weights(plan, bench).items()})
        structure, wanted = plan.in_float(), _integer_inputs(plan)
        ranges = {way: input_ranges(structure, bench, way[0], smoothed=way[1]) for way in set(wanted.values())}
        for name, way in wanted.items():
            found.setdefault(name, {}).update(ranges[way][name])
        return found

    def realise(self, module: nn.Module, site: Site, material: Material | None) -> nn.Module:
        """Puts a quantised module under the old name of each part that has a precision."""
        for kind, treatment in site.treatments.items:
            precision = treatment.precision
            if precision is None:
                continue
            if kind in site.intermediates:
                assert precision.activation_bits is not None
                ranges = None if material is None else material.get(f"{site.name}.{kind}", {})
                set_intermediate(module, kind, site.intermediates[kind], precision.activation_bits, ranges)
                continue
            whole = module.get_submodule(site.parts[kind])
            for name, part in pieces(f"{site.name}.{kind}", whole):
                path = site.parts[kind] + name.removeprefix(f"{site.name}.{kind}")
                known = {} if material is None else material.get(name, {})
                if isinstance(part, nn.Embedding) or isinstance(whole, TABLES):
                    assert isinstance(part.weight, Tensor)
                    _quantise_table(module, part.weight, precision, known)
                elif isinstance(part, nn.Linear):
                    module.set_submodule(path, _quantised_linear(part, precision, known))
                else:
                    raise PlanError(f"{name} is a {type(part).__name__}, which has no quantised form.")
            if isinstance(whole, TABLES):
                _quantise_narrow_outputs(module, precision)
        return module


def _quantise_narrow_outputs(module: nn.Module, precision: Precision) -> None:
    """The second factor of outputs that are tied to a factorised table, which lookups hold the other way round."""
    for part in module.modules():
        if (
            isinstance(part, FactoredLinear)
            and isinstance(part.wide, QuantLinear)
            and isinstance(part.narrow, nn.Linear)
        ):
            part.narrow = QuantLinear(part.narrow, precision, input_range=None)


def _quantised_linear(linear: nn.Linear, precision: Precision, found: Mapping[str, Tensor]) -> nn.Module:
    if not precision.has_integer_weights:
        return BFloat16Linear(linear, precision)
    input_range = (float(found["scale"]), int(found["zero_point"])) if "scale" in found else None
    factors = found.get("factors")
    return QuantLinear(linear, precision, input_range=input_range, input_factors=factors, stored=recalled(found))


def _quantise_table(module: nn.Module, table: Tensor, precision: Precision, found: Mapping[str, Tensor]) -> None:
    """Replaces every part that holds this table, lookups and the output tied to them, around one set of codes.

    A code's scale belongs to a row: a word of a lookup, an output channel of the output. So both mean the same numbers.
    """
    stored = recalled(found)
    if stored is None and not table.is_meta:
        stored = store(quantise(table, precision))
    for name, part in holders(module, table).items():
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
    found = dict(old.items)
    for kind, value in wanted.items():
        factors = found[kind].factors if kind in found else None
        precision = None if value == FLOAT else Precision.parse(str(value))
        if precision is not None and factors is not None and factors.is_decoded:
            precision = _of_decoded(precision)
        found[kind] = Treatment(factors, precision)
    return Treatments.of(found)


def _of_decoded(precision: Precision) -> Precision | None:
    """What is left of a precision where a decoder gives the weight: that is stored in fewer bits, and runs in float."""
    return replace(precision, activation_bits=None) if precision.has_integer_weights else None


def _intermediates(anatomy: Anatomy) -> Iterator[str]:
    """Stack, slot and kind, joined by dots, of the intermediate results; those outside the stacks by kind only."""
    for stack in anatomy.stacks:
        kinds = anatomy.palette.between(stack.intermediates)
        yield from (f"{stack.name}.{slot}.{kind}" for slot in range(stack.n_layers) for kind in kinds)
    yield from anatomy.palette.between(anatomy.intermediates)


def _integer_inputs(plan: Plan) -> dict[str, tuple[Precision, bool]]:
    """The Linears whose inputs are integers.

    Returns:
        Site name and kind, joined by a dot, and the piece -> precision, and whether the inputs may be smoothed: not
        where layers share a factor, since their inputs differ and smoothing changes the weight with them.
    """
    factors = {name: factorisation for name, _, factorisation in plan.factorisations()}
    found = {}
    for name, layer, precision in plan.precisions():
        if layer is None or precision.weight_bits is None or not precision.has_integer_inputs:
            continue
        if name not in factors:
            found[name] = precision, True
        else:
            found[f"{name}.narrow"] = precision, factors[name].group is None
            found[f"{name}.wide"] = precision, True
    return found


plugin = Bits()

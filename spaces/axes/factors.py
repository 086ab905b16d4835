"""Factorised weights, after *Revisiting Offline Compression*, against the SVD and its relatives.

(Banaei, Balazy, Kasymov, Lebret, Tabor, Aberer; Findings of EACL 2023.) The rows of one kind of Linear, of one layer or
stacked over several, are compressed without training the model. What each method is stands in `spaces/factorising.py`
and `spaces/autoencoders.py`; this axis decides where they are used, and puts what they find in place.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from torch import Tensor, nn

from ...errors import PlanError
from ..anatomy import Anatomy
from ..factored import DecodedEmbedding, DecodedLinear, FactoredEmbedding, FactoredLinear, without_data
from ..factoring import WHOLE, Way
from ..factorisation import Factorisation
from ..families import StackAnatomy
from ..layer_ranks import layer_ranks
from ..learned_factors import learned_factors
from ..plan import Layer, Plan, Treatments
from ..ties import holders
from ..workbench import Material, Workbench
from . import Choice, Parameter, Site

# Tables smaller than this share of the largest are left whole: there is nothing to win.
_SMALL = 0.1


class Factors:
    """One choice for every kind of Linear in every group of layers, and one for every large table."""

    def parameters(self, anatomy: Anatomy) -> tuple[Parameter, ...]:
        """`factors.<stack>.<kind>` or `factors.<stack>.<group>.<kind>`, and `factors.<kind>`: "whole" or a way."""
        inside = []
        for stack in anatomy.stacks:
            for number, group in enumerate(anatomy.factoring.groups(stack.n_layers)):
                members = tuple(map(Layer, group))
                for kind, shape in stack.shapes.items():
                    ways = _distinct(anatomy.factoring.linears, shape, members)
                    inside.append(Parameter(_name(anatomy, stack, number, kind), (WHOLE, *ways)))
        outside = (
            Parameter(f"factors.{kind}", (WHOLE, *_distinct(anatomy.factoring.tables, anatomy.shapes[kind], ())))
            for kind in _tables(anatomy)
        )
        return tuple(parameter for parameter in (*inside, *outside) if len(parameter.choices) > 1)

    def edit(self, plan: Plan, choice: Choice, bench: Workbench) -> Plan:
        """Sets factorisations; a modular layer is of the group in which the originals it stands for begin."""
        anatomy = bench.anatomy
        for stack in plan.stacks:
            places = anatomy.stack(stack.name)
            slots = list(stack.slots)
            for position, slot in enumerate(slots):
                if slot.layer is not None:
                    wanted = _wanted(slot.layer, places, bench, choice)
                    slots[position] = replace(slot, treatments=_set(slot.treatments, wanted))
            plan = plan.with_stack(replace(stack, slots=tuple(slots)))
        tables = {}
        for kind in _tables(anatomy):
            way = choice.get(f"factors.{kind}", WHOLE)
            tables[kind] = None if way == WHOLE else Way.parse(str(way)).of(anatomy.shapes[kind])
        return replace(plan, outside=_set(plan.outside, tables))

    def prepare(self, plan: Plan, bench: Workbench) -> Material:
        """Site name and kind, joined by a dot -> the tensors that `FactoredLinear` and the others take.

        Layers that were stacked are given the same second factor, or decoder.
        """
        return learned_factors(plan, bench)

    def realise(self, module: nn.Module, site: Site, material: Material | None) -> nn.Module:
        """Puts a factorised module under the old name of each part that has a factorisation."""
        for kind, treatment in site.treatments.items:
            if treatment.factors is None:
                continue
            part = module.get_submodule(site.parts[kind])
            if not isinstance(part, nn.Embedding | nn.Linear):
                raise PlanError(f"{site.name}.{kind} is a {type(part).__name__}, which has no factorised form.")
            rows, columns = part.weight.shape
            skeleton = without_data((rows, columns), treatment.factors)
            found = skeleton if material is None else material[f"{site.name}.{kind}"]
            if isinstance(part, nn.Linear):
                module.set_submodule(site.parts[kind], _linear(part, treatment.factors, found))
            else:
                _factor_table(module, part.weight, treatment.factors, found)
        return module


def _linear(linear: nn.Linear, factors: Factorisation, found: Mapping[str, Tensor]) -> nn.Module:
    if factors.is_decoded:
        return DecodedLinear(linear, found, bounded=factors.is_bounded)
    return FactoredLinear(linear, found)


def _table(table: nn.Embedding, factors: Factorisation, found: Mapping[str, Tensor]) -> nn.Module:
    if factors.is_decoded:
        return DecodedEmbedding(table, found, bounded=factors.is_bounded)
    return FactoredEmbedding(table, found)


def _factor_table(module: nn.Module, table: Tensor, factors: Factorisation, found: Mapping[str, Tensor]) -> None:
    """Replaces every part that holds this table, lookups and the output tied to them; they hold the same factors."""
    held = {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in found.items() if name != "norms"}
    found = {**found, **held}
    stand_ins: dict[int, nn.Module] = {}
    for name, part in holders(module, table).items():
        if id(part) not in stand_ins:
            if isinstance(part, nn.Embedding):
                stand_ins[id(part)] = _table(part, factors, found)
            elif isinstance(part, nn.Linear):
                # An output that is tied to the words.
                stand_ins[id(part)] = _linear(part, factors, found)
            else:
                raise PlanError(f"{name} shares a table of words, but is a {type(part).__name__}.")
        module.set_submodule(name, stand_ins[id(part)])


def _set(old: Treatments, wanted: Mapping[str, Factorisation | None]) -> Treatments:
    for kind, factors in wanted.items():
        old = old.with_(kind, replace(old.get(kind), factors=factors))
    return old


def _wanted(layer: Layer, places: StackAnatomy, bench: Workbench, choice: Choice) -> dict[str, Factorisation | None]:
    """Kind -> what the choice makes of it in the slot where this layer stands."""
    anatomy = bench.anatomy
    groups = anatomy.factoring.groups(places.n_layers)
    number = next(number for number, group in enumerate(groups) if layer.originals.start in group)
    alike = (Layer(index, layer.granularity) for index in range(places.n_layers // layer.granularity))
    members = tuple(one for one in alike if one.originals.start in groups[number])
    found: dict[str, Factorisation | None] = {}
    for kind, shape in places.shapes.items():
        chosen = choice.get(_name(anatomy, places, number, kind), WHOLE)
        if chosen == WHOLE:
            found[kind] = None
            continue
        way = Way.parse(str(chosen))
        if way.stacking == "allocated":
            rank = layer_ranks(way, places.name, kind, members, bench)[layer]
            found[kind] = None if rank is None else Factorisation(way.method, rank)
        else:
            found[kind] = way.of(shape, members)
    return found


def _name(anatomy: Anatomy, stack: StackAnatomy, number: int, kind: str) -> str:
    """Of a parameter; groups are numbered where a stack has several."""
    several = len(anatomy.factoring.groups(stack.n_layers)) > 1
    return f"factors.{stack.name}.{number}.{kind}" if several else f"factors.{stack.name}.{kind}"


def _tables(anatomy: Anatomy) -> tuple[str, ...]:
    """The tables and Linears outside the stacks that are large enough to be worth it."""
    sizes = {kind: prod(shape) for kind, shape in anatomy.shapes.items()}
    return tuple(kind for kind, size in sizes.items() if size >= _SMALL * max(sizes.values()))


def _distinct(ways: tuple[Way, ...], shape: tuple[int, int], members: tuple[Layer, ...]) -> tuple[str, ...]:
    """Those of the ways that a part of this shape can go, the first of any that come to the same."""
    found: dict[tuple[str, Factorisation], str] = {}
    for way in ways:
        factors = way.of(shape, members)
        if factors is not None:
            found.setdefault((way.stacking, factors), str(way))
    return tuple(found.values())


plugin = Factors()

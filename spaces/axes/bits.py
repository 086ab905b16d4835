"""Bits per slot and kind: float, or 8-bit weights and inputs with calibrated ranges; 8-bit embeddings.

What a quantised number means is in `spaces/quantised.py`; this axis decides where it is used and calibrates it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ...errors import PlanError
from ..anatomy import Anatomy
from ..plan import Plan, Precision, Treatments
from ..quantised import QuantEmbedding, QuantLinear, affine_range, quantise_rows
from ..workbench import Material, Workbench
from . import Choice, Parameter, Site, Value

FLOAT = "float"
LINEAR_CHOICES: Mapping[str, Precision | None] = {FLOAT: None, "int8": Precision(8, 8)}
EMBEDDING_CHOICES: Mapping[str, Precision | None] = {FLOAT: None, "int8": Precision(8)}
_SAMPLES_PER_BATCH = 8192
_DECODERS_NEED = "batches for a model with a decoder need labels or decoder_input_ids."


class Bits:
    """One choice for every Linear kind of every slot, and one for every part outside the stacks."""

    def parameters(self, anatomy: Anatomy) -> tuple[Parameter, ...]:
        """`bits.<stack>.<slot>.<kind>` and `bits.<kind>`: "float" or "int8"."""
        inside = (
            Parameter(f"bits.{stack.name}.{slot}.{kind}", tuple(LINEAR_CHOICES))
            for stack in anatomy.stacks
            for slot in range(stack.n_layers)
            for kind in stack.linears
        )
        outside = (Parameter(f"bits.{kind}", tuple(EMBEDDING_CHOICES)) for kind in anatomy.outside)
        return (*inside, *outside)

    def edit(self, plan: Plan, choice: Choice, bench: Workbench) -> Plan:
        """Sets precisions; choices for a slot in which nothing stands have no effect."""
        for stack in plan.stacks:
            kinds = bench.anatomy.stack(stack.name).linears
            slots = list(stack.slots)
            for position, slot in enumerate(slots):
                if slot.layer is None:
                    continue
                wanted = {kind: choice[f"bits.{stack.name}.{position}.{kind}"] for kind in kinds}
                slots[position] = replace(slot, treatments=_set(slot.treatments, wanted, LINEAR_CHOICES))
            plan = plan.with_stack(replace(stack, slots=tuple(slots)))
        wanted = {kind: choice[f"bits.{kind}"] for kind in bench.anatomy.outside}
        return replace(plan, outside=_set(plan.outside, wanted, EMBEDDING_CHOICES))

    def prepare(self, plan: Plan, bench: Workbench) -> Material:
        """Ranges of the inputs of every Linear, seen on the calibration batches in the float model of this structure.

        Returns:
            Site name and kind, joined by a dot -> {"scale", "zero_point"}, for every part whose inputs are quantised.
        """
        structure = plan.in_float()
        wanted = _input_bits(plan)
        ranges = {
            bits: bench.remember(f"bits-{structure.fingerprint}-{bits}", partial(_calibrate, structure, bench, bits))
            for bits in sorted(set(wanted.values()))
        }
        return {name: ranges[bits][name] for name, bits in wanted.items()}

    def realise(self, module: nn.Module, site: Site, material: Material | None) -> nn.Module:
        """Puts a quantised module under the old name of each part that has a precision."""
        for kind, treatment in site.treatments.items:
            if treatment.precision is None:
                continue
            path = site.parts[kind]
            part = module.get_submodule(path)
            if isinstance(part, nn.Embedding):
                _quantise_table(module, part.weight, treatment.precision)
            elif isinstance(part, nn.Linear):
                found = None if material is None else material.get(f"{site.name}.{kind}")
                input_range = None if found is None else (float(found["scale"]), int(found["zero_point"]))
                module.set_submodule(path, QuantLinear(part, treatment.precision, input_range=input_range))
            else:
                raise PlanError(f"{site.name}.{kind} is a {type(part).__name__}, which has no quantised form.")
        return module


def _quantise_table(module: nn.Module, table: Tensor, precision: Precision) -> None:
    """Replaces every part that holds this table, lookups and the output tied to them, around one set of codes.

    A code's scale belongs to a row: a word of a lookup, an output channel of the output. So both mean the same numbers.
    """
    rows = quantise_rows(table, precision.weight_bits)
    # By name, since one module may stand at several places.
    parts = {
        name: part
        for name, part in module.named_modules(remove_duplicate=False)
        if getattr(part, "weight", None) is table
    }
    for name, part in parts.items():
        if isinstance(part, nn.Embedding):
            module.set_submodule(name, QuantEmbedding(part, precision, rows=rows))
        elif isinstance(part, nn.Linear):
            module.set_submodule(name, QuantLinear(part, precision, input_range=None, rows=rows))
        else:
            raise PlanError(
                f"{name} shares a table of words, but is a {type(part).__name__}: it has no quantised form."
            )


def _set(old: Treatments, wanted: Mapping[str, Value], legal: Mapping[str, Precision | None]) -> Treatments:
    """The treatments with the precisions of these kinds set to the chosen ones."""
    for kind, value in wanted.items():
        if value not in legal:
            raise PlanError(f"the bits of {kind} are one of {', '.join(legal)}, got {value!r}.")
        old = old.with_(kind, replace(old.get(kind), precision=legal[str(value)]))
    return old


def _input_bits(plan: Plan) -> dict[str, int]:
    """Site name and kind, joined by a dot -> bits of its inputs, where those are quantised."""
    return {
        f"{stack.name}.{position}.{kind}": treatment.precision.activation_bits
        for stack in plan.stacks
        for position, slot in enumerate(stack.slots)
        for kind, treatment in slot.treatments.items
        if treatment.precision is not None and treatment.precision.activation_bits is not None
    }


def _calibrate(structure: Plan, bench: Workbench, bits: int) -> Material:
    """Runs the calibration batches through the float model and fits a range to the inputs of every Linear."""
    model = bench.build(structure)
    samples: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(0)
    hooks = []
    for name, part in _standing_linears(model, structure, bench.anatomy):
        found = samples.setdefault(name, [])

        def look(_: nn.Module, inputs: tuple[Tensor, ...], found: list[Tensor] = found) -> None:
            found.append(_sample(inputs[0], generator))

        hooks.append(part.register_forward_pre_hook(look))
    try:
        with torch.inference_mode():
            for batch in bench.calibration():
                model(**batch)
    except ValueError as error:
        raise PlanError(f"the calibration batches do not run: {error} {_DECODERS_NEED}") from error
    for hook in hooks:
        hook.remove()
    unseen = [name for name, found in samples.items() if not found]
    if unseen:
        raise PlanError(
            f"the calibration batches never reached {len(unseen)} Linears, among them {unseen[0]}; {_DECODERS_NEED}"
        )
    ranges = {name: affine_range(torch.cat(parts), bits) for name, parts in samples.items()}
    return {
        name: {"scale": torch.tensor(scale, dtype=torch.float64), "zero_point": torch.tensor(zero_point)}
        for name, (scale, zero_point) in ranges.items()
    }


def _standing_linears(model: nn.Module, plan: Plan, anatomy: Anatomy) -> Iterator[tuple[str, nn.Module]]:
    """Slot and kind, as `stack.slot.kind`, of every Linear that stands in a built model, and the Linear."""
    for stack in plan.stacks:
        places = anatomy.stack(stack.name)
        kept = [position for position, slot in enumerate(stack.slots) if slot.layer is not None]
        for place, position in enumerate(kept):
            for kind, path in places.linears.items():
                yield f"{stack.name}.{position}.{kind}", model.get_submodule(f"{places.path}.{place}.{path}")


def _sample(values: Tensor, generator: torch.Generator) -> Tensor:
    """The extremes of a tensor and a random part of the rest: enough to fit a range to."""
    flat = values.detach().float().flatten()
    if flat.numel() <= _SAMPLES_PER_BATCH:
        return flat
    chosen = torch.randint(flat.numel(), (_SAMPLES_PER_BATCH,), generator=generator).to(flat.device)
    return torch.cat([flat[chosen], flat.min().reshape(1), flat.max().reshape(1)])


plugin = Bits()

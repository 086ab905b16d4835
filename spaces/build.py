"""The only place that turns a plan into modules."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import PlanError
from . import axes
from .anatomy import Anatomy, anatomy_of
from .axes import Site
from .factored import share_factors
from .families import StackAnatomy
from .plan import ORIGINAL_WEIGHTS, Plan, Stack, Treatments
from .ties import tie, tied_names, with_tied
from .workbench import Material

Model = TypeVar("Model", bound=nn.Module)


def build(
    model: PreTrainedModel,
    plan: Plan,
    *,
    materials: Mapping[str, Material] | None,
    weights: Mapping[str, Tensor] | None = None,
) -> PreTrainedModel:
    """The compressed model of a plan, in evaluation mode.

    The original is not touched. Parameters that the plan leaves alone are *shared* with it, so a candidate costs
    little memory; copy the result before training it.

    Args:
        model: the original, or its skeleton on the meta device.
        plan: made for a model of this anatomy.
        materials: axis -> what its `prepare` returned for this plan; None to get the shapes only, for a skeleton.
        weights: tensors by name that replace those of the original first; needed where the plan names its own weights.
            One that the original holds under several names may be given under the first only.

    Raises:
        PlanError: if the plan does not fit the model.
    """
    anatomy = anatomy_of(model)
    _check(plan, anatomy)
    if plan.weights != ORIGINAL_WEIGHTS and weights is None and materials is not None:
        raise PlanError(f"the plan starts from the weights {plan.weights!r}, which were not given.")
    compressed = copy_sharing_parameters(model)
    if weights is not None:
        ties = tied_names(compressed)
        compressed.load_state_dict(with_tied(weights, ties), strict=True, assign=True)
        tie(compressed, ties)
    for stack in plan.stacks:
        _realise_stack(compressed, stack, anatomy.stack(stack.name), materials)
    if any(stack.dropped or len(stack.slots) < anatomy.stack(stack.name).n_layers for stack in plan.stacks):
        _set_depths(compressed, anatomy)
    site = Site("outside", None, plan.outside, anatomy.outside, anatomy.intermediates)
    realised = _realise(compressed, site, materials)
    assert isinstance(realised, PreTrainedModel)
    share_factors(realised)
    realised.eval()
    return realised


def _check(plan: Plan, anatomy: Anatomy) -> None:
    """Refuses a plan made for another model."""
    got = {stack.name: len(stack.slots) for stack in plan.stacks}
    legal = {stack.name: stack.n_layers for stack in anatomy.stacks}
    if got.keys() != legal.keys() or any(got[name] > legal[name] for name in got):
        raise PlanError(f"the plan has stacks {got}, but the model has {legal}: it was made for another model.")
    _check_kinds(plan.outside, anatomy.outside, anatomy.intermediates, anatomy.family)
    for stack in plan.stacks:
        covered = [layer for slot in stack.slots if slot.layer for layer in slot.layer.originals]
        if len(set(covered)) < len(covered) or (not stack.dropped and len(covered) != legal[stack.name]):
            raise PlanError(
                f"the plan must use each of the {legal[stack.name]} layers of {stack.name} once, got {stack}."
            )
        for slot in stack.slots:
            if slot.layer and slot.layer.originals.stop > legal[stack.name]:
                raise PlanError(f"the plan asks for layer {slot.layer} of {legal[stack.name]} in {stack.name}.")
            places = anatomy.stack(stack.name)
            _check_kinds(slot.treatments, places.linears, places.intermediates, anatomy.family)


def _check_kinds(
    treatments: Treatments, parts: Mapping[str, str], intermediates: Mapping[str, tuple[str, ...]], family: str
) -> None:
    """Refuses treatments that no axis would carry out."""
    for kind, treatment in treatments.items:
        if kind not in parts and kind not in intermediates:
            raise PlanError(f"the plan treats {kind!r}; a {family} has there: {', '.join([*parts, *intermediates])}.")
        if treatment.precision is not None and (treatment.precision.weight_bits is None) != (kind in intermediates):
            needed = (
                "has no weights, so write 'a8'" if kind in intermediates else "has weights, so write 'w8' or 'w8a8'"
            )
            raise PlanError(f"the plan gives {kind!r} {treatment.precision}, but it {needed}.")
        if treatment.factors is not None and kind in intermediates:
            raise PlanError(f"the plan factorises {kind!r}, which has no weights.")


def copy_sharing_parameters(model: Model) -> Model:
    """New modules, buffers and config around the same parameters."""
    known: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    for part in model.modules():
        # A module has a dozen tables of hooks. They are nearly always empty, and most of the time would go into them.
        tables = (held for held in vars(part).values() if type(held) in (dict, set, OrderedDict))
        known |= {id(table): type(table)() for table in tables if not table}
    return copy.deepcopy(model, known)


def _realise_stack(
    model: PreTrainedModel, stack: Stack, anatomy: StackAnatomy, materials: Mapping[str, Material] | None
) -> None:
    originals = model.get_submodule(anatomy.path)
    assert isinstance(originals, nn.ModuleList)
    biases = _position_biases(originals[0])
    # What belongs to a place and not to a layer is given anew to whatever stands there.
    settle_layers(originals, first=None)
    layers = []
    for position, slot in enumerate(stack.slots):
        if slot.layer is not None:
            site = Site(f"{stack.name}.{position}", slot.layer, slot.treatments, anatomy.linears, anatomy.intermediates)
            layers.append(_realise(originals[slot.layer.originals.start], site, materials))
    _settle(layers, biases)
    model.set_submodule(anatomy.path, nn.ModuleList(layers))


def settle_layers(layers: Iterable[nn.Module], *, first: nn.Module | None) -> None:
    """Gives layers what depends on where they stand in their stack; they are changed in place.

    Caches go by the layer's number. T5 keeps the position bias of a whole stack in its first layer.

    Args:
        layers: all that stand in one stack, in order; each its own module.
        first: a copy of the first layer of the original stack, where its position bias comes from; None takes the
            bias away from all of them.
    """
    _settle(layers, {} if first is None else _position_biases(first))


def _settle(layers: Iterable[nn.Module], biases: Mapping[str, nn.Module]) -> None:
    """As `settle_layers`; `biases` are those of the first place, by the path of their attention in a layer."""
    for position, layer in enumerate(layers):
        numbered: list[Any] = [part for part in layer.modules() if isinstance(getattr(part, "layer_idx", None), int)]
        for part in numbered:
            part.layer_idx = position
        for name, part in layer.named_modules():
            if hasattr(part, "has_relative_attention_bias"):
                _set_position_bias(part, biases.get(name) if position == 0 else None)


def _position_biases(layer: nn.Module) -> dict[str, nn.Module]:
    """Path of an attention in a layer -> the position bias it holds."""
    return {
        name: copy_sharing_parameters(part.relative_attention_bias)
        for name, part in layer.named_modules()
        if getattr(part, "has_relative_attention_bias", False)
    }


def _set_position_bias(attention: Any, bias: nn.Module | None) -> None:
    """Gives an attention of T5 the bias, if it has none; or takes its own away where none is given."""
    if bias is not None and not attention.has_relative_attention_bias:
        attention.relative_attention_bias = bias
    elif bias is None and attention.has_relative_attention_bias:
        del attention.relative_attention_bias
    attention.has_relative_attention_bias = bias is not None


def _set_depths(model: PreTrainedModel, anatomy: Anatomy) -> None:
    """Writes the numbers of layers into every config that the model holds, as loading it from its config would."""
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    depths = [(stack, len(list(model.get_submodule(stack.path).children()))) for stack in anatomy.stacks]
    for stack, depth in depths:
        for config in configs.values():
            for setting in stack.depth_settings:
                setattr(config, setting, depth)
    for stack, depth in depths:
        own = getattr(model.get_submodule(stack.path.rpartition(".")[0]), "config", model.config)
        if own is not model.config:  # T5: each stack reads its own copy, under the name of an encoder's depth
            own.num_hidden_layers = depth


def _realise(module: nn.Module, site: Site, materials: Mapping[str, Material] | None) -> nn.Module:
    """Lets every axis carry out its part, in the fixed order."""
    for name in axes.names():
        material = None if materials is None else materials.get(name, {})
        module = axes.load(name).realise(module, site, material)
    return module

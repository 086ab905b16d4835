"""Tensors that a model holds under several names: a word table that is also the decoder's, and the output's."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def tied_names(model: nn.Module) -> dict[str, str]:
    """Every name but the first of each tensor that has several -> the first one, in the order of the state dict."""
    first: dict[tuple[Any, ...], str] = {}
    ties = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        known = first.setdefault(_identity(tensor), name)
        if known != name:
            ties[name] = known
    return ties


def distinct_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with every tensor under its first name only, contiguous, none a view of another's memory."""
    ties = tied_names(model)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in ties}
    return {
        name: tensor.contiguous() if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in tensors.items()
    }


def with_tied(tensors: Mapping[str, Tensor], ties: Mapping[str, str]) -> dict[str, Tensor]:
    """These tensors under all their names: the inverse of leaving the tied names out."""
    return {**{alias: tensors[name] for alias, name in ties.items() if name in tensors}, **tensors}


def tie(model: nn.Module, ties: Mapping[str, str]) -> None:
    """Makes the parameter or buffer of the second name that of the first as well, where both are of one sort."""
    for alias, name in ties.items():
        (to, to_name), (source, source_name) = _owner(model, alias), _owner(model, name)
        for kept_in in ("_parameters", "_buffers"):
            if to_name in getattr(to, kept_in) and source_name in getattr(source, kept_in):
                getattr(to, kept_in)[to_name] = getattr(source, kept_in)[source_name]


def holders(model: nn.Module, weight: Tensor) -> dict[str, nn.Module]:
    """The parts that hold a weight, by name: one module may stand at several places."""
    parts = model.named_modules(remove_duplicate=False)
    return {name: part for name, part in parts if getattr(part, "weight", None) is weight}


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors only if they are the same memory, seen in the same way."""
    if tensor.is_meta or not tensor.numel():
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _owner(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor, and the tensor's name in it."""
    parent, _, name = path.rpartition(".")
    return model.get_submodule(parent), name

"""Which kernels the Linears of a compiled OpenVINO model run on, as the compiled model says itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..spaces.quantised import BFloat16Linear, QuantLinear
from .runtimes import kernel_for

_PRODUCTS = ("FullyConnected", "MatMul")
_INTEGERS, _SHORT_INTEGERS = ("i8", "u8"), ("i4", "u4")
_SHORT = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """What a Linear asks for: `kernel_for` its precision, for a weight of this shape, out x in."""

    kernel: str
    shape: tuple[int, int]


def kernels_asked(model: nn.Module) -> dict[str, Asked]:
    """By name, what every Linear that has a precision asks for."""
    return {
        name: Asked(kernel_for(part.precision), (part.out_features, part.in_features))
        for name, part in model.named_modules()
        if isinstance(part, (QuantLinear, BFloat16Linear))
    }


def kernels_run(compiled: Any, asked: Mapping[str, Asked]) -> list[str]:
    """The kernels of those Linears that run on the one asked for, as the compiled model says itself.

    Args:
        compiled: a compiled model converted after `prepare`.
        asked: from `kernels_asked`.
    """
    ran, nameless = set(), []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        if str(facts["layerType"].value) not in _PRODUCTS:
            continue
        types = tuple(port.get_element_type().get_type_name() for port in operation.inputs()[:2])
        # Products are named after what was fused into them, too: names of their own follow that of the Linear.
        names = {name.partition("/")[0] for name in str(facts["originalLayersNames"].value).split(",")} & asked.keys()
        ran |= {name for name in names if _is(asked[name].kernel, *types)}
        shape = operation.input(1).get_partial_shape()
        if not names and shape.is_static:
            nameless.append((types, tuple(shape.to_shape())))
    # Where a product is scaled right after, that scale replaces its name; its weight is still that of a Linear.
    for name in asked.keys() - ran:
        found = [one for one in nameless if one[1] == asked[name].shape and _is(asked[name].kernel, *one[0])]
        if found:
            nameless.remove(found[0])
            ran.add(name)
    return [asked[name].kernel for name in ran]


def _is(kernel: str, inputs: str, weights: str) -> bool:
    """Whether a product of these types is such a kernel."""
    if kernel == "int8":
        return inputs in _INTEGERS and weights in _INTEGERS
    if kernel == "bf16":
        return inputs == weights == "bf16"
    return inputs == "f32" and weights in (_SHORT_INTEGERS if int(kernel[1:]) <= _SHORT else _INTEGERS)

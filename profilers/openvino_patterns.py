"""What quantised modules are in OpenVINO's operators: the patterns that its processor plug-in has kernels for.

Weights are constants of 4 or 8 bits, then a Convert and a Multiply. Behind inputs that a FakeQuantize rounds, such
a product is lowered to integers; behind float inputs the weight stays as it is, and is made float inside the product.
Files hold the constants as they are, so a saved model is as small as its codes.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from ..spaces.blocks import Quantised, real_scale, spread
from ..spaces.precision import BFLOAT16, Precision
from ..spaces.quantised import BFloat16Linear, InputRange, QuantEmbedding, QuantLinear

_LEVELS = 256
# Products of float inputs with weights in smaller groups are slower than those with float weights, or there are none.
_LEAST_GROUP = 8
_SHORT = 4
_LARGEST = torch.finfo(torch.float32).max
_MOVES = ("Reshape", "Transpose")


def openvino() -> Any:
    """The package, kept from reporting to its makers, which it does on import; without that package it is silent."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")


def prepare(model: nn.Module) -> list[Any]:
    """Makes a model with quantised modules ready for `openvino.convert_model`.

    Args:
        model: its quantised modules are replaced by stand-ins, the rest is left as it is.

    Returns:
        What the conversion has to be told as its extensions; the product of a Linear gets the Linear's name.
    """
    openvino()
    frontend = import_module("openvino.frontend.pytorch")
    told = []
    for name, part in list(model.named_modules()):
        pattern = next((found for kind, found in _PATTERNS.items() if isinstance(part, kind)), None)
        if pattern is not None:
            stand_in, operator = _StandIn(part), f"paring::{name}"
            model.set_submodule(name, stand_in)
            told.append(frontend.ModuleExtension(stand_in, operator))
            told.append(frontend.ConversionExtension(operator, _conversion(pattern, part, name)))
    return told


class _StandIn(nn.Module):
    """Answers zeros of the right shape: what a module does that becomes one operator must not be traced."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self._looks_up = isinstance(part, QuantEmbedding)
        self._width = int(getattr(part, "embedding_dim" if self._looks_up else "out_features"))

    def forward(self, inputs: Tensor) -> Tensor:
        """... ids, or ... x in -> ... x width."""
        return torch.zeros(*(inputs.shape if self._looks_up else inputs.shape[:-1]), self._width)


def finish(converted: Any) -> None:
    """What a conversion leaves to do, so that all of it runs on the plug-in's kernels; the meaning stays as it is."""
    for operation in converted.get_ordered_ops():
        _unmark(operation)
        if operation.get_type_name() == "FakeQuantize":
            _raise(operation)


def products(weights: Sequence[Tensor]) -> Any:
    """A model of nothing but products, one after the other: rows x in -> rows x out of the last matrix."""
    ops = _operators()
    inputs = ops.parameter([-1, weights[0].shape[1]], openvino().Type.f32)
    values = inputs
    for weight in weights:
        values = ops.matmul(values, _constant(weight, "f32"), False, True)
    return openvino().Model([values], [inputs])


def _unmark(operation: Any) -> None:
    """Takes away the conversion's marks that constants must not be computed beforehand; files do not keep them either.

    With them, weights of 4 bits behind integer inputs are unpacked in a way that costs time in every request.
    """
    facts = operation.get_rt_info()
    for mark in [name for name in list(facts.keys()) if name.startswith("DisableConstantFolding")]:
        del facts[mark]


def _raise(rounding: Any) -> None:
    """Rounds a tensor before it is cut into heads, not after: there it is one with the product before."""
    ends = [rounding.input_value(port).get_node() for port in range(1, 5)]
    if any(end.get_type_name() != "Constant" or end.get_data().size != 1 for end in ends):
        return
    first = last = rounding.input_value(0).get_node()
    if not _moves_alone(last.output(0)):
        return
    while _moves_alone(first.input_value(0)):
        first = first.input_value(0).get_node()
    # The tensor has fewer dimensions before it is cut, and the ends may have no more.
    scalars = [_constant(torch.tensor(end.get_data().item(), dtype=torch.float32), "f32") for end in ends]
    raised = _operators().fake_quantize(first.input_value(0), *scalars, rounding.get_levels())
    for consumer in rounding.output(0).get_target_inputs():
        consumer.replace_source_output(last.output(0))
    first.input(0).replace_source_output(raised.output(0))


def _moves_alone(output: Any) -> bool:
    """Whether a result is only moved about, and goes to one place."""
    return output.get_node().get_type_name() in _MOVES and len(output.get_target_inputs()) == 1


def _conversion(pattern: Callable[..., Any], part: nn.Module, name: str) -> Callable[[Any], list[Any]]:
    """What the front end calls where it meets the part."""

    def convert(context: Any) -> list[Any]:
        outputs: list[Any] = pattern(part, context.get_input(0), name).outputs()
        return outputs

    return convert


def _linear(part: QuantLinear, inputs: Any, name: str) -> Any:
    """... x in -> ... x out."""
    found, by_row = part.quantised(), None
    if part.precision.has_integer_inputs:
        inputs = _rounded(inputs, part.input_range())
        by_row = found.by_row()
    weight = _float_weight(found) if by_row is None else _integer_weight(found, *by_row)
    return _product(inputs, weight, part.bias, name)


def _bfloat16_linear(part: BFloat16Linear, inputs: Any, name: str) -> Any:
    """... x in -> ... x out; where inputs are bfloat16, the product is rounded to it too, before the bias is added."""
    if part.precision.activation_bits == BFLOAT16:
        return _product(_cast(inputs, "bf16"), _constant(part.rounded, "bf16"), part.bias, name)
    return _product(inputs, _cast(_constant(part.rounded, "bf16"), "f32"), part.bias, name)


def _embedding(part: QuantEmbedding, ids: Any, name: str) -> Any:
    """... ids -> ... x width.

    A table of 4 bits is looked up whole; one of 8 bits would be made float when there are integer products beside it,
    so there codes and scales are looked up apart.
    """
    ops = _operators()
    found, axis = part.quantised(), _constant(torch.tensor(0), "i64")
    if _kind(found) == "i4":
        words = ops.gather(_float_weight(found), ids, axis)
    else:
        rows, columns = found.integers.shape
        tall, wide = found.precision.block
        groups, width = _groups(found.precision, columns)
        blocks = spread(real_scale(found.scale), (1, (wide or columns) // width), len(found.scale), groups)
        place = ids if tall == 1 else ops.divide(ids, ops.convert_like(_constant(torch.tensor(tall), "i64"), ids))
        codes = ops.gather(_constant(found.integers.view(rows, groups, width), "i8"), ids, axis)
        scales = ops.gather(_constant(blocks.unsqueeze(-1), "bf16"), place, axis)
        words = ops.multiply(_cast(codes, "f32"), _cast(scales, "f32"))
        shape = ops.concat([ops.shape_of(ids), _constant(torch.tensor([columns]), "i64")], 0)
        words = ops.reshape(words, shape, False)
    if part.embed_scale != 1:
        words = ops.multiply(words, _constant(torch.tensor(part.embed_scale), "f32"))
    words.set_friendly_name(name)
    return words


_PATTERNS: Mapping[type[nn.Module], Callable[..., Any]] = {
    QuantLinear: _linear,
    BFloat16Linear: _bfloat16_linear,
    QuantEmbedding: _embedding,
}


def _product(inputs: Any, weight: Any, bias: Tensor | None, name: str) -> Any:
    """The matrix product under the name of its Linear, float32, and the bias."""
    ops = _operators()
    product = ops.matmul(inputs, weight, False, True)
    product.set_friendly_name(name)
    if product.get_output_element_type(0).get_type_name() == "bf16":
        product = _cast(product, "f32")
        product.set_friendly_name(f"{name}/float")
    if bias is None:
        return product
    biased = ops.add(product, _constant(bias, "f32"))
    biased.set_friendly_name(f"{name}/bias")
    return biased


def _rounded(inputs: Any, found: InputRange) -> Any:
    """The values that the codes of these inputs stand for, divided by their factors.

    Integer kernels are found for 256 levels. Fewer are the lowest of 256: what lies above them is cut off before.
    """
    ops = _operators()
    if found.inverse_factors is not None:
        if _is_product(inputs.get_node()):
            # OpenVINO 2026.4 loses a factor per feature right behind a product that goes elsewhere too.
            inputs = ops.clamp(inputs, -_LARGEST, _LARGEST)
        inputs = ops.multiply(inputs, _constant(found.inverse_factors, "f32"))
    if found.largest < _LEVELS - 1:
        inputs = ops.clamp(inputs, -found.zero_point * found.scale, (found.largest - found.zero_point) * found.scale)
    ends = [
        _constant(torch.tensor((code - found.zero_point) * found.scale, dtype=torch.float32), "f32")
        for code in (0, _LEVELS - 1)
    ]
    return ops.fake_quantize(inputs, *ends, *ends, _LEVELS)


def _is_product(node: Any) -> bool:
    """Whether a result is that of a Linear, with or without a bias."""
    if node.get_type_name() == "Add":
        return any(port.get_node().get_type_name() == "MatMul" for port in node.input_values())
    return bool(node.get_type_name() == "MatMul")


def _integer_weight(found: Quantised, integers: Tensor, scale: Tensor) -> Any:
    """A weight that 8-bit integers with one scale per row say exactly; kept in 4 bits where it has no more."""
    ops = _operators()
    rows, columns = integers.shape
    groups, width = _groups(found.precision, columns)
    if _kind(found) == "i4" and width >= _LEAST_GROUP:
        tall = found.precision.block[0] if rows % found.precision.block[0] == 0 else 1
        factors = (_scales(found, groups, width) / scale.unsqueeze(-1))[::tall].round().int()
        weight = _constant(found.integers.view(-1, tall, groups, width), "i4")
        if (factors != 1).any():
            # In 8 bits the plug-in would take the factors for scales, and not compute the weight beforehand.
            weight = ops.multiply(_cast(weight, "i32"), _constant(factors[:, None, :, None], "i32"))
        weight = _cast(weight, "i8")
        weight = ops.reshape(weight, _constant(torch.tensor([rows, columns]), "i64"), False)
    else:
        weight = _constant(integers, "i8")
    return ops.multiply(_cast(weight, "f32"), _constant(scale.unsqueeze(-1), "f32"))


def _float_weight(found: Quantised) -> Any:
    """A weight that is made float where it is used."""
    ops = _operators()
    rows, columns = found.integers.shape
    groups, width = _groups(found.precision, columns)
    if width < min(_LEAST_GROUP, columns):
        return _constant(found.dense(), "f32")
    kind = _kind(found)
    scales = _scales(found, groups, width)
    if groups == 1:
        return ops.multiply(_cast(_constant(found.integers, kind), "f32"), _cast(_constant(scales, "bf16"), "f32"))
    codes = _cast(_constant(found.integers.view(rows, groups, width), kind), "f32")
    weight = ops.multiply(codes, _cast(_constant(scales.unsqueeze(-1), "bf16"), "f32"))
    return ops.reshape(weight, _constant(torch.tensor([rows, columns]), "i64"), False)


def _kind(found: Quantised) -> str:
    """The type that keeps these integers; OpenVINO 2026.4 gives wrong products where groups of 4 bits are odd."""
    bits, (_, width) = found.precision.weight_bits, _groups(found.precision, found.integers.shape[1])
    return "i4" if bits is not None and bits <= _SHORT and width % 2 == 0 else "i8"


def _groups(precision: Precision, columns: int) -> tuple[int, int]:
    """How many groups of columns share scales, and how wide these are; where blocks do not divide a row, parts do."""
    wide = precision.block[1]
    width = columns if wide is None or wide >= columns else gcd(wide, columns)
    return columns // width, width


def _scales(found: Quantised, groups: int, width: int) -> Tensor:
    """The scale of every group of every row: rows x groups, float32."""
    rows, columns = found.integers.shape
    tall, wide = found.precision.block
    return spread(real_scale(found.scale), (tall, (wide or columns) // width), rows, groups)


def _constant(values: Tensor, kind: str) -> Any:
    """A constant of one of OpenVINO's types, which for two of them is written as numpy has no such type."""
    own = openvino()
    tensor = own.Tensor(getattr(own.Type, kind), own.Shape(list(values.shape)))
    if kind == "i4":
        # Two to a byte, the first in the lower half.
        halves = torch.nn.functional.pad(values.flatten() & 0xF, (0, values.numel() % 2)).to(torch.uint8)
        values = halves[0::2] | (halves[1::2] << 4)
        tensor.data.reshape(-1).view("uint8")[:] = values.numpy()
    elif kind == "bf16":
        tensor.data.view("uint16")[...] = values.to(torch.bfloat16).view(torch.uint16).numpy()
    else:
        tensor.data[...] = values.numpy()
    return _operators().constant(tensor)


def _cast(values: Any, kind: str) -> Any:
    return _operators().convert(values, kind)


def _operators() -> Any:
    openvino()
    return import_module("openvino.opset13")

"""Linears and tables of words as ONNX nodes: what they mean, on the kernels of ONNX Runtime that keep to it.

A node that stands for the kernel of a Linear is called by what `kernel_for` says, a colon, and the Linear's path.
"""

import hashlib
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..spaces.blocks import Quantised, real_scale, spread
from ..spaces.precision import BFLOAT16, Precision
from ..spaces.quantised import BFloat16Linear, QuantEmbedding, QuantLinear
from .runtimes import kernel_for

MICROSOFT = "com.microsoft"
# Block sizes of MatMulNBits, the largest first: powers of two from 16 on. Larger ones are no faster.
_BLOCK_SIZES = (128, 64, 32, 16)


class Graph:
    """Nodes and constants of an ONNX graph, as they are written."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._onnx = import_module("onnx")
        self._known: dict[tuple[Any, ...], str] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Keeps a constant under this name."""
        self.constants[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def scalar(self, value: float, dtype: type[Any]) -> str:
        """Keeps a scalar; equal ones are one constant."""
        name = f"{np.dtype(dtype).name} {value!r}"
        return name if name in self.constants else self.constant(name, np.array(value, dtype))

    def vector(self, value: NDArray[Any]) -> str:
        """Keeps a constant that is called by what is in it; equal ones are one."""
        name = f"{value.dtype.name} {hashlib.sha256(value.tobytes()).hexdigest()[:16]}"
        return name if name in self.constants else self.constant(name, value)

    def add(
        self, kind: str, inputs: Sequence[str], output: str, *, name: str = "", domain: str = "", **how: Any
    ) -> str:
        """Writes a node that gives out `output`."""
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], name=name, domain=domain, **how))
        return output

    def shared(self, kind: str, inputs: Sequence[str], **how: Any) -> str:
        """The output of such a node, which is written once: query, key and value round the same inputs alike."""
        key = (kind, *inputs, *how.items())
        if key not in self._known:
            self._known[key] = self.add(kind, inputs, f"{inputs[0]} {kind} {len(self._known)}", **how)
        return self._known[key]


def write_part(graph: Graph, name: str, part: nn.Module, inputs: str, output: str, *, integer_products: bool) -> None:
    """Writes what a part means, in the operators that ONNX Runtime has kernels for.

    Args:
        graph: what is written to.
        name: the part's path in its model.
        part: a Linear or a table of words, quantised or not.
        inputs: what is taken in: ... x in, float; or ids.
        output: what is given out: ... x width, float.
        integer_products: see `onnx_export.to_onnx`.
    """
    if isinstance(part, QuantEmbedding):
        _write_table(graph, name, part, inputs, output)
    elif isinstance(part, QuantLinear):
        _write_quantised(graph, name, part, inputs, output, integer_products=integer_products)
    elif isinstance(part, nn.Embedding):
        graph.add("Gather", [graph.constant(f"{name}.weight", _array(part.weight)), inputs], output)
    else:
        assert isinstance(part, nn.Linear | BFloat16Linear)
        bias = "" if part.bias is None else graph.constant(f"{name}.bias", _array(part.bias))
        if isinstance(part, nn.Linear):
            _write_dense(graph, name, part.weight, bias, inputs, output)
            return
        if part.precision.activation_bits == BFLOAT16:
            kinds = import_module("onnx").TensorProto
            inputs = graph.shared("Cast", [inputs], to=kinds.BFLOAT16)
            inputs = graph.shared("Cast", [inputs], to=kinds.FLOAT)
        _write_dense(graph, name, part.rounded, bias, inputs, output)


def _write_dense(graph: Graph, name: str, weight: Tensor, bias: str, inputs: str, output: str) -> None:
    product = f"{output} product" if bias else output
    graph.add("MatMul", [inputs, graph.constant(f"{name}.weight", _array(weight.float().t()))], product)
    if bias:
        graph.add("Add", [product, bias], output)


def _write_table(graph: Graph, name: str, part: QuantEmbedding, ids: str, output: str) -> None:
    """Looks up integers of 8 bits and their scales; nothing else of the table becomes float."""
    found = part.quantised()
    tall, wide = part.precision.block
    codes = graph.add("Gather", [graph.constant(f"{name}.integers", _array(found.integers)), ids], f"{output} integers")
    values = graph.add("Cast", [codes], f"{output} values", to=import_module("onnx").TensorProto.FLOAT)
    blocks = ids if tall == 1 else graph.add("Div", [ids, graph.scalar(tall, np.int64)], f"{output} blocks")
    scales = _array(real_scale(found.scale) * part.embed_scale)
    scale = graph.add("Gather", [graph.constant(f"{name}.scale", scales), blocks], f"{output} scale")
    if wide is not None:
        columns = graph.constant(f"{name}.columns", np.arange(part.embedding_dim) // wide)
        scale = graph.add("Gather", [scale, columns], f"{output} spread", axis=-1)
    graph.add("Mul", [values, scale], output)


def _write_quantised(
    graph: Graph, name: str, part: QuantLinear, inputs: str, output: str, *, integer_products: bool
) -> None:
    """Integers times integers where both are; integers made float for the product; or a weight that is float."""
    found, kernel = part.quantised(), f"{kernel_for(part.precision)}:{name}"
    bias = "" if part.bias is None else graph.constant(f"{name}.bias", _array(part.bias))
    by_row, size = found.by_row(), block_size(part.precision, part.in_features)
    if part.precision.has_integer_inputs:
        codes, scale, zero_point = _input_codes(graph, part, inputs)
        if integer_products and by_row is not None:
            integers = graph.constant(f"{name}.integers", _array(by_row[0].t()))
            scales = graph.constant(f"{name}.scale", _array(by_row[1]))
            operands = [codes, integers, scale, scales, zero_point, "", bias]
            graph.add("MatMulIntegerToFloat", operands, output, name=kernel, domain=MICROSOFT)
            return
        inputs = graph.shared("DequantizeLinear", [codes, scale, zero_point])
        _write_dense(graph, name, found.dense(), bias, inputs, output)
    elif by_row is not None and not _fits_4_bits(part.precision):
        _write_by_row(graph, name, by_row, bias, inputs, output, kernel=kernel)
    elif size is not None:
        _write_blocks(graph, name, found, bias, inputs, output, kernel=kernel, size=size)
    else:
        _write_dense(graph, name, found.dense(), bias, inputs, output)


def _write_by_row(
    graph: Graph, name: str, by_row: tuple[Tensor, Tensor], bias: str, inputs: str, output: str, *, kernel: str
) -> None:
    """Makes 8-bit integers float whenever they are used: 1.4 to 6 times as fast as the kernel for blocks of them."""
    operands = [
        graph.constant(f"{name}.integers", _array(by_row[0])),
        graph.constant(f"{name}.scale", _array(by_row[1])),
    ]
    weight = graph.add("DequantizeLinear", operands, f"{output} weight", name=kernel, axis=0)
    product = f"{output} product" if bias else output
    # An ordinary MatMul behind a DequantizeLinear would have its inputs rounded behind our back.
    graph.add("FusedMatMul", [inputs, weight], product, domain=MICROSOFT, transB=1)
    if bias:
        graph.add("Add", [product, bias], output)


def _write_blocks(
    graph: Graph, name: str, found: Quantised, bias: str, inputs: str, output: str, *, kernel: str, size: int
) -> None:
    rows, columns = found.integers.shape
    bits, codes, scales = in_blocks(found, size)
    operands = [inputs, graph.constant(f"{name}.codes", codes), graph.constant(f"{name}.scale", scales), "", "", bias]
    how = {"K": columns, "N": rows, "bits": bits, "block_size": size}
    # With a level above 1 the kernel would round the inputs behind our back.
    graph.add("MatMulNBits", operands, output, name=kernel, domain=MICROSOFT, accuracy_level=1, **how)


def _input_codes(graph: Graph, part: QuantLinear, inputs: str) -> tuple[str, str, str]:
    """Codes of the inputs, their scale and their zero point."""
    found = part.input_range()
    if found.inverse_factors is not None:
        inputs = graph.shared("Mul", [inputs, graph.vector(_array(found.inverse_factors))])
    scale = graph.scalar(found.scale, np.float32)
    zero_point = graph.scalar(found.zero_point, np.uint8)
    codes = graph.shared("QuantizeLinear", [inputs, scale, zero_point])
    if found.largest < 255:
        codes = graph.shared("Clip", [codes, graph.scalar(0, np.uint8), graph.scalar(found.largest, np.uint8)])
    return codes, scale, zero_point


def _fits_4_bits(precision: Precision) -> bool:
    return precision.weight_bits is not None and precision.weight_bits <= 4


def block_size(precision: Precision, columns: int) -> int | None:
    """The largest block of columns MatMulNBits takes in which all scales are alike; None if there is none."""
    wide = precision.block[1]
    if wide is None or wide >= columns:
        return next((size for size in _BLOCK_SIZES if size <= columns), _BLOCK_SIZES[-1])
    return next((size for size in _BLOCK_SIZES if wide % size == 0), None)


def in_blocks(found: Quantised, size: int) -> tuple[int, NDArray[np.uint8], NDArray[np.float32]]:
    """A matrix as MatMulNBits takes it.

    Args:
        found: rows x columns, weights of 2 to 8 bits.
        size: columns of a block, in which all scales of a row are alike.

    Returns:
        4 or 8 bits; codes, rows x blocks x bytes, the first of two in the lower half of a byte; scales, rows x blocks.
    """
    rows, columns = found.integers.shape
    bits = 4 if _fits_4_bits(found.precision) else 8
    blocks = -(-columns // size)
    # What lies beyond the last column stands for 0.
    integers = np.zeros((rows, blocks * size), np.int16)
    integers[:, :columns] = _array(found.integers)
    codes = (integers + 2 ** (bits - 1)).astype(np.uint8)
    if bits == 4:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    scales = spread(real_scale(found.scale), found.precision.block, rows, columns)[:, ::size]
    return bits, codes.reshape(rows, blocks, -1), _array(scales)


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().numpy()

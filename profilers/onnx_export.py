"""A compressed encoder as an ONNX graph, with the same meaning as its modules.

torch's exporter writes what lies between Linears and tables of words; those are single nodes to it, and each is put in
here, in the operators that ONNX Runtime has kernels for. So no weight goes through the exporter, and nothing that it
does to a graph can change which numbers are multiplied.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..spaces.artefact import quiet_transformers
from ..spaces.build import copy_sharing_parameters
from ..spaces.quantised import BFloat16Linear, QuantEmbedding, QuantLinear
from .encoder_tracing import Logits, example_inputs, input_names
from .factored_products import Pays, Settled, settle
from .onnx_parts import MICROSOFT, Graph, write_part
from .runtimes import kernel_for

_PARTS = (nn.Linear, nn.Embedding, QuantLinear, QuantEmbedding, BFloat16Linear)
_DOMAIN, _OPSET, _IR_VERSION = "paring", 20, 9


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """An encoder as an ONNX model.

    Attributes:
        proto: an `onnx.ModelProto` that holds its weights; batch and tokens are free. Nodes with a kernel of their own
            are called by what `kernel_for` says, a colon, and the path of their Linear.
        names: of its inputs, in their order.
        asked: `kernel_for` of every Linear that has a precision.
        settled: what became of its factorised Linears.
    """

    proto: Any
    names: tuple[str, ...]
    asked: tuple[str, ...]
    settled: Settled


def to_onnx(model: nn.Module, *, integer_products: bool, pays: Pays) -> OnnxModel:
    """Writes an encoder as an ONNX graph; the model itself is not changed.

    Args:
        model: from `build`, or loaded from an artefact.
        integer_products: whether Linears with integer inputs multiply integers; else they do it in float, with the
            same meaning.
        pays: see `settle`.
    """
    model = copy_sharing_parameters(model)
    settled = settle(model, pays)
    parts = {name: part for name, part in model.named_modules() if type(part) in _PARTS}
    proto, names = _outline(model, parts)
    graph = Graph()
    for node in proto.graph.node:
        if node.domain == _DOMAIN:
            name = str(node.attribute[0].s, "utf8")
            write_part(graph, name, parts[name], node.input[0], node.output[0], integer_products=integer_products)
        else:
            graph.nodes.append(node)
    nodes = list(graph.nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(graph.constants.values())
    # Shapes the exporter inferred; they say nothing that is needed, and quantisers stumble over them.
    del proto.graph.value_info[:]
    kept = [opset for opset in proto.opset_import if opset.domain != _DOMAIN]
    del proto.opset_import[:]
    proto.opset_import.extend([*kept, import_module("onnx").helper.make_opsetid(MICROSOFT, 1)])
    treated = (part.precision for part in parts.values() if isinstance(part, QuantLinear | BFloat16Linear))
    return OnnxModel(proto, names, tuple(map(kernel_for, treated)), settled)


class _Node(torch.autograd.Function):
    """One node in the exported graph; what it computes is put in later."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, part: str, shape: Sequence[int]) -> Tensor:
        """Zeros of the right shape."""
        return torch.zeros(shape)

    @staticmethod
    def symbolic(graph: Any, inputs: Any, part: str, shape: Sequence[int]) -> Any:
        """What the exporter writes."""
        node = graph.op(f"{_DOMAIN}::Part", inputs, part_s=part)
        node.setType(inputs.type().with_dtype(torch.float32).with_sizes([None] * (len(shape) - 1) + [shape[-1]]))
        return node


class _StandIn(nn.Module):
    """A Linear or a table of words as one node."""

    weight: None = None

    def __init__(self, name: str, part: Any) -> None:
        super().__init__()
        self._name = name
        self._is_table = isinstance(part, nn.Embedding | QuantEmbedding)
        self._width = part.embedding_dim if self._is_table else part.out_features

    def forward(self, inputs: Tensor) -> Tensor:
        """... ids or ... x in -> ... x width."""
        lead = inputs.shape if self._is_table else inputs.shape[:-1]
        apply: Any = _Node.apply
        return cast(Tensor, apply(inputs, self._name, (*map(int, lead), self._width)))


class _Masked(Logits):
    """What transformers makes of a mask depends on what is in it, which a graph cannot do; it adds this as it is."""

    def named(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """With the mask as numbers to add, batch x 1 x 1 x tokens."""
        found = super().named(inputs)
        masked = found["attention_mask"][:, None, None, :] == 0
        return {**found, "attention_mask": masked.float() * torch.finfo(torch.float32).min}


def products_onnx(weights: Sequence[Tensor]) -> Any:
    """A model of nothing but products, one after the other: "inputs", rows x in, -> rows x out of the last matrix."""
    onnx, graph = import_module("onnx"), Graph()
    values = "inputs"
    for number, weight in enumerate(weights):
        matrix = graph.constant(f"weight {number}", weight.t().numpy())
        values = graph.add("MatMul", [values, matrix], f"product {number}")
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    inputs = make("inputs", kind, [None, weights[0].shape[1]])
    outputs = make(values, kind, [None, weights[-1].shape[0]])
    written = onnx.helper.make_graph(graph.nodes, "products", [inputs], [outputs], list(graph.constants.values()))
    opset = onnx.helper.make_opsetid("", _OPSET)
    return onnx.helper.make_model(written, opset_imports=[opset], ir_version=_IR_VERSION)


def _outline(model: nn.Module, parts: Mapping[str, nn.Module]) -> tuple[Any, tuple[str, ...]]:
    """The graph with a node for each part, and the names of its inputs."""
    own: Any = copy_sharing_parameters(model)
    for name, part in parts.items():
        own.set_submodule(name, _StandIn(name, part))
    # The fused attention is written with checks for rows without a token, which keep it from being fused again.
    own.set_attn_implementation("eager")
    names = input_names(own)
    free = {name: {0: "batch", 1: "tokens"} for name in names}
    with (
        TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        quiet_transformers(),
        torch.no_grad(),
    ):
        # The tracer warns of branches on shapes; that the result holds for other shapes is what the tests check.
        # It is torch's older exporter, ten times as quick as the newer one, and says so.
        warnings.simplefilter("ignore")
        path = Path(folder, "outline.onnx")
        torch.onnx.export(
            _Masked(own.eval(), names),
            example_inputs(names),
            path,
            dynamo=False,
            opset_version=_OPSET,
            custom_opsets={_DOMAIN: 1},
            input_names=list(names),
            output_names=["logits"],
            dynamic_axes={**free, "logits": {0: "batch"}},
        )
        return import_module("onnx").load_model(path), names

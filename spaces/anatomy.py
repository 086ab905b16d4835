"""Where a model keeps its parts: layer stacks, Linears by kind, embeddings.

One table of families says it all; a new family is a new row. Paths are those of `nn.Module.get_submodule`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel

from ..errors import ModelError
from .plan import Layer, Plan, Slot, Stack


@dataclass(frozen=True, slots=True)
class StackAnatomy:
    """One stack of layers.

    Attributes:
        name: "encoder" or "decoder".
        path: of the `nn.ModuleList` that holds the layers, from the model.
        depth_setting: the attribute of the model's config that holds the number of layers.
        linears: kind of Linear -> its path inside one layer.
        n_layers: how many layers the original has.
    """

    name: str
    path: str
    depth_setting: str
    linears: Mapping[str, str]
    n_layers: int = 0


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where one model keeps its parts.

    Attributes:
        family: the model type, as its config names it.
        stacks: its layer stacks, in the order they run.
        outside: kind -> path of the parts outside the stacks that an axis may change.
    """

    family: str
    stacks: tuple[StackAnatomy, ...]
    outside: Mapping[str, str]

    def identity(self) -> Plan:
        """The plan that changes nothing."""
        return Plan(
            tuple(Stack(stack.name, tuple(Slot(Layer(i)) for i in range(stack.n_layers))) for stack in self.stacks)
        )

    def stack(self, name: str) -> StackAnatomy:
        """The stack of this name."""
        return next(stack for stack in self.stacks if stack.name == name)


_BERT_LINEARS = MappingProxyType(
    {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "ffn_in": "intermediate.dense",
        "ffn_out": "output.dense",
    }
)
_DISTILBERT_LINEARS = MappingProxyType(
    {
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "ffn_in": "ffn.lin1",
        "ffn_out": "ffn.lin2",
    }
)
_BERT_STACK = StackAnatomy("encoder", "encoder.layer", "num_hidden_layers", _BERT_LINEARS)
_DISTILBERT_STACK = StackAnatomy("encoder", "transformer.layer", "n_layers", _DISTILBERT_LINEARS)
_BERT_OUTSIDE = MappingProxyType({"embeddings": "embeddings.word_embeddings"})

Part = TypeVar("Part", bound=nn.Module)

# Paths are those inside the base model; `anatomy_of` puts the base model's own name in front.
FAMILIES: Mapping[str, tuple[tuple[StackAnatomy, ...], Mapping[str, str]]] = MappingProxyType(
    {
        "bert": ((_BERT_STACK,), _BERT_OUTSIDE),
        "roberta": ((_BERT_STACK,), _BERT_OUTSIDE),
        "electra": ((_BERT_STACK,), _BERT_OUTSIDE),
        "distilbert": ((_DISTILBERT_STACK,), _BERT_OUTSIDE),
    }
)


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Looks a model's family up and checks that every part is where the table says.

    Args:
        model: a model of the transformers library, with or without a task head.

    Raises:
        ModelError: if the family is not in the table, or a part is not where its family keeps it.
    """
    family = str(model.config.model_type)
    if family not in FAMILIES:
        raise ModelError(f"unknown model family {family!r}; paring knows: {', '.join(sorted(FAMILIES))}.")
    stacks, outside = FAMILIES[family]
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    placed = tuple(
        StackAnatomy(
            stack.name,
            prefix + stack.path,
            stack.depth_setting,
            stack.linears,
            len(_find(model, prefix + stack.path, nn.ModuleList)),
        )
        for stack in stacks
    )
    for stack in placed:
        for path in stack.linears.values():
            _find(model, f"{stack.path}.0.{path}", nn.Linear)
    for path in outside.values():
        _find(model, prefix + path, nn.Embedding)
    return Anatomy(family, placed, MappingProxyType({kind: prefix + path for kind, path in outside.items()}))


def _find(model: nn.Module, path: str, kind: type[Part]) -> Part:
    """The module at a path, of the kind it must be."""
    try:
        part = model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{type(model).__name__} has no part {path!r} where its family keeps one.") from error
    if not isinstance(part, kind):
        raise ModelError(f"{path!r} should be a {kind.__name__}, got a {type(part).__name__}.")
    return part

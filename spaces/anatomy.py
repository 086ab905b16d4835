"""Where a model keeps its parts: layer stacks, Linears by kind, embeddings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self, TypeVar

from torch import nn
from transformers import PreTrainedModel

from ..errors import ModelError
from .factoring import DEFAULT_FACTORING, Factoring
from .families import FAMILIES, Layout, StackAnatomy
from .palette import DEFAULT_PALETTE, Palette
from .plan import Layer, Plan, Slot, Stack
from .tilings import fitting


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where one model keeps its parts.

    Attributes:
        family: the model type, as its config names it.
        stacks: its layer stacks, in the order they run.
        outside: kind -> path of the tables and Linears outside the stacks that an axis may change. Other parts of the
            model may hold the same table (see `spaces/ties.py`); each table is listed once.
        intermediates: kind of result -> paths of the parts outside the stacks that compute it.
        palette: which precisions its parts may be given.
        factoring: which ways there are to factorise them.
        shapes: kind of table or Linear outside the stacks -> rows (words, outputs) and columns of its weight.
    """

    family: str
    stacks: tuple[StackAnatomy, ...]
    outside: Mapping[str, str]
    intermediates: Mapping[str, tuple[str, ...]]
    palette: Palette = DEFAULT_PALETTE
    factoring: Factoring = DEFAULT_FACTORING
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def identity(self) -> Plan:
        """The plan that changes nothing."""
        return Plan(
            tuple(Stack(stack.name, tuple(Slot(Layer(i)) for i in range(stack.n_layers))) for stack in self.stacks)
        )

    def with_modular_layers(self, granularities: Iterable[int]) -> Self:
        """This anatomy with modular layers of those granularities that divide a stack.

        Raises:
            SettingError: if a granularity is below 2.
        """
        wanted = tuple(granularities)
        return replace(
            self,
            stacks=tuple(replace(stack, granularities=fitting(stack.n_layers, wanted)) for stack in self.stacks),
        )

    def stack(self, name: str) -> StackAnatomy:
        """The stack of this name."""
        return next(stack for stack in self.stacks if stack.name == name)


Part = TypeVar("Part", bound=nn.Module)


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
    misfits = []
    for layout in FAMILIES[family]:
        try:
            return _place(model, family, layout)
        except ModelError as error:
            misfits.append(str(error))
    raise ModelError(" ".join(misfits))


def _place(model: PreTrainedModel, family: str, layout: Layout) -> Anatomy:
    """The anatomy of a model of this layout; an error where a part is missing."""
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    stacks = tuple(
        replace(stack, path=prefix + stack.path, n_layers=len(_find(model, prefix + stack.path, nn.ModuleList)))
        for stack in layout.stacks
    )
    stacks = tuple(replace(stack, shapes=_shapes_in(model, stack)) for stack in stacks)
    for stack in stacks:
        for path in (path for paths in stack.intermediates.values() for path in paths):
            _find(model, f"{stack.path}.0.{path}", nn.Module)
    tables: dict[int, tuple[str, str]] = {}
    for kind, path in layout.outside.items():
        tables.setdefault(id(_find(model, prefix + path, nn.Embedding).weight), (kind, prefix + path))
    optional = {kind: prefix + path for kind, path in layout.optional.items()} | dict(layout.heads)
    found = {kind: path for kind, path in optional.items() if _has(model, path)}
    intermediates = {kind: tuple(prefix + path for path in paths) for kind, paths in layout.intermediates.items()}
    for path in (path for paths in intermediates.values() for path in paths):
        _find(model, path, nn.Module)
    outside = MappingProxyType(dict(tables.values()) | found)
    shapes = MappingProxyType({kind: _shape(model.get_submodule(path)) for kind, path in outside.items()})
    return Anatomy(family, stacks, outside, MappingProxyType(intermediates), shapes=shapes)


def _shapes_in(model: nn.Module, stack: StackAnatomy) -> Mapping[str, tuple[int, int]]:
    """The shapes of a stack's Linears, which are alike in all layers."""
    linears = {kind: _find(model, f"{stack.path}.0.{path}", nn.Linear) for kind, path in stack.linears.items()}
    return MappingProxyType({kind: _shape(linear) for kind, linear in linears.items()})


def _shape(part: nn.Module) -> tuple[int, int]:
    assert isinstance(part, nn.Linear | nn.Embedding)
    rows, columns = part.weight.shape
    return int(rows), int(columns)


def _has(model: nn.Module, path: str) -> bool:
    """Whether there is a table or a Linear at a path."""
    try:
        return isinstance(model.get_submodule(path), nn.Embedding | nn.Linear)
    except AttributeError:
        return False


def _find(model: nn.Module, path: str, kind: type[Part]) -> Part:
    """The module at a path, of the kind it must be."""
    try:
        part = model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"{type(model).__name__} has no part {path!r} where its family keeps one.") from error
    if not isinstance(part, kind):
        raise ModelError(f"{path!r} should be a {kind.__name__}, got a {type(part).__name__}.")
    return part

"""Layers that need not be computed again, since a model before began with the same ones and met the same batch.

What a prefix is known by is all that decides its numbers: the content of what the first layer is given, and that of
every layer of the prefix as it was built. What the runtime makes of such a layer is settled once in a process. So
whatever a plan calls its layers, and wherever their ranges and factors came from, what is reused is what would have
been computed, bit for bit.

This works where torch runs a model layer by layer (`TorchExecutable`). Other runtimes run a graph compiled as a whole,
and reuse nothing. Only the first stack of a model has prefixes: the layers of an encoder, or of the encoder of an
encoder-decoder, when it writes as well; a decoder keeps a cache that skipped layers would not fill.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..profilers.runtimes import Executable
from ..profilers.runtimes.torch import TorchExecutable
from ..spaces.anatomy import Anatomy
from .contents import Contents
from .prefix_store import Outputs, PrefixStore, budget_bytes, tensors_in

_PLAIN = (bool, int, float, str, type(None), Tensor)


class PrefixReuse:
    """Reuse of prefixes between the models of one run, on one device.

    Attributes:
        store: what is kept.
    """

    def __init__(self, anatomy: Anatomy, device: torch.device, budget: int | None = None) -> None:
        """Keeps nothing yet.

        Args:
            anatomy: of the original.
            device: where models run.
            budget: bytes that may be kept; None for a tenth of the memory that is free, at most 1 GB.
        """
        depths = {setting for stack in anatomy.stacks for setting in stack.depth_settings}
        self._contents = Contents({"num_hidden_layers", *depths})
        self._path = anatomy.stacks[0].path
        self.store = PrefixStore(budget_bytes(device) if budget is None else budget)

    @contextmanager
    def between(self, model: nn.Module, executable: Executable) -> Iterator[None]:
        """While this lasts, the executable reuses what is kept, and what it computes is kept.

        It must not be timed meanwhile. Its layers are its own again afterwards.

        Args:
            model: what the executable was loaded from, unchanged: what decides numbers can be read from it.
            executable: of any runtime.
        """
        # What a runtime puts in place of a part has no say: it has neither dropout nor a mode to be in.
        is_trained = any(part.training for part in model.modules())
        if not isinstance(executable, TorchExecutable) or is_trained:
            yield
            return
        layers = executable.model.get_submodule(self._path)
        assert isinstance(layers, nn.ModuleList)
        prefixes = self._prefixes(model)
        self.store.meet(prefixes)
        shared = _Pass(prefixes, self._contents, self.store)
        own = list(layers)
        for position, layer in enumerate(own):
            layers[position] = _Slot(position, layer, shared)
        try:
            yield
        finally:
            for position, layer in enumerate(own):
                layers[position] = layer

    def _prefixes(self, model: nn.Module) -> list[str]:
        """The names of the first layer, of the first two, and so on, as far as they can be told."""
        found: list[str] = []
        for layer in model.get_submodule(self._path).children():
            content = self._contents.of(layer)
            if content is None:
                break
            found.append(hashlib.sha256("".join([*found[-1:], content]).encode()).hexdigest())
        return found


class _Slot(nn.Module):
    """Stands where a layer stands."""

    def __init__(self, position: int, layer: nn.Module, shared: "_Pass") -> None:
        super().__init__()
        self._position, self._layer, self._shared = position, layer, shared

    def forward(self, *args: Any, **kwargs: Any) -> Outputs:
        return self._shared.run(self._position, self._layer, args, kwargs)


class _Pass:
    """What the slots of a model know of the batch that goes through them."""

    def __init__(self, prefixes: Sequence[str], contents: Contents, store: PrefixStore) -> None:
        self._prefixes, self._contents, self._store = prefixes, contents, store
        self._batch: str | None = None
        self._depth = 0
        self._known: Outputs | None = None
        self._given: tuple[Sequence[Any], Mapping[str, Any]] = ((), {})
        self._before: Outputs = ()

    def run(self, position: int, layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Outputs:
        """What the layer in this slot gives out: known, or computed and kept."""
        if position == 0:
            self._begin(args, kwargs)
        if position < self._depth:
            # What comes before the last known layer is of no use to anybody, so any of its outputs will do.
            assert self._known is not None
            self._store.layers_saved += 1
            self._before = self._known
            return self._known
        if position and not self._is_fed_as_expected(args, kwargs):
            self._batch = None
        outputs: Outputs = layer(*args, **kwargs)
        self._store.layers_run += 1
        if self._batch is not None and position < len(self._prefixes) and _is_plain(outputs):
            self._store.put(self._prefixes[position], self._batch, outputs)
        else:
            self._batch = None
        self._before = outputs
        return outputs

    def _begin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._given, self._depth, self._known = (args, kwargs), 0, None
        is_plain = all(map(_is_plain, (*args, *kwargs.values())))
        self._batch = self._contents.of(tuple(args), dict(kwargs)) if is_plain else None
        if self._batch is not None:
            self._depth, self._known = self._store.deepest(self._prefixes, self._batch)

    def _is_fed_as_expected(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a layer is given only what the first one was given, or what the layer before gave.

        Anything else would decide numbers too, and is not in the names: such a model would not be reused.
        """
        first_args, first_kwargs = self._given
        before = list(tensors_in(self._before))
        if len(args) != len(first_args) or kwargs.keys() != first_kwargs.keys():
            return False
        if not (args and before and args[0] is before[0]):
            return False
        others = [*zip(args[1:], first_args[1:], strict=True), *((kwargs[name], first_kwargs[name]) for name in kwargs)]
        return all(_same(value, first) or any(value is known for known in before) for value, first in others)


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def _same(value: object, first: object) -> bool:
    if value is first:
        return True
    return isinstance(value, bool | int | float | str) and type(value) is type(first) and value == first

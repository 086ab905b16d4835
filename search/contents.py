"""What decides the numbers that modules compute, as one digest: equal digests mean equal modules, never the converse.

A plan does not say it all: calibrated ranges, smoothing and factors depend on what else stands in the model.
"""

import hashlib
import io
import pickle
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedConfig


class Contents:
    """Digests by content. Those of tensors that live on, as all that a plan leaves alone do, are taken once."""

    def __init__(self, ignored_settings: Collection[str] = ()) -> None:
        """Knows nothing yet.

        Args:
            ignored_settings: of configs: what differs between models and decides no number, as depths do.
        """
        self._ignored = frozenset(ignored_settings)
        self._known: Any = WeakTensorKeyDictionary()

    def of(self, *things: object) -> str | None:
        """The digest of modules, tensors and plain values, hexadecimal.

        A pickle says all that an object holds, so two things with the same pickle are the same; tensors go in by their
        bytes, type, shape, strides and device.

        Returns:
            None where one of them holds something that cannot be told, such as a function without a name.
        """
        found = io.BytesIO()
        try:
            _Pickler(found, self).dump(things)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
            return None
        return hashlib.sha256(found.getbuffer()).hexdigest()

    def described(self, thing: object) -> tuple[object, ...] | None:
        """What stands for a tensor or a config; None for all else, which is pickled as it is."""
        if isinstance(thing, Tensor):
            layout = (str(thing.dtype), tuple(thing.shape), thing.stride(), str(thing.device))
            return (self._bytes_of(thing), *layout)
        if isinstance(thing, PreTrainedConfig):
            own = {name: value for name, value in vars(thing).items() if name not in self._ignored}
            return (type(thing).__qualname__, own)
        return None

    def _bytes_of(self, tensor: Tensor) -> str:
        if tensor.is_inference():  # it has no version, and is somebody's result
            return _hashed(tensor)
        version, digest = self._known.get(tensor, (None, ""))
        if version != tensor._version:
            digest = _hashed(tensor)
            self._known[tensor] = (tensor._version, digest)
        return str(digest)


class _Pickler(pickle.Pickler):
    """Writes the content of tensors and configs by digest."""

    def __init__(self, file: io.BytesIO, contents: Contents) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._contents = contents

    def reducer_override(self, thing: object) -> Any:
        """See `pickle.Pickler`."""
        described = self._contents.described(thing)
        return NotImplemented if described is None else (tuple, (described,))


def _hashed(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content: Any = flat.view(torch.uint8).numpy()
    return hashlib.sha256(content).hexdigest()

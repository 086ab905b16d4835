"""The cache of a worker: filled from the shelf, and what is put into it is shared there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..profilers.replacing import replacing
from .cache import Cache


class Line(Protocol):
    """How a worker reaches the shelf: its methods by name, answers as they return."""

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the shelf and waits for the answer."""


class ShelfCache(Cache):
    """A cache in a worker's own folder, filled from the shelf and shared by it."""

    def __init__(self, folder: Path, call: Line) -> None:
        """Keeps its files in this folder, which is made when first needed."""
        super().__init__(folder)
        self._call = call

    def get(self, key: str) -> Any | None:
        """The value of a key, or None."""
        self.fetch("cache", f"{key}.json", self.folder)
        return super().get(key)

    def put(self, key: str, value: Any) -> None:
        """Keeps a value, for all workers."""
        super().put(key, value)
        self._share(f"{key}.json")

    def get_tensors(self, key: str) -> dict[str, dict[str, Tensor]] | None:
        """Tensors kept by `put_tensors`, or None."""
        self.fetch("cache", f"{key}.safetensors", self.folder)
        return super().get_tensors(key)

    def put_tensors(self, key: str, value: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keeps tensors by two names each, for all workers."""
        super().put_tensors(key, value)
        self._share(f"{key}.safetensors")

    def fetch(self, place: str, name: str, folder: Path) -> None:
        """Copies a file of the shelf into a folder here, unless it is there."""
        if (folder / name).is_file():
            return
        content = self._call("get", place, name)
        if content is not None:
            _write(folder / name, content)

    def _share(self, name: str) -> None:
        own = (self.folder / name).read_bytes()
        kept = self._call("put", "cache", name, own)
        if kept != own:
            _write(self.folder / name, kept)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_bytes(content)

"""Files of tensors taken apart and put together again, so that a tensor in many files is carried once.

A safetensors file is the length of its head (8 bytes), the head in JSON, which says where each tensor lies, and the
tensors one after the other without gaps. So the head and the hashes of the tensors, in their order, are the file. Of
the head, facts beside the tensors are put in order, because the library writes them in another one every time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import BundleError

_LONGEST_HEAD = 100_000_000
_FACTS = "__metadata__"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a file of tensors is put together.

    Attributes:
        head: its first bytes, up to the first tensor.
        tensors: SHA-256 of every tensor's bytes, in the order in which they lie.
    """

    head: bytes
    tensors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"head": self.head.decode("latin1"), "tensors": list(self.tensors)}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of `to_json`."""
        return cls(data["head"].encode("latin1"), tuple(data["tensors"]))


def take_apart(path: Path) -> Iterator[bytes]:
    """The head of a safetensors file, then its tensors, one by one.

    Raises:
        BundleError: if it is no such file.
    """
    with path.open("rb") as file:
        length = file.read(8)
        size = int.from_bytes(length, "little")
        if len(length) < 8 or size > min(_LONGEST_HEAD, path.stat().st_size):
            raise BundleError(f"{path} is no file of safetensors.")
        try:
            head: dict[str, Any] = json.loads(file.read(size))
            ends = sorted(tuple(told["data_offsets"]) for name, told in head.items() if name != _FACTS)
            if _FACTS in head:
                head[_FACTS] = dict(sorted(head[_FACTS].items()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{path} is no file of safetensors: {error}") from error
        text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # the format wants tensors to begin at such a place
        yield len(text).to_bytes(8, "little") + text
        for start, end in ends:
            content = file.read(end - start)
            if len(content) < end - start:
                raise BundleError(f"{path} is cut short.")
            yield content


def recipe_of(path: Path, keep: Callable[[str, bytes], object]) -> Recipe:
    """The recipe of a file; its tensors are handed over one by one.

    Args:
        path: a file of safetensors.
        keep: is told each tensor's hash and bytes.
    """
    hashes: list[str] = []
    parts = take_apart(path)
    head = next(parts)
    for content in parts:
        name = hashlib.sha256(content).hexdigest()
        keep(name, content)
        hashes.append(name)
    return Recipe(head, tuple(hashes))


def put_together(recipe: Recipe, path: Path, read: Callable[[str], bytes]) -> None:
    """Writes the file of a recipe.

    Args:
        recipe: of the file.
        path: where to write it.
        read: gives the bytes of a hash.
    """
    with path.open("wb") as file:
        file.write(recipe.head)
        for name in recipe.tensors:
            file.write(read(name))

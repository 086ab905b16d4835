"""What was learned, kept in the run folder: one small file per fact, whole or not there at all."""

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import StorageError
from ..profilers.replacing import replacing


class Cache:
    """JSON values by key, surviving a kill at any moment."""

    def __init__(self, folder: Path) -> None:
        """Keeps its files in this folder, which is made when first needed."""
        self.folder = folder

    def get(self, key: str) -> Any | None:
        """The value of a key, or None; a damaged file counts as absent."""
        try:
            return json.loads((self.folder / f"{key}.json").read_text(encoding="utf8"))
        except (OSError, ValueError):
            return None

    def put(self, key: str, value: Any) -> None:
        """Keeps a value.

        Raises:
            StorageError: if the disk does not take it.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / f"{key}.json", json.dumps(value))

    def get_tensors(self, key: str) -> dict[str, dict[str, Tensor]] | None:
        """Tensors kept by `put_tensors`, or None; a damaged file counts as absent."""
        try:
            flat = load_file(self.folder / f"{key}.safetensors")
        except (OSError, SafetensorError):
            return None
        return unflatten(flat)

    def put_tensors(self, key: str, value: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keeps tensors by two names each.

        Raises:
            StorageError: if the disk does not take it.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_tensors(self.folder / f"{key}.safetensors", flatten(value), {})


def flatten(value: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Both names joined by a slash, which neither of them holds."""
    return {f"{place}/{name}": tensor for place, tensors in value.items() for name, tensor in tensors.items()}


def unflatten(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `flatten`."""
    found: dict[str, dict[str, Tensor]] = {}
    for title, tensor in flat.items():
        place, _, name = title.partition("/")
        found.setdefault(place, {})[name] = tensor
    return found


def replace_file(path: Path, text: str) -> None:
    """Writes a text file so that a reader sees the old content or the new, never a part."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf8")


def replace_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """The same for a file of tensors, with facts beside them."""
    with replacing(path) as draft:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft, metadata=dict(facts))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what the system says of a full or refusing disk into one clear error.

    Raises:
        StorageError: for any error of writing inside.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space" if full or "No space" in reason else "make it writable"
        raise StorageError(
            f"cannot write to {folder}: {reason}; {fix} and run the same command again: "
            "every trial already judged is kept."
        ) from error

"""One file to carry a study to another machine: exported models, a few examples with their answers, and qualities.

It is an uncompressed zip file. `manifest.json` comes last and says of every file what it must hash to, and of every
file of tensors which tensors it is made of, so that what several models share is carried once. Equal content gives an
equal file, byte by byte. Whatever is read is checked against the manifest, and no name in the file is ever a path that
is written to without having been looked at.
"""

import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import BundleError, StorageError
from ..profilers.replacing import replacing
from ..search.cache import writing
from .tensor_store import Recipe, put_together, recipe_of

KIND, SCHEMA = "paring bundle", 1
MANIFEST = "manifest.json"
_TENSORS = ".safetensors"
# As old as a zip file can be, so that equal content gives equal files.
_DATE = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_HASH = re.compile(r"[0-9a-f]{64}")


def write_bundle(folder: Path, content: Mapping[str, Any], path: Path) -> None:
    """Writes the files of a folder, with what is to be said of them, as a bundle.

    Args:
        folder: all of its files go along.
        content: plain data, to be read again as `Bundle.content`.
        path: of the bundle; replaced whole, or not at all.

    Raises:
        StorageError: if the disk refuses.
        BundleError: if a file of the folder has a name that would not be unpacked again.
    """
    files, recipes = {}, {}
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as packed:
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                name = file.relative_to(folder).as_posix()
                _check_name(name, str(folder))
                if file.suffix == _TENSORS:
                    recipes[name] = recipe_of(file, lambda digest, tensor: _put(packed, f"tensors/{digest}", tensor))
                else:
                    found = file.read_bytes()
                    files[name] = hashlib.sha256(found).hexdigest()
                    _put(packed, f"files/{name}", found)
            manifest = {
                "kind": KIND,
                "schema": SCHEMA,
                "paring": version("paring"),
                "files": files,
                "recipes": {name: recipe.to_json() for name, recipe in recipes.items()},
                "content": content,
            }
            _put(packed, MANIFEST, json.dumps(manifest, sort_keys=True, indent=1).encode())


class Bundle:
    """A bundle that was opened and looked at.

    Attributes:
        path: of the file.
        content: what `write_bundle` was told.
    """

    def __init__(self, path: Path) -> None:
        """Reads the manifest.

        Raises:
            BundleError: if it is missing, damaged, no bundle, or of a newer paring.
        """
        self.path = path
        if not path.is_file():
            raise BundleError(f"there is no bundle {path}; make one where the study is: paring bundle RUN --out FILE.")
        with self._errors(), zipfile.ZipFile(path) as packed:
            if MANIFEST not in packed.namelist():
                raise BundleError(f"{path} is no bundle of paring: it holds no {MANIFEST}.")
            squeezed = [one.filename for one in packed.infolist() if one.compress_type != zipfile.ZIP_STORED]
            if squeezed:
                raise BundleError(f"{path} is no bundle of paring: {squeezed[0]!r} in it is compressed.")
            manifest = json.loads(packed.read(MANIFEST))
            if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
                raise BundleError(f"{path} is no bundle of paring: its {MANIFEST} says another kind.")
            if manifest.get("schema") != SCHEMA:
                raise BundleError(
                    f"{path} was made by paring {manifest.get('paring')} with schema {manifest.get('schema')!r}; this "
                    f"paring reads schema {SCHEMA}. Upgrade paring here, or bundle the study again with this version."
                )
            self.content: dict[str, Any] = dict(manifest["content"])
            self._files: dict[str, str] = dict(manifest["files"])
            self._recipes = {name: Recipe.from_json(recipe) for name, recipe in manifest["recipes"].items()}
        for name in (*self._files, *self._recipes):
            _check_name(name, str(path))
        for digest in (digest for recipe in self._recipes.values() for digest in recipe.tensors):
            if not _HASH.fullmatch(digest):
                raise BundleError(f"{path} is no bundle of paring: {digest[:80]!r} is no hash.")

    @contextmanager
    def unpacked(self, part: str) -> Iterator[Path]:
        """The files of one folder of the bundle, in a temporary folder, for as long as the context lasts.

        Args:
            part: the folder's name in the bundle, such as "models/0123456789ab".

        Raises:
            BundleError: if it is not there, or damaged.
            StorageError: if the disk refuses, or is too small.
        """
        names = [name for name in (*self._files, *self._recipes) if name.startswith(f"{part}/")]
        if not names:
            raise BundleError(f"{self.path} is damaged: it has no {part}.")
        with tempfile.TemporaryDirectory(prefix="paring-") as place:
            folder = Path(place)
            with self._errors(), zipfile.ZipFile(self.path) as packed:
                self._refuse_too_large(packed, names, folder)
                with writing(folder):
                    for name in names:
                        self._unpack(packed, name, folder / name[len(part) + 1 :])
            yield folder

    def _unpack(self, packed: zipfile.ZipFile, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in self._files:
            found = packed.read(f"files/{name}")
            self._check(found, self._files[name], name)
            path.write_bytes(found)
            return

        def read(digest: str) -> bytes:
            tensor = packed.read(f"tensors/{digest}")
            self._check(tensor, digest, f"a tensor of {name}")
            return tensor

        put_together(self._recipes[name], path, read)

    def _refuse_too_large(self, packed: zipfile.ZipFile, names: list[str], folder: Path) -> None:
        """A file may name one tensor a thousand times: nothing is written that the disk has no room for."""
        sizes = {one.filename: one.file_size for one in packed.infolist()}
        recipes = [self._recipes[name] for name in names if name in self._recipes]
        tensors = (f"tensors/{digest}" for recipe in recipes for digest in recipe.tensors)
        needed = sum(sizes.get(name, 0) for name in (*tensors, *(f"files/{name}" for name in names)))
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise StorageError(
                f"unpacking a model of {self.path} takes {needed / 1e6:.0f} MB and {folder.parent} has "
                f"{free / 1e6:.0f} MB free; set TMPDIR to a larger disk."
            )

    def _check(self, found: bytes, digest: str, what: str) -> None:
        if hashlib.sha256(found).hexdigest() != digest:
            raise BundleError(f"{self.path} is damaged: {what} is not what it was; copy the bundle again.")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What a damaged file may lead to, as one message."""
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror or error}.") from error
        except (
            zipfile.BadZipFile,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
            EOFError,
            RuntimeError,
        ) as error:
            raise BundleError(
                f"{self.path} is no bundle of paring, or damaged: {error}; copy it again, or make it again."
            ) from error


def _put(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Writes an entry, once."""
    if name not in packed.NameToInfo:
        entry = zipfile.ZipInfo(name, _DATE)
        entry.external_attr, entry.create_system = 0o644 << 16, 3
        packed.writestr(entry, content)


def _check_name(name: str, where: str) -> None:
    """Raises `BundleError` for a name that would lead out of the folder it is unpacked to, or that no system takes."""
    if not _NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
        raise BundleError(f"{where} holds {name[:80]!r}, which is no name of a file in a bundle.")

"""A folder that is whole or not there: files are written as a draft inside it, and shown when all of them are."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import SettingError
from ..search.cache import writing
from ..spaces.artefact import PLAN_FILE

_DRAFT = ".unfinished"
_DISK_SIGNS = ("os error", "iostream error", "No space left")
# Moved last: without the first nothing of transformers loads the folder, without the second paring does not.
_SHOWN_LAST = ("config.json", PLAN_FILE)


def refuse_full(folder: Path) -> None:
    """Nothing is ever written over.

    Raises:
        SettingError: if the folder exists and is not empty.
    """
    if (folder / _DRAFT).exists():
        raise SettingError(f"{folder} holds an export that was cut off before it was whole; delete that folder first.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError(f"{folder} exists and is not an empty folder; export into a new one.")


@contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """A place to write files that shall appear in a folder all at once, or not at all whatever goes wrong.

    The draft lies inside the folder, not beside it: the folder may be a mount, or stand where nothing else may be made.

    Args:
        folder: new or empty; made if missing, and gone again after a failure.

    Raises:
        SettingError: if it is not empty.
        StorageError: if the disk refuses.
    """
    refuse_full(folder)
    is_new, draft = not folder.exists(), folder / _DRAFT
    moved: list[Path] = []
    try:
        with writing(folder):
            draft.mkdir(parents=True)
        yield draft
        with writing(folder):
            for path in draft.rglob("*"):
                _flush(path)
            for path in sorted(draft.iterdir(), key=lambda path: (path.name in _SHOWN_LAST, path.name)):
                moved.append(path.replace(folder / path.name))
            draft.rmdir()
    except BaseException:
        shutil.rmtree(folder if is_new else draft, ignore_errors=True)
        for path in moved:
            _remove(path)
        raise


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns what libraries say in their own ways of a disk that refuses into the error that Python has for it.

    Tokenizers raise a bare `Exception` and OpenVINO a `RuntimeError`; other errors of theirs pass.

    Raises:
        OSError: if it was the disk.
    """
    try:
        yield
    except (OSError, SafetensorError):
        raise
    except Exception as error:  # no narrower class: see above
        if any(sign in str(error) for sign in _DISK_SIGNS):
            raise OSError(str(error).strip()) from error
        raise


def _flush(path: Path) -> None:
    """To the disk: some systems say only here that it is full."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

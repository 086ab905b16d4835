"""What was learned of this machine by measuring, kept beside its history for whatever is asked of it later.

A fact is kept under a key of all that it depends on, versions among them; under another key there is another fact.
Where the disk refuses, nothing is kept and it is measured again: no search ends for want of what only saves time.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from .replacing import replacing


def folder() -> Path:
    """Where the facts of this user on this machine are."""
    return user_data_path("paring", appauthor=False) / "learned"


def get(kind: str, key: Mapping[str, Any]) -> Any | None:
    """A fact, or None; a damaged file counts as absent.

    Args:
        kind: of fact, a word.
        key: all that it depends on, as plain data.
    """
    try:
        found = json.loads(_path(kind, key).read_text(encoding="utf8"))
        return found["fact"] if found["key"] == _plain(key) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def put(kind: str, key: Mapping[str, Any], fact: Any) -> None:
    """Keeps a fact in the place of an earlier one.

    Args:
        kind: of fact, a word.
        key: all that it depends on, as plain data.
        fact: plain data.
    """
    path = _path(kind, key)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_text(json.dumps({"key": _plain(key), "fact": fact}), encoding="utf8")


def forget(kind: str) -> None:
    """Removes all facts of a kind."""
    with suppress(OSError):
        for path in folder().glob(f"{kind}-*.json"):
            path.unlink(missing_ok=True)


def _plain(key: Mapping[str, Any]) -> Any:
    """As JSON gives it back: tuples are lists there."""
    return json.loads(json.dumps(key))


def _path(kind: str, key: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder() / f"{kind}-{digest}.json"

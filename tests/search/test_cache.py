import errno
import json
import os
from pathlib import Path

import pytest

from paring.errors import StorageError
from paring.search.cache import Cache, replace_file

VALUES = [0, -1.5, "naïve", None, [], {"a": [1, {"b": 0.1}]}]


@pytest.mark.parametrize("value", VALUES)
def test_a_second_cache_reads_what_the_first_wrote(tmp_path: Path, value: object) -> None:
    Cache(tmp_path / "deep" / "cache").put("key", value)
    assert Cache(tmp_path / "deep" / "cache").get("key") == value


def test_keys_are_apart_and_the_last_value_counts(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 3)
    assert [cache.get(key) for key in ("a", "b", "c")] == [3, 2, None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize("damage", [b"", b'{"a": 1', b"\xff\xfe\x00", b"not json"])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: bytes) -> None:
    cache = Cache(tmp_path)
    cache.put("key", {"a": 1})
    (tmp_path / "key.json").write_bytes(damage)
    assert cache.get("key") is None
    cache.put("key", {"a": 2})
    assert cache.get("key") == {"a": 2}


def test_a_reader_sees_the_old_value_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    cache.put("key", "old")
    seen: list[object] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(cache.get("key")))
    with (tmp_path / "key.json").open(encoding="utf8") as reader:
        cache.put("key", "new")
        assert json.load(reader) == "old"
    assert seen == ["old"]
    assert cache.get("key") == "new"


def test_the_whole_text_is_on_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))
    replace_file(tmp_path / "file", "x" * 100_000)
    assert sizes == [100_000]


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"), (errno.EROFS, "writable")]
)
def test_a_refusing_disk_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str
) -> None:
    cache = Cache(tmp_path)
    cache.put("key", "old")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=rf"{os.strerror(number)}.*{fix}.*run the same command again"):
        cache.put("key", "new")
    assert cache.get("key") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="run the same command again"):
        Cache(tmp_path / "file" / "cache").put("key", 1)

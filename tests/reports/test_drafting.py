import errno
import os
from pathlib import Path

import pytest

from paring.errors import SettingError, StorageError
from paring.reports.drafting import disk_errors, drafted, refuse_full


def fill(draft: Path) -> None:
    for name in ("plan.json", "config.json", "model.safetensors", "README.md"):
        (draft / name).write_text(name)
    (draft / "templates").mkdir()
    (draft / "templates" / "one.jinja").write_text("x")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


WHOLE = {"plan.json", "config.json", "model.safetensors", "README.md", "templates", "templates/one.jinja"}


@pytest.mark.parametrize("is_there", [False, True])
def test_files_appear_when_all_are_whole(tmp_path: Path, is_there: bool) -> None:
    folder = tmp_path / "a" / "deploy"
    if is_there:
        folder.mkdir(parents=True)
    with drafted(folder) as draft:
        fill(draft)
        assert not WHOLE & {path.name for path in folder.iterdir()}
    assert names(folder) == WHOLE


def test_a_folder_may_be_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with drafted(Path()) as draft:
        fill(draft)
    assert names(tmp_path) == WHOLE


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("is_there", [False, True])
def test_nothing_is_left_of_what_failed(tmp_path: Path, error: BaseException, is_there: bool) -> None:
    folder = tmp_path / "deploy"
    if is_there:
        folder.mkdir()

    def fail() -> None:
        with drafted(folder) as draft:
            fill(draft)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert folder.exists() is is_there
    assert names(tmp_path) == ({"deploy"} if is_there else set())


@pytest.mark.parametrize("failing", range(5))
def test_nothing_is_left_when_it_fails_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    folder, moved = tmp_path / "deploy", list[str]()
    folder.mkdir()
    move = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if len(moved) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        moved.append(path.name)
        return move(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="No space left on device; free some space"), drafted(folder) as draft:
        fill(draft)
    assert names(tmp_path) == {"deploy"}
    assert "plan.json" not in moved and ("config.json" in moved) is (failing == 4)


def test_a_disk_that_refuses_when_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"Disk quota exceeded; free some space"), drafted(tmp_path / "a") as draft:
        fill(draft)
    assert names(tmp_path) == set()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(StorageError, match=r"cannot write to .*file/deploy: Not a directory"),
        drafted(tmp_path / "file" / "deploy"),
    ):
        pass
    assert names(tmp_path) == {"file"}


def test_what_a_kill_left_is_named(tmp_path: Path) -> None:
    cut_off = drafted(tmp_path / "deploy")
    fill(cut_off.__enter__())
    for refuse in (lambda: refuse_full(tmp_path / "deploy"), lambda: drafted(tmp_path / "deploy").__enter__()):
        with pytest.raises(SettingError, match="cut off before it was whole; delete that folder first"):
            refuse()
    assert not WHOLE & {path.name for path in (tmp_path / "deploy").iterdir()}


@pytest.mark.parametrize("said", ["File too large (os error 27)", "No space left on device", "x: iostream error"])
@pytest.mark.parametrize("kind", [Exception, RuntimeError])
def test_what_libraries_say_of_the_disk_is_understood(kind: type[Exception], said: str) -> None:
    with pytest.raises(OSError, match=said.partition("(")[0]), disk_errors():
        raise kind(said)
    with pytest.raises(kind, match="shapes differ"), disk_errors():
        raise kind("shapes differ")

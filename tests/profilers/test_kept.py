from pathlib import Path

import pytest

from paring.profilers import kept

KEY = {"machine": "a", "shape": (1, 2)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "learned")
    return tmp_path / "learned"


def test_a_fact_is_found_by_all_that_it_depends_on(folder: Path) -> None:
    assert kept.get("ratio", KEY) is None
    kept.put("ratio", KEY, [0.1, 1 / 3])
    kept.put("ratio", {**KEY, "machine": "b"}, 2)
    assert kept.get("ratio", {"shape": [1, 2], "machine": "a"}) == [0.1, 1 / 3]
    assert kept.get("ratio", {**KEY, "machine": "b"}) == 2
    assert kept.get("other", KEY) is None
    kept.put("ratio", KEY, 3)
    assert kept.get("ratio", KEY) == 3
    assert len(list(folder.iterdir())) == 2
    kept.put("other", KEY, 4)
    kept.forget("ratio")
    assert (kept.get("ratio", KEY), kept.get("other", KEY)) == (None, 4)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": {"machine": "b"}, "fact": 1}'])
def test_what_is_damaged_or_of_another_key_is_no_fact(folder: Path, content: str) -> None:
    kept.put("ratio", KEY, 1)
    (path,) = folder.iterdir()
    path.write_text(content, encoding="utf8")
    assert kept.get("ratio", KEY) is None
    kept.put("ratio", KEY, 1)
    assert kept.get("ratio", KEY) == 1


def test_a_disk_that_refuses_costs_nothing_but_time(folder: Path) -> None:
    folder.write_text("a file where the folder would be", encoding="utf8")
    kept.put("ratio", KEY, 1)
    assert kept.get("ratio", KEY) is None
    kept.forget("ratio")
    assert [path.name for path in folder.parent.iterdir()] == ["learned"]

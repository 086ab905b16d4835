import json
import multiprocessing
import shutil
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from paring.errors import BundleError, StorageError
from paring.reports import bundle as bundling
from paring.reports.bundle import MANIFEST, Bundle, write_bundle
from paring.reports.tensor_store import put_together, recipe_of

CONTENT = {"study": "s", "numbers": [1, 2.5]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models that share a large tensor, and a text."""
    place = tmp_path / "folder"
    shared, own = torch.arange(30_000, dtype=torch.float32), torch.arange(6, dtype=torch.int8).view(2, 3)
    for name, tensors in {
        "models/one": {"shared": shared, "own": own, "none": torch.empty(0)},
        "models/two": {"b": own.float(), "a": shared, "c": torch.tensor(1.5)},
    }.items():
        (place / name).mkdir(parents=True)
        save_file(tensors, place / name / "model.safetensors", metadata={"who": "über"})
        (place / name / "plan.json").write_text('{"plan": 1}', encoding="utf8")
    return place


@pytest.fixture
def path(folder: Path, tmp_path: Path) -> Path:
    write_bundle(folder, CONTENT, tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


def rewritten(path: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None, **entries: bytes) -> None:
    """The same bundle with another manifest, or other entries."""
    with zipfile.ZipFile(path) as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    manifest = json.loads(content[MANIFEST])
    change(manifest)
    content = {**content, MANIFEST: json.dumps(manifest).encode(), **entries}
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in content.items():
            packed.writestr(name, text)


def read_all(path: Path) -> None:
    bundle = Bundle(path)
    for part in ("models/one", "models/two"):
        with bundle.unpacked(part):
            pass


def tensors_of(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {name: (one.dtype, one.shape, one.flatten().tolist()) for name, one in named.items()}, file.metadata()


def test_what_is_packed_comes_out(folder: Path, path: Path) -> None:
    bundle = Bundle(path)
    assert bundle.content == CONTENT
    for part in ("models/one", "models/two"):
        with bundle.unpacked(part) as place:
            assert sorted(file.name for file in place.iterdir()) == ["model.safetensors", "plan.json"]
            assert (place / "plan.json").read_bytes() == (folder / part / "plan.json").read_bytes()
            assert tensors_of(place / "model.safetensors") == tensors_of(folder / part / "model.safetensors")
        assert not place.exists()


def test_equal_content_gives_an_equal_file(folder: Path, path: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "again.zip"
    copy = shutil.copytree(folder, tmp_path / "copy")
    write_bundle(copy, dict(reversed(CONTENT.items())), again)
    assert again.read_bytes() == path.read_bytes()


def test_a_tensor_that_two_models_share_is_carried_once(path: Path) -> None:
    assert 120_000 < path.stat().st_size < 130_000
    with zipfile.ZipFile(path) as packed:
        assert sum(name.startswith("tensors/") for name in packed.namelist()) == 5


def test_a_bundle_that_cannot_be_written_leaves_the_old_one(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "broken.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(BundleError, match="no file of safetensors"):
        write_bundle(bad, CONTENT, path)
    assert path.read_bytes() == before
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def hang_in_the_middle(folder: Path, path: Path, told: Any) -> None:
    put = bundling._put

    def slowly(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
        put(packed, name, content)
        if name.startswith("tensors/"):
            told.send(name)
            time.sleep(60)

    bundling._put = slowly
    write_bundle(folder, {"other": "content"}, path)


def test_a_kill_while_a_bundle_is_written_leaves_the_old_one(folder: Path, path: Path) -> None:
    before = path.read_bytes()
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    writer = fork.Process(target=hang_in_the_middle, args=(folder, path, theirs))
    writer.start()
    assert ours.poll(30)
    writer.kill()
    writer.join()
    ours.close()
    theirs.close()
    assert path.read_bytes() == before
    read_all(path)


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.999])
def test_a_bundle_that_is_cut_short_is_refused(path: Path, kept: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept > 1 or kept == 0 else kept * len(whole))])
    with pytest.raises(BundleError, match="damaged"):
        read_all(path)


@pytest.mark.parametrize("place", [200, 60_000])
def test_a_byte_that_changed_is_seen(path: Path, place: int) -> None:
    whole = bytearray(path.read_bytes())
    whole[place] ^= 1
    path.write_bytes(whole)
    with pytest.raises(BundleError, match="damaged"):
        read_all(path)


def test_a_tensor_that_was_replaced_is_seen(path: Path) -> None:
    digest = json.loads(zipfile.ZipFile(path).read(MANIFEST))["recipes"]["models/one/model.safetensors"]["tensors"][0]
    rewritten(path, **{f"tensors/{digest}": b"\0" * 120_000})
    with pytest.raises(BundleError, match="is not what it was"):
        read_all(path)


def test_a_file_that_is_missing_is_seen(path: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        content = {name: packed.read(name) for name in packed.namelist() if "plan.json" not in name}
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in content.items():
            packed.writestr(name, text)
    with pytest.raises(BundleError, match="damaged"):
        read_all(path)


@pytest.mark.parametrize(
    "name",
    [
        "models/one/../../../escape",
        "/etc/escape",
        "models/one/..",
        "models\\one",
        "models//x",
        "C:/x",
        "models/one/\0",
        "~/x",
    ],
)
@pytest.mark.parametrize("where", ["files", "recipes"])
def test_a_name_that_leads_out_of_the_folder_is_refused(path: Path, name: str, where: str) -> None:
    def add(manifest: dict[str, Any]) -> None:
        manifest[where][name] = next(iter(manifest[where].values()))

    rewritten(path, add)
    with pytest.raises(BundleError, match="no name of a file"):
        Bundle(path)


def test_a_hash_that_is_none_is_refused(path: Path) -> None:
    rewritten(path, lambda manifest: manifest["recipes"]["models/one/model.safetensors"].update(tensors=["../x"]))
    with pytest.raises(BundleError, match="no hash"):
        Bundle(path)


def test_a_newer_schema_names_both_versions(path: Path) -> None:
    rewritten(path, lambda manifest: manifest.update(schema=2, paring="9.1"))
    with pytest.raises(BundleError, match=r"paring 9\.1 with schema 2; this paring reads schema 1\. Upgrade"):
        Bundle(path)


@pytest.mark.parametrize("change", [{"kind": "a novel"}, {"content": 1}, {"files": 1}, {"recipes": {"a": {}}}])
def test_a_manifest_of_something_else_is_refused(path: Path, change: dict[str, Any]) -> None:
    rewritten(path, lambda manifest: manifest.update(change))
    with pytest.raises(BundleError, match="no bundle of paring"):
        Bundle(path)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    text, foreign = tmp_path / "text.zip", tmp_path / "foreign.zip"
    text.write_text("a diary", encoding="utf8")
    with zipfile.ZipFile(foreign, "w") as packed:
        packed.writestr("readme", "hello")
    for path, words in ((text, "no bundle"), (foreign, f"holds no {MANIFEST}"), (tmp_path / "none.zip", "there is no")):
        with pytest.raises(BundleError, match=words):
            Bundle(path)


def test_a_compressed_entry_is_refused_before_it_is_read(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("bomb", b"\0" * 10_000_000)
    with pytest.raises(BundleError, match="is compressed"):
        Bundle(path)


def test_what_the_disk_has_no_room_for_is_not_begun(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 1000))
    with pytest.raises(StorageError, match=r"takes 0 MB .* set TMPDIR"), Bundle(path).unpacked("models/one"):
        pass


def test_a_part_that_is_not_there(path: Path) -> None:
    with pytest.raises(BundleError, match="has no models/three"), Bundle(path).unpacked("models/three"):
        pass


def test_files_of_every_kind_of_tensor_are_put_together_as_they_were(tmp_path: Path) -> None:
    kinds = (torch.float32, torch.bfloat16, torch.int8, torch.uint8, torch.bool, torch.int64)
    tensors = {str(kind): torch.ones(3, 5).to(kind) for kind in kinds} | {"empty": torch.empty(0, 4)}
    facts = {f"fact {number}": "é" * number for number in range(9)}  # which the library writes in any order
    texts = set()
    for number in range(4):
        path, known = tmp_path / f"{number}.safetensors", dict[str, bytes]()
        save_file(tensors, path, metadata=facts)
        recipe = recipe_of(path, known.__setitem__)
        again = type(recipe).from_json(json.loads(json.dumps(recipe.to_json())))
        put_together(again, tmp_path / "again.safetensors", known.__getitem__)
        assert tensors_of(tmp_path / "again.safetensors") == tensors_of(path)
        texts.add((tmp_path / "again.safetensors").read_bytes())
    assert len(texts) == 1

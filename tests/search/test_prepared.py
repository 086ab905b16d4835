"""Modular layers on disk: found again, never mistaken for others."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from paring.errors import DataError, ModelError, SettingError
from paring.search import prepared as module
from paring.search.distillation import Losses
from paring.search.distilling import Schedule
from paring.search.modular import Modular
from paring.search.prepared import CHECKPOINT_FILE, FACTS_FILE, WEIGHTS_FILE, Prepared
from paring.search.preparing import prepare_model
from paring.search.tasks import Task
from paring.search.workbench import load_tokenizer

# One batch holds all training rows.
SCHEDULE = Schedule(4, tokens=4096, precision="float32")
SETTINGS = Modular((3,), schedule=SCHEDULE)


@pytest.fixture(scope="module")
def folder(model_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modular layers of the trained BERT; not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "layers"
    prepare_model(str(model_folder), Task("classification", str(data_folder)), SETTINGS, out)
    return out


def test_what_was_trained_is_found_again(folder: Path, model_folder: Path, data_folder: Path) -> None:
    found = Prepared.load(folder)
    assert set(found.layers) == {"encoder.m3.0"}
    assert found.settings == SETTINGS
    assert set(found.facts["starts"]) == set(found.layers)
    assert found.harm("encoder").keys() == {0} and found.harm("encoder")[0].keys() == {(3,)}
    assert not (folder / CHECKPOINT_FILE).exists()


def test_training_again_trains_nothing(
    folder: Path, model_folder: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "distil", lambda *_, **__: pytest.fail("trained again"))
    again = prepare_model(str(model_folder), Task("classification", str(data_folder)), SETTINGS, folder)
    known = Prepared.load(folder)
    assert again.key == known.key
    for name, value in known.layers["encoder.m3.0"].items():
        assert torch.equal(again.layers["encoder.m3.0"][name], value)


@pytest.mark.parametrize(
    "other",
    [
        replace(SETTINGS, schedule=replace(SCHEDULE, steps=5)),
        replace(SETTINGS, losses=Losses(hidden=0.0)),
        replace(SETTINGS, start="last"),
    ],
)
def test_a_folder_of_another_training_is_refused(
    folder: Path, model_folder: Path, data_folder: Path, other: Modular
) -> None:
    with pytest.raises(SettingError, match="holds modular layers of another model, other data or other settings"):
        prepare_model(str(model_folder), Task("classification", str(data_folder)), other, folder)


def test_layers_of_another_model_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="were trained for another model"):
        Prepared.load(folder).refuse_other("0123456789ab", "here")


def test_a_training_that_was_cut_off_is_told_from_a_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="make one with `paring prepare"):
        Prepared.load(tmp_path)
    (tmp_path / CHECKPOINT_FILE).touch()
    with pytest.raises(ModelError, match="its training was cut off; run `paring prepare` with the same options"):
        Prepared.load(tmp_path)


@pytest.mark.parametrize("damage", [WEIGHTS_FILE, FACTS_FILE])
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    for name in (WEIGHTS_FILE, FACTS_FILE):
        content = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2] if name == damage else content)
    with pytest.raises(ModelError, match="holds no whole set of modular layers"):
        Prepared.load(tmp_path)


def test_facts_that_do_not_fit_the_layers_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes())
    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf8"))
    (tmp_path / FACTS_FILE).write_text(json.dumps({**facts, "harm": {}}), encoding="utf8")
    with pytest.raises(ModelError, match="holds no whole set"):
        Prepared.load(tmp_path)


def test_training_needs_a_train_split(
    model_folder: Path, tmp_path: Path, write_rows: Callable[..., None], make_reviews: Callable[..., object]
) -> None:
    write_rows(tmp_path / "validation.jsonl", make_reviews(40, 0))
    with pytest.raises(DataError, match="needs a train split"):
        prepare_model(str(model_folder), Task("classification", str(tmp_path)), SETTINGS, tmp_path / "out")


def test_granularities_must_divide_a_stack(model_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"none of the granularities \(2,\) divides the encoder of 3 layers"):
        prepare_model(str(model_folder), Task("classification", str(data_folder)), Modular((2,)), tmp_path / "out")


def test_harm_is_the_divergence_of_the_answers(
    folder: Path, model_folder: Path, trained_bert: PreTrainedModel, data_folder: Path
) -> None:
    """Against one computed by hand on the training rows."""
    layer = Prepared.load(folder).layers["encoder.m3.0"]
    shorter = copy.deepcopy(trained_bert)
    shorter.bert.encoder.layer = shorter.bert.encoder.layer[:1]
    shorter.bert.encoder.layer[0].load_state_dict(dict(layer))
    texts = [json.loads(line)["text"] for line in (data_folder / "train.jsonl").read_text().splitlines()]
    inputs = load_tokenizer(str(model_folder))(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        own, wanted = (model(**inputs).logits.log_softmax(-1) for model in (shorter, trained_bert))
    expected = float((wanted.exp() * (wanted - own)).sum(-1).mean())
    assert Prepared.load(folder).harm("encoder")[0][(3,)] == pytest.approx(expected, rel=0.02)

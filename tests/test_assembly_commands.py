"""Modular layers from the command line: prepared, assembled, searched, exported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import paring
from paring.api import Study
from paring.reports.export import export
from paring.search.prepared import Prepared
from paring.search.settings import Settings
from paring.search.study import Record
from paring.spaces.artefact import load_original

pytestmark = pytest.mark.usefixtures("little_effort")

Answer = tuple[int, str, str]
Command = Callable[..., Answer]
FAST = ["--steps", 6, "--tokens", 256]


@pytest.fixture(scope="module")
def prepared(
    model_folder: Path, data_folder: Path, run_command: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Modular layers of the trained BERT; not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "layers"
    assert run_command("prepare", model_folder, "--data", data_folder, "--out", out, *FAST) == 0
    return out


@pytest.fixture(scope="module")
def searched(
    model_folder: Path,
    data_folder: Path,
    little_effort: None,
    run_command: Callable[..., int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished search over all axes that trained its layers itself; not to be changed."""
    out = tmp_path_factory.mktemp("searched") / "run"
    asked = ["search", model_folder, "--data", data_folder, "--out", out, "--axes", "assembly,depth,bits"]
    effort = ["--trials", 9, "--modular-steps", 6, "--tokens", 16, "--threads", 1, "--sampler", "random"]
    assert run_command(*asked, *effort, "--objectives", "quality,latency,memory,size") == 0
    return out


def test_preparing_says_what_each_layer_costs(
    command: Command, prepared: Path, model_folder: Path, data_folder: Path
) -> None:
    code, said, _ = command("prepare", model_folder, "--data", data_folder, "--out", prepared, *FAST)
    assert code == 0
    assert f"1 modular layers in {prepared}" in said
    assert "encoder.0  3 " in said


@pytest.mark.parametrize(
    "wanted", [["--ratio", 3], ["--tiling", "encoder=3"], ["--ratio", 3, "--strategy", "speed"]], ids=str
)
def test_an_assembly_is_a_plain_model_with_its_numbers(
    command: Command, prepared: Path, model_folder: Path, data_folder: Path, tmp_path: Path, wanted: list[object]
) -> None:
    asked = ["assemble", model_folder, "--data", data_folder, "--prepared", prepared, "--out", tmp_path / "small"]
    code, said, complaint = command(*asked, *wanted, "--tokens", 16, "--threads", 1)
    assert code == 0, complaint
    assert "encoder=3: 3.00 times fewer layers; parameters" in said
    assert "accuracy on test" in said and "Exported to" in said
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert small.config.num_hidden_layers == len(small.bert.encoder.layer) == 1
    layer = Prepared.load(prepared).layers["encoder.m3.0"]
    assert all(torch.equal(small.bert.encoder.layer[0].state_dict()[name], value) for name, value in layer.items())
    numbers = json.loads((tmp_path / "small" / "measured.json").read_text(encoding="utf8"))
    assert numbers["exported"]["profile"]["stored_bytes"] < numbers["baseline"]["profile"]["stored_bytes"]


def test_an_assembly_tells_programs_its_numbers(
    command: Command, prepared: Path, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ["assemble", model_folder, "--data", data_folder, "--prepared", prepared, "--out", tmp_path / "small"]
    code, said, complaint = command(*asked, "--ratio", 2, "--tokens", 16, "--threads", 1, "--format", "json")
    assert code == 0, complaint
    found = json.loads(said)
    assert (found["tilings"], found["layer_ratio"]) == ({"encoder": [3]}, 3.0)
    layer = sum(value.numel() for value in Prepared.load(prepared).layers["encoder.m3.0"].values())
    assert found["original_parameters"] - found["parameters"] == 2 * layer
    assert found["original_parameters"] == sum(p.numel() for p in load_original(str(model_folder)).parameters())
    assert found["compressed"]["latency_seconds"] > 0 and found["compressed"]["memory_bytes"] > 0
    assert found["compressed"]["stored_bytes"] < found["original"]["stored_bytes"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["--ratio", 4], "no assembly is 4 times as small: the nearest is 3 times, with encoder in 1 of 3 layers"),
        (["--ratio", 0.5], "must be at least 1, got 0.5"),
        (["--tiling", "encoder=2,1"], "sizes 1, 3; got 'encoder=2,1'"),
        (["--tiling", "encoder=3", "--ratio", 2], "exactly one of a ratio and a tiling"),
        ([], "exactly one of a ratio and a tiling"),
        (["--ratio", 3, "--strategy", "tiny"], "unknown strategy 'tiny'"),
        (["--ratio", 3, "--format", "xml"], "unknown format 'xml'"),
    ],
    ids=str,
)
def test_what_cannot_be_assembled_is_refused(
    command: Command,
    prepared: Path,
    model_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    wanted: list[object],
    message: str,
) -> None:
    asked = ["assemble", model_folder, "--data", data_folder, "--prepared", prepared, "--out", tmp_path / "small"]
    code, _, complaint = command(*asked, *wanted, "--tokens", 16)
    assert code == 2
    assert message in complaint
    assert not (tmp_path / "small").exists()


def test_layers_of_another_model_are_refused(
    command: Command, prepared: Path, trained_bert: object, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    model = load_original(str(model_folder))
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    model.save_pretrained(other)
    for file in model_folder.glob("tokenizer*"):
        (other / file.name).write_bytes(file.read_bytes())
    code, _, complaint = command(
        *["assemble", other, "--data", data_folder, "--prepared", prepared, "--out", tmp_path / "x", "--ratio", 3]
    )
    assert (code, "were trained for another model" in complaint) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--granularities", "two"], "--granularities takes whole numbers separated by commas, such as 2,3,6"),
        (["--granularities", "2"], "none of the granularities (2,) divides the encoder of 3 layers"),
        (["--losses", "tusk=1"], "unknown name for --losses 'tusk'"),
        (["--losses", "task=much"], "--losses takes a number for task"),
        (["--losses", "task=0,logits=0,hidden=0,attention=0"], "not all of them 0"),
        (["--start", "middle"], "unknown start 'middle'"),
        (["--precision", "float8"], "unknown precision 'float8'"),
        (["--steps", 0], "needs steps, tokens and accumulate >= 1"),
        (["--device", "cuda"], "there is no device 'cuda' here"),
    ],
    ids=str,
)
def test_preparing_refuses_what_cannot_work(
    command: Command, model_folder: Path, data_folder: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    if options[0] == "--device" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, _, complaint = command("prepare", model_folder, "--data", data_folder, "--out", tmp_path / "x", *options)
    assert code == 2
    assert message in complaint


def test_a_search_over_all_axes_trains_its_layers_once_and_judges_assemblies(searched: Path) -> None:
    record = Record.open(searched)
    plans = [trial.plan for trial in record.trials() if trial.plan is not None]
    modular = [plan for plan in plans if "m3.0" in str(plan.to_json())]
    assert modular and len(modular) < len(plans)
    assert any(plan.treatments() for plan in modular)
    assert Prepared.load(searched / "modular").settings.schedule.steps == 6
    assert all(final.reloads_equal for final in record.finals())
    assert Settings.of_run(record.settings, searched).modular.schedule.steps == 6


def test_a_picked_assembly_is_exported_and_loads(searched: Path, tmp_path: Path) -> None:
    study = Study(searched)
    small = next(trial.plan for trial in study.record.trials() if trial.plan and "m3.0" in str(trial.plan.to_json()))
    exported = export(study.record, small, tmp_path / "deploy")
    assert exported.final.reloads_equal and exported.final.plan == small
    assert len(paring.load(tmp_path / "deploy", threads=1).bert.encoder.layer) == 1
    stored = sum(file.stat().st_size for file in (tmp_path / "deploy").glob("*.safetensors"))
    # One layer of three is in it, and none of the others.
    assert stored < sum(file.stat().st_size for file in (searched / "modular").glob("*.safetensors")) * 3


def test_a_search_takes_layers_that_were_prepared(
    command: Command, prepared: Path, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ["search", model_folder, "--data", data_folder, "--out", tmp_path / "run", "--tokens", 16, "--threads", 1]
    asked += ["--axes", "assembly", "--prepared", prepared, "--trials", 4]
    assert command(*asked)[0] == 0
    assert not (tmp_path / "run" / "modular").exists()
    assert len(Study(tmp_path / "run").record.trials()) == 2
    settings = Settings.of_run(Record.open(tmp_path / "run").settings, tmp_path / "run")
    assert settings.prepared == prepared.resolve()
    code, _, complaint = command(*asked[: asked.index("--prepared")], "--trials", 4)
    assert code == 2 and "modular" in complaint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--axes", "depth"], "prepared modular layers are for the axis 'assembly'"),
        (["--axes", "assembly,depth", "--depth-scorer", "fine_tune"], "both train the layers"),
    ],
    ids=str,
)
def test_a_search_refuses_what_does_not_go_together(
    command: Command,
    prepared: Path,
    model_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    options: list[object],
    message: str,
) -> None:
    asked = ["search", model_folder, "--data", data_folder, "--out", tmp_path / "run", "--prepared", prepared]
    code, _, complaint = command(*asked, *options)
    assert (code, message in complaint) == (2, True), complaint


def test_a_model_that_nothing_divides_has_nothing_to_assemble(
    command: Command, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ["search", model_folder, "--data", data_folder, "--out", tmp_path / "run", "--axes", "assembly"]
    code, _, complaint = command(*asked, "--granularities", "2,4")
    assert code == 2
    assert "the axis 'assembly' has nothing to vary in a bert with encoder of 3 layers" in complaint

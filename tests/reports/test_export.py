import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import paring
from paring.errors import DataError, MeasurementError, ModelError, SettingError, StorageError
from paring.reports import export as export_room
from paring.reports.card import NUMBERS
from paring.reports.export import Exported, export
from paring.reports.front import front_of
from paring.reports.origin import CARD
from paring.search.opening import open_workbench
from paring.search.progress import Silent
from paring.search.settings import Settings
from paring.search.study import Record
from paring.search.trial import Final
from paring.spaces.artefact import PACKED_WEIGHTS, PLAIN_WEIGHTS, PLAN_FILE
from paring.spaces.plan import Plan, Slot

pytestmark = pytest.mark.usefixtures("little_effort")

WITH_PARING = """
import sys, torch, paring
for folder in sys.argv[1:]:
    model = paring.load(folder, threads=1)
    inputs = torch.load(folder + ".inputs")
    with torch.inference_mode():
        torch.save(model(**inputs).logits, folder + ".logits")
"""
WITHOUT_PARING = """
import sys, torch
from transformers import AutoModelForSequenceClassification
torch.set_num_threads(1)
folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(folder)
with torch.inference_mode():
    torch.save(model(**torch.load(folder + ".inputs")).logits, folder + ".logits")
assert not any(name.startswith("paring") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def record(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return Record.open(shutil.copytree(finished_run, tmp_path_factory.mktemp("export") / "run"))


@pytest.fixture(scope="module")
def plans(record: Record) -> dict[str, Plan]:
    """The smallest plan of the front, which has bits, and the first that lost layers, in float."""
    smallest = min(front_of(record).members, key=lambda point: point.measures.size_bytes).plan
    original, *others = [trial.plan for trial in record.trials() if trial.plan]
    stack = next(plan.stacks[0] for plan in others if plan.stacks[0].dropped)
    shorter = original.with_stack(replace(stack, slots=tuple(Slot(slot.layer) for slot in stack.slots)))
    assert not smallest.is_plain
    assert shorter.is_plain
    return {"bits": smallest, "depth": shorter}


@pytest.fixture(scope="module")
def exports(
    record: Record, plans: dict[str, Plan], little_effort: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Exported]:
    """Both plans exported; not to be changed."""
    folder = tmp_path_factory.mktemp("deploy")
    return {name: export(record, plan, folder / name) for name, plan in plans.items()}


@pytest.fixture(scope="module")
def logits_here(
    record: Record, exports: dict[str, Exported], plans: dict[str, Plan], request_of: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What the plans answer in this process, built from the original and never saved."""
    bench, _ = open_workbench(Settings.of_run(record.settings, record.folder), Silent())
    return {name: bench.executable(bench.build(plan))(request_of) for name, plan in plans.items()}


@pytest.fixture(scope="module")
def request_of(odd_model_folder: Path) -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(odd_model_folder)
    return dict(tokenizer(["good film", "a very bad plot not fine", "poor"], padding=True, return_tensors="pt"))


def in_a_fresh_process(script: str, folders: list[Path], inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    for folder in folders:
        torch.save(inputs, f"{folder}.inputs")
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, folders)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(f"{folder}.logits") for folder in folders]


def test_a_fresh_process_gives_the_logits_of_the_model_that_was_never_saved(
    exports: dict[str, Exported], logits_here: dict[str, torch.Tensor], request_of: dict[str, torch.Tensor]
) -> None:
    found = in_a_fresh_process(WITH_PARING, [exported.folder for exported in exports.values()], request_of)
    for name, logits in zip(exports, found, strict=True):
        assert logits.shape == (3, 2)
        assert torch.equal(logits, logits_here[name]), name
    assert not torch.equal(found[0], found[1])


def test_a_model_that_only_lost_layers_needs_no_paring(
    exports: dict[str, Exported], logits_here: dict[str, torch.Tensor], request_of: dict[str, torch.Tensor]
) -> None:
    (found,) = in_a_fresh_process(WITHOUT_PARING, [exports["depth"].folder], request_of)
    assert torch.equal(found, logits_here["depth"])


def test_plain_loading_refuses_a_model_with_bits(exports: dict[str, Exported]) -> None:
    with pytest.raises(OSError, match="no file named"):
        AutoModelForSequenceClassification.from_pretrained(exports["bits"].folder)


@pytest.mark.parametrize("name", ["bits", "depth"])
def test_tokenizer_and_label_names_are_kept(exports: dict[str, Exported], odd_model_folder: Path, name: str) -> None:
    text = ["very good film unheard", "bad"]
    own, original = (AutoTokenizer.from_pretrained(folder) for folder in (exports[name].folder, odd_model_folder))
    assert own(text, text)["input_ids"] == original(text, text)["input_ids"]
    assert paring.load(exports[name].folder).config.id2label == {0: "blame", 1: "praise"}
    assert (exports[name].folder / PLAN_FILE).is_file()


@pytest.mark.parametrize("name", ["bits", "depth"])
def test_the_card_holds_the_numbers_that_were_measured(exports: dict[str, Exported], name: str) -> None:
    folder = exports[name].folder
    card, numbers = ((folder / file).read_text(encoding="utf8") for file in (CARD, NUMBERS))
    measured = json.loads(numbers)
    base, own = measured["baseline"]["measures"], measured["exported"]["measures"]
    rows = {
        "accuracy, test split": ("quality", 1, ".4f"),
        "latency, ms": ("latency_seconds", 1e3, ".2f"),
        "stored, MB": ("size_bytes", 1e-6, ".1f"),
        "peak memory of the process, MB": ("memory_bytes", 1e-6, ".0f"),
    }
    for title, (field, unit, form) in rows.items():
        assert f"| {title} | {format(base[field] * unit, form)} | {format(own[field] * unit, form)} |" in card
    assert measured["verdict"] == exports[name].verdict and f"It is {measured['verdict']}." in card
    plan = Plan.from_json(json.loads((folder / PLAN_FILE).read_text(encoding="utf8"))["plan"])
    assert f"\n{plan}\n" in card and plan == exports[name].final.plan
    assert ("plain `AutoModel...from_pretrained` loads it too" in card) is (name == "depth")
    assert f"kernels: {measured['exported']['profile']['kernels']}" in card
    assert "on 60 test examples" in card


@pytest.mark.parametrize("name", ["bits", "depth"])
def test_no_number_of_the_card_is_a_negative_zero(exports: dict[str, Exported], name: str) -> None:
    assert not re.search(r"-0\.0+(?!\d)", (exports[name].folder / CARD).read_text(encoding="utf8"))


@pytest.mark.parametrize("name", ["bits", "depth"])
def test_measured_numbers_are_of_the_exported_files(exports: dict[str, Exported], name: str) -> None:
    exported = exports[name]
    measured = json.loads((exported.folder / NUMBERS).read_text(encoding="utf8"))
    assert measured["exported"] == json.loads(json.dumps(exported.final.to_json()))
    assert measured["baseline"] == json.loads(json.dumps(exported.baseline.to_json()))
    files = exported.folder.glob("*.safetensors")
    assert measured["exported"]["measures"]["size_bytes"] == sum(file.stat().st_size for file in files)
    assert measured["exported"]["reloads_equal"] is True
    assert measured["baseline"]["profile"]["latency"]["ratio"] == 1.0


def test_quality_of_the_export_is_that_of_the_front(record: Record, exports: dict[str, Exported]) -> None:
    front = {point.plan: point for point in front_of(record).members}
    measured = json.loads((exports["bits"].folder / NUMBERS).read_text(encoding="utf8"))["exported"]
    member = front[exports["bits"].final.plan]
    assert measured["quality"]["value"] == member.quality.value == measured["measures"]["quality"]
    assert tuple(measured["quality"]["outcomes"]) == member.quality.outcomes
    assert measured["measures"]["drop"] == member.measures.drop


@pytest.mark.parametrize("occupied", ["file inside", "is a file"])
def test_only_a_new_or_empty_folder_is_written_to(record: Record, tmp_path: Path, occupied: str) -> None:
    target = tmp_path / "deploy"
    precious = target if occupied == "is a file" else target / "precious.txt"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("mine")
    with pytest.raises(SettingError, match="exists and is not an empty folder; export into a new one"):
        export(record, front_of(record).baseline.plan, target)
    assert precious.read_text() == "mine"
    assert {path.name for path in tmp_path.rglob("*")} == {"deploy", precious.name}


@pytest.mark.parametrize("size", [0, 1000, 20_000])
@pytest.mark.parametrize("name", ["bits", "depth"])
def test_a_full_disk_leaves_nothing_that_looks_whole(
    record: Record,
    plans: dict[str, Plan],
    exports: dict[str, Exported],
    files_up_to: Callable[[int], AbstractContextManager[None]],
    tmp_path: Path,
    name: str,
    size: int,
) -> None:
    target = tmp_path / "deploy"
    with pytest.raises(StorageError, match="cannot write to"), files_up_to(size):
        export(record, plans[name], target)
    assert not target.exists()


def test_who_may_read_one_file_may_read_all(exports: dict[str, Exported]) -> None:
    for exported in exports.values():
        assert len({path.stat().st_mode for path in exported.folder.iterdir()}) == 1


def test_an_export_tells_nobody_where_the_original_lay(exports: dict[str, Exported], odd_model_folder: Path) -> None:
    home = odd_model_folder.parent.name
    for exported in exports.values():
        texts = [path for path in exported.folder.iterdir() if path.suffix in (".json", ".md", ".jinja")]
        assert len(texts) > 4
        assert [path.name for path in texts if home in path.read_text(encoding="utf8")] == []


def as_if_by(folder: Path, **entries: object) -> None:
    """Changes what plan.json says of who wrote it."""
    stored = json.loads((folder / PLAN_FILE).read_text(encoding="utf8"))
    schema = entries.pop("schema", stored["plan"]["schema"])
    stored = {**stored, **entries, "plan": {**stored["plan"], "schema": schema}}
    (folder / PLAN_FILE).write_text(json.dumps(stored), encoding="utf8")


@pytest.mark.parametrize("name", ["bits", "depth"])
def test_an_export_of_another_version_says_so(exports: dict[str, Exported], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(exports[name].folder, tmp_path / "deploy"))
    assert json.loads((folder / PLAN_FILE).read_text(encoding="utf8"))["paring"] == paring.__version__
    as_if_by(folder, paring="99.0.1")
    assert paring.load(folder).config.id2label == {0: "blame", 1: "praise"}
    as_if_by(folder, schema=99)
    with pytest.raises(ModelError) as refused:
        paring.load(folder)
    assert str(refused.value) == (
        f"the plan.json of {folder} does not load: this paring reads plans of schema 2, got schema 99. It was exported "
        f"by paring 99.0.1, and this is paring {paring.__version__}: load it with that version "
        "(pip install paring==99.0.1), or export it again with this one."
    )
    as_if_by(folder, paring=paring.__version__)
    with pytest.raises(ModelError, match=r"schema 99\.$"):
        paring.load(folder)


def test_tensors_of_another_version_say_so(exports: dict[str, Exported], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exports["bits"].folder, tmp_path / "deploy"))
    as_if_by(folder, paring="0.0.9")
    (folder / PACKED_WEIGHTS).write_bytes((exports["depth"].folder / PLAIN_WEIGHTS).read_bytes())
    with pytest.raises(ModelError, match=r"does not hold the model .* exported by paring 0\.0\.9, and this is paring"):
        paring.load(folder)


def moved(run: Path, tmp_path: Path, **sources: str) -> Record:
    """The record of a run whose model or data now lie elsewhere."""
    record = Record.open(run)
    record.settings["sources"] |= sources
    return record


def test_a_model_that_changed_since_the_search_is_refused(
    run_folder: Path, odd_model_folder: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(odd_model_folder, tmp_path / "changed"))
    config = json.loads((changed / "config.json").read_text(encoding="utf8"))
    (changed / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.2}), encoding="utf8")
    record = moved(run_folder, tmp_path, model=str(changed))
    with pytest.raises(ModelError, match="the model of this run have changed since the search; restore them"):
        export(record, front_of(record).baseline.plan, tmp_path / "deploy")
    assert not (tmp_path / "deploy").exists()


def test_data_that_changed_since_the_search_are_refused(run_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(data_folder, tmp_path / "changed"))
    with (changed / "test.jsonl").open("a", encoding="utf8") as file:
        file.write('{"text": "good film", "label": 1}\n')
    record = moved(run_folder, tmp_path, data=str(changed))
    with pytest.raises(ModelError, match="the data of this run have changed since the search; restore them"):
        export(record, front_of(record).baseline.plan, tmp_path / "deploy")
    assert not (tmp_path / "deploy").exists()


@pytest.mark.parametrize(("gone", "error"), [("model", ModelError), ("data", DataError)])
def test_sources_that_are_gone_are_named(run_folder: Path, tmp_path: Path, gone: str, error: type[Exception]) -> None:
    record = moved(run_folder, tmp_path, **{gone: str(tmp_path / "gone")})
    with pytest.raises(error, match=str(tmp_path / "gone")):
        export(record, front_of(record).baseline.plan, tmp_path / "deploy")


def test_an_export_that_does_not_reload_equal_is_a_failure(
    record: Record, exports: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = exports["depth"].final.plan

    def unequal(*_: object, exported: dict[Plan, Path], **__: object) -> list[Final]:
        (draft,) = exported.values()
        assert (draft / PLAIN_WEIGHTS).is_file() and draft.parent == tmp_path / "deploy"
        return [exports["depth"].baseline, replace(exports["depth"].final, reloads_equal=False)]

    monkeypatch.setattr(export_room, "measure_whole", unequal)
    with pytest.raises(MeasurementError, match="does not give the logits of the one exported; nothing of it was kept"):
        export(record, plan, tmp_path / "deploy")
    assert not (tmp_path / "deploy").exists()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "noise": lambda path: path.write_bytes(b"\x00\xff" * 50),
    "a list": lambda path: path.write_text("[1]"),
    "a plan that is a list": lambda path: path.write_text('{"plan": [1]}'),
}


@pytest.mark.parametrize("name", ["bits", "depth"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", [PLAN_FILE, "config.json", "weights"])
def test_a_damaged_export_is_refused(
    exports: dict[str, Exported], tmp_path: Path, name: str, damage: str, file: str
) -> None:
    folder = Path(shutil.copytree(exports[name].folder, tmp_path / "deploy"))
    weights = {"bits": PACKED_WEIGHTS, "depth": PLAIN_WEIGHTS}[name]
    DAMAGES[damage](folder / (weights if file == "weights" else file))
    with pytest.raises(ModelError):
        paring.load(folder)


def test_a_plan_that_is_not_that_of_the_weights_is_refused(exports: dict[str, Exported], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exports["bits"].folder, tmp_path / "deploy"))
    plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf8"))
    plan["plan"]["outside"] = {}
    (folder / PLAN_FILE).write_text(json.dumps(plan), encoding="utf8")
    with pytest.raises(ModelError, match=f"does not hold the model of its {PLAN_FILE}"):
        paring.load(folder)


def test_a_folder_that_is_missing_or_was_not_exported(tmp_path: Path, odd_model_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no folder '.*nowhere'; give one that `paring pick RUN --export"):
        paring.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="is not a folder that paring exported"):
        paring.load(odd_model_folder)

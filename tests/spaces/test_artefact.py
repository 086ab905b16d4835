import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from paring.errors import ModelError
from paring.spaces import artefact
from paring.spaces.build import build
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.workbench import Inputs, Workbench

MakeModel = Callable[..., PreTrainedModel]
Damage = Callable[[Path], object]
PLAIN = Plan((Stack("encoder", (Slot(Layer(0)), Slot(None), Slot(Layer(2)))),))
DEEPER = Plan((Stack("encoder", tuple(Slot(Layer(i)) for i in range(4))),))
PACKED = Plan(
    (
        Stack(
            "encoder",
            (Slot(Layer(0)), Slot(None), Slot(Layer(2), Treatments.of({"query": Treatment(None, Precision(8))}))),
        ),
    ),
    Treatments.of({"embeddings": Treatment(precision=Precision(8))}),
)


def logits(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


@pytest.fixture(params=[PLAIN, PACKED], ids=["plain", "packed"])
def exported(request: pytest.FixtureRequest, make_model: MakeModel, tmp_path: Path) -> Path:
    """The folder of a saved model of each of the two forms."""
    model = make_model("bert")
    artefact.save(build(model, request.param, materials={}), request.param, tmp_path / "out", original=model.config)
    return tmp_path / "out"


@pytest.fixture
def original(make_model: MakeModel, tmp_path: Path) -> Path:
    make_model("bert").save_pretrained(tmp_path / "original")
    return tmp_path / "original"


def weights_of(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["classifier.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def reshape_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "classifier.weight": torch.zeros(5, 32)}, path, metadata={"format": "pt"})


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


COMMON: list[tuple[str, Damage, str]] = [
    ("no folder", shutil.rmtree, r"no model folder|not a folder"),
    ("no config", lambda f: (f / "config.json").unlink(), r"no config\.json"),
    ("broken config", lambda f: (f / "config.json").write_text("{"), r"no model config"),
    ("unknown type", lambda f: edit(f / "config.json", model_type="martian"), r"martian"),
    ("no architecture", lambda f: edit(f / "config.json", architectures=None), r"`architectures`, got \[\]"),
    ("foreign class", lambda f: edit(f / "config.json", architectures=["MyBert"]), r"transformers class.*MyBert"),
    ("not a model", lambda f: edit(f / "config.json", architectures=["BertConfig"]), r"transformers class.*BertConfig"),
    ("no weights", lambda f: weights_of(f).unlink(), r"do(es)? not load"),
    ("half the weights", lambda f: cut_in_half(weights_of(f)), r"do(es)? not load"),
    ("garbage weights", lambda f: weights_of(f).write_bytes(b"garbage"), r"do(es)? not load"),
    ("a tensor less", lambda f: lose_a_tensor(weights_of(f)), r"does not hold|do not load"),
    ("another shape", lambda f: reshape_a_tensor(weights_of(f)), r"does not hold|do not load"),
]
EXPORTED: list[tuple[str, Damage, str]] = [
    ("no plan", lambda f: (f / "plan.json").unlink(), r"not a folder that paring exported"),
    ("broken plan", lambda f: (f / "plan.json").write_text("{"), r"not a folder that paring exported"),
    ("binary plan", lambda f: (f / "plan.json").write_bytes(b"\xff\xfe"), r"not a folder that paring exported"),
    ("foreign plan", lambda f: (f / "plan.json").write_text("[]"), r"not a folder that paring exported"),
    (
        "plan of text",
        lambda f: edit(f / "plan.json", plan="text"),
        r"plan.json of .* does not load: a plan is a JSON object, got 'text'",
    ),
    ("newer plan", lambda f: edit(f / "plan.json", plan={"schema": 3}), r"reads plans of schema 2, got schema 3"),
    (
        "plan of another model",
        lambda f: edit(f / "plan.json", plan=DEEPER.to_json()),
        r"does not hold|do not load|another model",
    ),
]


@pytest.mark.parametrize(
    ("damage", "message"), [c[1:] for c in COMMON + EXPORTED], ids=[c[0] for c in COMMON + EXPORTED]
)
def test_a_damaged_export_is_refused(exported: Path, damage: Damage, message: str) -> None:
    damage(exported)
    with pytest.raises(ModelError, match=message):
        artefact.load(exported)


@pytest.mark.parametrize(("damage", "message"), [c[1:] for c in COMMON], ids=[c[0] for c in COMMON])
def test_a_damaged_original_is_refused(original: Path, damage: Damage, message: str) -> None:
    damage(original)
    with pytest.raises(ModelError, match=message):
        artefact.load_original(str(original))


def test_an_original_loads_as_it_was_saved(
    make_model: MakeModel, original: Path, request_inputs: Callable[..., Inputs]
) -> None:
    loaded = artefact.load_original(str(original))
    assert torch.equal(logits(loaded, request_inputs()), logits(make_model("bert"), request_inputs()))
    assert not loaded.training


def test_half_precision_becomes_float32(make_model: MakeModel, tmp_path: Path) -> None:
    make_model("bert").half().save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in artefact.load_original(str(tmp_path)).parameters()} == {torch.float32}


def test_a_plain_export_with_a_layer_too_many_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    """Its config and plan may agree on fewer: then it is not the model that was saved."""
    model = make_model("bert")
    artefact.save(build(model, PLAIN, materials={}), PLAIN, tmp_path, original=model.config)
    edit(tmp_path / "config.json", num_hidden_layers=1)
    edit(tmp_path / "plan.json", plan=Plan((Stack("encoder", (Slot(Layer(0)), Slot(None), Slot(None))),)).to_json())
    with pytest.raises(ModelError, match=r"do not load.*encoder\.layer\.1"):
        artefact.load(tmp_path)
    assert len(artefact.load_original(str(tmp_path)).bert.encoder.layer) == 1


def test_the_home_folder_is_understood(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(original.parent))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert artefact.load_original("~/original").config.model_type == "bert"


def test_a_plain_export_loads_as_an_original_does(exported: Path, request_inputs: Callable[..., Inputs]) -> None:
    model, plan = artefact.load(exported)
    if not plan.is_plain:
        with pytest.raises(ModelError, match="do not load"):
            artefact.load_original(str(exported))
        return
    again = artefact.load_original(str(exported))
    assert torch.equal(logits(again, request_inputs()), logits(model, request_inputs()))


def test_a_fresh_process_gives_the_same_logits(
    make_model: MakeModel,
    make_bench: Callable[[PreTrainedModel], Workbench],
    request_inputs: Callable[..., Inputs],
    tmp_path: Path,
) -> None:
    model = make_model("roberta")
    slot = Slot(
        Layer(1), Treatments.of({"query": Treatment(None, Precision(8, 8)), "ffn_in": Treatment(None, Precision(8))})
    )
    plan = Plan((Stack("encoder", (Slot(Layer(0)), slot, Slot(None))),), PACKED.outside)
    compressed = make_bench(model).build(plan)
    artefact.save(compressed, plan, tmp_path, original=model.config)
    torch.save(request_inputs(), tmp_path / "inputs.pt")
    script = f"""
import torch
from pathlib import Path
from paring.spaces import artefact
torch.set_num_threads(1)
folder = Path({str(tmp_path)!r})
model, _ = artefact.load(folder)
with torch.inference_mode():
    torch.save(model(**torch.load(folder / "inputs.pt")).logits, folder / "logits.pt")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(compressed, request_inputs()))


def test_stored_bytes_by_hand(make_model: MakeModel) -> None:
    model = make_model("bert")
    whole = artefact.stored_bytes(model)
    assert whole == 4 * sum(parameter.numel() for parameter in model.parameters())
    layer = 4 * sum(parameter.numel() for parameter in model.bert.encoder.layer[0].parameters())
    assert artefact.stored_bytes(build(model, PLAIN, materials={})) == whole - layer
    query, embeddings = 3 * 32 * 32 - 2 * 32, 3 * 64 * 32 - 2 * 64
    assert artefact.stored_bytes(build(model, PACKED, materials={})) == whole - layer - query - embeddings


def test_weights_hash_is_of_the_content(original: Path, tmp_path: Path) -> None:
    found = artefact.weights_hash(str(original))
    shutil.copytree(original, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("notes")
    assert artefact.weights_hash(str(tmp_path / "copy")) == found
    edit(tmp_path / "copy" / "config.json", num_hidden_layers=2)
    assert artefact.weights_hash(str(tmp_path / "copy")) != found
    reshape_a_tensor(weights_of(original))
    assert artefact.weights_hash(str(original)) != found

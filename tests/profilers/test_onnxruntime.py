from collections import Counter
from collections.abc import Callable
from math import log10
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from paring.errors import SettingError
from paring.profilers import devices, onnx_export, onnx_parts, runtimes
from paring.profilers.machine import multiplies_int8_exactly
from paring.profilers.runtimes import onnxruntime as runtime
from paring.spaces.anatomy import anatomy_of
from paring.spaces.blocks import quantise
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.quantised import QuantLinear
from paring.spaces.workbench import Inputs, Workbench

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Workbench]

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

exact = pytest.mark.skipif(not multiplies_int8_exactly(), reason="no exact integer kernel here")


def build(
    make_model: MakeModel, make_bench: MakeBench, precision: str, table: str = "w8", layers: int = 1
) -> nn.Module:
    """One precision for every Linear of the stack, another for tables; weights large enough to show errors."""
    model = make_model("bert", layers=layers)
    with torch.no_grad():
        for part in model.base_model.encoder.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(8)
    anatomy = anatomy_of(model)
    inside = Treatment(precision=Precision.parse(precision))
    outside = Treatment(precision=Precision.parse(table))
    kinds = anatomy.stack("encoder").linears
    slots = tuple(Slot(Layer(i), Treatments.of(dict.fromkeys(kinds, inside))) for i in range(layers))
    plan = Plan((Stack("encoder", slots),), Treatments.of(dict.fromkeys(set(anatomy.outside) - {"pooler"}, outside)))
    return make_bench(model).build(plan)


def load(model: nn.Module) -> runtimes.Executable:
    return runtimes.find("onnxruntime").load(model, devices.find("cpu"), threads=1)


def requests() -> list[Inputs]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(4, 64, (batch, tokens), generator=generator) for batch in (1, 3) for tokens in range(1, 10)]
    return [{"input_ids": some, "attention_mask": torch.ones_like(some)} for some in ids]


def median_db(model: nn.Module, executable: runtimes.Executable) -> float:
    found = []
    for inputs in requests():
        with torch.inference_mode():
            exact: Tensor = model(**inputs).logits
        noise = (executable(inputs) - exact).double().square().sum()
        found.append(10 * log10(float(exact.double().square().sum() / noise)))
    return float(np.median(found))


@pytest.mark.parametrize(
    ("precision", "kernels", "table"),
    [
        pytest.param("w8a8", "int8 6/6", "w8", marks=exact),
        pytest.param("w4a8-64x64-pow2", "int8 6/6", "w5", marks=exact),
        pytest.param("w4a5", "int8 6/6", "w2-1x16", marks=exact),
        ("w4a8-1x16", "int8 0/6", "w4-64x64-pow2"),
        ("w4-1x32", "w4 6/6", "w3-7x20"),
        ("w4-64x64-pow2", "w4 6/6", "w8"),
        ("w4", "w4 6/6", "w5"),
        ("w4-3x20", "w4 0/6", "w2-1x16"),  # blocks of 20 columns: no kernel cuts so
        ("w3-1x32", "w3 6/6", "w4-64x64-pow2"),
        ("w8", "w8 6/6", "w3-7x20"),
        ("w6-1x16", "w6 6/6", "w8"),
        ("w16", "bf16 0/6", "w5"),
        ("w16a16", "bf16 0/6", "w2-1x16"),
    ],
)
def test_every_plan_keeps_its_meaning_and_kernels_are_told(
    make_model: MakeModel, make_bench: MakeBench, precision: str, kernels: str, table: str
) -> None:
    whole = build(make_model, make_bench, precision, table)
    executable = load(whole)
    assert kernels in executable.kernels
    assert median_db(whole, executable) >= 100


def nodes(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@exact
def test_query_key_and_value_round_their_inputs_once(
    make_model: MakeModel, make_bench: MakeBench, tmp_path: Path
) -> None:
    runtimes.find("onnxruntime").save(build(make_model, make_bench, "w8a8", layers=2), tmp_path)
    found = nodes(tmp_path / runtime.ONNX_FILE)
    assert found["MatMulIntegerToFloat"] == 12
    assert found["QuantizeLinear"] == 8


def test_what_is_saved_runs_by_itself(make_model: MakeModel, make_bench: MakeBench, tmp_path: Path) -> None:
    whole = build(make_model, make_bench, "w4-1x32")
    runtimes.find("onnxruntime").save(whole, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [runtime.ONNX_FILE]
    onnx.checker.check_model(tmp_path / runtime.ONNX_FILE)
    session = onnxruntime.InferenceSession(tmp_path / runtime.ONNX_FILE, providers=["CPUExecutionProvider"])
    (inputs,) = requests()[-1:]
    given = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
    (got,) = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    torch.testing.assert_close(torch.from_numpy(got), load(whole)(inputs), rtol=1e-5, atol=1e-5)


def test_a_large_model_keeps_its_weights_in_a_second_file(
    make_model: MakeModel, make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_LARGEST_FILE", 1000)
    whole = build(make_model, make_bench, "w8")
    runtimes.find("onnxruntime").save(whole, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {runtime.ONNX_FILE, f"{runtime.ONNX_FILE}.data"}
    executable = load(whole)
    assert "w8 6/6" in executable.kernels
    assert median_db(whole, executable) >= 100


def test_tables_stay_integers(make_model: MakeModel, make_bench: MakeBench) -> None:
    exported = onnx_export.to_onnx(
        build(make_model, make_bench, "w16", "w4-64x64-pow2"), integer_products=True, pays=lambda *_: False
    )
    words = {t.name: t for t in exported.proto.graph.initializer if "word_embeddings" in t.name and t.dims[0] == 64}
    assert [(name.rpartition(".")[2], tensor.data_type) for name, tensor in words.items()] == [
        ("integers", onnx.TensorProto.INT8)
    ]


def test_without_exact_products_it_runs_in_float_and_says_so(
    make_model: MakeModel, make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "multiplies_int8_exactly", lambda: False)
    whole = build(make_model, make_bench, "w8a8")
    executable = load(whole)
    assert "int8 0/6" in executable.kernels
    assert median_db(whole, executable) >= 100


@exact
@pytest.mark.parametrize("width", [1, 16, 33, 768])
def test_integer_products_do_not_saturate(width: int) -> None:
    """All codes at their extremes: 16-bit sums of products would overflow at the second one."""
    graph = onnx_parts.Graph()
    linear = nn.Linear(width, 7)
    with torch.no_grad():
        linear.weight.fill_(127.0)
    part = QuantLinear(linear, Precision(8, 8), input_range=(1 / 255, 0))
    assert (part.quantised().integers == 127).all()
    onnx_parts.write_part(graph, "part", part, "x", "y", integer_products=True)
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    ports = [helper.make_tensor_value_info(name, kind, ["b", "t", None]) for name in "xy"]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "one", ports[:1], ports[1:], list(graph.constants.values())),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(onnx_parts.MICROSOFT, 1)],
        ir_version=9,
    )
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": np.ones((2, 3, width), np.float32)})
    torch.testing.assert_close(torch.from_numpy(got), part(torch.ones(2, 3, width)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "columns", "size"),
    [
        ("w4", 384, 128),
        ("w4", 40, 32),
        ("w4", 5, 16),
        ("w4-1x32", 384, 32),
        ("w4-64x96", 384, 32),
        ("w4-1x20", 384, None),
    ],
)
def test_blocks_are_as_large_as_scales_allow(precision: str, columns: int, size: int | None) -> None:
    assert onnx_parts.block_size(Precision.parse(precision), columns) == size


def test_codes_in_blocks_by_hand() -> None:
    found = quantise(torch.tensor([[7.0, -8.0, 1.0]]), Precision(4))
    bits, codes, scales = onnx_parts.in_blocks(found, 16)
    assert bits == 4
    assert found.integers.tolist() == [[7, -8, 1]]
    assert codes.tolist() == [[[0x0F, 0x89, *[0x88] * 6]]]
    assert scales.tolist() == [[1.0]]


def test_decoders_are_refused(make_model: MakeModel, make_bench: MakeBench) -> None:
    assert "encoders only" in str(runtimes.find("onnxruntime").refusal(make_model("bart")))
    assert runtimes.find("onnxruntime").refusal(make_model("bert")) is None
    with pytest.raises(SettingError, match="encoders only"):
        load(make_model("bert", layers=1)).generate(requests()[0], new_tokens=1)


def test_absence_comes_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    absence = runtimes.find("onnxruntime").absence(devices.find("cpu"))
    assert absence == "it is not installed; pip install 'paring[onnxruntime]'"

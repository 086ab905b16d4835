"""What OpenVINO makes of every precision: the same numbers, on its own kernels, and small files."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from math import log10
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from paring.profilers import devices, openvino_kernels, openvino_patterns, runtimes
from paring.profilers.runtimes.openvino import IR_FILE
from paring.spaces.plan import Layer, Plan, Precision, Slot, Stack, Treatment, Treatments
from paring.spaces.quantised import QuantEmbedding, QuantLinear
from paring.spaces.ranges import affine_range
from paring.spaces.workbench import Workbench

# Not by importing it, which only paring does without its reports to its makers: they cost two thirds of these tests.
if find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Workbench]
KINDS = ("attention_output", "ffn_in", "ffn_out", "key", "query", "value")
FLOAT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}

# Of a model's Linears: kernels, bits that a weight takes in a file, decibels of the typical request.
FORMS = {
    "w8a8": ("int8 6/6 Linears", 8, 100),
    "w4a8-64x64-pow2": ("int8 6/6 Linears", 4, 100),
    "w6a6-8x8-pow2": ("int8 6/6 Linears", 8, 100),
    "w4a8-1x16": ("int8 0/6 Linears", 4, 100),  # scales that no shift makes one of
    "w4-1x16": ("w4 6/6 Linears", 4, 100),
    "w3-7x24": ("w3 6/6 Linears", 4, 100),  # blocks that do not divide
    "w16": ("bf16 0/6 Linears", 16, 100),
    "w16a16": ("bf16 6/6 Linears", 16, 40),  # products are rounded to bfloat16
}


@pytest.fixture
def lively(make_model: MakeModel, make_bench: MakeBench) -> tuple[PreTrainedModel, Workbench]:
    """A BERT with larger weights than fresh ones, so that the residual path does not drown errors; its workbench."""
    model = make_model("bert", layers=1)
    with torch.no_grad():
        for part in model.bert.encoder.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(8)
    return model, make_bench(model)


def plan_of(linears: Mapping[str, str], table: str | None) -> Plan:
    treatments = Treatments.of({kind: Treatment(precision=Precision.parse(form)) for kind, form in linears.items()})
    outside = {} if table is None else {"embeddings": Treatment(precision=Precision.parse(table))}
    return Plan((Stack("encoder", (Slot(Layer(0), treatments),)),), Treatments.of(outside))


def sqnr_db(exact: Tensor, got: Tensor) -> float:
    noise = float((got - exact).double().square().sum())
    return 10 * log10(float(exact.double().square().sum()) / noise) if noise else float("inf")


def compiled_from(module: nn.Module, example: Tensor) -> Any:
    """A module, converted by the patterns and compiled; its quantised parts are replaced."""
    openvino = openvino_patterns.openvino()
    told = openvino_patterns.prepare(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(module, example_input=(example,), extension=told)
    # Inside a model the width is known; where it is not, the conversion makes the weight's shape follow the input's.
    openvino_patterns.finish(converted)
    converted.reshape([-1, *example.shape[1:]])
    return openvino.Core().compile_model(converted, "CPU", FLOAT)


def operations(compiled: Any, kind: str) -> list[Any]:
    every = compiled.get_runtime_model().get_ordered_ops()
    return [operation for operation in every if operation.get_rt_info()["layerType"].value == kind]


def test_no_test_of_this_process_reports_to_the_makers() -> None:
    openvino_patterns.openvino()
    assert sys.modules["openvino_telemetry"] is None


@pytest.mark.parametrize("form", FORMS)
def test_every_form_runs_as_meant_and_is_saved_small(
    lively: tuple[PreTrainedModel, Workbench], tmp_path: Path, form: str
) -> None:
    """Once in a while the order of summation pushes an input over the edge between two codes, so the worst is worse."""
    model, bench = lively
    kernels, bits, typical = FORMS[form]
    whole, runtime = bench.build(plan_of(dict.fromkeys(KINDS, form), None)), runtimes.find("openvino")
    executable = runtime.load(whole, devices.find("cpu"), threads=1)
    assert executable.kernels == kernels

    runtime.save(whole, tmp_path)
    compiled = openvino_patterns.openvino().Core().compile_model(tmp_path / IR_FILE, "CPU", FLOAT)
    asked = openvino_kernels.kernels_asked(whole)
    count = int(kernels.split()[1].partition("/")[0])
    assert len(openvino_kernels.kernels_run(compiled, asked)) == count

    generator, found = torch.Generator().manual_seed(0), []
    for length in range(1, 10):
        ids = torch.randint(4, 64, (2, length), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        got = executable(inputs)
        read_back = compiled({name: tensor.numpy() for name, tensor in inputs.items()})[0]
        assert torch.equal(got, torch.from_numpy(read_back))
        with torch.inference_mode():
            found.append(sqnr_db(whole(**inputs).logits, got))
    assert median(found) >= typical
    assert min(found) >= 25

    (tmp_path / "float").mkdir()
    runtime.save(model, tmp_path / "float")
    binary = Path(IR_FILE).with_suffix(".bin")
    saved = (tmp_path / "float" / binary).stat().st_size - (tmp_path / binary).stat().st_size
    numbers = 4 * 32 * 32 + 2 * 32 * 64
    # 0.3 bytes per weight are room for scales: two bytes for every eight weights, in the worst form.
    assert saved >= numbers * (4 - bits / 8 - 0.3)


def test_kernels_are_those_of_the_linears_that_ask_for_them(lively: tuple[PreTrainedModel, Workbench]) -> None:
    _, bench = lively
    forms = {"query": "w8a8", "key": "w4-1x16", "value": "w16a16", "ffn_in": "w4a8-1x16", "ffn_out": "w16"}
    executable = runtimes.find("openvino").load(bench.build(plan_of(forms, "w8")), devices.find("cpu"), threads=1)
    assert executable.kernels == "bf16 1/2, int8 1/2, w4 1/1 Linears"


def test_inputs_that_several_linears_share_are_rounded_once(lively: tuple[PreTrainedModel, Workbench]) -> None:
    _, bench = lively
    whole = bench.build(plan_of(dict.fromkeys(("query", "key", "value"), "w8a8"), None))
    executable = runtimes.find("openvino").load(whole, devices.find("cpu"), threads=1)
    assert executable.kernels == "int8 3/3 Linears"
    assert len(operations(executable._compiled, "FakeQuantize")) <= 1


def test_query_and_key_are_rounded_before_they_are_cut_into_heads(
    lively: tuple[PreTrainedModel, Workbench], tmp_path: Path
) -> None:
    """There the plug-in makes rounding one with the product before it."""
    _, bench = lively
    whole = bench.build(plan_of({"query": "w8a8", "scores": "a8"}, None))
    runtimes.find("openvino").save(whole, tmp_path)
    saved = openvino_patterns.openvino().Core().read_model(tmp_path / IR_FILE)
    rounded = [
        operation.input_value(0).get_node().get_type_name()
        for operation in saved.get_ordered_ops()
        if operation.get_type_name() == "FakeQuantize"
    ]
    # The inputs of the Linear, then query and key.
    assert len(rounded) == 3 and not {"Reshape", "Transpose"}.intersection(rounded)
    compiled = openvino_patterns.openvino().Core().compile_model(saved, "CPU", FLOAT)
    ids = torch.arange(4, 20).view(2, 8)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    got = torch.from_numpy(compiled({name: tensor.numpy() for name, tensor in inputs.items()})[0])
    with torch.inference_mode():
        assert sqnr_db(whole(**inputs).logits, got) >= 40


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("w8", "i8"),
        ("w8-1x16", "i8"),
        ("w8-7x24-pow2", "i8"),
        ("w5-64x64", "i8"),
        ("w4", "i4"),
        ("w4-64x64-pow2", "i4"),
        ("w3-1x16", "i4"),
        ("w2-7x24", "i4"),
    ],
)
def test_tables_are_looked_up_in_their_codes(form: str, kind: str, scaled: bool) -> None:
    """Beside an integer product, where whole tables of 8 bits would be made float."""
    torch.manual_seed(0)
    table = nn.Embedding(50, 48)
    if scaled:
        table.embed_scale = 7.0
    words = QuantEmbedding(table, Precision.parse(form))
    linear = QuantLinear(nn.Linear(48, 16), Precision(8, 8), input_range=(0.05, 128))
    ids = torch.arange(50).reshape(5, 10)
    exact = words(ids)
    alone = compiled_from(nn.Sequential(words), ids)
    torch.testing.assert_close(torch.from_numpy(alone([ids.numpy()])[0]), exact, rtol=1e-6, atol=0)
    beside = compiled_from(nn.Sequential(words, linear), ids)
    for compiled in (alone, beside):
        tables = Counter(
            operation.input(0).get_element_type().get_type_name()
            for operation in operations(compiled, "Gather")
            if operation.input(0).get_partial_shape()[0].get_length() == 50
            and operation.input(0).get_partial_shape().to_shape()[-1] > 1
        )
        assert set(tables) == {kind}


@pytest.mark.parametrize(
    ("form", "runs"),
    [
        *(
            (form, True)
            for form in ("w8a8", "w5a8", "w3a8-16x16-pow2", "w4a8-7x24-pow2", "w2a8", "w8a7", "w8a4", "w8a2", "w2a3")
        ),
        *((form, True) for form in ("w8", "w8-16x16-pow2", "w7", "w6-1x16", "w5", "w4", "w3", "w2-1x16")),
        *((form, False) for form in ("w4a8-1x16", "w8a8-1x16", "w4-1x5", "w8-1x4", "w4-1x3")),
    ],
)
def test_one_linear(form: str, runs: bool) -> None:
    """Narrow groups are multiplied in float: the plug-in has slow kernels for them or none."""
    torch.manual_seed(0)
    inputs, precision = torch.randn(2, 4, 48), Precision.parse(form)
    input_range = None if precision.activation_bits is None else affine_range(inputs, precision.activation_bits)
    factors = torch.rand(48) + 0.5 if precision.smooths_inputs else None
    model = nn.Sequential(QuantLinear(nn.Linear(48, 32), precision, input_range=input_range, input_factors=factors))
    exact, asked = model(inputs), openvino_kernels.kernels_asked(model)
    compiled = compiled_from(model, inputs)
    torch.testing.assert_close(torch.from_numpy(compiled([inputs.numpy()])[0]), exact, rtol=1e-4, atol=1e-5)
    assert openvino_kernels.kernels_run(compiled, asked) == [asked["0"].kernel] * runs
    # Weights are made what they are in use once, and not beside every request.
    assert len(operations(compiled, "FullyConnected")) == 1 and not operations(compiled, "MatMul")


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (1, 1), (7, 33)])
@pytest.mark.parametrize("form", ["w4", "w4-2x2", "w4-1x11", "w8", "w3a8", "w4a8-2x8-pow2"])
def test_odd_shapes(form: str, rows: int, columns: int) -> None:
    torch.manual_seed(0)
    precision = Precision.parse(form)
    linear = QuantLinear(nn.Linear(columns, rows), precision, input_range=(0.02, 100) if "a" in form else None)
    inputs = torch.randn(2, 4, columns)
    exact = linear(inputs)
    compiled = compiled_from(nn.Sequential(linear), inputs)
    torch.testing.assert_close(torch.from_numpy(compiled([inputs.numpy()])[0]), exact, rtol=1e-4, atol=1e-5)


def test_requests_of_several_threads_do_not_mix(lively: tuple[PreTrainedModel, Workbench]) -> None:
    model, _ = lively
    executable = runtimes.find("openvino").load(model, devices.find("cpu"), threads=1)
    batches = []
    for seed in range(4):
        ids = torch.randint(4, 64, (3, 5 + seed), generator=torch.Generator().manual_seed(seed))
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    expected = [executable(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for got, wanted in zip(pool.map(executable, batches), expected, strict=True):
                assert torch.equal(got, wanted)


class Chain(nn.Module):
    """A Linear right behind a Linear, whose result goes elsewhere too, as in a projection of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.first, factors = nn.Linear(24, 48), torch.rand(48) + 0.5
        self.second = QuantLinear(nn.Linear(48, 32), Precision(8, 8), input_range=(0.02, 100), input_factors=factors)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        between = self.first(inputs)
        return self.second(between), between


def test_factors_right_behind_a_product_are_kept() -> None:
    torch.manual_seed(0)
    model, inputs = Chain(), torch.randn(2, 6, 24)
    with torch.no_grad():
        expected = model(inputs)
    answers = compiled_from(model, inputs)([inputs.numpy()])
    for got, exact in zip((torch.from_numpy(answers[port]) for port in range(2)), expected, strict=True):
        assert sqnr_db(exact, got) >= 100

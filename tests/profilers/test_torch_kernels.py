"""Every kernel of the torch runtime gives the numbers of the part it stands for, and `kernels` says which ran."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from math import log10

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from paring.profilers import devices, runtimes, torch_tables
from paring.profilers.runtimes import torch as torch_runtime
from paring.profilers.torch_floats import (
    DenseLinear,
    HalfLinear,
    PackedBFloat16Linear,
    PlainBFloat16Linear,
    half_weight,
)
from paring.profilers.torch_integers import FusedInt8Linear, Int8Linear, IntMmLinear
from paring.profilers.torch_tables import CodesLinear, LookupTable
from paring.spaces.anatomy import anatomy_of
from paring.spaces.plan import Plan, Slot, Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.quantised import BFloat16Linear, QuantEmbedding, QuantLinear
from paring.spaces.ranges import affine_range
from paring.spaces.workbench import Inputs, Workbench

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Workbench]
CPU = torch.device("cpu")
VNNI = ("avx2", "avx512f", "avx512_vnni")
WEIGHTS_ONLY = ("w8", "w8-4xall-pow2", "w7-1x16", "w5", "w4-8x8-pow2", "w4-1x16", "w3-1x16", "w2-1x16", "w4-3x5")

has_fbgemm = pytest.mark.skipif(not torch_runtime.has_half_kernel(), reason="no fbgemm here")
has_int8 = pytest.mark.skipif(torch_runtime.int8_product(CPU) is None, reason="no exact integer product here")
INT8 = [
    pytest.param(
        FusedInt8Linear,
        marks=pytest.mark.skipif("avx512_vnni" not in torch_runtime.instruction_sets(), reason="no VNNI here"),
    ),
    pytest.param(Int8Linear, marks=has_int8),
    IntMmLinear,
]


def sqnr_db(exact: Tensor, got: Tensor) -> float:
    noise = float((got - exact).double().square().sum())
    return 10 * log10(float(exact.double().square().sum()) / noise) if noise else float("inf")


def part_of(precision: str, rows: int = 40, columns: int = 48, *, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    linear, wanted = nn.Linear(columns, rows, bias=bias).requires_grad_(False), Precision.parse(precision)
    if not wanted.has_integer_weights:
        return BFloat16Linear(linear, wanted)
    bits = wanted.activation_bits
    found = None if bits is None else affine_range(torch.randn(999) + 0.3, bits)
    factors = torch.rand(columns) + 0.5 if wanted.smooths_inputs else None
    return QuantLinear(linear, wanted, input_range=found, input_factors=factors)


def whole(
    model: PreTrainedModel, bench: Workbench, linears: str | None, table: str | None = None
) -> tuple[nn.Module, int]:
    """A model with one precision for every Linear of its stacks, and how many there are."""
    plan, count = anatomy_of(model).identity(), 0
    for stack in plan.stacks if linears else ():
        kinds = anatomy_of(model).stack(stack.name).linears
        every = Treatments.of(dict.fromkeys(kinds, Treatment(precision=Precision.parse(linears))))
        count += len(kinds) * len(stack.slots)
        plan = plan.with_stack(replace(stack, slots=tuple(Slot(slot.layer, every) for slot in stack.slots)))
    outside = Treatments.of({"embeddings": Treatment(precision=table and Precision.parse(table))})
    return bench.build(Plan(plan.stacks, outside)), count


@pytest.mark.parametrize("kernel", INT8)
@pytest.mark.parametrize("precision", ["w8a8", "w4a8-8x8-pow2", "w3a8", "w8a5", "w4a4-16x16-pow2", "w2a2"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (1, 1, 48), (2, 9, 48), (33, 48)], ids=str)
def test_integer_products_are_exact(
    kernel: type[nn.Module], precision: str, bias: bool, shape: tuple[int, ...]
) -> None:
    part = part_of(precision, bias=bias)
    inputs = 3 * torch.randn(shape)  # beyond the calibrated range on both sides
    got = kernel(part, *part.quantised().by_row())(inputs)
    assert got.dtype == torch.float32 and got.shape == (*shape[:-1], 40)
    assert sqnr_db(part(inputs), got) >= 100


@pytest.mark.parametrize("kernel", INT8)
@pytest.mark.parametrize("width", [1, 16, 33, 768])
def test_integer_products_do_not_saturate(kernel: type[nn.Module], width: int) -> None:
    """All codes at their extremes: 16-bit sums of products would overflow at the second one."""
    linear = nn.Linear(width, 7).requires_grad_(False)
    linear.weight.fill_(1.0)
    quantised = QuantLinear(linear, Precision(8, 8), input_range=(1 / 255, 0))
    got = kernel(quantised, *quantised.quantised().by_row())(torch.ones(2, 3, width))
    torch.testing.assert_close(got, quantised(torch.ones(2, 3, width)), rtol=1e-5, atol=1e-5)


@has_fbgemm
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("precision", ["w8", "w7", "w4-8x8-pow2", "w4-1x16", "w3-1x16", "w2-1x16", "w16", "w4a8-1x16"])
def test_weights_in_half_precision_are_the_same_weights(precision: str, bias: bool) -> None:
    part, inputs = part_of(precision, bias=bias), torch.randn(2, 5, 48)
    halves = half_weight(part)
    assert sqnr_db(part(inputs), HalfLinear(part, *halves)(inputs)) >= 110
    assert torch.equal(halves[0].half().float(), halves[0]) or precision == "w16"


@pytest.mark.parametrize("precision", ["w8-1x16", "w6-1x16"])
def test_weights_that_half_precision_would_change_stay_integers(precision: str) -> None:
    part, inputs = part_of(precision), torch.randn(2, 5, 48)
    assert half_weight(part) is None
    found, kernel = torch_runtime._lowered(part, torch_runtime._Unpacked(set()), CPU)
    assert isinstance(found, CodesLinear) and kernel == precision[:2]
    assert sqnr_db(part(inputs), found(inputs)) >= 110


@has_fbgemm
@pytest.mark.parametrize("size", [1e-7, 1e-30, 3e4, 1e6])
def test_weights_beyond_half_precision_are_right_as_well(size: float) -> None:
    linear, inputs = nn.Linear(48, 40, bias=False).requires_grad_(False), torch.randn(5, 48)
    linear.weight.mul_(size)
    for precision in ("w4-1x16", "w4"):
        part = QuantLinear(linear, Precision.parse(precision), input_range=None)
        found, _ = torch_runtime._lowered(part, torch_runtime._Unpacked(set()), CPU)
        assert sqnr_db(part(inputs), found(inputs)) >= 100


@pytest.mark.parametrize("bias", [True, False])
def test_bfloat16_products_round_their_outputs_too(bias: bool) -> None:
    part, inputs = part_of("w16a16", bias=bias), torch.randn(2, 9, 48)
    assert sqnr_db(part(inputs), DenseLinear(part)(inputs)) >= 110
    kernels = [PlainBFloat16Linear]
    if torch_runtime.has_bfloat16(CPU):
        kernels.append(PackedBFloat16Linear)
    for kernel in kernels:
        got = kernel(part)(inputs)
        assert got.dtype == torch.float32 and got.shape == (2, 9, 40)
        assert sqnr_db(part(inputs), got) >= 50


@pytest.mark.parametrize("precision", WEIGHTS_ONLY)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 40, 64])
def test_codes_in_blocks_mean_the_same(monkeypatch: pytest.MonkeyPatch, rows: int, bias: bool, precision: str) -> None:
    monkeypatch.setattr(torch_tables, "_BLOCK", rows * 48)
    part, inputs = part_of(precision, bias=bias), torch.randn(2, 3, 48)
    got = CodesLinear(part, part.quantised())(inputs)
    assert got.shape == (2, 3, 40)
    assert sqnr_db(part(inputs), got) >= 110


@pytest.mark.parametrize("precision", WEIGHTS_ONLY)
@pytest.mark.parametrize("as_integers", [True, False])
def test_words_are_looked_up_as_they_mean(precision: str, as_integers: bool) -> None:
    torch.manual_seed(0)
    table = QuantEmbedding(nn.Embedding(70, 45), Precision.parse(precision))
    table.embed_scale = 6.7
    ids = torch.randint(0, 70, (3, 8))
    found = LookupTable(table, table.quantised(), as_integers=as_integers)
    for places in (ids, ids[0]):
        torch.testing.assert_close(found(places), table(places), rtol=1e-6, atol=0)
    bytes_of_a_code = 1.0 if as_integers or precision[1] in "578" else 0.25 if precision[1] == "2" else 0.5
    held = sum(tensor.nbytes for name, tensor in found.state_dict().items() if name != "scale")
    assert held == 70 * 48 * bytes_of_a_code or (bytes_of_a_code == 1 and held == 70 * 45)


@has_fbgemm
@pytest.mark.parametrize(
    ("precision", "sets", "kernels", "module"),
    [
        ("w8a8", VNNI, "int8 18/18", FusedInt8Linear),
        ("w4a8-8x8-pow2", VNNI, "int8 18/18", FusedInt8Linear),
        ("w8a8", (*VNNI, "amx_int8"), "int8 18/18", Int8Linear),
        ("w8a8", ("avx2", "avx_vnni"), "int8 18/18", Int8Linear),
        ("w4a8-1x16", VNNI, "int8 0/18", HalfLinear),
        ("w8a8", (), "int8 0/18", HalfLinear),
        ("w8a8", ("avx2", "avx512f"), "int8 0/18", HalfLinear),
        ("w8", VNNI, "w8 0/18", HalfLinear),
        ("w4-1x16", VNNI, "w4 0/18", HalfLinear),
        ("w6-1x16", VNNI, "w6 18/18", CodesLinear),
        ("w16", (), "bf16 18/18", HalfLinear),
        ("w16a16", (*VNNI, "avx512_bf16"), "bf16 18/18", PackedBFloat16Linear),
        ("w16a16", VNNI, "bf16 0/18", HalfLinear),
    ],
)
def test_what_runs_is_what_the_processor_has_and_is_said(
    make_model: MakeModel,
    make_bench: MakeBench,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    sets: tuple[str, ...],
    kernels: str,
    module: type[nn.Module],
) -> None:
    monkeypatch.setattr(torch_runtime, "instruction_sets", lambda: sets)
    model = make_model("bert")
    compressed, count = whole(model, make_bench(model), precision)
    executable = runtimes.find("torch").load(compressed, devices.find("cpu"), threads=1)
    assert executable.kernels == f"{kernels} Linears"
    assert sum(isinstance(part, module) for part in executable.model.modules()) == count == 18


def test_without_fbgemm_the_meaning_is_the_same(
    make_model: MakeModel,
    make_bench: MakeBench,
    request_inputs: Callable[..., Inputs],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on processors that are not x86."""
    monkeypatch.setattr(torch_runtime, "has_half_kernel", lambda: False)
    monkeypatch.setattr(torch_runtime, "instruction_sets", lambda: ("asimd",))
    model = make_model("bert")
    for precision, kernels in (("w4-1x16", "w4 18/18"), ("w16", "bf16 0/18"), ("w8a8", "int8 0/18")):
        compressed, _ = whole(model, make_bench(model), precision)
        executable = runtimes.find("torch").load(compressed, devices.find("cpu"), threads=1)
        assert executable.kernels == f"{kernels} Linears"
        with torch.inference_mode():
            expected = compressed(**request_inputs()).logits
        assert sqnr_db(expected, executable(request_inputs())) >= 90


@pytest.mark.parametrize(
    ("capability", "int8", "bf16"), [((7, 0), 0, 0), ((7, 5), 1, 0), ((8, 0), 1, 1), ((12, 0), 1, 1)]
)
def test_cuda_gets_what_its_tensor_cores_have(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], int8: bool, bf16: bool
) -> None:
    """The choice only: nothing runs on a GPU here."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    cuda, none = torch.device("cuda:0"), torch_runtime._Unpacked(set())
    found, kernel = torch_runtime._lowered(part_of("w4a8-8x8-pow2"), none, cuda)
    assert (type(found), kernel) == ((IntMmLinear, "int8") if int8 else (DenseLinear, None))
    found, kernel = torch_runtime._lowered(part_of("w16a16"), none, cuda)
    assert (type(found), kernel) == ((PlainBFloat16Linear, "bf16") if bf16 else (DenseLinear, None))
    for precision in ("w4-1x16", "w16"):
        found, kernel = torch_runtime._lowered(part_of(precision), none, cuda)
        assert (type(found), kernel) == (DenseLinear, None)


@pytest.mark.parametrize(("table", "bits"), [("w8", 8), ("w4-8x8-pow2", 4), ("w3-1x16", 3)])
@pytest.mark.parametrize("family", ["mbart", "t5-gated"])
def test_a_tied_table_is_held_once(
    make_model: MakeModel,
    make_bench: MakeBench,
    inputs_of: Callable[..., Inputs],
    family: str,
    table: str,
    bits: int,
) -> None:
    """Three lookups and the output hold one tensor; codes of fewer than 8 bits are unpacked for all of them."""
    model = make_model(family)
    compressed, _ = whole(model, make_bench(model), None, table)
    executable = runtimes.find("torch").load(compressed, devices.find("cpu"), threads=1)
    with torch.inference_mode():
        expected = compressed(**inputs_of(model)).logits
    assert sqnr_db(expected, executable(inputs_of(model))) >= 100
    assert executable.kernels == f"w{bits} 1/1 Linears"
    state = executable.model.state_dict()
    tables = [tensor for name, tensor in state.items() if name.endswith(".integers")]
    assert len(tables) == 4
    assert {tensor.data_ptr() for tensor in tables} == {tables[0].data_ptr()}
    assert not [name for name in state if name.endswith(".codes")]


@has_fbgemm
@pytest.mark.parametrize("engine", torch.backends.quantized.supported_engines)
def test_loading_leaves_settings_of_the_process_alone_and_is_silent(engine: str) -> None:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for precision in ("w8a8", "w4-1x16"):
                part = part_of(precision)
                torch_runtime._lowered(part, torch_runtime._Unpacked(set()), CPU)[0](torch.randn(2, 48))
        assert torch.backends.quantized.engine == engine
    finally:
        torch.backends.quantized.engine = before


@has_fbgemm
def test_a_kernel_never_writes_to_its_inputs() -> None:
    for precision in ("w8a8", "w8a4", "w8", "w6-1x16", "w4-1x16", "w16a16", "w16"):
        inputs = 5 * torch.randn(3, 48)
        before = inputs.clone()
        part = part_of(precision)
        for found in (torch_runtime._lowered(part, torch_runtime._Unpacked(set()), CPU)[0], DenseLinear(part)):
            first = found(inputs)
            assert torch.equal(found(inputs), first)
            assert torch.equal(inputs, before)

"""Results between the Linears in integers: tables, the modules that use them, and whole models."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from paring.errors import PlanError
from paring.spaces import artefact
from paring.spaces.anatomy import anatomy_of
from paring.spaces.attention import POINTS
from paring.spaces.axes import bits as bits_axis
from paring.spaces.build import build
from paring.spaces.factorisation import Factorisation
from paring.spaces.families import FAMILIES
from paring.spaces.intermediate_ranges import block_ranges, function_ranges
from paring.spaces.intermediates import (
    NORM_BLOCK,
    BlockRounding,
    Rounding,
    TableActivation,
    TableNorm,
    TableSoftmax,
)
from paring.spaces.palette import Palette
from paring.spaces.plan import Plan, Slot, Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.quantised import QuantLinear
from paring.spaces.ranges import affine_range, rounded_inputs
from paring.spaces.tables import (
    EXPONENTIAL_UNIT,
    affine_codes,
    exponential_table,
    function_table,
    reciprocal,
    reciprocal_root,
    reciprocal_root_table,
    reciprocal_table,
)
from paring.spaces.workbench import Inputs, Workbench

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Workbench]

A8 = Treatment(precision=Precision(None, 8))
W8A8 = Treatment(precision=Precision(8, 8))
KINDS = ("scores", "softmax", "context", "activation", "norms")

each_kind = pytest.mark.parametrize("kind", KINDS)
each_family = pytest.mark.parametrize("family", [*FAMILIES, "t5-gated"])


def treated(bench: Workbench, treatment: Treatment, *kinds: str, also: Mapping[str, Treatment] | None = None) -> Plan:
    """The identity with these kinds of every slot treated, and other kinds otherwise."""
    plan = bench.anatomy.identity()
    treatments = Treatments.of({**dict.fromkeys(kinds, treatment), **(also or {})})
    for stack in plan.stacks:
        slots = tuple(replace(slot, treatments=treatments) for slot in stack.slots)
        plan = plan.with_stack(replace(stack, slots=slots))
    return plan


def logits(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def found(**ranges: tuple[float, int]) -> dict[str, torch.Tensor]:
    """Ranges of points, as they are remembered."""
    pairs = {name: {"scale": scale, "zero_point": zero} for name, (scale, zero) in ranges.items()}
    return {f"{name}.{key}": torch.tensor(value) for name, pair in pairs.items() for key, value in pair.items()}


def softmax_of(scores: torch.Tensor, bits: int = 8) -> TableSoftmax:
    return TableSoftmax(bits, found(scores=affine_range(scores, bits, "min_max")))


def norm_of(norm: nn.Module, rows: torch.Tensor, bits: int = 8) -> TableNorm:
    with torch.no_grad():
        ends = {"inputs": rows, "outputs": norm(rows)}
    ranges = {name: block_ranges(values, bits, "min_max") for name, values in ends.items()}
    return TableNorm(norm, bits, {f"{end}.{key}": tensor for end, fit in ranges.items() for key, tensor in fit.items()})


def test_codes_are_those_of_the_rounded_values() -> None:
    values = torch.randn(5000) * 3
    scale, zero_point = affine_range(values, 8)
    scales = torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32)
    codes = affine_codes(values, *scales, 8)
    assert torch.allclose((codes - zero_point) * scales[0], rounded_inputs(values, *scales, 8), atol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "relu", "silu", "tanh"])
@pytest.mark.parametrize("bits", [4, 8])
def test_tables_of_functions_are_exact(name: str, bits: int) -> None:
    inputs, outputs = (0.05, 100 % 2**bits), (0.03, 8)
    values = ((torch.arange(2**bits) - inputs[1]) * 0.05).float()
    expected = (ACT2FN[name](values) / 0.03 + 8).round().clamp(0, 2**bits - 1)
    assert torch.equal(function_table(ACT2FN[name], inputs, outputs, bits).float(), expected)


def test_the_table_of_exponentials_is_exact() -> None:
    table = exponential_table(0.07, 8)
    assert table.dtype == torch.int16
    expected = torch.exp(-0.07 * torch.arange(256, dtype=torch.float64)) * EXPONENTIAL_UNIT
    assert (table - expected).abs().max() <= 0.5
    assert table[0] == EXPONENTIAL_UNIT


def test_entries_of_the_fixed_tables() -> None:
    middles = 1 + (torch.arange(256).double() + 0.5) / 256
    assert (reciprocal_table() - 1 / middles).abs().max() <= 2**-16
    halves = 1 + (torch.arange(128).double() + 0.5) / 128
    assert (reciprocal_root_table() - torch.cat([halves, 2 * halves]).rsqrt()).abs().max() <= 2**-16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reciprocals_are_near_for_all_magnitudes(dtype: torch.dtype) -> None:
    powers = torch.pow(2.0, torch.arange(-30, 60, dtype=dtype))
    values = torch.cat([powers, powers * (1 - 2**-20), powers * (1 + 2**-20), torch.rand(20000, dtype=dtype) * 3e7 + 1])
    assert ((reciprocal(values, reciprocal_table()) * values - 1).abs()).max() < 0.0021
    error = (reciprocal_root(values, reciprocal_root_table()) * values.sqrt() - 1).abs().max()
    assert error < 1e-5


def test_newtons_step_is_needed() -> None:
    values = torch.linspace(1, 4, 10001)
    halves = 1 + (torch.arange(128) + 0.5) / 128
    nearest = torch.cat([halves, 2 * halves])
    guesses = reciprocal_root_table()[(values[:, None] - nearest).abs().argmin(1)]
    by_table = (guesses * values.sqrt() - 1).abs().max()
    by_newton = (reciprocal_root(values, reciprocal_root_table()) * values.sqrt() - 1).abs().max()
    assert by_newton < by_table / 100


@pytest.mark.parametrize("keys", [1, 7, 100])
def test_softmax_is_near_and_its_rows_sum_to_one(keys: int) -> None:
    scores = torch.randn(4, 2, 9, keys) * 3
    probabilities = softmax_of(scores)(scores, None)
    step = float(affine_range(scores, 8, "min_max")[0])
    exact = scores.softmax(-1)
    # Half a step in the score and in the maximum, the reciprocal, and half a code of the output.
    assert (probabilities - exact).abs().max() <= exact.max() * (torch.expm1(torch.tensor(step)) + 0.003) + 0.5 / 255
    assert (probabilities.sum(-1) - 1).abs().max() <= 0.0021 + keys * 0.5 / 255
    assert torch.equal((probabilities * 255).round() / 255, probabilities)


def test_masked_scores_have_no_probability_and_no_influence() -> None:
    scores = torch.randn(3, 2, 5, 8)
    allowed = torch.ones(5, 8, dtype=torch.bool).tril()
    softmax = softmax_of(scores)
    probabilities = softmax(scores, allowed)
    assert (probabilities[..., ~allowed] == 0).all()
    assert torch.equal(softmax(scores.masked_fill(~allowed, 1e30), allowed), probabilities)
    assert torch.equal(softmax(scores, torch.zeros(5, 8, dtype=torch.bool)), torch.zeros_like(scores))
    assert torch.equal(softmax(scores[..., :1], None), torch.ones(3, 2, 5, 1))


def test_equal_scores_share_evenly() -> None:
    zeros = torch.zeros(1, 1, 2, 5)
    assert torch.equal(softmax_of(zeros)(zeros, None), torch.full((1, 1, 2, 5), 51 / 255))


@pytest.mark.parametrize("name", ["gelu", "relu", "silu"])
def test_activations_are_within_their_codes(name: str) -> None:
    values = torch.randn(4000) * 2
    ranges = function_ranges(ACT2FN[name], values, 8, "min_max")
    module = TableActivation(ACT2FN[name], 8, found(**ranges))
    error = (module(values) - ACT2FN[name](values)).abs().max()
    # No slope of these is above 1.13.
    assert error <= 0.5 * (1.13 * ranges["inputs"][0] + ranges["outputs"][0]) + 1e-5


def test_activations_are_fitted_to_their_outputs() -> None:
    values = torch.cat([torch.randn(4000), -30 * torch.rand(400)])
    gelu = ACT2FN["gelu"]

    def error(calibration: str) -> float:
        module = TableActivation(gelu, 8, found(**function_ranges(gelu, values, 8, calibration)))
        return float((module(values) - gelu(values)).square().mean())

    assert error("least_error") < error("min_max") / 3


@pytest.mark.parametrize("value", [0.0, 7.0, -1e30, 1e30])
def test_activations_of_constants(value: float) -> None:
    values = torch.full((50,), value)
    module = TableActivation(ACT2FN["relu"], 8, found(**function_ranges(ACT2FN["relu"], values, 8, "least_error")))
    assert torch.allclose(module(values), values.relu(), rtol=0.01)


@pytest.mark.parametrize("features", [32, 40, 384])
def test_norms_are_near(features: int) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(features)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    rows = torch.randn(200, features) * 2 + 0.5
    module = norm_of(norm, rows)
    with torch.no_grad():
        expected, got = norm(rows), module(rows)
    assert (got - expected).square().mean() < 3e-4 * expected.square().mean()
    assert dict(module.named_parameters()).keys() == {"weight", "bias"}


def test_a_norm_is_exact_for_what_its_codes_stand_for() -> None:
    norm = nn.LayerNorm(48, eps=1e-12)
    rows = torch.randn(100, 48)
    module = norm_of(norm, rows)
    module.outputs = nn.Identity()
    with torch.no_grad():
        assert torch.allclose(module(rows), norm(module.inputs(rows)), rtol=2e-5, atol=2e-5)


def test_blocks_keep_what_one_range_loses() -> None:
    rows = torch.randn(500, 64)
    rows[:, 3] *= 1000

    def error(rounding: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return (rounding(rows) - rows)[:, NORM_BLOCK:].square().mean()

    by_block = BlockRounding(64, 8, block_ranges(rows, 8, "min_max"))
    whole = Rounding(8, {key.removeprefix("x."): v for key, v in found(x=affine_range(rows, 8, "min_max")).items()})
    assert error(by_block) < error(whole) / 1000


def test_blocks_differ_by_shifts_and_cover_what_was_seen() -> None:
    rows = torch.randn(300, 40) * torch.rand(40) * 9 + torch.randn(40)
    ranges = block_ranges(rows, 8, "min_max")
    rounding = BlockRounding(40, 8, ranges)
    integers = rounding.integers(rows)
    assert torch.equal(integers, integers.round())
    assert len(ranges["exponents"]) == -(-40 // NORM_BLOCK)
    steps = float(ranges["scale"]) * 2.0 ** ranges["exponents"].repeat_interleave(NORM_BLOCK)[:40]
    # One step more at the ends, where the zero point was rounded.
    assert ((rounding(rows) - rows).abs() <= 1.01 * steps).all()


@pytest.mark.parametrize("value", [0.0, 3.0, 2.0**40])
def test_norms_of_constants_give_their_bias(value: float) -> None:
    norm = nn.LayerNorm(32)
    nn.init.normal_(norm.bias)
    rows = torch.full((4, 32), value)
    with torch.no_grad():
        got = norm_of(norm, rows)(rows)
    assert torch.isfinite(got).all()
    assert (got - norm.bias).abs().max() < 0.05


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_values_are_refused(value: float) -> None:
    rows = torch.randn(10, 32)
    rows[3, 4] = value
    with pytest.raises(PlanError, match="finite"):
        block_ranges(rows, 8, "min_max")
    with pytest.raises(PlanError, match="finite"):
        function_ranges(nn.ReLU(), rows, 8, "least_error")


def test_a_damaged_model_is_refused(make_model: MakeModel, make_full_bench: MakeBench) -> None:
    model = make_model("bert")
    with torch.no_grad():
        model.get_parameter("bert.encoder.layer.1.attention.self.key.weight")[0, 0] = torch.nan
    bench = make_full_bench(model)
    with pytest.raises(PlanError, match="finite"):
        bench.build(treated(bench, A8, "softmax"))


def test_missing_ranges_are_refused(make_model: MakeModel, make_full_bench: MakeBench) -> None:
    model = make_model("bert")
    with pytest.raises(PlanError, match="calibrated ranges"):
        build(model, treated(make_full_bench(model), A8, "norms"), materials={})


@pytest.mark.parametrize(
    ("kind", "treatment"),
    [("scores", W8A8), ("norms", Treatment(factors=Factorisation("svd", 2))), ("query", A8), ("gelu", A8)],
)
def test_treatments_must_fit_the_part(
    make_model: MakeModel, make_full_bench: MakeBench, kind: str, treatment: Treatment
) -> None:
    model = make_model("bert")
    with pytest.raises(PlanError, match=kind):
        build(model, treated(make_full_bench(model), treatment, kind), materials=None)


@each_family
def test_there_are_choices_only_where_the_palette_has_some(
    make_model: MakeModel, make_full_bench: MakeBench, family: str
) -> None:
    model = make_model(family)
    plain = {parameter.name for parameter in bits_axis.plugin.parameters(anatomy_of(model))}
    anatomy = make_full_bench(model).anatomy
    assert anatomy.palette.intermediates
    every = {parameter.name: parameter.choices for parameter in bits_axis.plugin.parameters(anatomy)}
    more = {
        f"bits.{stack.name}.{slot}.{kind}"
        for stack in anatomy.stacks
        for slot in range(stack.n_layers)
        for kind in KINDS
    }
    assert every.keys() - plain == more | {f"bits.{kind}" for kind in anatomy.intermediates}
    assert all(every[name] == ("float", "a8") for name in more)


def test_choices_are_of_the_kinds_the_palette_names(make_model: MakeModel, make_bench: MakeBench) -> None:
    bench = make_bench(make_model("bert", layers=2))
    bench.anatomy = replace(bench.anatomy, palette=Palette(intermediates=(Precision(None, 8),), kinds=("scores",)))
    names = [parameter.name for parameter in bits_axis.plugin.parameters(bench.anatomy)]
    assert [name for name in names if name.endswith(KINDS)] == ["bits.encoder.0.scores", "bits.encoder.1.scores"]
    choice = {parameter.name: parameter.choices[-1] for parameter in bits_axis.plugin.parameters(bench.anatomy)}
    plan = bits_axis.plugin.edit(bench.anatomy.identity(), choice, bench)
    assert [str(slot.treatments.get("scores").precision) for slot in plan.stack("encoder").slots] == ["a8", "a8"]


@each_kind
@each_family
def test_each_kind_changes_answers_a_little(
    make_model: MakeModel, make_full_bench: MakeBench, inputs_of: Callable[..., Inputs], kind: str, family: str
) -> None:
    model = make_model(family, layers=2)
    bench = make_full_bench(model)
    expected = logits(model, inputs_of(model))
    got = logits(bench.build(treated(bench, A8, kind)), inputs_of(model))
    noise = (got - expected).square().mean() / expected.square().mean()
    # Zero in the middle can make steps twice as wide, and squared errors four times as large.
    assert 0 < noise < (0.08 if kind == "scores" else 0.02)


@each_family
def test_parts_outside_the_stacks(
    make_model: MakeModel, make_full_bench: MakeBench, inputs_of: Callable[..., Inputs], family: str
) -> None:
    model = make_model(family, layers=2)
    bench = make_full_bench(model)
    plan = replace(bench.anatomy.identity(), outside=Treatments.of(dict.fromkeys(bench.anatomy.intermediates, A8)))
    built = bench.build(plan)
    norms = sum(isinstance(part, TableNorm) for part in built.modules())
    assert norms == sum(len(paths) for paths in bench.anatomy.intermediates.values())
    assert torch.equal(logits(built, inputs_of(model)), logits(model, inputs_of(model))) == (norms == 0)


@each_family
def test_padding_has_no_influence(
    make_model: MakeModel, make_full_bench: MakeBench, inputs_of: Callable[..., Inputs], family: str
) -> None:
    model = make_model(family, layers=2)
    bench = make_full_bench(model)
    built = bench.build(treated(bench, A8, *KINDS))
    inputs = dict(inputs_of(model))
    padded = {**inputs}
    for name, filler in (("input_ids", 7), ("attention_mask", 0)):
        padded[name] = functional.pad(inputs[name], (0, 3), value=filler)
    assert torch.allclose(logits(built, padded), logits(built, inputs), atol=1e-5)


@pytest.mark.parametrize("family", ["bart", "mbart", "marian", "t5"])
def test_writing_with_a_cache_is_writing_without(
    make_model: MakeModel, make_full_bench: MakeBench, family: str
) -> None:
    model = make_model(family, layers=2)
    bench = make_full_bench(model)
    built = bench.build(treated(bench, A8, *KINDS))
    ids = torch.tensor([[5, 9, 12, 30, 1], [44, 8, 7, 1, 0]])
    asked = {"input_ids": ids, "attention_mask": (ids != 0).long(), "max_new_tokens": 6, "do_sample": False}
    cached, anew = (built.generate(**asked, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached, anew)


@each_kind
def test_the_original_keeps_its_attention(
    make_model: MakeModel, make_full_bench: MakeBench, inputs_of: Callable[..., Inputs], kind: str
) -> None:
    model = make_model("bert")
    bench = make_full_bench(model)
    expected = logits(model, inputs_of(model))
    plan = treated(bench, A8, kind)
    first = plan.with_stack(
        replace(plan.stacks[0], slots=(plan.stacks[0].slots[0], *(Slot(s.layer) for s in plan.stacks[0].slots[1:])))
    )
    built = bench.build(first)
    assert sum(hasattr(part, POINTS) for part in built.modules()) == (kind in ("scores", "softmax", "context"))
    assert built.config._attn_implementation == model.config._attn_implementation == "sdpa"
    assert torch.equal(logits(model, inputs_of(model)), expected)


def test_masks_of_every_kind_mean_the_same(
    make_model: MakeModel, make_full_bench: MakeBench, inputs_of: Callable[..., Inputs]
) -> None:
    model = make_model("bart", layers=2)
    bench = make_full_bench(model)
    built = bench.build(treated(bench, A8, "scores", "softmax", "context"))
    inputs = dict(inputs_of(model))
    inputs["attention_mask"][0, 6:] = 0
    expected = logits(built, inputs)
    built.config._attn_implementation = "eager"
    assert torch.allclose(logits(built, inputs), expected, atol=1e-5)


@each_family
def test_they_survive_the_disk_beside_lost_layers_and_quantised_linears(
    make_model: MakeModel, make_full_bench: MakeBench, inputs_of: Callable[..., Inputs], family: str, tmp_path: Path
) -> None:
    model = make_model(family)
    bench = make_full_bench(model)
    plan = treated(bench, A8, *KINDS, also={"query": W8A8, "ffn_in": W8A8})
    for stack in plan.stacks:
        plan = plan.with_stack(replace(stack, slots=(stack.slots[0], Slot(None), stack.slots[2])))
    plan = replace(plan, outside=Treatments.of(dict.fromkeys(bench.anatomy.intermediates, A8)))
    built = bench.build(plan)
    assert sum(isinstance(part, QuantLinear) for part in built.modules()) == 4 * len(plan.stacks)
    artefact.save(built, plan, tmp_path, original=model.config)
    loaded, again = artefact.load(tmp_path)
    assert again == plan
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    expected = logits(built, inputs_of(model))
    assert torch.equal(logits(loaded, inputs_of(model)), expected)
    assert torch.equal(logits(copy.deepcopy(loaded), inputs_of(model)), expected)


def test_a_plan_in_words(make_model: MakeModel, make_full_bench: MakeBench) -> None:
    plan = treated(make_full_bench(make_model("bert")), A8, "norms", "softmax", also={"query": W8A8})
    assert str(plan) == "encoder 3/3 layers, a8 on 6 intermediate results, w8a8 on 3 Linears"

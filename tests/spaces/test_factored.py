"""Factorised parts: what they mean, what they share, what they take up, and how they go with bits and structure."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from paring.errors import PlanError, SettingError
from paring.spaces import artefact
from paring.spaces.factor_bytes import keep_the_smaller, part_bytes
from paring.spaces.factored import DecodedEmbedding, DecodedLinear, FactoredEmbedding, FactoredLinear, decoder_shapes
from paring.spaces.factoring import Factoring, Way
from paring.spaces.factorisation import Factorisation
from paring.spaces.layer_ranks import layer_ranks
from paring.spaces.plan import Layer, Plan, Slot, Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.quantised import QuantLinear
from paring.spaces.space import Space
from paring.spaces.workbench import Inputs

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Any]
QUERY = "bert.encoder.layer.{}.attention.self.query"


def treated(bench: Any, kind: str, treatment: Treatment, stack: str = "encoder") -> Plan:
    """All layers of a stack with one kind so treated."""
    plan = bench.anatomy.identity()
    slots = tuple(replace(s, treatments=Treatments.of({kind: treatment})) for s in plan.stack(stack).slots)
    return plan.with_stack(replace(plan.stack(stack), slots=slots))


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def decoder(size: int, width: int) -> dict[str, torch.Tensor]:
    found = {}
    for number, shape in enumerate(decoder_shapes(size, width)):
        found |= {f"decoder.{number}.weight": random(*shape), f"decoder.{number}.bias": random(shape[0])}
    return found


def logits(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


@pytest.mark.parametrize("bias", [True, False])
def test_two_factors_are_their_product(bias: bool) -> None:
    linear = nn.Linear(6, 9, bias=bias)
    found = {"left": random(9, 3), "right": random(3, 6), **({"bias": random(9)} if bias else {})}
    part, inputs = FactoredLinear(linear, found), random(4, 6)
    own = linear.bias.detach() + found["bias"] if bias else None
    expected = nn.functional.linear(inputs, found["left"] @ found["right"], own)
    assert torch.allclose(part(inputs), expected, atol=1e-5)
    folded = part.folded()
    assert folded is not None
    assert torch.allclose(folded(inputs), expected, atol=1e-5)


def test_a_decoded_linear_has_the_lengths_it_was_given() -> None:
    found = {"rows": random(9, 2), "norms": random(9).abs(), **decoder(2, 6)}
    part, inputs = DecodedLinear(nn.Linear(6, 9), found, bounded=True), random(4, 6)
    assert torch.allclose(part.dense_weight().norm(dim=1), found["norms"], atol=1e-5)
    assert torch.allclose(part(inputs), part.expanded()(inputs))


def test_tables_make_only_the_rows_looked_up() -> None:
    table, ids = nn.Embedding(9, 6, padding_idx=0), torch.tensor([[3, 1], [8, 3]])
    decoded = DecodedEmbedding(table, {"rows": random(9, 2), "norms": random(9).abs(), **decoder(2, 6)}, bounded=True)
    assert torch.allclose(decoded(ids), decoded.dense_weight()[ids], atol=1e-6)
    seen = []
    decoded.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    decoded(ids)
    assert seen == [(2, 2, 2)]
    found = {"left": random(9, 3), "right": random(3, 6)}
    factored = FactoredEmbedding(table, found)
    assert torch.allclose(factored(ids), (found["left"] @ found["right"])[ids], atol=1e-5)
    assert factored.padding_idx == 0


METHODS = ("svd", "fisher", "unit_svd", "activation", "sensitivity", "linear_autoencoder", "autoencoder", "latents")


@pytest.fixture
def bench(make_model: MakeModel, make_bench: MakeBench) -> Any:
    found = make_bench(make_model("bert"))
    found.anatomy = replace(found.anatomy, factoring=quick())
    return found


def quick(**changes: Any) -> Factoring:
    brief = Factoring()
    training, latents = replace(brief.training, epochs=2), replace(brief.latents, steps=20)
    return Factoring(training=training, latents=latents, **changes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", [None, (Layer(0), Layer(2))], ids=["separated", "concatenated"])
def test_every_method_is_built_shared_saved_and_loaded(
    bench: Any, inputs_of: Callable[..., Inputs], tmp_path: Path, method: str, group: tuple[Layer, Layer] | None
) -> None:
    plan = treated(bench, "query", Treatment(factors=Factorisation(method, 2, group)))
    model = bench.build(plan)
    parts = [model.get_submodule(QUERY.format(number)) for number in range(3)]
    shared = [
        part.narrow.weight if isinstance(part, FactoredLinear) else part.decoder.layers[2].weight for part in parts
    ]
    assert (len({tensor.data_ptr() for tensor in shared}) == 1) is (group is not None)
    artefact.save(model, plan, tmp_path, original=bench.model.config)
    loaded, found = artefact.load(tmp_path)
    assert found == plan
    assert torch.equal(logits(loaded, inputs_of(bench.model)), logits(model, inputs_of(bench.model)))
    assert artefact.stored_bytes(loaded) == artefact.stored_bytes(model)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stacking", ["separated", "concatenated"])
def test_what_is_stored_is_the_ratio_asked_for(bench: Any, method: str, stacking: str) -> None:
    way = Way(method, 2.0, stacking)
    factors = way.of(bench.anatomy.stack("encoder").shapes["query"], tuple(map(Layer, range(3))))
    assert factors is not None
    assert (factors.group is not None) is (stacking == "concatenated")
    model = bench.build(treated(bench, "query", Treatment(factors=factors)))
    saved = artefact.stored_bytes(bench.model) - artefact.stored_bytes(model)
    # 3 Linears of 32 x 32 in half as many numbers; a whole rank may leave some of those unused.
    assert 4 * 3 * 1024 / 2 <= saved < 4 * 3 * 1024 * 0.75


@pytest.mark.parametrize("family", ["bert", "mbart"])
def test_allocated_ranks_do_less_predicted_harm_with_as_many_numbers(
    make_model: MakeModel, make_bench: MakeBench, family: str
) -> None:
    bench = make_bench(make_model(family, layers=6))
    members = tuple(map(Layer, range(6)))
    for stack, kind in ((one, kind) for one in bench.anatomy.stacks for kind in one.linears):
        rows, columns = stack.shapes[kind]
        ranks = layer_ranks(Way("sensitivity", 2.0, "allocated"), stack.name, kind, members, bench)
        alike = Way("sensitivity", 2.0).of((rows, columns))
        assert alike is not None
        numbers = [rows * columns if rank is None else rank * (rows + columns) for rank in ranks.values()]
        assert sum(numbers) <= 6 * rows * columns / 2
        (known,) = (found for key, found in bench._known.items() if f"-{stack.name}-sensitivity" in key)
        curves = [known[f"{stack.name}.{place}.{kind}"]["harms"] for place in range(6)]
        harm = sum(
            float(curve[min(rows, columns) if rank is None else rank])
            for curve, rank in zip(curves, ranks.values(), strict=True)
        )
        assert harm <= sum(float(curve[alike.rank]) for curve in curves) * (1 + 1e-6)


def test_a_choice_of_allocated_ranks_is_a_plan(bench: Any, inputs_of: Callable[..., Inputs]) -> None:
    bench.anatomy = replace(bench.anatomy, factoring=quick(linears=(Way("sensitivity", 2.0, "allocated"),), tables=()))
    space = Space(bench.anatomy, ("factors",))
    plan = space.resolve({parameter.name: parameter.choices[-1] for parameter in space}, bench)
    factors = [found for _, _, found in plan.factorisations()]
    assert {found.method for found in factors} == {"sensitivity"}
    assert all(found.group is None for found in factors)
    model = bench.build(plan)
    saved = artefact.stored_bytes(bench.model) - artefact.stored_bytes(model)
    dense = sum(3 * 4 * rows * columns for rows, columns in bench.anatomy.stack("encoder").shapes.values())
    assert dense / 2 <= saved <= 0.6 * dense
    # Learned one by one, they are those learned together.
    again = bench.build(plan)
    assert torch.equal(logits(again, inputs_of(model)), logits(model, inputs_of(model)))


def test_full_rank_gives_the_weights_back(bench: Any, inputs_of: Callable[..., Inputs]) -> None:
    for method in ("svd", "fisher", "unit_svd", "activation", "sensitivity"):
        model = bench.build(treated(bench, "ffn_in", Treatment(factors=Factorisation(method, 32))))
        expected = logits(bench.model, inputs_of(bench.model))
        assert torch.allclose(logits(model, inputs_of(bench.model)), expected, atol=1e-4), method


def test_a_rank_that_cannot_be_is_refused_before_anything_is_solved(bench: Any) -> None:
    with pytest.raises(SettingError, match="from 1 to 32"):
        bench.build(treated(bench, "query", Treatment(factors=Factorisation("svd", 33))))


def test_factors_are_the_same_in_a_shorter_stack(bench: Any) -> None:
    group = Layer(0), Layer(2)
    whole = treated(bench, "query", Treatment(factors=Factorisation("activation", 4, group)))
    slots = list(whole.stack("encoder").slots)
    slots[1] = Slot(None)
    short = whole.with_stack(replace(whole.stack("encoder"), slots=tuple(slots)))
    one, other = (bench.build(plan) for plan in (whole, short))
    last = one.get_submodule(QUERY.format(2)).wide.weight
    assert torch.equal(last, other.get_submodule(QUERY.format(1)).wide.weight)


def test_modular_layers_are_factorised_among_their_own(make_model: MakeModel, make_bench: MakeBench) -> None:
    bench = make_bench(make_model("bert", layers=6))
    slots = [Slot(Layer(number, 2)) for number in range(3)]
    factors = Factorisation("svd", 4, (Layer(0, 2), Layer(2, 2)))
    treatments = Treatments.of({"query": Treatment(factors=factors)})
    stack = replace(
        bench.anatomy.identity().stack("encoder"), slots=tuple(replace(s, treatments=treatments) for s in slots)
    )
    model = bench.build(bench.anatomy.identity().with_stack(stack))
    given = [bench.modular_layers()[f"encoder.m2.{number}"]["attention.self.query.weight"] for number in range(3)]
    values = torch.linalg.svdvals(torch.cat(given).double())
    rebuilt = torch.cat([model.get_submodule(QUERY.format(number)).folded().weight for number in range(3)])
    # What is left out is what the singular values from the fifth on say.
    assert float((torch.cat(given) - rebuilt).norm()) == pytest.approx(float(values[4:].norm()), rel=1e-3)


@pytest.mark.parametrize("precision", ["w8", "w8a8", "w4-1x32", "w4a8-64x64-pow2"])
def test_quantised_factors_stay_shared(bench: Any, tmp_path: Path, precision: str) -> None:
    treatment = Treatment(Factorisation("svd", 4, (Layer(0), Layer(2))), Precision.parse(precision))
    plan = treated(bench, "query", treatment)
    model = bench.build(plan)
    parts = [model.get_submodule(QUERY.format(number)).narrow for number in range(3)]
    assert all(isinstance(part, QuantLinear) for part in parts)
    assert len({part.codes.data_ptr() for part in parts}) == 1
    artefact.save(model, plan, tmp_path, original=bench.model.config)
    loaded, _ = artefact.load(tmp_path)
    assert artefact.stored_bytes(loaded) == artefact.stored_bytes(model)
    assert len({loaded.get_submodule(QUERY.format(number)).narrow.codes.data_ptr() for number in range(3)}) == 1


def test_an_output_tied_to_factorised_words_stays_so(make_model: MakeModel, make_bench: MakeBench) -> None:
    model = make_model("mbart")
    bench = make_bench(model)
    for method, treatment in itertools.product(("svd", "autoencoder"), (None, Precision(8))):
        outside = Treatments.of({"embeddings": Treatment(Factorisation(method, 4), treatment)})
        compressed = bench.build(replace(bench.anatomy.identity(), outside=outside))
        words, output = compressed.get_submodule("model.encoder.embed_tokens"), compressed.get_submodule("lm_head")
        tied = output.wide if method == "svd" else output.rows
        kept = "codes" if treatment else "weight"
        assert getattr(words.rows, kept).data_ptr() == getattr(tied, kept).data_ptr()
        ids = torch.arange(64).unsqueeze(0)
        table = words(ids)[0] / words.embed_scale
        # The second factor is held either way round, and rounded so: rows of 8 bits err by 1 in 254.
        tolerance = 0.01 if treatment and method == "svd" else 1e-5
        assert float((output(torch.eye(32)).t() - table).abs().max()) <= tolerance * float(table.abs().max())


SHAPES = {"query": (32, 32), "ffn_in": (64, 32)}
FACTORS = [
    None,
    Factorisation("svd", 20),
    Factorisation("svd", 24, (Layer(0), Layer(1))),
    Factorisation("autoencoder", 6),
]
PRECISIONS = [
    None,
    Precision(8, 8),
    Precision(4, 8, (64, 64), power_of_two=True),
    Precision(2),
    Precision(3, None, (1, 4)),
]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(itertools.product(FACTORS, PRECISIONS), repeat=2)))
def test_both_never_take_more_than_one_alone(first: Any, second: Any) -> None:
    """Whatever two layers are given, no Linear ends up larger than with factors alone or with bits alone."""
    treatments = Treatment(*first), Treatment(*second)
    slots = tuple(
        Slot(Layer(number), Treatments.of(dict.fromkeys(SHAPES, treatment)))
        for number, treatment in enumerate(treatments)
    )
    kept = keep_the_smaller(slots, SHAPES)
    for slot, asked in zip(kept, treatments, strict=True):
        for kind, shape in SHAPES.items():
            found = slot.treatments.get(kind)
            assert found in (asked, replace(asked, factors=None), replace(asked, precision=None))
            sharing = (
                sum(other.treatments.get(kind) == found for other in kept)
                if found.factors and found.factors.group
                else 1
            )
            alone = sum(other == asked for other in treatments) if asked.factors and asked.factors.group else 1
            if asked.factors and asked.precision:
                ways = replace(asked, factors=None), replace(asked, precision=None)
                assert part_bytes(shape, found, sharing) <= min(part_bytes(shape, way, alone) for way in ways)


def test_bytes_are_those_on_the_disk(bench: Any) -> None:
    whole = artefact.stored_bytes(bench.model)
    for factors, precision in itertools.product(FACTORS, PRECISIONS[:3]):
        if factors and factors.is_decoded and precision and precision.has_integer_inputs:
            continue  # such a plan is never made: a decoder has no inputs
        group = (Layer(0), Layer(2)) if factors and factors.group else None
        treatment = Treatment(factors and replace(factors, group=group), precision)
        model = bench.build(treated(bench, "query", treatment))
        expected = 3 * part_bytes((32, 32), treatment, 3 if group else 1) - 3 * 4096
        assert artefact.stored_bytes(model) - whole == pytest.approx(expected, abs=1), str(treatment)


def test_ways_are_written_for_people() -> None:
    for text in ("svd-2", "activation-concatenated-1.5", "linear_autoencoder-3", "sensitivity-allocated-2"):
        assert str(Way.parse(text)) == text
    for text in ("svd", "svd-1", "svd-inf", "magic-2", "svd-together-2", "svd-0.5", "svd-allocated-2"):
        with pytest.raises(SettingError):
            Way.parse(text)
    again = Factoring(linears=(Way("svd", 2.0, "concatenated"),), tables=(), group=2)
    assert Factoring.from_json(again.to_json()) == again
    for wrong in ({"group": 0}, {"linears": (Way("svd", 2.0),) * 2}, {"tables": (Way("svd", 2.0, "concatenated"),)}):
        with pytest.raises(SettingError):
            Factoring(**wrong)


def test_a_part_without_a_factorised_form_is_refused(bench: Any) -> None:
    plan = replace(
        bench.anatomy.identity(), outside=Treatments.of({"scores": Treatment(factors=Factorisation("svd", 2))})
    )
    with pytest.raises(PlanError):
        bench.build(plan)

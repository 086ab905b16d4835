"""Models of two stacks: whatever layers go, what is left is the model one would configure by hand, bit for bit."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, BartForSequenceClassification, MarianMTModel, PreTrainedModel

from paring.errors import ModelError, PlanError
from paring.spaces import artefact
from paring.spaces.anatomy import anatomy_of
from paring.spaces.axes.depth import plugin as depth_axis
from paring.spaces.build import build, settle_layers
from paring.spaces.plan import ORIGINAL_WEIGHTS, Layer, Plan, Precision, Slot, Stack, Treatment, Treatments
from paring.spaces.ties import distinct_tensors
from paring.spaces.workbench import Inputs, RemovalOrder, Workbench

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Workbench]
InputsOf = Callable[..., Inputs]
FORMS = ["bart", "marian", "mbart", "t5", "t5-gated"]
ALL = (0, 1, 2, 3)
KEPT = [((1, 2, 3), ALL), (ALL, (1, 3)), ((2,), (0, 1, 2)), ((0, 1), (2,))]
LAYER = re.compile(r"\b(encoder|decoder)\.(?:layers|block)\.(\d+)\.")
POSITION_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"

each_form = pytest.mark.parametrize("form", FORMS)


def keep(encoder: tuple[int, ...], decoder: tuple[int, ...], /, **done: Treatments) -> Plan:
    """The plan that keeps these of four layers a stack, and treats the parts of the stacks and outside as given."""

    def stack(name: str, kept: tuple[int, ...]) -> Stack:
        treated = done.get(name, Treatments())
        return Stack(name, tuple(Slot(Layer(i), treated) if i in kept else Slot(None) for i in ALL))

    return Plan((stack("encoder", encoder), stack("decoder", decoder)), done.get("outside", Treatments()))


def by_hand(model: PreTrainedModel, kept: dict[str, tuple[int, ...]]) -> PreTrainedModel:
    """A model configured with fewer layers and the weights of those kept; T5's position bias goes to the new first."""
    config = copy.deepcopy(model.config)
    names = ("num_layers", "num_decoder_layers") if config.model_type == "t5" else ("encoder_layers", "decoder_layers")
    for name, layers in zip(names, kept.values(), strict=True):
        setattr(config, name, len(layers))
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        found = LAYER.search(name)
        if found is None or name.endswith(POSITION_BIAS):
            weights[name] = tensor
        elif int(found[2]) in kept[found[1]]:
            place = str(kept[found[1]].index(int(found[2])))
            weights[name[: found.start(2)] + place + name[found.end(2) :]] = tensor
    smaller = type(model)(config).eval()
    smaller.load_state_dict(weights)
    return smaller


def logits(model: nn.Module, inputs: Inputs) -> Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def written(model: PreTrainedModel, inputs: Inputs, *, beams: int = 1, use_cache: bool = True) -> list[list[int]]:
    sources = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    found = model.generate(**sources, max_new_tokens=8, num_beams=beams, do_sample=False, use_cache=use_cache)
    return found.tolist()


@pytest.mark.parametrize("kept", KEPT, ids=str)
@each_form
def test_dropped_layers_equal_a_smaller_model_by_hand(
    make_model: MakeModel, inputs_of: InputsOf, form: str, kept: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    model = make_model(form, layers=4)
    inputs = inputs_of(model)
    expected = by_hand(model, dict(zip(("encoder", "decoder"), kept, strict=True)))
    compressed = build(model, keep(*kept), materials={})
    assert torch.equal(logits(compressed, inputs), logits(expected, inputs))
    assert not torch.equal(logits(compressed, inputs), logits(model, inputs))
    for beams in (1, 2):
        # With the shallower encoder a plain T5 cannot use a cache: that would be as deep as the encoder.
        text = written(expected, inputs, beams=beams, use_cache=False)
        assert written(compressed, inputs, beams=beams, use_cache=False) == text
        assert written(compressed, inputs, beams=beams) == text
    config, by_config = compressed.config.to_dict(), expected.config.to_dict()
    if config["model_type"] == "t5":
        assert config.pop("decoder_layers") == len(kept[1])
    assert config == by_config
    for stack, layers in zip(anatomy_of(model).stacks, kept, strict=True):  # T5: each stack has its own
        parents = [part.get_submodule(stack.path.rpartition(".")[0]) for part in (compressed, expected)]
        assert parents[0].config.num_hidden_layers == parents[1].config.num_hidden_layers
        if parents[0].config is not compressed.config:
            assert parents[0].config.num_hidden_layers == len(layers)


@each_form
def test_the_identity_plan_changes_nothing(make_model: MakeModel, inputs_of: InputsOf, form: str) -> None:
    model = make_model(form)
    same = build(model, anatomy_of(model).identity(), materials={})
    assert torch.equal(logits(same, inputs_of(model)), logits(model, inputs_of(model)))
    assert same.config.to_dict() == model.config.to_dict()
    for beams in (1, 2):
        text = written(model, inputs_of(model), beams=beams)
        assert written(same, inputs_of(model), beams=beams) == text
        assert written(same, inputs_of(model), beams=beams, use_cache=False) == text


@each_form
def test_the_original_goes_on_as_before(make_model: MakeModel, inputs_of: InputsOf, form: str) -> None:
    model = make_model(form, layers=4)

    def placed() -> list[tuple[object, object]]:
        return [
            (getattr(part, "layer_idx", None), getattr(part, "has_relative_attention_bias", None))
            for part in model.modules()
        ]

    places, before = placed(), written(model, inputs_of(model))
    smaller = build(model, keep((1, 2), (3,)), materials={})
    assert written(smaller, inputs_of(model)) != before
    assert placed() == places
    assert written(model, inputs_of(model)) == before
    assert {id(parameter) for parameter in smaller.parameters()} <= {id(parameter) for parameter in model.parameters()}


W8, W8A8 = Treatment(precision=Precision(8)), Treatment(precision=Precision(8, 8))
PLAIN = keep((1, 2), (0, 3))
PACKED = keep(
    (1, 2), (0, 1, 3), encoder=Treatments.of({"query": W8A8, "ffn_out": W8}), decoder=Treatments.of({"cross_key": W8A8})
)
TABLE = keep(ALL, (1, 2), outside=Treatments.of({"embeddings": W8}))


@pytest.mark.parametrize("plan", [PLAIN, PACKED, TABLE], ids=["plain", "packed", "packed table"])
@each_form
def test_a_saved_model_writes_the_same(
    make_model: MakeModel, make_bench: MakeBench, inputs_of: InputsOf, form: str, plan: Plan, tmp_path: Path
) -> None:
    model = make_model(form, layers=4)
    model.generation_config.no_repeat_ngram_size = 2
    compressed = make_bench(model).build(plan)
    artefact.save(compressed, plan, tmp_path, original=model.config)
    loaded, _ = artefact.load(tmp_path)
    assert torch.equal(logits(loaded, inputs_of(model)), logits(compressed, inputs_of(model)))
    for beams in (1, 2):
        assert written(loaded, inputs_of(model), beams=beams) == written(compressed, inputs_of(model), beams=beams)
    assert loaded.generation_config.no_repeat_ngram_size == 2
    assert artefact.stored_bytes(loaded) == artefact.stored_bytes(compressed)
    (file,) = tmp_path.glob("*.safetensors")
    positions = 2 * 64 * 32 * 4 if form == "marian" and plan.is_plain else 0  # transformers makes them anew
    assert 0 < file.stat().st_size - artefact.stored_bytes(compressed) + positions < 25_000
    if not plan.outside.items:
        assert loaded.get_input_embeddings().weight is loaded.lm_head.weight


@each_form
def test_a_plain_export_is_an_ordinary_model(
    make_model: MakeModel, inputs_of: InputsOf, form: str, tmp_path: Path
) -> None:
    """Also where the encoder is the shallower stack: transformers makes T5's cache as deep as that unless told."""
    model = make_model(form, layers=4)
    compressed = build(model, keep((3,), (0, 1, 3)), materials={})
    artefact.save(compressed, keep((3,), (0, 1, 3)), tmp_path, original=model.config)
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(plain) is type(model)
    assert torch.equal(logits(plain, inputs_of(model)), logits(compressed, inputs_of(model)))
    assert written(plain, inputs_of(model), beams=2) == written(compressed, inputs_of(model), beams=2)


@pytest.mark.parametrize("plan", [PLAIN, PACKED, TABLE], ids=["plain", "packed", "packed table"])
def test_a_head_of_its_own_stays_its_own(
    make_model: MakeModel, make_bench: MakeBench, inputs_of: InputsOf, plan: Plan, tmp_path: Path
) -> None:
    """T5 1.1 is trained with a separate head, which transformers 5 finds out from the weights only."""
    model = make_model("t5-gated", layers=4)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().flip(0))
    compressed = make_bench(model).build(plan)
    artefact.save(compressed, plan, tmp_path, original=model.config)
    loaded, _ = artefact.load(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert torch.equal(logits(loaded, inputs_of(model)), logits(compressed, inputs_of(model)))
    assert artefact.stored_bytes(loaded) == artefact.stored_bytes(compressed)


@each_form
def test_weights_of_the_plan_leave_ties_tied(make_model: MakeModel, inputs_of: InputsOf, form: str) -> None:
    model = make_model(form, layers=4)
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.01)
    plan = Plan(PLAIN.stacks, weights="tuned-1")
    for weights in (distinct_tensors(tuned), tuned.state_dict()):
        compressed = build(model, plan, materials={}, weights=weights)
        assert torch.equal(
            logits(compressed, inputs_of(model)), logits(build(tuned, PLAIN, materials={}), inputs_of(model))
        )
        assert compressed.lm_head.weight is compressed.get_input_embeddings().weight
        assert artefact.stored_bytes(compressed) == artefact.stored_bytes(build(tuned, PLAIN, materials={}))


@each_form
def test_modular_layers_stand_like_originals_of_the_same_parameters(
    make_model: MakeModel, inputs_of: InputsOf, form: str
) -> None:
    """The first in the stack has T5's position bias, whatever it is."""
    model = make_model(form, layers=4)
    modular = Plan(
        (Stack("encoder", (Slot(None), Slot(Layer(1, 2)))), Stack("decoder", (Slot(Layer(0, 3)), Slot(Layer(3)))))
    )
    trained = {
        name: {title: value for title, value in layers[index].state_dict().items() if "relative" not in title}
        for name, stack, index in (("encoder.m2.1", 0, 2), ("decoder.m3.0", 1, 0))
        for layers in [model.get_submodule(anatomy_of(model).stacks[stack].path)]
    }
    compressed = build(model, modular, materials={"assembly": trained})
    same = build(model, keep((2,), (0, 3)), materials={})
    assert torch.equal(logits(compressed, inputs_of(model)), logits(same, inputs_of(model)))
    for beams, use_cache in ((1, True), (1, False), (2, True)):
        text = written(same, inputs_of(model), beams=beams, use_cache=False)
        assert written(compressed, inputs_of(model), beams=beams, use_cache=use_cache) == text
    assert compressed.config.to_dict() == same.config.to_dict()
    assert modular.is_plain and not modular.is_identity


def test_layers_keep_a_position_bias_of_their_own(make_model: MakeModel) -> None:
    """A modular layer may have learned one."""
    layers = make_model("t5", layers=4).encoder.block
    own = copy.deepcopy(layers[0])
    settle_layers([own, layers[2]], first=layers[0])
    kept = own.layer[0].SelfAttention.relative_attention_bias.weight
    assert kept is not layers[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert not hasattr(layers[2].layer[0].SelfAttention, "relative_attention_bias")


def test_a_classifier_of_two_stacks_loses_layers_too(
    make_model: MakeModel, inputs_of: InputsOf, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = copy.deepcopy(make_model("bart", layers=4).config)
    model = BartForSequenceClassification(config).eval()
    inputs = {"input_ids": torch.cat([inputs_of(model)["input_ids"], torch.ones(2, 1, dtype=torch.long)], dim=1)}
    expected = by_hand(model, {"encoder": (1, 2), "decoder": (0, 3)})
    compressed = build(model, PLAIN, materials={})
    assert torch.equal(logits(compressed, inputs), logits(expected, inputs))
    artefact.save(compressed, PLAIN, tmp_path, original=config)
    assert torch.equal(logits(artefact.load(tmp_path)[0], inputs), logits(expected, inputs))


def dequantised(table: Tensor) -> Tensor:
    """What 8 bits make of a table: one bfloat16 scale a row, rounded up, so that the largest number stays in range."""
    exact = table.detach().abs().amax(dim=1, keepdim=True) / 127
    scale = exact.bfloat16()
    scale = torch.where(scale.float() < exact, (scale.view(torch.int16) + 1).view(torch.bfloat16), scale).float()
    return (table.detach() / scale.where(scale != 0, 1.0)).round() * scale


@each_form
def test_a_tied_table_is_quantised_once(
    make_model: MakeModel, make_bench: MakeBench, inputs_of: InputsOf, form: str
) -> None:
    """Against a float model whose table was rounded by hand: the lookups of both stacks, and the output."""
    model, expected = make_model(form), make_model(form)
    expected.get_input_embeddings().weight.data = dequantised(model.get_input_embeddings().weight)
    plan = replace(anatomy_of(model).identity(), outside=Treatments.of({"embeddings": W8}))
    compressed = make_bench(model).build(plan)
    assert torch.equal(logits(compressed, inputs_of(model)), logits(expected, inputs_of(model)))
    assert not torch.equal(logits(compressed, inputs_of(model)), logits(model, inputs_of(model)))
    assert written(compressed, inputs_of(model), beams=2) == written(expected, inputs_of(model), beams=2)
    rows, columns = model.get_input_embeddings().weight.shape
    saved = artefact.stored_bytes(model) - artefact.stored_bytes(compressed)
    assert saved == 4 * rows * columns - (rows * columns + 2 * rows)
    assert not [part for part in compressed.modules() if getattr(part, "weight", None) is model.lm_head.weight]


def test_tables_that_are_apart_are_chosen_apart(
    make_model: MakeModel, make_bench: MakeBench, inputs_of: InputsOf
) -> None:
    """A Marian may have one for each language; the output is tied to that of the decoder."""
    torch.manual_seed(0)
    config = copy.deepcopy(make_model("marian").config)
    config.share_encoder_decoder_embeddings = False
    model, expected = MarianMTModel(config).eval(), MarianMTModel(config).eval()
    expected.load_state_dict(model.state_dict())
    expected.lm_head.weight.data = dequantised(model.lm_head.weight)
    assert list(anatomy_of(model).outside) == ["embeddings", "decoder_embeddings"]
    plan = replace(anatomy_of(model).identity(), outside=Treatments.of({"decoder_embeddings": W8}))
    compressed = make_bench(model).build(plan)
    assert torch.equal(logits(compressed, inputs_of(model)), logits(expected, inputs_of(model)))
    assert compressed.model.encoder.embed_tokens.weight is model.model.encoder.embed_tokens.weight
    assert compressed.lm_head.codes is compressed.model.decoder.embed_tokens.codes


@each_form
def test_an_output_that_is_not_tied_stays_float(
    make_model: MakeModel, make_bench: MakeBench, inputs_of: InputsOf, form: str
) -> None:
    model = make_model(form)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    plan = replace(anatomy_of(model).identity(), outside=Treatments.of({"embeddings": W8}))
    compressed = make_bench(model).build(plan)
    assert compressed.lm_head.weight is model.lm_head.weight
    assert torch.isfinite(logits(compressed, inputs_of(model))).all()


@pytest.mark.parametrize(("form", "batches"), [("bart", 0), ("t5", 1)])
def test_calibration_that_never_reaches_a_decoder_is_refused(
    make_model: MakeModel, make_bench: MakeBench, form: str, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(make_model(form, layers=4))
    bare = [{"input_ids": torch.tensor([[5, 6]])}] * batches
    monkeypatch.setattr(bench, "calibration", lambda: bare)
    with pytest.raises(PlanError, match="need labels or decoder_input_ids"):
        bench.build(PACKED)


def test_every_form_that_does_not_fit_is_named(make_model: MakeModel) -> None:
    model = make_model("t5")
    del model.decoder.block[0].layer[2].DenseReluDense.wi
    with pytest.raises(ModelError, match=r"DenseReluDense\.wi'.*DenseReluDense\.wi_0'"):
        anatomy_of(model)


def orders_asked(bench: Any, weights: str, **depths: int) -> tuple[Plan, list[tuple[Plan, str, int]]]:
    """The plan without so many layers of each stack, and the greedy orders that were asked for it."""
    asked: list[tuple[Plan, str, int]] = []

    def order(plan: Plan, stack: str, depth: int) -> RemovalOrder:
        asked.append((plan, stack, depth))
        return RemovalOrder((2, 0, 1, 3)[:depth], (weights,) * depth)

    bench.removal_order = order
    choice = {f"depth.{name}": depth for name, depth in depths.items()}
    return depth_axis.edit(bench.anatomy.identity(), choice, bench), asked


def test_each_stack_is_shortened_in_an_order_of_its_own(make_model: MakeModel, make_bench: MakeBench) -> None:
    bench = make_bench(make_model("mbart", layers=4))
    whole = bench.anatomy.identity()
    plan, asked = orders_asked(bench, ORIGINAL_WEIGHTS, encoder=2, decoder=1)
    assert plan == keep((1, 3), (0, 1, 3))
    assert asked == [(whole, "encoder", 2), (whole, "decoder", 1)]


def test_weights_are_trained_without_the_layers_of_both_stacks(make_model: MakeModel, make_bench: MakeBench) -> None:
    bench = make_bench(make_model("mbart", layers=4))
    plan, asked = orders_asked(bench, "tuned-x", encoder=2, decoder=1)
    assert plan == replace(keep((1, 3), (0, 1, 3)), weights="tuned-x")
    assert asked[1][0] == replace(keep((1, 3), ALL), weights="tuned-x")

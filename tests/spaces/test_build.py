import copy
import re
from collections.abc import Callable, Mapping
from math import log10
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from paring.errors import PlanError
from paring.spaces import artefact, axes
from paring.spaces.build import build
from paring.spaces.factorisation import Factorisation
from paring.spaces.families import FAMILIES
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.quantised import QuantLinear
from paring.spaces.workbench import Inputs, Workbench

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Workbench]
MakeInputs = Callable[..., Inputs]
ENCODERS = [name for name, forms in FAMILIES.items() if len(forms[0].stacks) == 1]


def encoder(*layers: int | None, outside: Mapping[str, Treatment] | None = None, **linears: Treatment) -> Plan:
    """The plan with these layers, None for an empty slot, and the same treatments in all of them."""
    slots = (Slot(None) if layer is None else Slot(Layer(layer), Treatments.of(linears)) for layer in layers)
    return Plan((Stack("encoder", tuple(slots)),), Treatments.of(outside or {}))


def bits(weights: int, inputs: int | None = None) -> Treatment:
    return Treatment(precision=Precision(weights, inputs))


def prepared(model: PreTrainedModel, plan: Plan, bench: Workbench) -> PreTrainedModel:
    return build(model, plan, materials={name: axes.load(name).prepare(plan, bench) for name in axes.names()})


def logits(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


@pytest.mark.parametrize("kept", [(0, 2), (3,), (1, 2, 3)])
@pytest.mark.parametrize("family", ENCODERS)
def test_dropped_layers_equal_a_smaller_model_by_hand(
    make_model: MakeModel, request_inputs: MakeInputs, family: str, kept: tuple[int, ...]
) -> None:
    model = make_model(family, layers=4)
    by_hand = make_model(family, layers=len(kept))
    weights = {}
    for name, tensor in model.state_dict().items():
        found = re.search(r"\.layer\.(\d+)\.", name)
        if found is None:
            weights[name] = tensor
        elif int(found[1]) in kept:
            weights[name.replace(found[0], f".layer.{kept.index(int(found[1]))}.")] = tensor
    by_hand.load_state_dict(weights)
    plan = encoder(*(layer if layer in kept else None for layer in range(4)))
    compressed = build(model, plan, materials={})
    assert torch.equal(logits(compressed, request_inputs()), logits(by_hand, request_inputs()))
    assert compressed.config.to_dict() == by_hand.config.to_dict()
    assert not compressed.training


@pytest.mark.parametrize("family", ENCODERS)
def test_a_shorter_model_is_an_ordinary_one(
    make_model: MakeModel, request_inputs: MakeInputs, family: str, tmp_path: Path
) -> None:
    model, plan = make_model(family), encoder(0, None, 2)
    compressed = build(model, plan, materials={})
    artefact.save(compressed, plan, tmp_path, original=model.config)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(plain) is type(model)
    assert torch.equal(logits(plain, request_inputs()), logits(compressed, request_inputs()))


def test_a_quantised_model_is_no_ordinary_one(make_model: MakeModel, make_bench: MakeBench, tmp_path: Path) -> None:
    model, plan = make_model("bert"), encoder(0, 1, 2, query=bits(8, 8))
    artefact.save(prepared(model, plan, make_bench(model)), plan, tmp_path, original=model.config)
    with pytest.raises(OSError, match="no file named"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "plan",
    [
        encoder(0, 1, 2, 3),
        encoder(0, 1),
        encoder(0, 1, 7),
        encoder(0, 0, 2),
        encoder(0, 1, 2, gate=bits(8)),
        encoder(0, 1, 2, outside={"pictures": bits(8)}),
        encoder(0, 1, 2, norms=Treatment(factors=Factorisation("svd", 4))),
        Plan((Stack("encoder", (Slot(Layer(0)), Slot(Layer(1, 2)))),)),
        Plan((Stack("decoder", (Slot(Layer(0)), Slot(Layer(1)), Slot(Layer(2)))),)),
        Plan((*encoder(0, 1, 2).stacks, Stack("decoder", (Slot(Layer(0)),)))),
    ],
    ids=[
        "deeper",
        "shallower",
        "layer beyond the last",
        "a layer twice",
        "unknown kind",
        "unknown part outside",
        "factors of what has no weights",
        "group beyond the last",
        "another stack",
        "one stack more",
    ],
)
def test_a_plan_that_does_not_fit_is_refused(make_model: MakeModel, plan: Plan) -> None:
    with pytest.raises(PlanError):
        build(make_model("bert"), plan, materials={})


def test_missing_weights_of_the_plan_are_refused(make_model: MakeModel) -> None:
    plan = Plan(encoder(0, 1, 2).stacks, weights="tuned-1")
    with pytest.raises(PlanError, match="tuned-1"):
        build(make_model("bert"), plan, materials={})


def test_missing_ranges_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(PlanError, match="8 bits need a calibrated range"):
        build(make_model("bert"), encoder(0, 1, 2, query=bits(8, 8)), materials={})


def test_weights_of_the_plan_replace_those_of_the_original(make_model: MakeModel, request_inputs: MakeInputs) -> None:
    model = make_model("bert")
    before = logits(model, request_inputs())
    tuned = {name: tensor + 0.01 for name, tensor in copy.deepcopy(model).state_dict().items()}
    compressed = build(model, Plan(encoder(0, 1, 2).stacks, weights="tuned-1"), materials={}, weights=tuned)
    by_hand = make_model("bert")
    by_hand.load_state_dict(tuned)
    assert torch.equal(logits(compressed, request_inputs()), logits(by_hand, request_inputs()))
    assert torch.equal(logits(model, request_inputs()), before)


def test_untouched_parameters_are_shared(make_model: MakeModel, make_bench: MakeBench) -> None:
    model = make_model("bert")
    plan = encoder(0, None, 2, query=bits(8, 8), outside={"embeddings": bits(8)})
    compressed = prepared(model, plan, make_bench(model))
    own = {id(parameter) for parameter in model.parameters()}
    shared = dict(compressed.named_parameters())
    assert {id(parameter) for parameter in shared.values()} <= own
    assert shared["bert.encoder.layer.1.output.dense.weight"] is model.bert.encoder.layer[2].output.dense.weight
    assert not [name for name in shared if "query" in name or "word_embeddings" in name]


@pytest.mark.parametrize(("weights", "inputs", "floor"), [(8, None, 36), (8, 8, 33), (8, 6, 24), (4, 4, 9)])
def test_every_precision_keeps_its_share_of_the_signal(
    make_model: MakeModel, make_bench: MakeBench, weights: int, inputs: int | None, floor: float
) -> None:
    """Signal to noise of the hidden states in dB against float; 3 dB below what ranges of the right bits gave."""
    model = make_model("bert")
    bench = make_bench(model)
    kinds = bench.anatomy.stack("encoder").linears
    with torch.no_grad():  # fresh weights are so small that the residual path would drown every error
        for path in kinds.values():
            for layer in model.bert.encoder.layer:
                layer.get_submodule(path).weight.mul_(8)
    compressed = prepared(model, encoder(0, 1, 2, **dict.fromkeys(kinds, bits(weights, inputs))), bench)
    assert sum(isinstance(part, QuantLinear) for part in compressed.modules()) == 3 * len(kinds)
    with torch.inference_mode():
        exact, got = (part.base_model(**bench.calibration()[0])[0] for part in (model, compressed))
    assert 10 * log10(float(exact.square().sum() / (got - exact).square().sum())) >= floor

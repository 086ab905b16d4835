"""What every file in spaces/axes promises, for every family of models."""

import copy
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from paring.spaces import artefact, axes, plugins
from paring.spaces.axes import Choice, Value
from paring.spaces.build import build
from paring.spaces.families import FAMILIES
from paring.spaces.plan import Plan
from paring.spaces.space import Space
from paring.spaces.ties import tie, tied_names
from paring.spaces.workbench import Inputs, Workbench

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Workbench]
BenchOf = Callable[[str], Any]

each_axis = pytest.mark.parametrize("chosen", [(name,) for name in axes.names()], ids="-".join)
each_set = pytest.mark.parametrize("chosen", [*((name,) for name in axes.names()), axes.names()], ids="-".join)
each_family = pytest.mark.parametrize("family", [*FAMILIES, "t5-gated"])


def random_choice(space: Space, seed: int) -> Choice:
    """Any legal choice but the identity."""
    draw = random.Random(seed)
    while True:
        choice = {parameter.name: draw.choice(parameter.choices) for parameter in space}
        if choice != space.identity():
            return choice


def furthest_choice(space: Space) -> dict[str, Value]:
    return {parameter.name: parameter.choices[-1] for parameter in space}


def logits(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    with torch.inference_mode():
        return model(**inputs).logits


def materials(plan: Plan, bench: Workbench) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    return {name: axes.load(name).prepare(plan, bench) for name in axes.names()}


def test_every_file_is_an_axis_with_a_place_in_the_order() -> None:
    assert set(axes.names()) == set(plugins.names("paring.spaces.axes"))
    assert list(axes.names()) == sorted(axes.names(), key=axes.ORDER.index)


@each_axis
@each_family
def test_parameters(full_bench_of: BenchOf, chosen: tuple[str, ...], family: str) -> None:
    bench = full_bench_of(family)
    parameters = axes.load(chosen[0]).parameters(bench.anatomy)
    names = [parameter.name for parameter in parameters]
    assert parameters
    assert len(set(names)) == len(names)
    assert all(name.startswith(f"{chosen[0]}.") for name in names)
    for parameter in parameters:
        assert len(set(parameter.choices)) == len(parameter.choices) >= 2
        assert {type(choice) for choice in parameter.choices} in ({int}, {str})
    assert axes.load(chosen[0]).parameters(bench.anatomy) == parameters


@each_set
@each_family
def test_identity_changes_nothing_bit_for_bit(
    full_bench_of: BenchOf, inputs_of: Callable[..., Inputs], chosen: list[str], family: str
) -> None:
    bench = full_bench_of(family)
    model = bench.model
    plan = Space(bench.anatomy, chosen).resolve(Space(bench.anatomy, chosen).identity(), bench)
    assert plan == bench.anatomy.identity()
    assert torch.equal(logits(bench.build(plan), inputs_of(model)), logits(model, inputs_of(model)))


@each_axis
@each_family
def test_every_other_choice_changes_the_plan(full_bench_of: BenchOf, chosen: tuple[str, ...], family: str) -> None:
    bench = full_bench_of(family)
    space = Space(bench.anatomy, chosen)
    for parameter in space:
        plans = {space.resolve({**space.identity(), parameter.name: value}, bench) for value in parameter.choices}
        assert len(plans) == len(parameter.choices)


@each_set
@each_family
def test_edit_is_deterministic(
    make_model: MakeModel, make_full_bench: MakeBench, chosen: tuple[str, ...], family: str
) -> None:
    first, second = (make_full_bench(make_model(family)) for _ in range(2))
    space = Space(first.anatomy, chosen)
    for seed in range(5):
        choice = random_choice(space, seed)
        backwards = dict(reversed(choice.items()))
        assert space.resolve(choice, first) == space.resolve(choice, first) == space.resolve(backwards, second)


@each_set
@each_family
def test_the_original_is_never_touched(
    make_model: MakeModel, make_full_bench: MakeBench, inputs_of: Callable[..., Inputs], chosen: list[str], family: str
) -> None:
    model = make_model(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, modules = copy.deepcopy(model.config.to_dict()), dict(model.named_modules())
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    expected = logits(model, inputs_of(model))
    bench = make_full_bench(model)
    space = Space(bench.anatomy, chosen)
    for choice in (random_choice(space, 0), furthest_choice(space)):
        compressed = bench.build(space.resolve(choice, bench))
        assert not torch.equal(logits(compressed, inputs_of(model)), expected)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.config.to_dict() == config
    assert dict(model.named_modules()) == modules
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable


@each_set
@each_family
def test_parts_keep_their_names(full_bench_of: BenchOf, chosen: tuple[str, ...], family: str) -> None:
    bench = full_bench_of(family)
    space = Space(bench.anatomy, chosen)
    plan = space.resolve(furthest_choice(space), bench)
    compressed = bench.build(plan)
    for stack in bench.anatomy.stacks:
        standing = sum(slot.layer is not None for slot in plan.stack(stack.name).slots)
        layers = compressed.get_submodule(stack.path)
        assert [name for name, _ in layers.named_children()] == [str(place) for place in range(standing)]
        for layer in layers.children():
            for path in stack.linears.values():
                assert layer.get_submodule(path)(torch.zeros(1, layer.get_submodule(path).in_features)).ndim == 2
    for path in bench.anatomy.outside.values():
        part = compressed.get_submodule(path)
        one = torch.zeros(1, 1, part.in_features) if hasattr(part, "in_features") else torch.tensor([[0]])
        assert part(one).shape[:2] == (1, 1)


@each_set
@each_family
def test_a_skeleton_has_the_same_shapes(full_bench_of: BenchOf, chosen: tuple[str, ...], family: str) -> None:
    bench = full_bench_of(family)
    model = bench.model
    space = Space(bench.anatomy, chosen)
    for choice in (random_choice(space, 1), furthest_choice(space)):
        plan = space.resolve(choice, bench)
        whole = build(model, plan, materials=materials(plan, bench)).state_dict()
        bare = copy.deepcopy(model).to("meta")
        tie(bare, tied_names(model))
        skeleton = build(bare, plan, materials=None).state_dict()
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in whole.items()}
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in skeleton.items()} == shapes
        assert all(tensor.is_meta for tensor in skeleton.values())


@each_set
@each_family
def test_random_plans_survive_the_disk(
    full_bench_of: BenchOf,
    inputs_of: Callable[..., Inputs],
    chosen: tuple[str, ...],
    family: str,
    tmp_path: Path,
) -> None:
    bench = full_bench_of(family)
    model = bench.model
    space = Space(bench.anatomy, chosen)
    for seed in range(3):
        plan = space.resolve(random_choice(space, seed), bench)
        compressed = build(model, plan, materials=materials(plan, bench))
        artefact.save(compressed, plan, tmp_path / str(seed), original=model.config)
        loaded, found = artefact.load(tmp_path / str(seed))
        assert found == plan
        assert type(loaded) is type(model)
        assert torch.equal(logits(loaded, inputs_of(model)), logits(compressed, inputs_of(model)))

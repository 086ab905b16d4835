import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from paring.profilers import devices, runtimes
from paring.profilers.runtimes.torch import TorchExecutable
from paring.search.contents import Contents
from paring.search.prefix_reuse import PrefixReuse
from paring.search.prefix_store import PrefixStore
from paring.spaces.palette import Palette
from paring.spaces.plan import Plan
from paring.spaces.precision import Precision
from paring.spaces.space import Space
from paring.spaces.workbench import Inputs, Workbench

ENCODERS = ("bert", "distilbert", "electra", "roberta")
WRITERS = ("bart", "marian", "mbart", "t5", "t5-gated")
PLENTY = 10**9

Ready = tuple[PreTrainedModel, TorchExecutable]


def loaded(model: PreTrainedModel) -> Ready:
    executable = runtimes.find("torch").load(model, devices.find("cpu"), threads=1)
    assert isinstance(executable, TorchExecutable)
    return model, executable


@pytest.fixture(scope="module")
def bench_of(
    make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], Workbench]
) -> Callable[[str], Any]:
    """One workbench per family, whose palette has precisions of intermediate results too."""

    def make(family: str) -> Any:
        bench: Any = make_bench(make_model(family, layers=4 if family in ("bert", "t5") else 2))
        bench.anatomy = replace(bench.anatomy, palette=Palette(intermediates=(Precision(None, 8),)))
        return bench

    return cache(make)


def reuse_for(bench: Any, budget: int = PLENTY) -> PrefixReuse:
    return PrefixReuse(bench.anatomy, torch.device("cpu"), budget)


def batch(model: PreTrainedModel, seed: int = 0, rows: int = 3, tokens: int = 7) -> Inputs:
    """Ordinary tokens, of which the first row has three fewer."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 60, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    decoder = {"decoder_input_ids": ids.flip(1)[:, :5]} if model.config.is_encoder_decoder else {}
    return {"input_ids": ids, "attention_mask": mask, **decoder}


def saved_by(reuse: PrefixReuse, ready: Ready, inputs: Inputs) -> tuple[Tensor, int]:
    """The answers with what is known, and how many layers that saved."""
    before = reuse.store.layers_saved
    with reuse.between(*ready):
        answers = ready[1](inputs)
    return answers, reuse.store.layers_saved - before


def a_choice(space: Space, draw: random.Random, share: float) -> dict[str, Any]:
    """Each parameter is something else than the identity with a probability."""
    return {one.name: draw.choice(one.choices) if draw.random() < share else one.choices[0] for one in space}


def with_bits(bench: Any, **bits: str) -> Plan:
    """The original with precisions, by `encoder_<slot>_<kind>` or the kind alone."""
    space = Space(bench.anatomy, ("bits",))
    named = {f"bits.{name.replace('__', '.')}": value for name, value in bits.items()}
    return space.resolve({**space.identity(), **named}, bench)


@pytest.mark.parametrize("family", [*ENCODERS, *WRITERS])
def test_answers_are_those_of_a_model_that_runs_whole(family: str, bench_of: Callable[[str], Any]) -> None:
    """Plans drawn at random over all axes, each beside one that differs in its last slots only; each asked twice."""
    bench, draw = bench_of(family), random.Random(family)
    # Learning factors takes seconds, so not in every family.
    axes = ("assembly", "depth", "factors", "bits") if family in ("bert", "t5") else ("assembly", "depth", "bits")
    space, reuse = Space(bench.anatomy, axes), reuse_for(bench_of(family))
    first = a_choice(space, draw, 0.15)
    last = f"bits.encoder.{bench.anatomy.stacks[0].n_layers - 1}."
    late = {one.name: one.choices[-1] for one in space if one.name.startswith(last)}
    plans = [space.resolve(choice, bench) for choice in (space.identity(), first, {**first, **late})]
    saved = 0
    for plan in [*plans, *plans[::-1]]:
        ready = loaded(bench.build(plan))
        for seed in (0, 1):
            inputs = batch(ready[0], seed)
            answers, layers = saved_by(reuse, ready, inputs)
            assert torch.equal(answers, ready[1](inputs)), plan
            saved += layers
    standing = [sum(slot.layer is not None for slot in plan.stack("encoder").slots) for plan in plans]
    assert saved >= 2 * sum(standing)  # the second time nothing is left to compute in any of them


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_what_is_computed_begins_where_plans_part(family: str, bench_of: Callable[[str], Any]) -> None:
    bench = bench_of(family)
    reuse, identity = reuse_for(bench), bench.anatomy.identity()
    saved_by(reuse, loaded(bench.build(identity)), batch(bench.model))
    for slot in range(4):
        ready = loaded(bench.build(with_bits(bench, **{f"encoder__{slot}__ffn_in": "w8a8"})))
        assert saved_by(reuse, ready, batch(bench.model))[1] == slot
    pooled = with_bits(bench, **({"pooler": "w8"} if family == "bert" else {"decoder__0__query": "w8a8"}))
    assert saved_by(reuse, loaded(bench.build(pooled)), batch(bench.model))[1] == 4
    words = with_bits(bench, embeddings="w8")
    assert saved_by(reuse, loaded(bench.build(words)), batch(bench.model))[1] == 0


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("family", WRITERS)
def test_what_is_written_is_the_same(family: str, beams: int, bench_of: Callable[[str], Any]) -> None:
    bench = bench_of(family)
    reuse = reuse_for(bench)
    inputs = {name: tensor for name, tensor in batch(bench.model).items() if name != "decoder_input_ids"}
    for plan in (bench.anatomy.identity(), with_bits(bench, decoder__1__ffn_in="w8a8")):
        model, executable = loaded(bench.build(plan))
        whole = executable.generate(inputs, new_tokens=6, beams=beams)
        with reuse.between(model, executable):
            assert torch.equal(executable.generate(inputs, new_tokens=6, beams=beams), whole)
    layers = bench.anatomy.stacks[0].n_layers
    assert (reuse.store.layers_run, reuse.store.layers_saved) == (layers, layers)


def test_equal_words_with_other_ranges_are_another_prefix(bench_of: Callable[[str], Any]) -> None:
    bench = bench_of("bert")
    reuse, plan = reuse_for(bench), with_bits(bench, encoder__1__ffn_in="w8a8")
    saved_by(reuse, loaded(bench.build(plan)), batch(bench.model))
    other = bench.build(plan)
    for name, buffer in other.bert.encoder.layer[1].named_buffers():
        if name.endswith("input_scale"):
            buffer.mul_(1.5)
    ready = loaded(other)
    answers, layers = saved_by(reuse, ready, batch(bench.model))
    assert layers == 1
    assert torch.equal(answers, ready[1](batch(bench.model)))
    assert saved_by(reuse, loaded(bench.build(plan)), batch(bench.model))[1] == 4


def test_weights_that_changed_in_place_are_another_prefix(make_model: Callable[..., PreTrainedModel]) -> None:
    contents, linear = Contents(), nn.Linear(4, 4)
    before = contents.of(linear)
    assert contents.of(linear) == before
    with torch.no_grad():
        linear.weight[2, 2] += 1
    assert contents.of(linear) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: {name: tensor.flip(0) for name, tensor in inputs.items()},
        lambda inputs: {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])},
        lambda inputs: {name: tensor[:2] for name, tensor in inputs.items()},
        lambda inputs: {name: tensor[:, :6] for name, tensor in inputs.items()},
    ],
    ids=["other order", "other mask", "fewer rows", "fewer tokens"],
)
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_another_batch_is_computed(
    family: str, change: Callable[[Inputs], Inputs], bench_of: Callable[[str], Any]
) -> None:
    bench = bench_of(family)
    reuse, ready = reuse_for(bench), loaded(bench.build(bench.anatomy.identity()))
    saved_by(reuse, ready, batch(bench.model))
    answers, layers = saved_by(reuse, ready, change(batch(bench.model)))
    assert layers == 0
    assert torch.equal(answers, ready[1](change(batch(bench.model))))


@pytest.mark.parametrize("budget", [0, 3000, 6000])
def test_little_memory_costs_time_only(budget: int, bench_of: Callable[[str], Any]) -> None:
    """One batch is 2,688 bytes after every layer."""
    bench = bench_of("bert")
    reuse, ready = reuse_for(bench, budget), loaded(bench.build(bench.anatomy.identity()))
    saved = []
    for seed in (0, 1, 0, 1):
        answers, layers = saved_by(reuse, ready, batch(bench.model, seed))
        assert torch.equal(answers, ready[1](batch(bench.model, seed)))
        assert reuse.store.held_bytes <= budget
        saved.append(layers)
    assert saved == {0: [0, 0, 0, 0], 3000: [0, 0, 1, 0], 6000: [0, 0, 1, 1]}[budget]


def test_a_model_that_is_trained_is_left_alone(bench_of: Callable[[str], Any]) -> None:
    bench = bench_of("bert")
    reuse, (model, executable) = reuse_for(bench), loaded(bench.build(bench.anatomy.identity()))
    model.bert.encoder.layer[1].attention.self.dropout.train()
    with reuse.between(model, executable):
        executable(batch(model))
    assert reuse.store.layers_run == 0


def test_the_layers_are_put_back(bench_of: Callable[[str], Any]) -> None:
    bench = bench_of("bert")
    model, executable = loaded(bench.build(bench.anatomy.identity()))
    layers = list(executable.model.bert.encoder.layer)
    with reuse_for(bench).between(model, executable):
        assert not set(executable.model.bert.encoder.layer) & set(layers)
    assert list(executable.model.bert.encoder.layer) == layers
    with pytest.raises(ValueError, match="exactly one"), reuse_for(bench).between(model, executable):
        executable({"unknown": torch.zeros(1)})
    assert list(executable.model.bert.encoder.layer) == layers


def test_what_cannot_be_told_is_not_reused(bench_of: Callable[[str], Any]) -> None:
    bench = bench_of("bert")
    reuse, model = reuse_for(bench), bench.build(bench.anatomy.identity())
    model.bert.encoder.layer[2].intermediate.intermediate_act_fn.factor = lambda values: values
    ready = loaded(model)
    assert [saved_by(reuse, ready, batch(model))[1] for _ in range(2)] == [0, 2]


class Odd(nn.Module):
    """Layers that are given more than the first one was: a tensor of their own from outside the stack."""

    def __init__(self, extra: Sequence[float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Plus() for _ in range(3))
        self.extra = [torch.full((1,), value) for value in extra]
        self.eval()

    def forward(self, values: Tensor) -> "Logits":
        for layer, extra in zip(self.layers, self.extra, strict=True):
            values = layer(values, extra)
        return Logits(values)


class Plus(nn.Module):
    def forward(self, values: Tensor, extra: Tensor) -> Tensor:
        return values * 2 + extra


@dataclass
class Logits:
    logits: Tensor


class Between(Odd):
    """Layers whose inputs are changed between them."""

    def forward(self, values: Tensor) -> Logits:
        for layer, extra in zip(self.layers, self.extra, strict=True):
            values = layer(values, self.extra[0]) + extra
        return Logits(values)


@dataclass(frozen=True)
class Places:
    stacks: tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    path: str = "layers"
    depth_settings: tuple[str, ...] = ()


@pytest.mark.parametrize("kind", [Odd, Between])
def test_a_stack_that_feeds_its_layers_otherwise_is_reused_as_far_as_it_is_safe(kind: type[Odd]) -> None:
    reuse = PrefixReuse(Places((Place(),)), torch.device("cpu"), PLENTY)  # type: ignore[arg-type]
    for extra in ((1.0, 2.0, 3.0), (1.0, 2.0, 4.0), (1.0, 5.0, 3.0)):
        model = kind(extra)
        executable = TorchExecutable(model, devices.find("cpu"), "")
        with reuse.between(model, executable):
            found = executable({"values": torch.ones(2, 3)})
        assert torch.equal(found, executable({"values": torch.ones(2, 3)}))
    assert reuse.store.layers_saved == 2  # the first layer, of the second and third model


def rows(value: float) -> Tensor:
    return torch.full((25,), value)  # 100 bytes


def kept(store: PrefixStore, prefixes: Sequence[str], batches: Sequence[str] = ("x",)) -> dict[str, list[str]]:
    held: Mapping[str, list[str]] = {
        name: [one for one in batches if store.deepest([name], one)[0]] for name in prefixes
    }
    return {name: found for name, found in held.items() if found}


def through(store: PrefixStore, prefixes: Sequence[str], batches: Sequence[str] = ("x",)) -> None:
    """A model with these prefixes goes through the store."""
    store.meet(prefixes)
    for one in batches:
        depth, _ = store.deepest(prefixes, one)
        for prefix in prefixes[depth:]:
            store.put(prefix, one, rows(1.0))


@pytest.fixture
def store() -> Iterator[PrefixStore]:
    found = PrefixStore(400)
    yield found
    assert found.held_bytes <= 400


def test_a_store_keeps_what_models_share(store: PrefixStore) -> None:
    through(store, ["a", "ab"])
    through(store, ["a", "ac"])
    for number in range(20):  # like no other
        through(store, [f"{number}", f"{number}.", f"{number}.."])
    assert kept(store, ["a", "ab", "ac"]) == {"a": ["x"]}


def test_a_store_forgets_what_is_shared_no_more(store: PrefixStore) -> None:
    through(store, ["a", "ab"])
    through(store, ["a", "ab"])
    for _ in range(200):
        through(store, ["b", "bc", "bcd", "bcde"])
    assert kept(store, ["a", "ab", "b", "bc", "bcd", "bcde"]) == {name: ["x"] for name in ("b", "bc", "bcd", "bcde")}


def test_a_store_keeps_shallow_prefixes_and_early_batches_first(store: PrefixStore) -> None:
    through(store, ["a", "ab", "abc"], ["x", "y", "z"])
    assert kept(store, ["a", "ab", "abc"], ["x", "y", "z"]) == {"a": ["x", "y", "z"], "ab": ["x"]}


def test_a_store_counts_what_a_view_holds() -> None:
    store = PrefixStore(1000)
    store.meet(["a"])
    store.put("a", "x", (torch.zeros(100)[:3], None))
    assert store.held_bytes == 400

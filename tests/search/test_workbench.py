import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paring.errors import MeasurementError, ModelError, StorageError, UserError
from paring.profilers import devices, runtimes
from paring.profilers.devices import Device
from paring.profilers.runtimes import Executable
from paring.search import quality, removal
from paring.search.cache import Cache
from paring.search.considered import ConsideringBench
from paring.search.data import Tables
from paring.search.greedy import Ties, greedy_order
from paring.search.hints import Hints
from paring.search.objectives import Limits
from paring.search.progress import Silent
from paring.search.proposals import guide_of
from paring.search.tasks import Task
from paring.search.training import Training
from paring.search.workbench import Greedy, LocalWorkbench, load_tokenizer
from paring.spaces.plan import Layer, Plan, Slot, Stack
from paring.spaces.space import Space
from paring.spaces.workbench import Inputs

MakeBench = Callable[..., LocalWorkbench]
Tokenizer = PreTrainedTokenizerFast

LAYERS = 4
TUNED = Greedy("fine_tune", training=Training(epochs=1, learning_rate=3e-3, batch=16))


@pytest.fixture(autouse=True, scope="module")
def _rough_intervals() -> Iterator[None]:
    """How sure a judgement is plays no part here, and takes longer than the judgement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "_RESAMPLES", 20)
        yield


class CountingRuntime:
    """The torch runtime; counts the examples that its executables answer."""

    def __init__(self) -> None:
        self.torch, self.answered = runtimes.find("torch"), 0

    def absence(self, device: Device) -> str | None:
        return None

    def refusal(self, model: nn.Module) -> str | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return {}

    def load(self, model: nn.Module, device: Device, *, threads: int) -> Executable:
        return Counting(self, self.torch.load(model, device, threads=threads))


class Counting:
    def __init__(self, runtime: CountingRuntime, executable: Executable) -> None:
        self.runtime, self.executable, self.kernels = runtime, executable, executable.kernels

    def __call__(self, inputs: Inputs) -> Tensor:
        self.runtime.answered += len(inputs["input_ids"])
        return self.executable(inputs)


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Callable[[], Tokenizer]) -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(make_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """Wild weights, so that every layer matters: without one, the answers are others."""
    wild = make_model("bert", layers=LAYERS).requires_grad_(False)
    for parameter in wild.bert.parameters():
        if parameter.dim() > 1:
            parameter.mul_(15)
    return wild


@pytest.fixture(scope="module")
def tables(
    model: PreTrainedModel, tokenizer: Tokenizer, make_reviews: Callable[[int, int], list[dict[str, object]]]
) -> Tables:
    """The search labels are the model's own answers; the training labels can be learned."""
    rows = pd.DataFrame(make_reviews(120, 1))
    margins = answers(model, rows, tokenizer)
    model.classifier.bias[1] -= float(np.median(margins))
    labelled = rows.assign(label=(margins > np.median(margins)).astype(int))
    train = pd.DataFrame(make_reviews(48, 2))
    return Tables(labelled, labelled[:50], train[:40], train, {})


@pytest.fixture
def runtime() -> CountingRuntime:
    return CountingRuntime()


@pytest.fixture
def bench(model: PreTrainedModel, tables: Tables, runtime: CountingRuntime, tokenizer: Tokenizer) -> MakeBench:
    def make(folder: Path, greedy: Greedy | None = None, *, without_train: bool = False) -> LocalWorkbench:
        return LocalWorkbench(
            model,
            tokenizer,
            Task("classification", "data"),
            replace(tables, train=None) if without_train else tables,
            device=devices.find("cpu"),
            runtime=runtime,
            threads=1,
            greedy=greedy or Greedy(),
            folder=folder,
            progress=Silent(),
        )

    return make


def answers(model: PreTrainedModel, rows: pd.DataFrame, tokenizer: Tokenizer) -> np.ndarray:
    """By how much the second class wins; asked one by one, without batches or runtime."""
    with torch.inference_mode():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in rows["text"]]
    return np.array([float(found[1] - found[0]) for found in logits])


def accuracy_without(model: PreTrainedModel, removed: Sequence[int], rows: pd.DataFrame, tokenizer: Tokenizer) -> float:
    layers = model.bert.encoder.layer
    model.bert.encoder.layer = nn.ModuleList(layer for index, layer in enumerate(layers) if index not in removed)
    try:
        return float(np.mean((answers(model, rows, tokenizer) > 0) == (rows["label"] == 1)))
    finally:
        model.bert.encoder.layer = layers


def without(plan: Plan, *removed: int) -> Plan:
    stack = plan.stack("encoder")
    slots = tuple(Slot(None) if index in removed else slot for index, slot in enumerate(stack.slots))
    return plan.with_stack(replace(stack, slots=slots))


def tuned_scores(folder: Path) -> dict[str, float]:
    cache = Cache(folder / "cache")
    return {path.stem: cache.get(path.stem) for path in (folder / "cache").glob("score-*.json")}


@contextmanager
def small_files_only() -> Iterator[None]:
    """The system refuses to write more than a kilobyte to a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_plan_is_judged_once_per_split(tmp_path: Path, bench: MakeBench, runtime: CountingRuntime) -> None:
    first = bench(tmp_path)
    plan = without(first.anatomy.identity(), 2)
    found = [first.quality(plan, examples) for examples in (first.search, first.search, first.test)]
    assert runtime.answered == 120 + 50
    assert [quality.split for quality in found] == ["search", "search", "test"]
    assert [len(quality.outcomes) for quality in found] == [120, 120, 50]
    again = bench(tmp_path)
    assert [again.quality(plan, examples) for examples in (again.search, again.search, again.test)] == found
    assert runtime.answered == 170
    again.quality(again.anatomy.identity(), again.test)
    assert runtime.answered == 220
    again.quality(plan, again.test, again=True)
    assert runtime.answered == 270


def test_quality_is_that_of_the_plan(
    tmp_path: Path, bench: MakeBench, model: PreTrainedModel, tables: Tables, tokenizer: Tokenizer
) -> None:
    made = bench(tmp_path)
    values = []
    for removed in [(), *combinations(range(LAYERS), 1), *combinations(range(LAYERS), 2)]:
        values.append(made.quality(without(made.anatomy.identity(), *removed), made.search).value)
        assert values[-1] == pytest.approx(accuracy_without(model, removed, tables.search, tokenizer))
    assert values[0] == 1.0
    assert len(set(values)) >= 5


def test_calibration_is_kept_for_a_second_workbench(
    tmp_path: Path, bench: MakeBench, monkeypatch: pytest.MonkeyPatch, runtime: CountingRuntime
) -> None:
    first = bench(tmp_path)
    space = Space(first.anatomy, ("bits",))
    plan = space.resolve(space.uniform_choices()[1], first)
    logits = first.executable(first.build(plan))(first.search.batch(range(8)))
    assert len(first.calibration()) == 2
    assert sum(len(batch["input_ids"]) for batch in first.calibration()) == 40
    monkeypatch.setattr(LocalWorkbench, "calibration", lambda _: pytest.fail("calibrated again"))
    second = bench(tmp_path)
    assert torch.equal(second.executable(second.build(plan))(second.search.batch(range(8))), logits)


def test_what_is_remembered_is_learned_once(tmp_path: Path, bench: MakeBench) -> None:
    # A number in float64, which a float32 would round.
    material = {"encoder.0.query": {"scale": torch.tensor(0.1, dtype=torch.float64), "zero_point": torch.tensor(3)}}
    for learn in (lambda: material, lambda: pytest.fail("learned again")):
        known = bench(tmp_path).remember("ranges", learn)
        assert known == material
        assert known["encoder.0.query"]["scale"].dtype == torch.float64


def test_what_is_damaged_is_learned_again(tmp_path: Path, bench: MakeBench) -> None:
    material = {"a": {"b": torch.arange(9)}}
    bench(tmp_path).remember("ranges", lambda: material)
    (file,) = tmp_path.rglob("ranges.safetensors")
    file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(bench(tmp_path).remember("ranges", lambda: material)["a"]["b"], torch.arange(9))


@pytest.mark.parametrize(("decimals", "ties"), [(3, "high"), (1, "low")])
def test_the_training_free_order_is_the_greedy_one(
    tmp_path: Path,
    bench: MakeBench,
    runtime: CountingRuntime,
    model: PreTrainedModel,
    tables: Tables,
    tokenizer: Tokenizer,
    decimals: int | None,
    ties: Ties,
) -> None:
    greedy = Greedy(decimals=decimals, ties=ties)
    made = bench(tmp_path, greedy)
    found = made.removal_order(made.anatomy.identity(), "encoder", 3)
    by_hand = greedy_order(
        LAYERS,
        lambda removed: accuracy_without(model, removed, tables.search, tokenizer),
        3,
        decimals=decimals,
        ties=ties,
    )
    assert found.order == by_hand.order
    assert found.weights == ("original",) * 3
    assert runtime.answered == (4 + 3 + 2) * 120
    assert bench(tmp_path, greedy).removal_order(made.anatomy.identity(), "encoder", 2).order == found.order[:2]
    assert runtime.answered == (4 + 3 + 2) * 120


def test_the_order_of_a_shorter_stack_has_its_own_slots_only(tmp_path: Path, bench: MakeBench) -> None:
    made = bench(tmp_path)
    plan = without(made.anatomy.identity(), 1)
    order = made.removal_order(plan, "encoder", 2).order
    scores = {layer: made.quality(without(plan, layer), made.search).value for layer in (0, 2, 3)}
    assert set(order) < {0, 2, 3}
    assert order[0] == max(scores, key=lambda layer: (round(scores[layer], 3), layer))


@pytest.mark.parametrize("greedy", [Greedy(), TUNED], ids=["training-free", "fine-tuned"])
def test_an_order_that_is_only_considered_is_known_or_guessed(
    tmp_path: Path, bench: MakeBench, runtime: CountingRuntime, greedy: Greedy
) -> None:
    made = bench(tmp_path, greedy)
    considering, identity = ConsideringBench(made), made.anatomy.identity()
    assert considering.removal_order(identity, "encoder", 3).order == (3, 2, 1)
    assert (considering.n_guesses, runtime.answered) == (1, 0)

    found, asked = made.removal_order(identity, "encoder", 1), runtime.answered
    assert considering.removal_order(identity, "encoder", 1) == found
    assert considering.n_guesses == 1
    removed = [found.order[0]]
    kept = [made.removal.known(identity, "encoder", 3)[1][layer] for layer in range(LAYERS)]
    removed += sorted(set(range(LAYERS)) - set(removed), key=lambda layer: (-kept[layer], -layer))
    for one in (considering, ConsideringBench(bench(tmp_path, greedy))):  # and in a run that goes on
        guess = one.removal_order(identity, "encoder", 3)
        assert guess.order == tuple(removed[:3])
        assert guess.weights[:1] == found.weights
    assert (considering.n_guesses, runtime.answered) == (2, asked)

    found = made.removal_order(identity, "encoder", 3)
    again = ConsideringBench(bench(tmp_path, greedy))
    assert again.removal_order(identity, "encoder", 3) == found
    assert again.n_guesses == 0


def test_pieces_are_guessed_to_go_as_what_they_stand_for(tmp_path: Path, bench: MakeBench) -> None:
    made = bench(tmp_path)
    identity = made.anatomy.identity()
    order = made.removal_order(identity, "encoder", 3).order
    turns = [order.index(layer) + 1 if layer in order else LAYERS for layer in range(LAYERS)]
    pieces = identity.with_stack(Stack("encoder", (Slot(Layer(0)), Slot(Layer(1)), Slot(Layer(1, 2)))))
    worth = [turns[0], turns[1], turns[2] + turns[3]]
    guess = ConsideringBench(made).removal_order(pieces, "encoder", 2).order
    assert guess == tuple(sorted(range(3), key=lambda slot: (worth[slot], -slot))[:2])


def test_a_sampler_considers_plans_and_has_none_judged(
    tmp_path: Path, bench: MakeBench, runtime: CountingRuntime
) -> None:
    made = bench(tmp_path)
    space = Space(made.anatomy, ("depth",))
    guide = guide_of(space, made, Hints(1), None, objectives=("quality", "size"), limits=Limits())
    guesses = [guide.sketch({"depth.encoder": depth}).plan for depth in range(LAYERS)]
    assert [len(plan.stack("encoder").dropped) for plan in guesses] == [0, 1, 2, 3]
    assert runtime.answered == 0
    for depth in range(1, LAYERS):  # as each is proposed
        exact = space.resolve({"depth.encoder": depth}, made)
        assert guide.sketch({"depth.encoder": depth}).plan == exact
        assert guide.sketch({"depth.encoder": depth}) is guide.sketch({"depth.encoder": depth})


def test_fine_tuning_gives_the_same_scores_in_a_fresh_folder(
    tmp_path: Path, bench: MakeBench, model: PreTrainedModel
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, other = bench(tmp_path / "one", TUNED), bench(tmp_path / "other", TUNED)
    plan = one.anatomy.identity()
    torch.manual_seed(1)
    found = one.removal_order(plan, "encoder", 2)
    torch.manual_seed(2)
    assert other.removal_order(plan, "encoder", 2) == found
    scores = tuned_scores(tmp_path / "one")
    assert len(scores) == 4 + 3
    assert scores == tuned_scores(tmp_path / "other")
    assert len(set(scores.values())) >= 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_plan_starts_from_the_weights_that_were_scored(tmp_path: Path, bench: MakeBench) -> None:
    made = bench(tmp_path, TUNED)
    identity = made.anatomy.identity()
    found = made.removal_order(identity, "encoder", 2)
    first = {
        layer: Cache(tmp_path / "cache").get(f"score-tuned-{without(identity, layer).fingerprint}")
        for layer in range(4)
    }
    assert found.order[0] == max(first, key=lambda layer: (round(first[layer], 3), layer))
    assert {path.stem for path in (tmp_path / "weights").iterdir()} == set(found.weights)
    untrained = made.quality(without(identity, *found.order[:2]), made.search)
    space = Space(made.anatomy, ("depth",))
    for depth in (1, 2):
        plan = space.resolve({"depth.encoder": depth}, made)
        assert (plan.stack("encoder").dropped, plan.weights) == (
            tuple(sorted(found.order[:depth])),
            found.weights[depth - 1],
        )
        scored = Cache(tmp_path / "cache").get(f"score-{plan.weights}")
        assert made.quality(plan, made.search).value == scored
    assert made.quality(plan, made.search).outcomes != untrained.outcomes


def test_fine_tuning_goes_on_where_it_was_stopped(
    tmp_path: Path, bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    real = removal.fine_tune

    def stopped(*arguments: object, what: str) -> float:
        trained.append(what)
        if len(trained) == 6:
            raise KeyboardInterrupt
        return real(*arguments, what=what)

    monkeypatch.setattr(removal, "fine_tune", stopped)
    made = bench(tmp_path, TUNED)
    with pytest.raises(KeyboardInterrupt):
        made.removal_order(made.anatomy.identity(), "encoder", 2)
    found = bench(tmp_path, TUNED).removal_order(made.anatomy.identity(), "encoder", 2)
    assert len(trained) == 7 + 1
    assert trained[5] == trained[6]
    assert len(set(trained)) == 7
    assert {path.stem for path in (tmp_path / "weights").iterdir()} == set(found.weights)
    assert found == bench(tmp_path / "fresh", TUNED).removal_order(made.anatomy.identity(), "encoder", 2)
    assert len(trained) == 15
    assert bench(tmp_path, TUNED).removal_order(made.anatomy.identity(), "encoder", 2) == found
    assert len(trained) == 15


def test_fine_tuning_needs_a_train_split(tmp_path: Path, bench: MakeBench) -> None:
    with pytest.raises(UserError, match=r"fine_tune scorer needs a train split.*training_free"):
        bench(tmp_path, TUNED, without_train=True)


def test_trained_weights_on_a_full_disk(tmp_path: Path, bench: MakeBench) -> None:
    made = bench(tmp_path, TUNED)
    with small_files_only(), pytest.raises(StorageError, match="run the same command again"):
        made.removal_order(made.anatomy.identity(), "encoder", 1)


def test_weights_that_are_gone(tmp_path: Path, bench: MakeBench) -> None:
    made = bench(tmp_path)
    with pytest.raises(ModelError, match=r"the weights 'tuned-x' are not in .*weights: the run folder is incomplete"):
        made.build(replace(made.anatomy.identity(), weights="tuned-x"))


def test_a_model_that_answers_nan_has_no_quality(tmp_path: Path, bench: MakeBench) -> None:
    made = bench(tmp_path)
    broken = made.build(made.anatomy.identity())
    broken.classifier.bias = nn.Parameter(torch.tensor([float("nan"), 0.0]), requires_grad=False)
    with pytest.raises(MeasurementError, match="not finite"):
        made.quality(made.anatomy.identity(), made.search, made.executable(broken))
    assert made.quality(made.anatomy.identity(), made.search).value == 1.0


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer loads from"):
        load_tokenizer(str(tmp_path))


def test_greedy_steps_may_be_scored_by_another_metric(
    tmp_path: Path, bench: MakeBench, runtime: CountingRuntime
) -> None:
    made = bench(tmp_path, Greedy(decimals=None, metric="matthews"))
    identity = made.anatomy.identity()
    order = made.removal_order(identity, "encoder", 1).order
    assert runtime.answered == 4 * 120
    scores = {layer: made.quality(without(identity, layer), made.search, metric="matthews").value for layer in range(4)}
    assert runtime.answered == 4 * 120
    assert order[0] == max(scores, key=lambda layer: (scores[layer], layer))
    first = made.quality(without(identity, 0), made.search)
    assert runtime.answered == 5 * 120
    assert (first.metric, made.metric) == ("accuracy", "accuracy")
    assert made.quality(without(identity, 0), made.search, metric="matthews").metric == "matthews"


def test_fine_tuned_candidates_are_scored_by_it_too(tmp_path: Path, bench: MakeBench) -> None:
    made = bench(tmp_path, replace(TUNED, metric="matthews"))
    order = made.removal_order(made.anatomy.identity(), "encoder", 1)
    scores = tuned_scores(tmp_path)
    assert len(scores) == 4 and all(name.startswith("score-matthews-tuned-") for name in scores)
    plan = replace(without(made.anatomy.identity(), *order.order), weights=order.weights[0])
    assert made.quality(plan, made.search, metric="matthews").value == max(scores.values())
    assert made.quality(plan, made.search).value != max(scores.values())


def test_an_unknown_metric_for_greedy_steps(tmp_path: Path, bench: MakeBench) -> None:
    with pytest.raises(UserError, match=r"unknown metric 'bleu'; the legal values are: accuracy, f1"):
        bench(tmp_path, Greedy(metric="bleu"))

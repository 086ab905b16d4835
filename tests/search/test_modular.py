"""Training modular layers: what learns, what does not, and that it is the same every time."""

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from paring.errors import SearchError, SettingError, StorageError
from paring.search import distilling
from paring.search.batching import endless
from paring.search.distillation import Losses
from paring.search.distilling import Log, Schedule, distil
from paring.search.examples import Examples
from paring.search.modular import (
    Curriculum,
    Modular,
    learning_of,
    make_pair,
    modular_layers,
    one_block_merged,
    start_from_nearest,
)
from paring.search.progress import Silent
from paring.spaces.anatomy import Anatomy, anatomy_of
from paring.spaces.plan import Layer
from paring.spaces.tilings import layers_of

CPU = torch.device("cpu")
MakeModel = Callable[..., PreTrainedModel]
SHORT = Modular(schedule=Schedule(steps=8, learning_rate=2e-3, tokens=64, precision="float32"))


def examples_for(model: PreTrainedModel, count: int = 40) -> Examples:
    """Random texts with classes, or with targets where the model writes."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(4, 64, draw.integers(3, 12)).tolist() for _ in range(count)]
    encoded = tuple({"input_ids": text, "attention_mask": [1] * len(text)} for text in texts)
    labels = draw.integers(0, 2, count)
    if model.config.is_encoder_decoder:
        labels = np.empty(count, dtype=object)
        for row, text in enumerate(texts):
            labels[row] = tuple(reversed(text))
    return Examples("train", encoded, labels, {"input_ids": model.config.pad_token_id, "attention_mask": 0})


def anatomy_for(model: PreTrainedModel) -> Anatomy:
    return anatomy_of(model).with_modular_layers((2, 3, 6))


def train(
    model: PreTrainedModel, settings: Modular, *, checkpoint: Path | None = None, key: str = "key"
) -> tuple[dict[str, torch.Tensor], Log]:
    """Modular layers after training, by name of their parameters."""
    anatomy = anatomy_for(model)
    pair = make_pair(model, anatomy, settings, CPU)
    learning = learning_of(pair)
    log = distil(
        pair,
        learning,
        lambda batch: settings.standing(anatomy, batch, settings.schedule.steps),
        examples_for(model),
        settings.schedule,
        Silent(),
        what="training",
        checkpoint=checkpoint,
        key=key,
    )
    return {name: parameter.detach().clone() for name, parameter in learning.items()}, log


@pytest.mark.parametrize("family", ["bert", "mbart", "t5"])
def test_the_same_seed_gives_the_same_layers_and_another_seed_others(family: str, make_model: MakeModel) -> None:
    model = make_model(family, layers=6)
    one, _ = train(model, SHORT)
    again, _ = train(model, SHORT)
    other, _ = train(model, replace(SHORT, schedule=replace(SHORT.schedule, seed=1)))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_only_modular_layers_learn(family: str, make_model: MakeModel) -> None:
    model = make_model(family, layers=6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = replace(
        SHORT, start="first", curriculum=Curriculum(unlocked=0.0), schedule=replace(SHORT.schedule, steps=16)
    )
    untrained = {
        name: parameter.detach().clone()
        for name, parameter in learning_of(make_pair(model, anatomy_for(model), settings, CPU)).items()
    }
    trained, _ = train(model, settings)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    changed = {name.partition("/")[0] for name, value in trained.items() if not torch.equal(value, untrained[name])}
    assert {name.partition(".")[2][:2] for name in changed} == {"m2", "m3", "m6"}
    assert not any("relative_attention_bias" in name for name in trained)


@pytest.mark.parametrize("stop", [1, 5])
def test_an_interrupt_keeps_what_was_trained(
    stop: int, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it strikes: here in the middle of a batch, a minute before the next checkpoint."""
    model, place = make_model("bert", layers=6), tmp_path / "checkpoint.safetensors"
    whole, _ = train(model, SHORT)
    learn, calls = distilling._learn, 0

    def learn_and_stop(*arguments: object) -> dict[str, float]:
        nonlocal calls
        calls += 1
        found = learn(*arguments)  # type: ignore[arg-type]
        if calls > stop:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(distilling, "_learn", learn_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(model, SHORT, checkpoint=place)
    resumed, log = train(model, SHORT, checkpoint=place)
    assert len(log.losses) == SHORT.schedule.steps - stop
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_interrupt_within_a_step_keeps_nothing_half_done(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(distilling, "clip_grad_norm_", stop)
    with pytest.raises(KeyboardInterrupt):
        train(make_model("bert", layers=6), SHORT, checkpoint=tmp_path / "checkpoint.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stop", [3, 7])
def test_a_training_cut_off_goes_on_to_the_same_layers(
    stop: int, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("mbart", layers=6)
    whole, _ = train(model, SHORT)
    monkeypatch.setattr(distilling, "_CHECKPOINT_SECONDS", 0.0)
    keep, kept = distilling._keep, 0

    def keep_and_stop(*arguments: object) -> None:
        nonlocal kept
        keep(*arguments)  # type: ignore[arg-type]
        kept += 1
        if kept == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(distilling, "_keep", keep_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(model, SHORT, checkpoint=tmp_path / "checkpoint.safetensors")
    resumed, log = train(model, SHORT, checkpoint=tmp_path / "checkpoint.safetensors")
    assert len(log.losses) == SHORT.schedule.steps - stop
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_checkpoint_of_another_training_or_a_damaged_one_is_not_used(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distilling, "_CHECKPOINT_SECONDS", 0.0)
    model, place = make_model("bert", layers=6), tmp_path / "checkpoint.safetensors"
    train(model, SHORT, checkpoint=place, key="one")
    _, log = train(model, SHORT, checkpoint=place, key="other")
    assert len(log.losses) == SHORT.schedule.steps
    place.write_bytes(place.read_bytes()[:100])
    _, log = train(model, SHORT, checkpoint=place, key="other")
    assert len(log.losses) == SHORT.schedule.steps


def test_a_full_disk_is_said_clearly(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(distilling, "_CHECKPOINT_SECONDS", 0.0)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write to"):
        train(make_model("bert", layers=6), SHORT, checkpoint=tmp_path / "file" / "checkpoint.safetensors")


def test_a_step_takes_the_gradient_of_the_mean_over_batches_and_draws(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step over two batches of two draws each, against gradients computed by hand."""
    model = make_model("bert", layers=6)
    settings = replace(SHORT, start="first", schedule=replace(SHORT.schedule, steps=1, accumulate=2))
    anatomy, examples = anatomy_for(model), examples_for(model)
    draws = [{"encoder": layers_of((2, 2, 2))}, {"encoder": layers_of((1, 1, 2, 2))}]
    by_hand = make_pair(model, anatomy, settings, CPU)
    for rows in islice(endless(examples.lengths(), 64, 0), 2):
        batch = examples.with_labels(rows)
        by_hand.show(batch)
        for standing in draws:
            (by_hand.total(by_hand.losses(batch, standing)) / 4).backward()
    expected = {name: p.grad for name, p in learning_of(by_hand).items() if p.grad is not None}
    pair = make_pair(model, anatomy, settings, CPU)
    learning, seen = learning_of(pair), {}

    def look(parameters: object, norm: float) -> None:
        seen.update({name: p.grad.clone() for name, p in learning.items() if p.grad is not None})

    monkeypatch.setattr(distilling, "clip_grad_norm_", look)
    distil(pair, learning, lambda _: draws, examples, settings.schedule, Silent(), what="training")
    assert seen.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient)


def test_training_brings_assemblies_nearer_to_the_original(trained_bert: PreTrainedModel) -> None:
    anatomy = anatomy_of(trained_bert).with_modular_layers((3,))
    # The labels are random, so the task would pull away from the original.
    schedule = Schedule(60, 3e-3, tokens=256, precision="float32")
    settings = Modular((3,), "first", Losses(task=0.0), schedule=schedule)
    examples, pair = examples_for(trained_bert, 200), make_pair(trained_bert, anatomy, settings, CPU)
    batch, assembly = examples.with_labels(range(100)), {"one": {"encoder": (Layer(0, 3),)}}
    before = pair.divergences(batch, assembly)["one"]
    distil(
        pair,
        learning_of(pair),
        lambda number: settings.standing(anatomy, number, 60),
        examples,
        settings.schedule,
        Silent(),
        what="training",
    )
    assert pair.divergences(batch, assembly)["one"] < before / 2


def test_a_training_that_diverges_says_so(make_model: MakeModel) -> None:
    model = make_model("bert", layers=6)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(SearchError, match=r"training diverged at step 0: .*lower the learning rate"):
        train(model, SHORT)


def test_a_modular_layer_starts_as_the_nearest_original_of_its_group(make_model: MakeModel) -> None:
    """The nearest by hand: each original alone in its group's place, hidden states as the library gives them out."""
    model = make_model("bert", layers=6)
    anatomy, batch = anatomy_for(model), examples_for(model).with_labels(range(8))
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        wanted = model(**batch, output_hidden_states=True).hidden_states

        def error(group: range, standing_in: int) -> float:
            shorter = copy.deepcopy(model)
            layers = shorter.bert.encoder.layer
            order = [index for index in range(6) if index not in group or index == standing_in]
            shorter.bert.encoder.layer = torch.nn.ModuleList([layers[index] for index in order])
            found = shorter(**batch, output_hidden_states=True).hidden_states[order.index(standing_in) + 1]
            return float((found - wanted[group.stop])[mask].square().mean())

        expected = {
            f"encoder.{layer}": min(layer.originals, key=lambda index, group=layer.originals: error(group, index))
            for layer in modular_layers(anatomy.stacks[0])
        }
    pair = make_pair(model, anatomy, SHORT, CPU)
    assert start_from_nearest(pair, anatomy, batch, Silent()) == expected
    for name, index in expected.items():
        layer = Layer.parse(name.partition(".")[2])
        own, original = pair.layers["encoder"][layer].state_dict(), model.bert.encoder.layer[index].state_dict()
        assert all(torch.equal(own[title], original[title]) for title in original)


@pytest.mark.parametrize(
    ("start", "expected"),
    [("first", [0, 2, 4, 0, 3, 0]), ("last", [1, 3, 5, 2, 5, 5]), ("lowest", [0, 1, 2, 0, 1, 0])],
)
def test_other_starts(start: str, expected: list[int], make_model: MakeModel) -> None:
    anatomy = anatomy_for(make_model("bert", layers=6))
    settings = Modular(start=start)  # type: ignore[arg-type]
    assert [settings.guess(layer) for layer in modular_layers(anatomy.stacks[0])] == expected


def test_the_curriculum_goes_from_fine_to_coarse_and_from_some_to_all() -> None:
    curriculum = Curriculum(first=0.2, last=0.9, ramp=0.5, unlocked=0.4)
    assert [curriculum.probability(share) for share in (0, 0.25, 0.5, 1)] == pytest.approx([0.2, 0.55, 0.9, 0.9])
    fit = (2, 3, 6)
    assert [curriculum.granularities(fit, share) for share in (0, 0.19, 0.2, 0.39, 0.4, 1)] == [
        (2,),
        (2,),
        (2, 3),
        (2, 3),
        (2, 3, 6),
        (2, 3, 6),
    ]
    assert curriculum.granularities((), 1) == ()
    assert Curriculum(first=0.1, ramp=0.0).probability(0) == 1


def test_every_batch_has_random_numbers_of_its_own(make_model: MakeModel) -> None:
    anatomy = anatomy_for(make_model("mbart", layers=6))
    drawn = [SHORT.standing(anatomy, batch, 50) for batch in range(50)]
    assert drawn == [SHORT.standing(anatomy, batch, 50) for batch in range(50)]
    assert len({str(draws) for draws in drawn}) > 40
    assert any(standing["encoder"] != standing["decoder"] for draws in drawn for standing in draws)


def test_sizes_take_turns_so_that_each_learns_from_every_batch(make_model: MakeModel) -> None:
    anatomy = anatomy_for(make_model("mbart", layers=6))
    settings = Modular(curriculum=Curriculum(first=1.0, unlocked=0.0, uniform=1.0, draws=3))
    pairs = set()
    for batch in range(30):
        draws = settings.standing(anatomy, batch, 30)
        for stack in ("encoder", "decoder"):
            assert sorted(len(standing[stack]) for standing in draws) == [1, 2, 3]
        pairs |= {(len(standing["encoder"]), len(standing["decoder"])) for standing in draws}
    assert len(pairs) == 9


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Modular(granularities=(1, 2)),
        lambda: Modular(granularities=()),
        lambda: Modular(start="middle"),  # type: ignore[arg-type]
        lambda: Schedule(steps=0),
        lambda: Schedule(learning_rate=0.0),
        lambda: Schedule(warmup=1.0),
        lambda: Schedule(precision="float8"),  # type: ignore[arg-type]
        lambda: Curriculum(first=1.5),
        lambda: Curriculum(uniform=-0.1),
        lambda: Curriculum(draws=0),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(SettingError):
        wrong()


def test_settings_survive_json() -> None:
    from dataclasses import asdict

    settings = Modular((2, 4), "last", Losses(0.5), Curriculum(0.1), Schedule(7, seed=3))
    assert Modular.from_json(asdict(settings)) == settings


def test_the_learning_rate_warms_up_and_falls() -> None:
    schedule = Schedule(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.02 <= rates[-1] < 0.03


def test_one_block_at_a_time_is_merged_in_every_way(make_model: MakeModel) -> None:
    anatomy = anatomy_of(make_model("mbart", layers=4)).with_modular_layers((2,))
    found = one_block_merged(anatomy)
    whole = tuple(map(Layer, range(4)))
    assert {block: list(assemblies.items()) for block, assemblies in found.items()} == {
        "encoder.0": [((2,), {"encoder": (Layer(0, 2), Layer(2), Layer(3)), "decoder": whole})],
        "encoder.1": [((2,), {"encoder": (Layer(0), Layer(1), Layer(1, 2)), "decoder": whole})],
        "decoder.0": [((2,), {"encoder": whole, "decoder": (Layer(0, 2), Layer(2), Layer(3))})],
        "decoder.1": [((2,), {"encoder": whole, "decoder": (Layer(0), Layer(1), Layer(1, 2))})],
    }


@pytest.mark.parametrize("family", ["bart", "t5", "t5-gated"])
def test_every_family_starts_from_what_is_nearest(family: str, make_model: MakeModel) -> None:
    """T5's first layer holds a position bias, which is no part of what is copied."""
    model = make_model(family, layers=6)
    anatomy = anatomy_for(model)
    pair = make_pair(model, anatomy, SHORT, CPU)
    chosen = start_from_nearest(pair, anatomy, examples_for(model).with_labels(range(8)), Silent())
    assert set(chosen) == {f"{stack.name}.{layer}" for stack in anatomy.stacks for layer in modular_layers(stack)}
    for name, index in chosen.items():
        stack, layer = name.split(".", 1)
        assert index in Layer.parse(layer).originals
        copied = dict(model.get_submodule(f"{anatomy.stack(stack).path}.{index}").named_parameters())
        for title, value in pair.layers[stack][Layer.parse(layer)].named_parameters():
            assert torch.equal(value, copied[title])

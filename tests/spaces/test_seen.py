"""What calibration shows of Linears, against sums taken one by one and against torch's own gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from paring.errors import PlanError
from paring.spaces.calibration import input_moments, standing_linears
from paring.spaces.seen import Seen, look_at, look_at_words
from paring.spaces.workbench import Workbench


def linears(bench: Workbench) -> tuple[nn.Module, dict[str, nn.Linear]]:
    identity = bench.anatomy.identity()
    model = bench.build(identity)
    return model, dict(standing_linears(model, identity, bench.anatomy))


@pytest.fixture
def bert(
    make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], Workbench]
) -> tuple[Workbench, nn.Module, dict[str, nn.Linear]]:
    bench = make_bench(make_model("bert", labels=3))
    return bench, *linears(bench)


def test_sums_of_inputs_are_those_of_all_tokens(
    bert: tuple[Workbench, nn.Module, dict[str, nn.Linear]],
) -> None:
    bench, model, parts = bert
    found, plain = look_at(model, parts, bench), input_moments(model, parts, bench)
    tokens = sum(batch["input_ids"].numel() for batch in bench.calibration())
    own = found["encoder.0.ffn_in"]
    assert float(own.count) == tokens
    assert torch.allclose(own.moment.float(), plain["encoder.0.ffn_in"], rtol=1e-4, atol=1e-4)
    assert own.gradient.shape == (64, 64) and float(own.answers) == sum(
        len(batch["input_ids"]) for batch in bench.calibration()
    )


def test_tokens_that_no_answer_depends_on_do_not_count(
    bert: tuple[Workbench, nn.Module, dict[str, nn.Linear]],
) -> None:
    """A classifier reads the first hidden state alone, so in the last layer only keys and values see all words."""
    bench, model, parts = bert
    found = look_at(model, parts, bench)
    sentences = sum(len(batch["input_ids"]) for batch in bench.calibration())
    assert float(found["encoder.2.ffn_out"].count) == float(found["encoder.2.query"].count) == sentences
    assert float(found["encoder.2.value"].count) > sentences


def test_padding_does_not_count(
    make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], Workbench]
) -> None:
    bench = make_bench(make_model("bert"))
    model, parts = linears(bench)
    before = look_at(model, parts, bench)
    plain = bench.calibration()
    longer = [{name: nn.functional.pad(tensor, (0, 5)) for name, tensor in batch.items()} for batch in plain]
    bench.calibration = lambda: longer  # type: ignore[method-assign]
    for name, own in look_at(model, parts, bench).items():
        for field in Seen.__slots__:
            assert torch.allclose(getattr(own, field), getattr(before[name], field), rtol=1e-3, atol=1e-6), name


def test_fisher_rows_are_the_squared_gradients_of_single_examples(
    bert: tuple[Workbench, nn.Module, dict[str, nn.Linear]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, model, parts = bert
    direction = torch.tensor([1.0, -2.0, 1.0]) / 3**0.5
    monkeypatch.setattr("paring.spaces.seen._directions", lambda logits, labels, seed: direction.expand_as(logits))
    found = look_at(model, parts, bench)["encoder.1.value"]
    weight = parts["encoder.1.value"].weight.requires_grad_()
    fisher, gradient = torch.zeros(32), torch.zeros(32)
    for batch in bench.calibration():
        for row in range(len(batch["input_ids"])):
            logits = model(**{name: tensor[row : row + 1] for name, tensor in batch.items()}).logits
            (own,) = torch.autograd.grad((logits * direction).sum(), [weight])
            fisher += own.square().sum(1)
            gradient += own.sum(1)
    assert torch.allclose(found.fisher.float(), fisher, rtol=1e-3)


def test_directions_add_up_to_all_answers(bert: tuple[Workbench, nn.Module, dict[str, nn.Linear]]) -> None:
    from paring.spaces.seen import _directions

    drawn = _directions(torch.zeros(20000, 4), None, seed=0)
    assert torch.allclose(drawn.sum(1), torch.zeros(20000), atol=1e-5)
    assert torch.allclose(drawn.T @ drawn / 20000, torch.eye(4) - 0.25, atol=0.02)
    labels = torch.tensor([[1, -100]])
    assert _directions(torch.zeros(1, 2, 4), labels, seed=0)[0, 1].eq(0).all()
    assert _directions(torch.zeros(50, 1), None, seed=0).abs().eq(1).all()


@pytest.mark.parametrize("family", ["bart", "t5-gated"])
def test_encoder_decoders_show_both_stacks(
    family: str, make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], Workbench]
) -> None:
    bench = make_bench(make_model(family, layers=2))
    found = look_at(*linears(bench), bench)
    assert {name.split(".")[0] for name in found} >= {"encoder", "decoder"}
    assert all(torch.isfinite(getattr(own, field)).all() for own in found.values() for field in Seen.__slots__)
    assert all(float(own.gradient.trace()) > 0 for own in found.values())
    targets = sum(batch["labels"].numel() for batch in bench.calibration())
    assert {float(own.answers) for own in found.values()} == {targets}


def test_a_part_no_answer_depends_on_is_named(bert: tuple[Workbench, nn.Module, dict[str, nn.Linear]]) -> None:
    bench, model, parts = bert
    with pytest.raises(PlanError, match="depends on 1 Linears, among them stranger"):
        look_at(model, {**parts, "stranger": nn.Linear(3, 3)}, bench)


def test_a_model_that_computes_nan_is_refused(bert: tuple[Workbench, nn.Module, dict[str, nn.Linear]]) -> None:
    bench, model, parts = bert
    with torch.no_grad():
        parts["encoder.1.value"].weight[0, 0] = float("nan")
    with pytest.raises(PlanError, match="not finite: it computes NaN"):
        look_at(model, parts, bench)


def test_words_are_counted_where_answers_depend_on_them(
    make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], Workbench]
) -> None:
    bench = make_bench(make_model("bert"))
    model = bench.build(bench.anatomy.identity())
    table = model.get_submodule(bench.anatomy.outside["embeddings"]).weight
    batches = bench.calibration()
    counts = sum(torch.bincount(batch["input_ids"].flatten(), minlength=64) for batch in batches)
    found = look_at_words(model, table, bench)
    assert torch.equal(found.counts, counts.double()) and float(found.answers) == sum(
        len(b["input_ids"]) for b in batches
    )
    assert float(torch.linalg.eigvalsh(found.gradient).min()) > -1e-6 and found.gradient.shape == (32, 32)
    padded = [{name: nn.functional.pad(tensor, (0, 5)) for name, tensor in batch.items()} for batch in batches]
    bench.calibration = lambda: padded  # type: ignore[method-assign]
    assert torch.equal(look_at_words(model, table, bench).counts, found.counts)


def test_a_shared_table_is_looked_at_in_both_stacks(
    make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], Workbench]
) -> None:
    bench = make_bench(make_model("mbart", layers=2))
    model = bench.build(bench.anatomy.identity())
    found = look_at_words(model, model.get_input_embeddings().weight, bench)
    assert float(found.counts.sum()) == sum(2 * batch["input_ids"].numel() for batch in bench.calibration())


def test_a_table_nobody_looks_at_is_refused(bert: tuple[Workbench, nn.Module, dict[str, nn.Linear]]) -> None:
    bench, model, _ = bert
    with pytest.raises(PlanError, match="depends on a word"):
        look_at_words(model, torch.zeros(5, 3), bench)

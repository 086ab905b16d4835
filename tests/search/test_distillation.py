"""Distillation losses against independent computations, and what an assembly of originals must give."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from transformers import PreTrainedModel

from paring.errors import SettingError
from paring.search.distillation import (
    IGNORED_LABEL,
    Losses,
    Pair,
    attention_divergence,
    divergence,
    relative_error,
)
from paring.search.modular import Modular, learning_of, make_pair
from paring.spaces.anatomy import Anatomy, anatomy_of
from paring.spaces.plan import Layer
from paring.spaces.tilings import layers_of

FAMILIES = ("bert", "roberta", "electra", "distilbert", "bart", "mbart", "marian", "t5", "t5-gated")
CPU = torch.device("cpu")


def pair_of(model: PreTrainedModel, losses: Losses | None = None) -> tuple[Pair, Anatomy]:
    anatomy = anatomy_of(model).with_modular_layers((2, 3, 6))
    return make_pair(model, anatomy, Modular(start="first", losses=losses or Losses()), CPU), anatomy


def batch_for(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Random tokens with labels, the second row shorter."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 64, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = model.config.pad_token_id, 0
    labels = torch.tensor([0, 1])
    if model.config.is_encoder_decoder:
        generator = torch.Generator().manual_seed(2)
        labels = torch.randint(4, 64, (2, 7), generator=generator)
        labels[1, 5:] = IGNORED_LABEL
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_is_at_no_distance_from_itself(family: str, make_model: Callable[..., PreTrainedModel]) -> None:
    model = make_model(family, layers=6)
    pair, anatomy = pair_of(model)
    batch = batch_for(model)
    with torch.no_grad():
        pair.show(batch)
        found = pair.losses(batch, {stack.name: layers_of((1,) * 6) for stack in anatomy.stacks})
        own = model(**batch).loss
    assert {name: float(found[name]) for name in ("logits", "hidden", "attention")} == dict.fromkeys(
        ("logits", "hidden", "attention"), 0.0
    )
    assert float(found["task"]) == pytest.approx(float(own), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tiling", [(1, 1, 2, 2), (1, 1, 1, 3), (3, 3), (6,)])
def test_gradients_reach_the_modular_layers_that_stand_and_nothing_else(
    family: str, tiling: tuple[int, ...], make_model: Callable[..., PreTrainedModel]
) -> None:
    pair, anatomy = pair_of(make_model(family, layers=6))
    standing = {stack.name: layers_of(tiling) for stack in anatomy.stacks}
    batch = batch_for(pair.student)
    pair.show(batch)
    pair.total(pair.losses(batch, standing)).backward()
    reached = {
        f"{stack}.{layer}"
        for stack, layers in pair.layers.items()
        for layer, module in layers.items()
        if any(parameter.grad is not None for parameter in module.parameters())
    }
    assert reached == {
        f"{stack}.{layer}" for stack, layers in standing.items() for layer in layers if layer.granularity > 1
    }
    learning = {id(parameter) for parameter in learning_of(pair).values()}
    assert all(id(p) in learning for p in pair.student.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_loss(family: str, make_model: Callable[..., PreTrainedModel]) -> None:
    model = make_model(family, layers=6)
    pair, anatomy = pair_of(model)
    standing = {stack.name: layers_of((2, 1, 1, 2)) for stack in anatomy.stacks}
    filling = {"input_ids": model.config.pad_token_id, "attention_mask": 0, "labels": IGNORED_LABEL}
    with torch.no_grad():
        pair.show(batch_for(model))
        tight = pair.losses(batch_for(model), standing)
        loose_batch = {
            name: value if value.dim() == 1 else torch.nn.functional.pad(value, (0, 3), value=filling[name])
            for name, value in batch_for(model).items()
        }
        pair.show(loose_batch)
        loose = pair.losses(loose_batch, standing)
    for name, value in tight.items():
        assert float(loose[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("family", ["bert", "distilbert", "mbart", "t5"])
def test_what_is_seen_of_the_layers_is_what_the_library_gives_out(
    family: str, make_model: Callable[..., PreTrainedModel]
) -> None:
    model = make_model(family, layers=6)
    model.set_attn_implementation("eager")
    pair, anatomy = pair_of(model)
    batch = batch_for(model)
    with torch.no_grad():
        pair.show(batch)
        wanted = model(**batch, output_hidden_states=True, output_attentions=True)
    is_pair = model.config.is_encoder_decoder
    for stack in anatomy.stacks:
        hidden = getattr(wanted, f"{stack.name}_hidden_states" if is_pair else "hidden_states")
        attention = getattr(wanted, f"{stack.name}_attentions" if is_pair else "attentions")
        for index in range(6):
            # What is listed last has a norm of the whole stack on it in some families.
            if index < 5:
                assert torch.equal(pair.teacher_sees.hidden[stack.name, Layer(index)], hidden[index + 1])
            assert torch.equal(pair.teacher_sees.attention[stack.name, Layer(index), "query"], attention[index])
            if stack.name == "decoder":
                cross = pair.teacher_sees.attention[stack.name, Layer(index), "cross_query"]
                assert torch.equal(cross, wanted.cross_attentions[index])


def test_divergence_is_the_kullback_leibler_divergence_over_what_is_labelled() -> None:
    draw = np.random.default_rng(0)
    own, wanted = draw.normal(size=(2, 3, 5)), draw.normal(size=(2, 3, 5))
    labels = np.array([[1, 2, IGNORED_LABEL], [0, IGNORED_LABEL, IGNORED_LABEL]])
    p, log_q = softmax(wanted, -1), log_softmax(own, -1)
    each = (p * (np.log(p) - log_q)).sum(-1)
    expected = each[labels != IGNORED_LABEL].mean()
    found = divergence(torch.tensor(own), torch.tensor(wanted), torch.tensor(labels))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_divergence_of_classes_and_of_scores() -> None:
    own, wanted = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = np.array([0.5, 0.5])
    expected = rel_entr(p, softmax([1.0, 0.0])).sum()
    assert float(divergence(own, wanted, torch.tensor([1]))) == pytest.approx(expected, rel=1e-5)
    scores = divergence(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.1]))
    assert float(scores) == pytest.approx((1 + 4) / 2)


def test_relative_error_counts_only_the_tokens_of_the_mask() -> None:
    own = torch.tensor([[[1.0, 1.0], [9.0, 9.0]]])
    wanted = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    assert float(relative_error(own, wanted, torch.tensor([[True, False]]))) == pytest.approx((1 + 1) / 4)


def test_attention_divergence_is_a_mean_over_heads_and_queries() -> None:
    draw = np.random.default_rng(1)
    own, wanted = softmax(draw.normal(size=(2, 4, 3, 3)), -1), softmax(draw.normal(size=(2, 4, 3, 3)), -1)
    mask = np.array([[True, True, False], [True, False, False]])
    each = rel_entr(wanted, own).sum(-1)
    expected = np.mean([each[0, :, 0], each[0, :, 1], each[1, :, 0]])
    found = attention_divergence(torch.tensor(own), torch.tensor(wanted), torch.tensor(mask))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_losses_of_weight_zero_are_not_computed(make_model: Callable[..., PreTrainedModel]) -> None:
    pair, _ = pair_of(make_model("bert", layers=6), Losses(task=0.0, logits=2.0, hidden=0.0, attention=0.0))
    with torch.no_grad():
        pair.show(batch_for(pair.student))
        found = pair.losses(batch_for(pair.student), {"encoder": layers_of((2, 2, 2))})
    assert set(found) == {"logits"}
    assert float(pair.total(found)) == pytest.approx(2 * float(found["logits"]))


def test_weights_must_make_sense() -> None:
    with pytest.raises(SettingError, match="not all of them 0"):
        Losses(0.0, 0.0, 0.0, 0.0)
    with pytest.raises(SettingError, match="at least 0"):
        Losses(task=-1.0)

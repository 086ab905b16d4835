"""Autoencoders: bounds they cannot beat, what they must beat, and that training repeats."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from paring.errors import PlanError, SettingError
from paring.spaces.autoencoder_training import AutoencoderTraining
from paring.spaces.autoencoders import (
    AUTOENCODER_METHODS,
    Decoded,
    decode,
    folded,
    train_autoencoder,
)
from paring.spaces.factor_sizes import stored_numbers
from paring.spaces.factorising import factorise

QUICK = AutoencoderTraining(steps=300)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decaying(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Rows whose directions matter less and less."""
    return (
        normal(rows, columns, seed=seed) @ torch.diag(0.8 ** torch.arange(columns)) @ normal(columns, columns, seed=9)
    )


def cosine(weights: list[Tensor], dense: tuple[Tensor, ...]) -> float:
    return float(functional.cosine_similarity(torch.cat(weights), torch.cat(dense), dim=1).mean())


def rmse(weights: list[Tensor], dense: tuple[Tensor, ...]) -> float:
    return float(functional.mse_loss(torch.cat(weights), torch.cat(dense)).sqrt())


@cache
def trained(method: str) -> tuple[list[Tensor], Decoded]:
    weights = [decaying(60, 24), decaying(60, 24, seed=1)]
    return weights, train_autoencoder(method, weights, 5, replace(QUICK, steps=1500))


def test_a_linear_autoencoder_never_beats_the_stacked_svd_of_its_rank() -> None:
    """Latents, bias and norms make a product of rank size + 1, and the SVD is the nearest of those."""
    weights, found = trained("linear_autoencoder")
    for rank in (5, 6):
        svd = rmse(weights, factorise("svd", weights, rank).dense())
        assert rmse(weights, found.dense()) >= svd


def test_a_linear_autoencoder_comes_near_the_svd_of_unit_rows() -> None:
    weights, found = trained("linear_autoencoder")
    closed = cosine(weights, factorise("unit_svd", weights, 5).dense())
    assert closed - 0.03 < cosine(weights, found.dense()) < closed + 0.03


def test_a_linear_autoencoder_folds_into_two_factors_of_as_many_numbers() -> None:
    _, found = trained("linear_autoencoder")
    factors = folded(found)
    for one, other in zip(found.dense(), factors.dense(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    numbers = sum(left.numel() for left in factors.lefts) + factors.right.numel()
    assert numbers == stored_numbers("linear_autoencoder", 120, 24, 5)


def test_a_decoder_with_hidden_layers_does_not_fold() -> None:
    with pytest.raises(PlanError, match="this one has 3 layers"):
        folded(trained("autoencoder")[1])


def test_rows_on_a_curve_need_fewer_latents_than_factors() -> None:
    """One number says where on the curve a row lies, but the curve bends through 16 dimensions."""
    place = torch.rand(256, 1, generator=torch.Generator().manual_seed(0))
    rows = torch.sin(place * torch.linspace(1, 8, 16) + torch.linspace(0, 3, 16))
    training = AutoencoderTraining(steps=1500, learning_rate=3e-3)
    found = train_autoencoder("autoencoder", [rows], 2, training)
    assert cosine([rows], found.dense()) > cosine([rows], factorise("svd", [rows], 2).dense()) + 0.1


@pytest.mark.parametrize("method", AUTOENCODER_METHODS)
def test_decoded_rows_have_the_lengths_and_numbers_they_should(method: str) -> None:
    weights, found = trained(method)
    for weight, dense in zip(weights, found.dense(), strict=True):
        assert torch.allclose(dense.norm(dim=1), weight.norm(dim=1), rtol=1e-4)
    numbers = sum(tensor.numel() for tensor in (*found.latents, *found.norms, *sum(found.decoder, ())))
    assert numbers == stored_numbers(method, 120, 24, 5)
    assert found.bounded == (method == "autoencoder")


@pytest.mark.parametrize("method", AUTOENCODER_METHODS)
def test_the_same_seed_gives_the_same_and_another_gives_another(method: str) -> None:
    weights = [decaying(40, 12)]
    state = torch.random.get_rng_state()
    once, again, other = (
        train_autoencoder(method, weights, 3, replace(QUICK, seed=seed)).dense()[0] for seed in (1, 1, 2)
    )
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_row_of_nought_stays_nought() -> None:
    weight = decaying(40, 12)
    weight[3] = 0
    for method in AUTOENCODER_METHODS:
        dense = train_autoencoder(method, [weight], 3, QUICK).dense()[0]
        assert torch.isfinite(dense).all() and not dense[3].any()


def test_epochs_and_steps_and_what_is_reported() -> None:
    weights, told = [decaying(40, 12)], []
    train_autoencoder("linear_autoencoder", weights, 3, AutoencoderTraining(epochs=4), report=lambda *p: told.append(p))
    assert [entry[:2] for entry in told] == [(1, 4), (2, 4), (3, 4), (4, 4)] and told[-1][2].startswith("loss 0.")
    told.clear()
    train_autoencoder("linear_autoencoder", weights, 3, AutoencoderTraining(steps=5), report=lambda *p: told.append(p))
    assert [entry[:2] for entry in told] == [(1, 2), (2, 2)]


def test_the_caller_may_choose_the_epoch() -> None:
    """Whatever the caller scores, the epoch of the lowest score is the one that comes back."""
    weights, seen = [decaying(40, 12)], []

    def choose(found: Decoded) -> float:
        seen.append(found)
        return abs(len(seen) - 3)

    found = train_autoencoder("autoencoder", weights, 3, AutoencoderTraining(epochs=6), choose=choose)
    assert len(seen) == 6 and found is seen[2]
    assert not torch.equal(seen[2].latents[0], seen[3].latents[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_training_on_a_gpu_gives_tensors_on_the_cpu() -> None:
    found = train_autoencoder("autoencoder", [decaying(40, 12)], 3, replace(QUICK, device="cuda"))
    assert found.dense()[0].device.type == "cpu"


def refusals() -> list[tuple[Callable[[], object], type[Exception], str]]:
    weight = decaying(40, 12)
    return [
        (lambda: train_autoencoder("svd", [weight], 3), SettingError, "unknown autoencoder"),
        (lambda: train_autoencoder("autoencoder", [weight], 13), SettingError, "from 1 to 12"),
        (lambda: train_autoencoder("autoencoder", [weight * float("inf")], 3), PlanError, "finite"),
        (lambda: AutoencoderTraining(epochs=0), SettingError, "epochs of the autoencoder must be at least 1, got 0"),
        (lambda: AutoencoderTraining(learning_rate=0.0), SettingError, "learning_rate of the autoencoder"),
        (
            lambda: train_autoencoder("autoencoder", [weight], 3, QUICK, choose=lambda _: float("nan")),
            PlanError,
            "no epoch has a finite score",
        ),
    ]


@pytest.mark.parametrize(("call", "error", "words"), refusals())
def test_refusals(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_decoding_is_a_pure_function_of_what_is_stored() -> None:
    _, found = trained("autoencoder")
    rows = decode(found.latents[0][:7], found.norms[0][:7], found.decoder, bounded=found.bounded)
    assert torch.allclose(rows, found.dense()[0][:7], atol=1e-6)

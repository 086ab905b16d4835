"""Latents fitted to what errors cost: the start is the best product, and fitting only improves on it."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from paring.errors import PlanError, SettingError
from paring.spaces.autoencoders import Decoded
from paring.spaces.error_metrics import Metric
from paring.spaces.factor_sizes import stored_numbers
from paring.spaces.factorising import factorise
from paring.spaces.latents import LatentTraining, fit_latents
from paring.spaces.seen import Seen

QUICK = LatentTraining(steps=300)
COUNT, OUTPUTS, INPUTS, SIZE = 3, 40, 16, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def metric(seed: int, *, weighed: bool = True) -> Metric:
    """Inputs that lie near a few directions, and outputs of which some matter a hundred times as much."""
    inputs = (normal(200, INPUTS, seed=seed) * 0.8 ** torch.arange(INPUTS)).double() @ normal(INPUTS, INPUTS).double()
    outputs = torch.diag(torch.logspace(-2, 0, OUTPUTS, dtype=torch.float64)) if weighed else None
    return Metric(inputs.T @ inputs / 200, outputs)


def weights() -> list[Tensor]:
    return [normal(OUTPUTS, INPUTS, seed=10 + number) for number in range(COUNT)]


def cost(found: Decoded, metrics: list[Metric]) -> float:
    return sum(own.error(weight - dense) for own, weight, dense in zip(metrics, weights(), found.dense(), strict=True))


@cache
def fitted() -> tuple[list[Metric], list[tuple[int, float]], Decoded]:
    metrics, told = [metric(number) for number in range(COUNT)], []
    found = fit_latents(
        weights(), SIZE, metrics, QUICK, report=lambda done, _, text: told.append((done, float(text.split()[1])))
    )
    return metrics, told, found


def test_what_is_reported_is_the_share_of_the_cost_that_is_left() -> None:
    metrics, told, found = fitted()
    whole = sum(own.error(weight) for own, weight in zip(metrics, weights(), strict=True))
    assert cost(found, metrics) / whole == pytest.approx(min(error for _, error in told), abs=2e-4)
    assert [done for done, _ in told] == [0, *range(30, 301, 30)]


def test_fitting_goes_well_below_the_product_it_starts_from() -> None:
    _, told, _ = fitted()
    assert told[-1][1] < 0.5 * told[0][1]


def test_the_start_is_the_best_product_of_its_size() -> None:
    """For one weight without a metric of its outputs that is what `factorise` finds, tall or wide."""
    one = [metric(0, weighed=False)]
    nothing = torch.zeros(())
    seen = Seen(*(nothing for _ in Seen.__slots__))
    seen = replace(seen, moment=one[0].inputs, total=torch.zeros(INPUTS), count=torch.ones(()))
    (dense,) = factorise("activation", weights()[:1], SIZE, [seen], move_bias=False).dense()
    spread = Metric(0.95 * one[0].inputs + 0.05 * one[0].inputs.diagonal().mean() * torch.eye(INPUTS).double(), None)
    ours = fit_latents(weights()[:1], SIZE, [spread], replace(QUICK, steps=1), choose=lambda _: 0.0)
    assert torch.allclose(ours.dense()[0], dense, atol=1e-4)


def test_numbers_stored_are_those_of_an_autoencoder() -> None:
    _, _, found = fitted()
    numbers = sum(tensor.numel() for tensor in (*found.latents, *found.norms, *sum(found.decoder, ())))
    assert numbers == stored_numbers("autoencoder", COUNT * OUTPUTS, INPUTS, SIZE)
    assert not found.bounded and found.bias_changes == (None,) * COUNT


def test_the_bias_takes_up_what_the_mean_input_loses() -> None:
    means = [normal(INPUTS, seed=number).double() for number in range(COUNT)]
    found = fit_latents(weights(), SIZE, [metric(number) for number in range(COUNT)], QUICK, means=means)
    for weight, dense, change, mean in zip(weights(), found.dense(), found.bias_changes, means, strict=True):
        assert change is not None
        assert torch.allclose(dense @ mean.float() + change, weight @ mean.float(), atol=1e-4)


def test_the_same_seed_gives_the_same_and_another_gives_another() -> None:
    metrics = [metric(number) for number in range(COUNT)]
    state = torch.random.get_rng_state()
    once, again, other = (
        fit_latents(weights(), SIZE, metrics, replace(QUICK, steps=30, seed=seed)).dense()[0] for seed in (1, 1, 2)
    )
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_caller_may_choose_the_state() -> None:
    seen: list[Decoded] = []

    def choose(found: Decoded) -> float:
        seen.append(found)
        return abs(len(seen) - 4)

    metrics = [metric(number) for number in range(COUNT)]
    found = fit_latents(weights(), SIZE, metrics, replace(QUICK, steps=50), choose=choose)
    assert len(seen) == 11 and found is seen[3]
    assert not torch.equal(seen[3].latents[0], seen[10].latents[0])


def test_what_does_not_fit_is_refused() -> None:
    metrics = [metric(number) for number in range(COUNT)]
    with pytest.raises(SettingError, match="from 1 to 16"):
        fit_latents(weights(), 17, metrics, QUICK)
    with pytest.raises(SettingError, match="got 2 metrics for the heights"):
        fit_latents(weights(), SIZE, metrics[:2], QUICK)
    with pytest.raises(PlanError, match="no state has a finite score"):
        fit_latents(weights(), SIZE, metrics, replace(QUICK, steps=1), choose=lambda _: float("nan"))
    with pytest.raises(SettingError, match="steps of the latents must be at least 1"):
        LatentTraining(steps=0)
    with pytest.raises(SettingError, match="latent_rate of the latents"):
        LatentTraining(latent_rate=0.0)

"""Intervals against noise whose truth is known."""

from math import exp, log, sqrt

import numpy as np
import pytest
from scipy.stats import t

from paring.profilers.intervals import block_length, middle_of, of_loads, of_rounds, ratio_of, trend_of


def lasting(rounds: int, lasts: float, seed: int, scatter: float = 0.02) -> np.ndarray:
    """Ratios around 1 whose noise keeps a part of itself from round to round, with a spike in twenty."""
    draw = np.random.default_rng(seed)
    fresh = draw.standard_normal(rounds + 50) * sqrt(1 - lasts**2)
    state = np.zeros(rounds + 50)
    for at in range(1, rounds + 50):
        state[at] = lasts * state[at - 1] + fresh[at]
    spikes = np.where(draw.random(rounds) < 0.05, draw.choice([-10.0, 10.0], rounds), 0.0)
    return np.exp(scatter * (state[50:] + spikes))


@pytest.mark.parametrize(
    ("lasts", "rounds", "least"), [(0.0, 9, 0.93), (0.0, 60, 0.92), (0.3, 60, 0.90), (0.6, 60, 0.86), (0.6, 200, 0.88)]
)
def test_blocks_hold_the_truth_where_noise_lasts(lasts: float, rounds: int, least: float) -> None:
    """Independent draws would hold it in 70 to 75 of 100 cases at 0.6."""
    found = [of_rounds(lasting(rounds, lasts, seed), seed) for seed in range(300)]
    assert np.mean([one.low <= 1 <= one.high for one in found]) >= least
    if lasts == 0 and rounds > 20:
        assert np.mean([one.half_width for one in found]) < 1.253 * 0.02 * 1.96 / sqrt(rounds) * 1.4


def test_blocks_grow_with_what_lasts() -> None:
    def length(lasts: float) -> float:
        return float(np.mean([block_length(lasting(120, lasts, seed)) for seed in range(20)]))

    assert 120 ** (1 / 3) - 1 <= length(0.0) < length(0.5) < length(0.8)
    assert block_length(np.ones(30)) == round(30 ** (1 / 3))
    assert block_length(np.array([1.0, 2.0])) == 1


def test_rounds_without_noise_or_alone_are_their_own_interval() -> None:
    for ratios in ([0.5] * 7, [0.5]):
        found = of_rounds(np.array(ratios), 0)
        assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_an_interval_holds_its_estimate() -> None:
    for seed in range(50):
        found = of_rounds(lasting(5, 0.0, seed), seed)
        assert found.low <= found.value <= found.high


def test_loads_are_students_t_of_logarithms() -> None:
    found = of_loads([0.5, 0.6, 0.55])
    logs = [log(0.5), log(0.6), log(0.55)]
    middle, reach = np.mean(logs), t.ppf(0.975, 2) * np.std(logs, ddof=1) / sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx(
        (exp(middle), exp(middle - reach), exp(middle + reach))
    )


def test_the_middle_is_surer_than_the_median_and_minds_one_spike_as_little() -> None:
    draw = np.random.default_rng(0)
    samples = draw.standard_normal((400, 5))
    middles = [middle_of(sample) for sample in samples]
    assert np.std(middles) < 0.9 * np.std(np.median(samples, axis=1))
    assert middle_of(np.array([0.0, 0.1, -0.1, 0.05, 1e9])) == pytest.approx(0.05, abs=0.06)
    assert middle_of(np.array([3.0])) == 3.0


def test_with_loads_the_middles_of_loads_count() -> None:
    own, base = [1.0, 1.0, 1.0, 1.0, 9.0, 2.0, 2.0, 2.0], [1.0] * 8
    found = ratio_of(own, base, loads=(5, 3))
    assert found.value == pytest.approx(sqrt(2))
    assert ratio_of(own, base).value == 1.5
    assert ratio_of(own, base, loads=(8,)) == ratio_of(own, base)


def test_swapping_the_two_turns_the_interval_over() -> None:
    own, base = list(lasting(12, 0.0, 1)), list(lasting(12, 0.0, 2))
    one, other = ratio_of(own, base, (4, 4, 4)), ratio_of(base, own, (4, 4, 4))
    assert (one.value, one.low, one.high) == pytest.approx((1 / other.value, 1 / other.high, 1 / other.low))


def test_a_trend_is_told_from_noise() -> None:
    draw = np.random.default_rng(0)
    noise = np.exp(0.03 * draw.standard_normal(90))
    assert trend_of(list(noise)) is None
    assert trend_of(list(noise * np.linspace(1, 1.5, 90))) == pytest.approx(0.4, abs=0.1)
    assert trend_of(list(noise * np.linspace(1.5, 1, 90))) == pytest.approx(-0.29, abs=0.1)
    assert trend_of(list(np.linspace(1, 1.02, 90))) is None
    assert trend_of([1.0, 2.0, 3.0]) is None
    false = sum(trend_of(list(np.exp(0.1 * draw.standard_normal(30)))) is not None for _ in range(200))
    assert false <= 4

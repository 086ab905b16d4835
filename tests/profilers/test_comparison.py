"""What is subtracted and compared where requests are measured whole and to their first token."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import BartConfig, PretrainedConfig

from paring.profilers import devices
from paring.profilers.comparison import compare, seconds_per_token
from paring.profilers.devices.simulated import Simulated
from paring.profilers.energy import Energy
from paring.profilers.profile import Profile
from paring.profilers.timing import Effort, Latency
from paring.profilers.workload import Workload
from paring.spaces.workbench import Inputs


def latency(*seconds: float) -> Latency:
    return Latency(seconds, 1.0, 1.0, 1.0)


def test_further_tokens_take_what_the_first_one_does_not() -> None:
    assert seconds_per_token(latency(0.9, 1.1, 5.0), latency(0.1, 0.3, 4.1), 9) == pytest.approx(0.1)
    # Round by round: the medians of the two alone would differ by 1.0.
    assert seconds_per_token(latency(1.0, 2.0, 9.0), latency(0.5, 1.5, 1.0), 2) == pytest.approx(0.5)


def test_a_single_token_has_no_further_ones() -> None:
    assert seconds_per_token(latency(1.0), latency(0.5), 1) is None


def test_a_difference_that_is_noise_is_no_time() -> None:
    assert seconds_per_token(latency(1.0, 1.1), latency(1.2, 1.2), 8) is None


class Ticking:
    """An executable that moves a device's time: so long for the first token, so long for each further one."""

    kernels = "float"

    def __init__(self, device: Simulated, first: float, further: float) -> None:
        self.device, self.first, self.further = device, first, further

    def __call__(self, inputs: Inputs) -> Tensor:
        self.device.now += self.first
        return torch.zeros(1)

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        assert exactly
        self.device.now += self.first + (new_tokens - 1) * self.further
        return torch.zeros(1)


CONFIG = BartConfig(vocab_size=64)
LITTLE = Effort(seconds=0.0, calls=1, min_loads=3, load_rounds=2)


@pytest.fixture
def device() -> Simulated:
    found = devices.kind("simulated").open("simulated:0")
    assert isinstance(found, Simulated)
    return found


def ticking(device: Simulated, first: float, further: float) -> tuple[Callable[[], Ticking], PretrainedConfig]:
    return lambda: Ticking(device, first, further), CONFIG


def test_both_times_are_compared_with_the_baselines(device: Simulated) -> None:
    loads = {"base": ticking(device, 0.3, 0.1), "fast": ticking(device, 0.15, 0.025)}
    found = compare(loads, Workload(generated=11), effort=LITTLE, seed=0, device=device)
    base, fast = found["base"], found["fast"]
    assert base.first is not None and fast.first is not None
    assert (base.whole.ratio, base.first.ratio) == (1.0, 1.0)
    assert fast.whole.ratio == pytest.approx(0.4 / 1.3)
    assert fast.first.ratio == pytest.approx(0.5)
    assert (base.first.seconds, fast.first.seconds) == pytest.approx((0.3, 0.15))
    assert seconds_per_token(base.whole, base.first, 11) == pytest.approx(0.1)
    assert seconds_per_token(fast.whole, fast.first, 11) == pytest.approx(0.025)


def test_a_forward_pass_has_no_first_token(device: Simulated) -> None:
    found = compare({"base": ticking(device, 0.3, 0.1)}, Workload(), effort=LITTLE, seed=0, device=device)
    assert found["base"].first is None
    assert found["base"].whole.seconds == pytest.approx(0.3)


def test_every_copy_is_loaded_anew_in_changing_order(device: Simulated) -> None:
    order: list[str] = []

    def load(name: str) -> Ticking:
        order.append(name)
        return Ticking(device, 0.25, 0.0)

    loads = {name: (lambda name=name: load(name), CONFIG) for name in "abc"}
    compare(loads, Workload(), effort=replace(LITTLE, seconds=1e9, min_loads=6), seed=0, device=device)
    rounds = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert len(rounds) == 6
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


def test_a_device_that_slows_itself_down_is_named(device: Simulated) -> None:
    device.throttles = 0

    def load() -> Ticking:
        assert device.throttles is not None
        device.throttles += 1
        return Ticking(device, 0.25, 0.0)

    found = compare({"a": (load, CONFIG)}, Workload(), effort=LITTLE, seed=0, device=device)
    assert "slowed itself down" in found["a"].whole.warnings[0]


def test_profiles_remember_the_times_of_tokens_and_old_ones_have_none() -> None:
    whole = Profile(
        10, "float", "m", "w", latency(1.0), None, Latency((0.5, 0.25), 0.5, 0.4, 0.6), 0.125, Energy(0.5, "RAPL")
    )
    data = json.loads(json.dumps(whole.to_json()))
    assert Profile.from_json(data) == whole
    old = {name: value for name, value in data.items() if name not in ("first_token", "seconds_per_token", "energy")}
    assert Profile.from_json(old) == Profile(10, "float", "m", "w", latency(1.0))

"""What is subtracted and compared where requests are measured whole and to their first token."""

import json
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from paring.profilers.profile import Profile
from paring.profilers.timing import Effort, Latency, measure
from paring.profilers.workload import Workload
from paring.search import finals
from paring.search.finals import seconds_per_token
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
    """An executable that moves a clock: so long for the first token, so long for each further one."""

    kernels = "float"

    def __init__(self, clock: list[float], first: float, further: float) -> None:
        self.clock, self.first, self.further = clock, first, further

    def __call__(self, inputs: Inputs) -> Tensor:
        self.clock[0] += self.first
        return torch.zeros(1)

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        assert exactly
        self.clock[0] += self.first + (new_tokens - 1) * self.further
        return torch.zeros(1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]

    def scripted(calls: Mapping[str, Callable[[], object]], **settings: object) -> dict[str, Latency]:
        return measure(calls, clock=lambda: now[0], **settings)

    monkeypatch.setattr(finals, "measure", scripted)
    return now


def test_both_times_are_compared_with_the_baselines(clock: list[float]) -> None:
    executables = {"base": Ticking(clock, 0.3, 0.1), "fast": Ticking(clock, 0.15, 0.025)}
    effort = Effort(seconds=0.0, min_rounds=3, max_rounds=3)
    found = finals._session(executables, {}, Workload(generated=11), effort, 0)
    base, fast = found["base"], found["fast"]
    assert base.first is not None and fast.first is not None
    assert (base.whole.ratio, base.first.ratio) == (1.0, 1.0)
    assert fast.whole.ratio == pytest.approx(0.4 / 1.3)
    assert fast.first.ratio == pytest.approx(0.5)
    assert (base.first.seconds, fast.first.seconds) == pytest.approx((0.3, 0.15))
    assert seconds_per_token(base.whole, base.first, 11) == pytest.approx(0.1)
    assert seconds_per_token(fast.whole, fast.first, 11) == pytest.approx(0.025)


def test_a_forward_pass_has_no_first_token(clock: list[float]) -> None:
    effort = Effort(seconds=0.0, min_rounds=3, max_rounds=3)
    found = finals._session({"base": Ticking(clock, 0.3, 0.1)}, {}, Workload(), effort, 0)
    assert found["base"].first is None
    assert found["base"].whole.seconds == pytest.approx(0.3)


def test_profiles_remember_the_times_of_tokens_and_old_ones_have_none() -> None:
    whole = Profile(10, "float", "m", "w", latency(1.0), None, Latency((0.5, 0.25), 0.5, 0.4, 0.6), 0.125)
    data = json.loads(json.dumps(whole.to_json()))
    assert Profile.from_json(data) == whole
    old = {name: value for name, value in data.items() if name not in ("first_token", "seconds_per_token")}
    assert Profile.from_json(old) == Profile(10, "float", "m", "w", latency(1.0))

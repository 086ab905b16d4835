"""Recorded passes, on a device that records by keeping the work and replaying it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from paring.errors import SettingError
from paring.profilers import devices, runtimes
from paring.profilers.devices.simulated import Simulated
from paring.profilers.graphs import recorded
from paring.profilers.workload import Workload

MakeModel = Callable[..., PreTrainedModel]


class Recording(Simulated):
    """Like a graph: the result always lies in the same memory, and the work is done on what the inputs hold then."""

    recordings = 0

    def recorded(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recordings += 1
        result = work().clone()

        def launch() -> Tensor:
            result.copy_(work())
            return result

        return launch


def test_recorded_passes_give_the_same_answers_and_are_recorded_once_per_shape(make_model: MakeModel) -> None:
    device, model = Recording(), make_model("bert")
    plain = runtimes.find("torch").load(model, device, threads=1)
    graph = recorded(plain, device)
    assert graph.kernels == plain.kernels
    one, other = Workload(2, 8).inputs(model.config), Workload(2, 8).inputs(model.config)
    other["input_ids"] = other["input_ids"].flip(1)
    wide = Workload(3, 8).inputs(model.config)
    first = graph(one)
    kept = first.clone()
    torch.testing.assert_close(first, plain(one))
    torch.testing.assert_close(graph(other), plain(other))
    torch.testing.assert_close(graph(wide), plain(wide))
    assert device.recordings == 2
    assert not torch.equal(plain(one), plain(other))
    torch.testing.assert_close(graph(one), kept)
    with pytest.raises(SettingError, match="recorded passes cannot generate"):
        graph.generate(one, new_tokens=2)


def test_who_cannot_record_says_so(make_model: MakeModel) -> None:
    plain = runtimes.find("torch").load(make_model("bert"), devices.find("cpu"), threads=1)
    with pytest.raises(SettingError, match="cpu cannot record passes; take a CUDA device"):
        recorded(plain, devices.find("cpu"))

    class Elsewhere:
        kernels = "float"

    with pytest.raises(SettingError, match="only the torch runtime"):
        recorded(Elsewhere(), Recording())  # type: ignore[arg-type]


def test_a_recorded_answer_is_not_written_over_by_the_next(make_model: MakeModel) -> None:
    device, model = Recording(), make_model("bert")
    graph = recorded(runtimes.find("torch").load(model, device, threads=1), device)
    one = Workload(2, 8).inputs(model.config)
    first = graph(one)
    kept = first.clone()
    graph({**one, "input_ids": one["input_ids"].flip(1)})
    assert torch.equal(first, kept)

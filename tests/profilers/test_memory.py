"""Peak memory in a fresh process; most of the time here goes into importing torch in the helper."""

import json
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from paring.errors import MeasurementError, TimedOutError
from paring.profilers import memory
from paring.profilers.devices.cpu import Cpu
from paring.profilers.isolation import Isolation
from paring.profilers.memory import Memory, MemoryMeter
from paring.profilers.supervision import Allowance, Finding
from paring.profilers.workload import Workload
from paring.spaces import artefact
from paring.spaces.anatomy import anatomy_of

MakeModel = Callable[..., PreTrainedModel]
MORE_ROWS = 2**19
MORE_BYTES = MORE_ROWS * 32 * 4


def export(model: PreTrainedModel, folder: Path) -> Path:
    artefact.save(model, anatomy_of(model).identity(), folder, original=model.config)
    return folder


@pytest.fixture(scope="module")
def small(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(make_model("bert"), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 MiB more of word embeddings."""
    model = make_model("bert")
    model.resize_token_embeddings(64 + MORE_ROWS, mean_resizing=False)
    return export(model, tmp_path_factory.mktemp("large"))


KNOWN = """
import ctypes, time
import torch

def load(megabytes_of_weights, megabytes_of_activations):
    weights = torch.ones(megabytes_of_weights * 250_000)
    def call():
        activations = torch.ones(megabytes_of_activations * 250_000)
        return weights[:1] + activations[:1]
    return call

def hang(*_):
    time.sleep(60)

def crash(*_):
    ctypes.string_at(0)

def damaged(*_):
    return lambda: torch.tensor([1.0, float("nan"), float("inf")])
"""


@pytest.fixture(scope="module")
def known(make_module: Callable[[str, str], ModuleType]) -> ModuleType:
    """Stand-ins for `loaded_request`."""
    return make_module("known_sizes", KNOWN)


@pytest.fixture(scope="module")
def meter(known: ModuleType) -> Iterator[MemoryMeter]:
    """With a helper of its own, which can import that module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "Isolation", Isolation)
        made = MemoryMeter("cpu", "torch", Workload(tokens=16))
    with made as open_meter:
        yield open_meter


def check(small: Memory, large: Memory) -> None:
    assert large.peak_bytes - small.peak_bytes == pytest.approx(MORE_BYTES, rel=0.05)
    assert large.loaded_bytes - small.loaded_bytes == pytest.approx(MORE_BYTES, rel=0.05)
    assert large.runtime_bytes == pytest.approx(small.runtime_bytes, rel=0.05)
    assert small.runtime_bytes <= small.loaded_bytes <= small.peak_bytes


def test_a_known_allocation_shows_in_the_peak(meter: MemoryMeter, small: Path, large: Path) -> None:
    check(meter.measure(small), meter.measure(large))


def test_the_order_of_models_does_not_matter(meter: MemoryMeter, small: Path, large: Path) -> None:
    check(large=meter.measure(large), small=meter.measure(small))


def test_a_lone_interpreter_agrees(meter: MemoryMeter, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model adds; libraries count for less in a fork, which shares their untouched pages."""
    forked = meter.measure(large)
    monkeypatch.delattr(os, "fork")
    with MemoryMeter("cpu", "torch", Workload(tokens=16)) as alone:
        found = alone.measure(large)
    assert found.peak_bytes - found.runtime_bytes == pytest.approx(forked.peak_bytes - forked.runtime_bytes, rel=0.05)
    assert found.loaded_bytes - found.runtime_bytes == pytest.approx(
        forked.loaded_bytes - forked.runtime_bytes, rel=0.05
    )


def test_a_failure_names_its_cause_and_the_meter_goes_on(meter: MemoryMeter, small: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"no model folder|not a folder that paring exported"):
        meter.measure(tmp_path / "missing")
    assert meter.measure(small).loaded_bytes > 2**20
    (tmp_path / "config.json").write_text((small / "config.json").read_text())
    with pytest.raises(MeasurementError, match="not a folder that paring exported"):
        meter.measure(tmp_path)
    assert meter.measure(small).loaded_bytes > 2**20


def test_a_helper_that_died_is_replaced(meter: MemoryMeter, small: Path) -> None:
    first = meter.measure(small)
    helper = meter._isolation._helper
    assert helper is not None
    helper.kill()
    helper.wait()
    assert meter.measure(small).peak_bytes == pytest.approx(first.peak_bytes, rel=0.05)


@pytest.fixture(params=["forked", "alone"])
def isolation(request: pytest.FixtureRequest, meter: MemoryMeter) -> Isolation:
    return meter._isolation if request.param == "forked" else Isolation(forks=False)


@pytest.mark.parametrize(("weights", "activations"), [(100, 320), (320, 100)])
def test_weights_and_activations_of_known_size_are_told_apart(
    isolation: Isolation, known: ModuleType, weights: int, activations: int
) -> None:
    load = partial(known.load, weights, activations)
    found: Memory = isolation.run(memory.memory_of, load, Cpu()).value("measuring")
    assert found.weights_bytes == pytest.approx(weights * 10**6, rel=0.05)
    assert found.activations_bytes == pytest.approx(activations * 10**6, rel=0.05)
    assert found.runtime_bytes + found.weights_bytes + found.activations_bytes == found.peak_bytes


@dataclass
class Instead:
    """Measures what `load` gives, whatever model is asked for."""

    isolation: Isolation
    load: Callable[[], Callable[[], torch.Tensor]]

    def run(self, *_: object, before: Any) -> Finding:
        return self.isolation.run(memory.memory_of, self.load, Cpu(), before=before)


@pytest.mark.parametrize(
    ("stand_in", "seconds", "error", "cause"),
    [
        ("hang", 0.5, TimedOutError, r"measuring memory failed: it took longer than 0\.5 s"),
        ("crash", None, MeasurementError, r"measuring memory failed: .*signal 11 \(Segmentation fault\)"),
        ("damaged", None, MeasurementError, "finite values, got NaN or infinity in 2 of 3"),
    ],
)
def test_a_child_that_ends_early_is_explained(
    meter: MemoryMeter,
    small: Path,
    known: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    stand_in: str,
    seconds: float | None,
    error: type[Exception],
    cause: str,
) -> None:
    load = getattr(known, stand_in)
    monkeypatch.setattr(meter._isolation, "_allowance", Allowance(seconds))
    monkeypatch.setattr(meter, "_isolation", Instead(meter._isolation, load))
    with pytest.raises(error, match=cause):
        meter.measure(small)


def test_more_memory_than_allowed_is_out_of_memory(
    meter: MemoryMeter, large: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = meter.measure(large).peak_bytes - MORE_BYTES // 2
    monkeypatch.setattr(meter._isolation, "_allowance", Allowance(memory_bytes=allowed))
    with pytest.raises(MemoryError, match=r"^measuring memory: the process held \d+ MB, more than the \d+ MB it may"):
        meter.measure(large)
    assert meter.measure(small).peak_bytes < allowed


def test_limits_are_those_given() -> None:
    meter = MemoryMeter("cpu", "torch", Workload(), timeout_seconds=2.0, memory_limit_bytes=10**9)
    assert meter._isolation._allowance == Allowance(2.0, 10**9)


def test_a_workload_longer_than_the_positions_is_refused(
    meter: MemoryMeter, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "_workload", Workload(tokens=65))
    with pytest.raises(MeasurementError, match="the model has 64 positions; the workload asks for 65 tokens"):
        meter.measure(small)


class Gpu:
    """A GPU of whose memory nothing is left after what is loaded; it says what was done to it."""

    name, torch_device = "cuda:0", torch.device("cuda:0")

    def __init__(self) -> None:
        self.held, self.peak = 10, 10

    def memory(self) -> tuple[int, int]:
        return self.held, self.peak

    def restart_peak(self) -> None:
        self.peak = self.held

    def synchronise(self) -> None:
        self.peak = 70

    def release(self) -> None:
        """Replaced where it matters."""


def test_a_gpu_says_its_total_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what torch would say is scripted, what is done about it is ours."""
    gpu, emptied = Gpu(), []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30, 100))
    monkeypatch.setattr(gpu, "release", lambda: emptied.append(len(kept)))

    class Tensors:
        """What fills the device."""

    kept: weakref.WeakSet[Tensors] = weakref.WeakSet()

    def load() -> Callable[[], torch.Tensor]:
        gpu.held = 50
        return lambda: torch.zeros(1)

    def overflow() -> None:
        held = Tensors()
        kept.add(held)
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    found = memory.memory_of(load, gpu)
    assert found == Memory(70, 10, 50, device_used_bytes=70, device_total_bytes=100)
    assert (found.weights_bytes, found.activations_bytes) == (40, 20)
    assert Memory.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert emptied == []
    with pytest.raises(MemoryError, match="memory ran out on cuda:0: tried to allocate 9 GiB"):
        memory.memory_of(overflow, gpu)
    assert emptied == [0]  # when nothing held a tensor any more


@pytest.mark.parametrize("numbers", [(0, 0, 0), (10, -1, 5), (-1, 1, 1)])
def test_memory_is_counted_in_positive_bytes(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(MeasurementError):
        Memory(*numbers)


def test_json_round_trip() -> None:
    found = Memory(3, 1, 2)
    assert Memory.from_json(json.loads(json.dumps(found.to_json()))) == found

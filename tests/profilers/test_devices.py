import weakref
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from paring.errors import SettingError
from paring.profilers import devices, runtimes
from paring.profilers.devices import cpu
from paring.profilers.devices.simulated import Simulated
from paring.profilers.timing import Effort, measure
from paring.profilers.workload import Workload

each_file = pytest.mark.parametrize("kind", devices.files())
each_kind = pytest.mark.parametrize("kind", devices.kinds())


def test_the_processor_is_always_here() -> None:
    assert "cpu" in devices.kinds()
    assert devices.find("cpu").name == "cpu"


@each_kind
def test_present_devices_open_and_absent_kinds_say_why(kind: str) -> None:
    present = devices.kind(kind).present()
    assert all(name.partition(":")[0] == kind for name in present)
    assert len(set(present)) == len(present)
    if present:
        assert devices.find(kind).name == present[0]
        assert [devices.find(name).name for name in present] == list(present)
        return
    assert len(devices.kind(kind).absence().split()) >= 3
    with pytest.raises(SettingError, match=f"no device '{kind}' here: {devices.kind(kind).absence()}.*has: cpu"):
        devices.find(kind)


@each_kind
def test_a_number_that_is_not_here_is_refused(kind: str) -> None:
    with pytest.raises(SettingError, match=f"no device '{kind}:99' here"):
        devices.find(f"{kind}:99")


@each_kind
def test_a_device_computes_and_counts_its_memory(kind: str) -> None:
    for name in devices.kind(kind).present():
        device = devices.find(name)
        assert all(isinstance(fact, str) and fact for fact in device.facts().values())
        assert "name" in device.facts()
        held, _ = device.memory()
        block = torch.ones(64 * 2**20, dtype=torch.uint8, device=device.torch_device)
        device.synchronise()
        now, peak = device.memory()
        assert now - held == pytest.approx(64 * 2**20, rel=0.1)
        assert peak >= now
        del block


def test_a_peak_starts_anew() -> None:
    device = devices.find("cpu")
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    _, before = device.memory()
    del block
    device.restart_peak()
    _, after = device.memory()
    assert before - after == pytest.approx(64 * 2**20, rel=0.1)


def opened(kind: str) -> list[devices.Device]:
    """The devices of a kind that are here; where a kind is not real, one of it."""
    family = devices.kind(kind)
    return [family.open(name) for name in (family.present() if family.is_real else (f"{kind}:0",))]


@each_file
def test_every_device_has_a_time_that_only_goes_on(kind: str) -> None:
    for device in opened(kind):
        times = []
        for _ in range(20):
            device.synchronise()
            times.append(device.clock())
        assert times == sorted(times)
        assert times[-1] > times[0]


@each_file
def test_every_device_names_itself_and_gives_back_what_it_kept(kind: str) -> None:
    for device in opened(kind):
        assert device.name.partition(":")[0] == kind
        assert device.facts()["name"]
        throttled = device.throttled()
        assert throttled is None or throttled >= 0
        device.release()
        now, peak = device.memory()
        assert 0 <= now <= peak


@each_file
def test_memory_that_runs_out_leaves_the_device_clean(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for device in opened(kind):
        released = []
        monkeypatch.setattr(type(device), "release", lambda self, seen=released: seen.append(self.name))
        for failure in (torch.OutOfMemoryError("CUDA out of memory.\nMore words."), MemoryError()):
            words = f"memory ran out on {device.name}: [^\n]+$"
            with pytest.raises(MemoryError, match=words), devices.clean_after_failure(device):
                raise failure
        assert released == [device.name] * 2
        with pytest.raises(ValueError, match="other"), devices.clean_after_failure(device):
            raise ValueError("other")
        assert len(released) == 2


def test_what_torch_says_of_main_memory_is_known_too() -> None:
    with pytest.raises(MemoryError, match="memory ran out on cpu"), devices.clean_after_failure(devices.find("cpu")):
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="shapes"), devices.clean_after_failure(devices.find("cpu")):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_a_failure_lets_go_of_what_was_held() -> None:
    class Held:
        pass

    held: weakref.ref[Held] | None = None

    def fail() -> None:
        nonlocal held
        block = Held()
        held = weakref.ref(block)
        raise MemoryError

    with pytest.raises(MemoryError), devices.clean_after_failure(devices.find("cpu")):
        fail()
    assert held is not None
    assert held() is None


def test_what_is_simulated_is_never_offered() -> None:
    assert "simulated" in devices.files()
    assert "simulated" not in devices.kinds()
    assert devices.kind("simulated").present() == ()
    for name in ("simulated", "simulated:0"):
        with pytest.raises(SettingError, match=r"unknown device .*legal values are: cpu, cuda\."):
            devices.find(name)


def test_a_simulated_device_owns_its_time() -> None:
    costs = iter([0.5, 0.25])
    device = Simulated(cost_seconds=lambda: next(costs), held_bytes=(10, 30), throttles=2)
    assert device.clock() == 0.0
    device.synchronise()
    device.synchronise()
    assert (device.clock(), device.throttled(), device.memory()) == (0.75, 2, (10, 30))
    device.restart_peak()
    assert device.memory() == (10, 10)


def test_models_of_the_torch_runtime_cost_what_the_script_says(make_model: Callable[..., PreTrainedModel]) -> None:
    """Twice the time per request for whoever is named slow: from the model to the ratio, without waiting."""
    device, runtime = Simulated(), runtimes.find("torch")
    model = make_model("bert", layers=1)
    served = {name: runtime.load(model, device, threads=1) for name in ("fast", "slow")}

    def call(name: str) -> Callable[[], None]:
        def run() -> None:
            device.cost_seconds = lambda: 0.02 if name == "slow" else 0.01
            served[name](Workload(tokens=4).inputs(model.config))

        return run

    effort = Effort(seconds=1e9, half_width=0.01)
    calls = {name: call(name) for name in served}
    found = measure(calls, baseline="fast", effort=effort, clock=device.clock)["slow"]
    assert found.ratio == pytest.approx(2.0)
    assert found.seconds == pytest.approx(0.02)


def test_nodes_of_the_processor_are_devices_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[int, ...]] = []
    monkeypatch.setattr(cpu, "numa_nodes", lambda: {0: (0, 1), 1: (2, 3)})
    monkeypatch.setattr(cpu, "keep_to", kept.append)
    assert devices.kind("cpu").present() == ("cpu", "cpu:0", "cpu:1")
    assert devices.find("cpu").name == "cpu"
    assert kept == []
    assert devices.find("cpu:1").name == "cpu:1"
    assert kept == [(2, 3)]
    with pytest.raises(SettingError, match="no device 'cpu:2' here; of this kind there are: cpu, cpu:0, cpu:1"):
        devices.find("cpu:2")


@pytest.mark.parametrize(
    ("free", "own", "words"),
    [
        (10**8, 0, "cuda:0 is taken by others: 0.1 of 80.0 GB are free"),
        (RuntimeError("busy\nsee"), 0, "cuda:0 .*: busy;"),
    ],
)
def test_a_gpu_that_others_have_taken_is_named(
    free: int | Exception, own: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def info(device: torch.device) -> tuple[int, int]:
        if isinstance(free, Exception):
            raise free
        return free, 80 * 10**9

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", info)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: own)
    with pytest.raises(SettingError, match=f"{words}.*take another of cuda:0, cuda:1"):
        devices.find("cuda:0")


def test_a_gpu_that_this_process_fills_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**8, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 79 * 10**9)
    assert devices.find("cuda").name == "cuda:0"


@pytest.mark.parametrize("name", ["tpu", "", "cup", ":0", "CPU"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match=r"unknown device .*legal values are: .*cpu"):
        devices.find(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:"])
def test_a_missing_gpu_says_what_is_missing(name: str) -> None:
    with pytest.raises(
        SettingError, match=rf"no device '{name}' here: torch (was built without|sees no) CUDA.*has: cpu"
    ):
        devices.find(name)

import pytest
import torch

from paring.errors import SettingError
from paring.profilers import devices

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

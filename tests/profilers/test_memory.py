"""Peak memory in a fresh process; most of the time here goes into importing torch in the helper."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from paring.errors import MeasurementError
from paring.profilers import memory
from paring.profilers.memory import Memory, MemoryMeter
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


@pytest.fixture(scope="module")
def meter() -> Iterator[MemoryMeter]:
    with MemoryMeter("cpu", "torch", Workload(tokens=16)) as open_meter:
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
    assert meter._helper is not None
    meter._helper.kill()
    meter._helper.wait()
    assert meter.measure(small).peak_bytes == pytest.approx(first.peak_bytes, rel=0.05)


SERVE_THEN = {
    "killed": "os.kill(os.getpid(), 9)",
    "gave up": "os._exit(3)",
    "slow": "time.sleep(60)",
    "out of memory": "bytearray(2**62)",
}


def stand_in(mode: str) -> list[str]:
    """The real process, in which measuring is replaced by what the name of the folder says."""
    script = f"""
import os, time
from pathlib import Path
from paring.profilers import memory
memory._measure_here = lambda request: eval({SERVE_THEN}[Path(request["folder"]).name])
memory._main({mode!r})
"""
    return [sys.executable, "-c", script]


def folder_named(name: str, small: Path, parent: Path) -> Path:
    return Path(shutil.copytree(small, parent / name))


def test_a_child_that_ends_early_is_explained(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_command", stand_in)
    with MemoryMeter("cpu", "torch", Workload(), timeout_seconds=2.0) as meter:
        with pytest.raises(MemoryError, match=r"signal 9.*memory runs out"):
            meter.measure(folder_named("killed", small, tmp_path))
        with pytest.raises(MemoryError, match="ran out of memory"):
            meter.measure(folder_named("out of memory", small, tmp_path))
        with pytest.raises(MeasurementError, match="exited with 3"):
            meter.measure(folder_named("gave up", small, tmp_path))
        with pytest.raises(MeasurementError, match="longer than 2 s"):
            meter.measure(folder_named("slow", small, tmp_path))


def test_a_lone_interpreter_that_ends_early_is_explained(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fork")
    with (
        MemoryMeter("cpu", "torch", Workload(), timeout_seconds=0.2) as meter,
        pytest.raises(MeasurementError, match="longer than 0 s"),
    ):
        meter.measure(small)
    monkeypatch.setattr(memory, "_command", stand_in)
    with MemoryMeter("cpu", "torch", Workload()) as meter, pytest.raises(MemoryError, match=r"signal 9.*runs out"):
        meter.measure(folder_named("killed", small, tmp_path))


@pytest.mark.parametrize("numbers", [(0, 0, 0), (10, -1, 5), (-1, 1, 1)])
def test_memory_is_counted_in_positive_bytes(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(MeasurementError):
        Memory(*numbers)


def test_json_round_trip() -> None:
    found = Memory(3, 1, 2)
    assert Memory.from_json(json.loads(json.dumps(found.to_json()))) == found

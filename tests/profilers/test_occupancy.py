import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from paring.errors import BusyError
from paring.profilers import occupancy
from paring.profilers.conditions import Reading
from paring.profilers.occupancy import alone, occupied

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def own_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(occupancy, "lock_file", lambda: tmp_path / "lock")


def hold(told: Any) -> None:
    with alone():
        told.send(1)
        told.recv()


def test_a_second_benchmark_is_refused_until_the_first_has_ended_however_it_ends() -> None:
    ours, theirs = FORK.Pipe()
    first = FORK.Process(target=hold, args=(theirs,))
    first.start()
    try:
        assert ours.poll(30)
        with pytest.raises(BusyError, match="another benchmark is running"), alone():
            pass
        with pytest.raises(BusyError, match=r"0\.05 seconds waited"), alone(0.05):
            pass
    finally:
        first.kill()
        first.join()
        ours.close()
        theirs.close()
    with alone():
        pass


@pytest.mark.parametrize(
    ("others", "stolen", "is_busy"), [(0.0, 0.0, False), (0.2, 0.0, False), (0.3, 0.0, True), (0.2, 0.1, True)]
)
def test_a_machine_is_busy_by_what_others_take(others: float, stolen: float, is_busy: bool) -> None:
    readings = [Reading(10.0, 4.0, 1.0, 4.0), Reading(12.0, 4.5 + 2 * others, 1.0 + 2 * stolen, 4.5)]
    slept: list[float] = []
    found = occupied(slept.append, read=lambda: readings.pop(0))
    assert (found is not None) == is_busy
    assert slept == [2.0]
    if found is not None:
        assert f"take {others + stolen:.2f} cores" in found

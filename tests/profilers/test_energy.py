import json
from pathlib import Path

import pytest

from paring.errors import MeasurementError
from paring.profilers import devices
from paring.profilers.energy import Energy, Rapl, energy_of, meter_for, rapl
from paring.profilers.turns import Requests


def zone(root: Path, name: str, label: str, microjoules: int, span: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir()
    for file, text in (("name", label), ("energy_uj", str(microjoules)), ("max_energy_range_uj", str(span))):
        (folder / file).write_text(f"{text}\n", encoding="ascii")
    return folder


def spend(folder: Path, microjoules: int, span: int = 1_000_000) -> None:
    file = folder / "energy_uj"
    file.write_text(str((int(file.read_text()) + microjoules) % (span + 1)), encoding="ascii")


def opened(root: Path) -> Rapl:
    found = rapl(root)
    assert isinstance(found, Rapl)
    return found


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    """Cores are part of their package; psys holds everything once more."""
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", 500), zone(tmp_path, "intel-rapl:1", "package-1", 900)
    core, whole = zone(tmp_path, "intel-rapl:0:0", "core", 0), zone(tmp_path, "intel-rapl:2", "psys", 0)
    meter = opened(tmp_path)
    before = meter.joules()
    for folder, microjoules in ((first, 2000), (second, 3000), (core, 1500), (whole, 9000)):
        spend(folder, microjoules)
    assert meter.joules() - before == pytest.approx(0.005)


def test_a_counter_may_run_over_more_than_once(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 999_000)
    meter = opened(tmp_path)
    before = meter.joules()
    for _ in range(5):
        spend(folder, 600_000)
        meter.joules()
    assert meter.joules() - before == pytest.approx(3.0)


def test_one_that_runs_over_nobody_knows_where_is_refused(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 999_000)
    (folder / "max_energy_range_uj").unlink()
    meter = opened(tmp_path)
    (folder / "energy_uj").write_text("5", encoding="ascii")
    with pytest.raises(MeasurementError, match="ran over"):
        meter.joules()


def test_no_counters_and_closed_ones_say_why(tmp_path: Path) -> None:
    assert "no energy counters" in str(rapl(tmp_path))
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # root may read any file, but no folder
    assert "may not be read; let root run `chmod a+r`" in str(rapl(tmp_path))


def test_joules_per_request(tmp_path: Path) -> None:
    """Each request takes a quarter of a second and 40 millijoules: 8 of them in two seconds, of two kinds."""
    folder, now = zone(tmp_path, "intel-rapl:0", "package-0", 0), [0.0]

    def serve() -> None:
        now[0] += 0.25
        spend(folder, 40_000)

    found = energy_of(
        Requests((serve, serve)), opened(tmp_path), clock=lambda: now[0], synchronise=lambda: None, seconds=2.0
    )
    assert found.joules_per_request == pytest.approx(0.04)
    assert found.source == "RAPL, whole processor packages"
    assert now[0] == 2.5


def test_what_cannot_be_read_is_absent_with_the_reason(tmp_path: Path) -> None:
    def never() -> None:
        raise AssertionError

    found = energy_of(Requests((never,)), "no counters", clock=lambda: 0.0, synchronise=never)
    assert found == Energy(None, "no counters")
    assert Energy.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert "no energy counters" in str(meter_for(devices.find("cpu"), tmp_path))
    assert "simulated" in str(meter_for(devices.kind("simulated").open("simulated:0"), tmp_path))


@pytest.mark.parametrize("joules", [-1.0, float("nan"), float("inf")])
def test_energy_that_cannot_be_is_refused(joules: float) -> None:
    with pytest.raises(MeasurementError, match="finite number of joules"):
        Energy(joules, "")

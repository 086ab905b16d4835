from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paring.profilers.hardware import changes, hardware_of, settings_here, software_of
from paring.profilers.machine import Machine

MACHINE = Machine(
    "cuda:0",
    {"name": "H200", "capability": "9.0", "memory_bytes": "150", "cuda": "13.0"},
    16,
    ("avx2",),
    128 * 2**30,
    "Linux 6.18",
    {"python": "3.11.7", "torch": "2.13.0"},
)


@pytest.mark.parametrize(
    "upgrade",
    [
        {"system": "Linux 7.0"},
        {"versions": {"python": "3.12.0", "torch": "2.14.0"}},
        {"facts": {**MACHINE.facts, "cuda": "13.1"}},
        {"memory_bytes": 128 * 2**30 + 4096},
    ],
)
def test_upgrades_leave_the_hardware_what_it_was(upgrade: dict[str, Any]) -> None:
    other = replace(MACHINE, **upgrade)
    assert hardware_of(other) == hardware_of(MACHINE)
    # Software is told apart; a kernel's few bytes are not.
    assert (software_of(other) == software_of(MACHINE)) == ("memory_bytes" in upgrade)


@pytest.mark.parametrize(
    "other",
    [
        {"device": "cpu"},
        {"cores": 8},
        {"memory_bytes": 64 * 2**30},
        {"instruction_sets": ("avx2", "avx512_vnni")},
        {"facts": {**MACHINE.facts, "name": "H100"}},
    ],
)
def test_other_hardware_is_told_apart(other: dict[str, Any]) -> None:
    assert hardware_of(replace(MACHINE, **other)) != hardware_of(MACHINE)


def test_what_changed_is_said_in_words() -> None:
    before = {"torch": "2.13", "driver": "580.1", "governor": "powersave"}
    now = {"torch": "2.14", "driver": "580.1", "openvino": "2026.4"}
    assert changes(before, now) == ("governor powersave to absent", "openvino absent to 2026.4", "torch 2.13 to 2.14")
    assert changes(now, now) == ()


def test_governor_and_driver_are_read_where_the_system_tells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paring.profilers.hardware.allowed_cores", lambda: (0, 1))
    for core, governor in enumerate(("powersave", "performance")):
        place = tmp_path / f"cpu/cpu{core}/cpufreq"
        place.mkdir(parents=True)
        (place / "scaling_governor").write_text(f"{governor}\n", encoding="ascii")
    driver = tmp_path / "version"
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 12\n"
    driver.write_text(text, encoding="ascii")
    found = settings_here(tmp_path, driver)
    assert (found["governor"], found["driver"]) == ("performance, powersave", "580.95.05")
    assert set(settings_here(tmp_path / "none", tmp_path / "none")) == {"paring"}

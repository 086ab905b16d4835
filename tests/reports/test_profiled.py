"""What is said of workloads that were measured in processes of their own, one of which crashed."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from paring.errors import SettingError
from paring.profilers import side_by_side_isolated
from paring.profilers.side_by_side import Measured, Setup
from paring.profilers.side_by_side_isolated import Unmeasured, measure_isolated
from paring.profilers.supervision import Allowance, Ending
from paring.profilers.timing import Effort
from paring.profilers.workload import Workload
from paring.reports.profiled import render_profiles

SETUP = Setup("cpu", "torch", Effort(seconds=0, min_rounds=3, max_rounds=3, calls=1), with_memory=False)
WORKLOADS = (Workload(tokens=8), Workload(tokens=16))
FIRST_CRASHES = """
import ctypes
from paring.profilers.side_by_side import measure_models

def job(sources, workloads, setup, number):
    if number == 0:
        ctypes.string_at(0)
    return measure_models(sources, workloads, setup, turns=(number,))
"""


@pytest.fixture(scope="module")
def first_crashes(make_module: Callable[[str, str], ModuleType]) -> ModuleType:
    return make_module("first_crashes", FIRST_CRASHES)


@pytest.fixture(scope="module")
def sources(model_folder: Path, odd_model_folder: Path) -> tuple[str, str]:
    return str(model_folder), str(odd_model_folder)


@pytest.fixture(scope="module")
def found(first_crashes: ModuleType, sources: tuple[str, str]) -> list[Measured | Unmeasured]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_by_side_isolated, "_measured_or_refused", first_crashes.job)
        return measure_isolated(sources, WORKLOADS, SETUP, Allowance())


def test_a_crash_leaves_the_others_their_numbers(found: list[Measured | Unmeasured], sources: tuple[str, str]) -> None:
    assert [(one.model, one.workload) for one in found] == [(model, asked) for asked in WORKLOADS for model in sources]
    for crashed in found[:2]:
        assert isinstance(crashed, Unmeasured)
        assert crashed.ending == Ending.CRASHED
        assert "signal 11 (Segmentation fault)" in crashed.cause
    for measured in found[2:]:
        assert isinstance(measured, Measured)
        assert len(measured.late.whole.samples_seconds) >= 3
    assert found[2].late.whole.ratio == 1


def test_a_table_says_why_there_are_no_numbers(found: list[Measured | Unmeasured]) -> None:
    crashed, measured = render_profiles(found, "table").split(str(WORKLOADS[1]))
    assert "Not measured, crashed: the process crashed: signal 11 (Segmentation fault).\n" in crashed
    assert crashed.count("Not measured") == 1
    assert "Not measured" not in measured
    only_failures = render_profiles(found[:2], "table")
    assert "Energy" not in only_failures


@pytest.mark.parametrize("turned", [False, True])
def test_csv_has_the_same_columns_whatever_failed(found: list[Measured | Unmeasured], turned: bool) -> None:
    ordered = found[::-1] if turned else found
    rows = list(csv.DictReader(io.StringIO(render_profiles(ordered, "csv"))))
    *_, ending, cause = rows[0]
    assert (ending, cause) == ("ending", "cause")
    alone = list(csv.DictReader(io.StringIO(render_profiles(found[:1], "csv"))))
    assert list(rows[0]) == list(alone[0])
    states = [(row["ending"], bool(row["cause"]), bool(row["ratio"]), bool(row["energy"])) for row in rows]
    expected = [("crashed", True, False, False)] * 2 + [("answered", False, True, True)] * 2
    assert states == (expected[::-1] if turned else expected)


def test_json_has_the_same_keys_whatever_failed(found: list[Measured | Unmeasured]) -> None:
    crashed, _, measured, _ = json.loads(render_profiles(found, "json"))
    assert set(crashed) == set(measured)
    assert (crashed["ending"], measured["ending"], measured["cause"]) == ("crashed", "answered", "")
    assert crashed["workload_json"] == WORKLOADS[0].to_json()
    assert crashed["ratio"] is crashed["latency"] is crashed["energy"] is None


@pytest.mark.parametrize(
    ("allowance", "ending", "cause"),
    [
        (Allowance(seconds=0.01), Ending.TIMED_OUT, "it took longer than 0.01 s"),
        (Allowance(memory_bytes=10**6), Ending.OUT_OF_MEMORY, "more than the 1 MB it may take"),
    ],
)
def test_every_process_has_its_allowance(
    sources: tuple[str, str], allowance: Allowance, ending: Ending, cause: str
) -> None:
    told: list[str] = []
    found = measure_isolated(sources, WORKLOADS, SETUP, allowance, tell=told.append)
    assert len(found) == 4
    for one in found:
        assert isinstance(one, Unmeasured)
        assert one.ending == ending
        assert cause in one.cause
    assert told == [f"timing 2 models in a process of their own: {workload}" for workload in WORKLOADS]


def test_what_no_process_can_serve_is_refused_before_the_first_is_measured(sources: tuple[str, str]) -> None:
    told: list[str] = []
    with pytest.raises(SettingError, match="64 positions; the workload asks for 65 tokens"):
        measure_isolated(sources, (*WORKLOADS, Workload(tokens=65)), SETUP, Allowance(), tell=told.append)
    assert len(told) == 1

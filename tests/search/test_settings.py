import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from paring.errors import SettingError
from paring.profilers.machine import Machine
from paring.profilers.supervision import Allowance
from paring.profilers.workload import Workload
from paring.search.data import read_tables
from paring.search.settings import Settings
from paring.search.study import Record
from paring.search.tasks import Task
from paring.search.workbench import Greedy

WRITES, READS = Task("seq2seq", "data"), Task("classification", "data")


def served(task: Task, workload: Workload) -> Workload:
    return Settings("model", task, Path("out"), workload=workload).workload


@pytest.mark.parametrize(
    ("task", "workload", "expected"),
    [
        (READS, Workload(2, 16, 1), Workload(2, 16, 1)),
        (replace(READS, beams=4), Workload(2, 16, 1), Workload(2, 16, 1)),
        (WRITES, Workload(2, 16, 1), Workload(2, 16, 1, generated=32)),
        (replace(WRITES, beams=4), Workload(2, 16, 1), Workload(2, 16, 1, generated=32, beams=4)),
        (WRITES, Workload(2, 16, 1, generated=5), Workload(2, 16, 1, generated=5)),
        (replace(WRITES, beams=4), Workload(generated=5, beams=4), Workload(generated=5, beams=4)),
    ],
)
def test_a_workload_fits_its_task(task: Task, workload: Workload, expected: Workload) -> None:
    assert served(task, workload) == expected


@pytest.mark.parametrize(
    ("task", "workload", "message"),
    [
        (READS, Workload(generated=5), r"classification generates no text.*leave out --generated-tokens and --beams"),
        (READS, Workload(beams=2), r"classification generates no text"),
        (replace(WRITES, beams=4), Workload(generated=5), r"judged with 4 beams and the workload served with 1"),
        (WRITES, Workload(beams=2), r"judged with 1 beams and the workload served with 2"),
    ],
)
def test_what_is_judged_is_what_is_served(task: Task, workload: Workload, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        served(task, workload)


@pytest.fixture
def described(translations_folder: Path) -> Callable[[Settings], dict[str, object]]:
    def describe(settings: Settings) -> dict[str, object]:
        tables = read_tables(str(translations_folder), ("source",), "target", label_is_text=True)
        return json.loads(json.dumps(settings.describe(tables, "chrf", Machine.here("cpu", {}, {}))))

    return describe


def test_a_run_gives_its_settings_back(
    described: Callable[[Settings], dict[str, object]], translations_folder: Path, tmp_path: Path
) -> None:
    task = Task("seq2seq", str(translations_folder), "chrf", beams=2, max_new_tokens=9)
    settings = Settings(
        str(tmp_path), task, tmp_path, workload=Workload(1, 8, 1, generated=4, beams=2), greedy=Greedy(metric="bleu")
    )
    assert Settings.of_run(described(settings), tmp_path) == settings


def test_limits_of_isolation_are_kept_and_may_change(
    described: Callable[[Settings], dict[str, dict[str, object]]], translations_folder: Path, tmp_path: Path
) -> None:
    free = Settings(str(tmp_path), Task("seq2seq", str(translations_folder), "chrf"), tmp_path)
    tight = replace(free, isolation=Allowance(seconds=None, memory_bytes=10**9))
    assert Settings.of_run(described(tight), tmp_path) == tight
    assert described(tight)["identity"] == described(free)["identity"]
    assert "isolation" not in described(free)["effort"]
    assert tight.meter()._isolation._allowance == tight.isolation


@pytest.mark.parametrize("off", ["reuses_prefixes", "races"])
def test_shortcuts_may_be_switched_while_a_run_goes_on(
    off: str, described: Callable[[Settings], dict[str, dict[str, object]]], translations_folder: Path, tmp_path: Path
) -> None:
    usual = Settings(str(tmp_path), Task("seq2seq", str(translations_folder), "chrf"), tmp_path)
    without = replace(usual, **{off: False})  # type: ignore[arg-type]
    assert Settings.of_run(described(without), tmp_path) == without
    assert described(without)["identity"] == described(usual)["identity"]
    assert "quality" not in described(usual)["effort"]


def test_what_candidates_are_judged_in_stays(
    described: Callable[[Settings], dict[str, dict[str, object]]], translations_folder: Path, tmp_path: Path
) -> None:
    usual = Settings(str(tmp_path), Task("seq2seq", str(translations_folder), "chrf"), tmp_path)
    half = replace(usual, judge_in="bf16")
    assert Settings.of_run(described(half), tmp_path) == half
    assert described(half)["identity"] == {**described(usual)["identity"], "judge_in": "bf16"}
    with pytest.raises(SettingError, match=r"unknown way to judge in 'fp16'.*float32"):
        replace(usual, judge_in="fp16")


def test_limits_of_isolation_need_a_process_to_limit() -> None:
    with pytest.raises(
        SettingError, match=r"process in which memory is measured.*add it to the objectives quality, size"
    ):
        Settings("model", READS, Path("out"), objectives=("quality", "size"), isolation=Allowance(seconds=9.0))


def test_a_run_from_before_there_was_writing_loads(finished_run: Path) -> None:
    known = Record.open(finished_run).settings
    now = Settings.of_run(known, finished_run)
    old = json.loads(json.dumps(known))
    assert old["identity"]["greedy"].pop("metric") is None
    assert "generated" not in old["identity"]["workload"] and "beams" not in old["identity"]["task"]
    assert Settings.of_run(old, finished_run) == now

"""The same seed on the same machine: the same plans and the same quality, in whatever process and run folder."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paring.profilers import kept
from paring.profilers.memory import Memory, MemoryMeter
from paring.profilers.workload import Workload
from paring.search import cost_table
from paring.search.driver import search
from paring.search.settings import Settings
from paring.search.tasks import Task

# Costs are as noisy as measured ones: a search that learned them anew would be told other numbers.
SEARCHES = """
import json, random, sys
from pathlib import Path
from paring.profilers.memory import Memory, MemoryMeter
from paring.profilers.timing import Effort
from paring.profilers.workload import Workload
from paring.search import cost_table, judge, quality
from paring.search.driver import search
from paring.search.settings import Settings
from paring.search.tasks import Task

noise = random.SystemRandom()

def ratio(plan):
    slots = [slot for slot in plan.stack("encoder").slots if slot.layer is not None]
    return 0.1 + 0.3 * len(slots) - 0.01 * sum(len(slot.treatments.items) for slot in slots)

def time(_, session):
    return {plan.fingerprint: ratio(plan) * noise.uniform(0.99, 1.01) for plan in session}

judge._CANDIDATE_EFFORT = judge._REFERENCE_EFFORT = Effort(seconds=0.0, min_rounds=3, max_rounds=3, calls=1)
cost_table._Lesson._time, cost_table.PLANS, quality._RESAMPLES = time, 24, 20
MemoryMeter.measure = lambda *_: Memory(noise.randint(195_000_000, 205_000_000), 10, 20)
from paring.search import driver
driver._measure_front = lambda *_: None
model, data, out = sys.argv[1:]
found = []
for number, objectives in enumerate((("quality", "latency", "memory"), ("quality", "size"))):
    record = search(Settings(
        model, Task("classification", data), Path(out) / str(number), objectives=objectives,
        workload=Workload(1, 16, 1), trials=26, latency="predicted", sampler="tpe", seed=3,
    ))
    found.append([
        (one.number, one.plan.to_json(), one.state, one.quality.to_json(), record.study.trials[one.number].values)
        for one in record.trials()
    ])
assert "ray" not in sys.modules  # who judges in one process starts nothing, and loads nothing for it
print(json.dumps(found))
"""


def test_two_processes_with_two_run_folders_find_the_same(
    model_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    said = []
    for name in ("one", "other"):
        command = [sys.executable, "-c", SEARCHES, str(model_folder), str(data_folder), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    one, other = said
    assert [len(trials) for trials in one] == [26, 26]
    assert one == other


@pytest.fixture
def settings(model_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(kept, "folder", lambda: tmp_path / "learned")
    monkeypatch.setattr(cost_table, "PLANS", 24)
    monkeypatch.setattr(MemoryMeter, "measure", lambda *_: Memory(200_000_000, 10, 20))
    monkeypatch.setattr("paring.search.driver._measure_front", lambda *_: None)
    task = Task("classification", str(data_folder))
    return Settings(
        str(model_folder), task, tmp_path / "run", workload=Workload(1, 16, 1), trials=2, latency="predicted"
    )


def test_a_table_is_learned_once_for_a_subject(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little_effort: None
) -> None:
    lessons: list[object] = []

    def time(_: object, session: list[object]) -> dict[str, float]:
        lessons.append(session)
        return {plan.fingerprint: 0.5 for plan in session}  # type: ignore[attr-defined]

    monkeypatch.setattr(cost_table._Lesson, "_time", time)

    def searched(name: str, **changes: object) -> int:
        before = len(lessons)
        record = search(replace(settings, out=tmp_path / name, **changes))
        assert record.prediction is not None and "refused" not in record.prediction
        return len(lessons) - before

    first = searched("run")
    assert first > 0
    assert searched("run") == searched("again") == searched("other", seed=1, trials=3) == 0
    assert searched("relearned", relearn_costs=True) == first
    assert searched("shorter requests", workload=Workload(1, 8, 1)) == first

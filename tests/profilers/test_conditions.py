import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from paring.profilers import conditions, topology
from paring.profilers.conditions import Reading, clock_rate, others_cores, processor_throttled

BEFORE = Reading(100.0, 50.0, 1.0, 20.0, throttled=7, megahertz=3000.0)
# Ten seconds on, in which this process worked for ten of the eleven that were worked.
QUIET = replace(BEFORE, elapsed_seconds=110.0, busy_seconds=60.5, own_seconds=30.0)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def test_a_quiet_machine_gives_no_warning() -> None:
    assert QUIET.warnings_since(BEFORE) == ()
    assert others_cores(BEFORE, QUIET) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"busy_seconds": 65.0}, "other processes took 0.50 cores"),
        ({"stolen_seconds": 2.0}, "hypervisor gave 0.10 cores"),
        ({"throttled": 8}, "slowed itself down"),
        ({"megahertz": 2400.0}, "fell from 3000 to 2400 MHz"),
    ],
)
def test_what_disturbs_is_named(change: dict[str, float], words: str) -> None:
    (warning,) = replace(QUIET, **change).warnings_since(BEFORE)
    assert words in warning


def test_what_the_system_does_not_say_is_no_warning() -> None:
    silent = {"throttled": None, "megahertz": None}
    assert replace(QUIET, **silent).warnings_since(replace(BEFORE, **silent)) == ()


def test_shares_of_no_time_mean_nothing() -> None:
    moment = replace(BEFORE, elapsed_seconds=100.1, busy_seconds=50.5)
    assert moment.warnings_since(BEFORE) == ()
    assert others_cores(BEFORE, BEFORE) == 0.0


def test_own_work_is_not_that_of_others() -> None:
    before, started = Reading.now(), time.monotonic()
    until = time.process_time() + 0.5
    while time.process_time() < until:
        sum(range(1000))
    after, waited = Reading.now(), time.monotonic() - started
    own = after.own_seconds - before.own_seconds
    assert own == pytest.approx(0.5, abs=0.1)
    assert after.elapsed_seconds - before.elapsed_seconds == pytest.approx(waited, rel=0.2, abs=0.1)
    assert after.busy_seconds - before.busy_seconds >= 0.8 * own


def test_another_process_is_seen() -> None:
    before = Reading.now()
    subprocess.run(
        [sys.executable, "-c", "import time\nend = time.time() + 0.8\nwhile time.time() < end: pass"], check=True
    )
    after = Reading.now()
    assert others_cores(before, after) > 0.3
    assert any("other processes took" in warning for warning in after.warnings_since(before))


def test_counters_of_the_processor_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor_throttled(tmp_path) is None
    assert clock_rate(tmp_path) is None
    monkeypatch.setattr(conditions, "allowed_cores", lambda: (0, 1))
    for core, (count, rate) in enumerate([(3, 2_000_000), (4, 3_000_000), (0, 9_000_000)]):
        write(tmp_path / f"cpu/cpu{core}/thermal_throttle/core_throttle_count", f"{count}\n")
        write(tmp_path / f"cpu/cpu{core}/cpufreq/scaling_cur_freq", f"{rate}\n")
    assert processor_throttled(tmp_path) == 7
    assert clock_rate(tmp_path) == 2500.0


def test_lists_of_cores() -> None:
    assert topology.numbers_of("0-3,8\n") == (0, 1, 2, 3, 8)
    with pytest.raises(ValueError, match="invalid literal"):
        topology.numbers_of("\n")


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nodes of four cores, each core seen twice; this process may use all of the first and half of the second."""
    for node, cores in enumerate(("0-3", "4-7", "8-11")):
        write(tmp_path / f"node/node{node}/cpulist", f"{cores}\n")
    for core in range(8):
        write(tmp_path / f"cpu/cpu{core}/topology/thread_siblings_list", f"{core & ~1}-{core | 1}\n")
    monkeypatch.setattr(topology, "allowed_cores", lambda: (0, 1, 2, 3, 4, 5))
    return tmp_path


def test_nodes_hold_the_cores_this_process_may_use(two_nodes: Path) -> None:
    assert topology.numa_nodes(two_nodes) == {0: (0, 1, 2, 3), 1: (4, 5)}
    assert topology.physical_cores(two_nodes) == 3


@pytest.mark.parametrize(
    ("threads", "words"),
    [(7, "7 threads on 6 cores"), (4, "take --device cpu:0 or cpu:1"), (5, "share 3 processor cores")],
)
def test_threads_that_do_not_fit_are_warned_of(two_nodes: Path, threads: int, words: str) -> None:
    (warning,) = topology.thread_warnings(threads, two_nodes)
    assert words in warning


def test_a_machine_without_nodes_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "allowed_cores", lambda: (0, 1))
    assert topology.numa_nodes(tmp_path) == {0: (0, 1)}
    assert topology.thread_warnings(2, tmp_path) == ()

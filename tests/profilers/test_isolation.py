"""Jobs that crash, hang and take too much, in real processes."""

import ctypes
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from paring.errors import MeasurementError, SettingError, TimedOutError
from paring.profilers.isolation import Isolation
from paring.profilers.supervision import Allowance, Ending, Finding

AssertGone = Callable[..., None]

MANY_MB = 600
MODULE = """
import mmap, os, subprocess, sys, time
from pathlib import Path

def touch(megabytes):
    held = bytearray(b"x") * (megabytes * 10**6)
    time.sleep(60)

def map_untouched(megabytes):
    held = mmap.mmap(-1, megabytes * 10**6)
    time.sleep(0.2)
    return len(held)

def child_touches(megabytes):
    script = f"held = bytearray(b'x') * ({megabytes} * 10**6); import time; time.sleep(60)"
    subprocess.run([sys.executable, "-c", script])

def family(folder, seconds):
    if os.fork() == 0:
        Path(folder, "forked").write_text(str(os.getpid()))
        time.sleep(60)
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    Path(folder, "session").write_text(str(process.pid))
    while not Path(folder, "forked").exists() or not Path(folder, "forked").read_text():
        time.sleep(0.01)
    time.sleep(seconds)
    return "done"

def speak(text):
    print(text, flush=True)
    return text

def leave():
    raise SystemExit(3)

class Torn(Exception):
    pass

def fail():
    raise Torn("in two")

def unpicklable():
    return lambda: None
"""


@pytest.fixture(scope="module", autouse=True)
def jobs(make_module: Callable[[str, str], ModuleType]) -> None:
    make_module("odd_jobs", MODULE)


def job(name: str) -> Callable[..., object]:
    import odd_jobs

    return getattr(odd_jobs, name)


@pytest.fixture(scope="module", params=["forked", "alone"])
def isolation(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    with Isolation(forks=request.param == "forked") as open_isolation:
        yield open_isolation


def limited(isolation: Isolation, **limits: float) -> Isolation:
    """One more of the same kind, with limits."""
    return Isolation(Allowance(**limits), forks=isolation._can_fork)


def family_of(folder: Path) -> list[int]:
    """What the job "family" started, as soon as it has."""
    files = [folder / name for name in ("forked", "session")]
    deadline = time.monotonic() + 20
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(file.read_text()) for file in files]


def zombies() -> list[psutil.Process]:
    """Dead descendants of this process that nobody reaped."""
    return [one for one in psutil.Process().children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]


def test_a_job_answers_from_another_process(isolation: Isolation) -> None:
    assert isolation.run(operator.add, 1, 2) == Finding(Ending.ANSWERED, 3)
    first, second = (isolation.run(os.getpid).value("asking") for _ in range(2))
    assert len({first, second, os.getpid()}) == 3
    large = isolation.run(operator.mul, b"x", 3_000_000)
    assert large.answer == b"x" * 3_000_000


def test_what_a_job_prints_is_no_answer(isolation: Isolation) -> None:
    assert isolation.run(job("speak"), "words").answer == "words"


@pytest.mark.parametrize(
    ("function", "arguments", "ending", "cause"),
    [
        (ctypes.string_at, (0,), Ending.CRASHED, r"signal 11 \(Segmentation fault\)"),
        (os.abort, (), Ending.CRASHED, r"signal 6 \(Aborted\)"),
        (os._exit, (3,), Ending.CRASHED, "exited with 3 and gave no answer"),
        (os._exit, (0,), Ending.CRASHED, "exited with 0 and gave no answer"),
        (operator.truediv, (1, 0), Ending.FAILED, "ZeroDivisionError: division by zero"),
        ("fail", (), Ending.FAILED, "Torn: in two"),
        ("leave", (), Ending.FAILED, "SystemExit: 3"),
        ("unpicklable", (), Ending.FAILED, "pickle"),
        (operator.mul, (b"x", 2**62), Ending.OUT_OF_MEMORY, "the process ran out of memory"),
        (signal.raise_signal, (signal.SIGKILL,), Ending.OUT_OF_MEMORY, "signal 9, as the system does when memory runs"),
    ],
)
def test_every_end_has_its_own_cause(
    isolation: Isolation,
    function: Callable[..., object] | str,
    arguments: tuple[object, ...],
    ending: Ending,
    cause: str,
) -> None:
    found = isolation.run(job(function) if isinstance(function, str) else function, *arguments)
    assert found.ending == ending
    with pytest.raises(
        MemoryError if ending == Ending.OUT_OF_MEMORY else MeasurementError, match=f"^measuring.*{cause}"
    ):
        found.value("measuring")
    assert isolation.run(operator.add, 1, 2).answer == 3
    assert not zombies()


def test_no_memory_for_a_tensor_is_out_of_memory(isolation: Isolation) -> None:
    import torch

    found = isolation.run(torch.zeros, 2**50)
    assert found.ending == Ending.OUT_OF_MEMORY and "allocate memory" in found.cause


def test_a_hang_is_ended(isolation: Isolation) -> None:
    with limited(isolation, seconds=0.5) as hasty:
        found = hasty.run(time.sleep, 60)
        assert found.ending == Ending.TIMED_OUT
        with pytest.raises(TimedOutError, match=r"sleeping failed: it took longer than 0.5 s"):
            found.value("sleeping")
        assert not zombies()


def test_resident_memory_beyond_the_limit_ends_a_job(isolation: Isolation) -> None:
    with limited(isolation, memory_bytes=MANY_MB * 10**6, seconds=30) as tight:
        found = tight.run(job("touch"), 2 * MANY_MB)
        assert found.ending == Ending.OUT_OF_MEMORY
        with pytest.raises(MemoryError, match=rf"measuring: the process held \d+ MB, more than the {MANY_MB} MB"):
            found.value("measuring")


def test_memory_of_those_a_job_starts_counts(isolation: Isolation) -> None:
    with limited(isolation, memory_bytes=MANY_MB * 10**6, seconds=30) as tight:
        assert tight.run(job("child_touches"), 2 * MANY_MB).ending == Ending.OUT_OF_MEMORY


def test_memory_that_is_mapped_and_not_touched_does_not_count(isolation: Isolation) -> None:
    with limited(isolation, memory_bytes=MANY_MB * 10**6) as tight:
        assert tight.run(job("map_untouched"), 3 * MANY_MB).answer == 3 * MANY_MB * 10**6


@pytest.mark.parametrize(("seconds", "ending"), [(0.0, Ending.ANSWERED), (60.0, Ending.TIMED_OUT)])
def test_nothing_that_a_job_started_is_left(
    isolation: Isolation, tmp_path: Path, assert_gone: AssertGone, seconds: float, ending: Ending
) -> None:
    with limited(isolation, seconds=3.0) as hasty:
        assert hasty.run(job("family"), str(tmp_path), seconds).ending == ending
        assert_gone(int((tmp_path / "forked").read_text()))
        if ending == Ending.TIMED_OUT:  # one that left the group and whose parent is gone cannot be found
            assert_gone(int((tmp_path / "session").read_text()))
        else:
            os.kill(int((tmp_path / "session").read_text()), signal.SIGKILL)


def test_a_helper_that_died_is_a_finding_and_replaced() -> None:
    with Isolation() as isolation:
        assert isolation.run(operator.add, 1, 2).answer == 3
        assert isolation._helper is not None
        isolation._helper.kill()
        isolation._helper.wait()
        assert isolation.run(operator.add, 1, 2).answer == 3
        found = isolation.run(operator.add, 1, 2, before=(os._exit, (4,)))
        assert found.ending == Ending.CRASHED and "exited with 4" in found.cause
        assert isolation.run(operator.add, 1, 2).answer == 3


def test_a_job_ends_with_its_helper(tmp_path: Path, assert_gone: AssertGone) -> None:
    with Isolation() as isolation, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(isolation.run, job("family"), str(tmp_path), 60.0)
        pids = family_of(tmp_path)
        assert isolation._helper is not None
        isolation._helper.kill()
        found = answer.result(timeout=20)
        assert found.ending == Ending.CRASHED and "the helper died" in found.cause
        assert_gone(*pids)


def test_what_is_before_is_done_in_the_helper_and_may_fail() -> None:
    with Isolation() as isolation:
        assert isolation.run(os.getcwd, before=(os.chdir, ("/",))).answer == "/"
        assert isolation.run(os.getcwd).answer == "/"
        found = isolation.run(operator.add, 1, 2, before=(operator.truediv, (1, 0)))
        assert found == Finding(Ending.FAILED, cause="ZeroDivisionError: division by zero")


INTERRUPTED = """
import signal, sys
# What runs in the background of a shell ignores interrupts, and so would this.
signal.signal(signal.SIGINT, signal.default_int_handler)
from paring.profilers.isolation import Isolation
with Isolation(forks=sys.argv[1] == "forked") as isolation:
    import odd_jobs
    isolation.run(odd_jobs.family, sys.argv[2], 60.0)
"""


@pytest.mark.parametrize("how", ["forked", "alone"])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_one_who_asked(
    tmp_path: Path, assert_gone: AssertGone, how: str, sent: signal.Signals
) -> None:
    asker = subprocess.Popen([sys.executable, "-c", INTERRUPTED, how, str(tmp_path)], stderr=subprocess.DEVNULL)
    pids = family_of(tmp_path)
    asker.send_signal(sent)
    asker.wait(timeout=20)
    assert_gone(*pids)


@pytest.mark.parametrize("limits", [{"seconds": 0.0}, {"seconds": float("nan")}, {"memory_bytes": -1}])
def test_limits_are_positive(limits: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="above 0"):
        Allowance(**limits)

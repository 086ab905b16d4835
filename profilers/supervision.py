"""Watching one process: what it may take, how it ended, and that nothing of it is left.

Memory is bounded by what is resident, looked at every 20 ms. A limit of the system on address space or on data
(RLIMIT_AS, RLIMIT_DATA) also counts what is mapped or reserved and never touched: weights that are mapped from files,
arenas of allocators, the gigabytes of addresses that CUDA takes. One that lets a harmless model run would not stop a
harmful one. The price is what a process can touch between two looks, some tens of megabytes.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psutil

from ..errors import MeasurementError, SettingError, TimedOutError

# How torch says that the system gave it no memory; it has no class of error for that.
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
_LOOK_SECONDS = 0.02
# All processes of the system are gone through for it.
_KIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a process may take before it is ended.

    Attributes:
        seconds: from its start on; None for no limit.
        memory_bytes: resident in it and the processes it started, libraries and shared pages included; None for no
            limit.
    """

    seconds: float | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("bytes of memory", self.memory_bytes)):
            if value is not None and not value > 0:
                raise SettingError(f"the {name} of an isolated process must be above 0, got {value}.")


class Ending(StrEnum):
    """How a job ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a job.

    Attributes:
        ending: FAILED raised an error; CRASHED ended without an answer, by a signal or by leaving.
        answer: what it returned, where it answered.
        cause: why it did not answer, in words; empty where it did.
    """

    ending: Ending
    answer: Any = None
    cause: str = ""

    def value(self, doing: str) -> Any:
        """The answer.

        Args:
            doing: what the job did, such as "measuring memory".

        Raises:
            MemoryError: if memory ran out.
            TimedOutError: if it took too long.
            MeasurementError: if it failed or crashed.
        """
        if self.ending == Ending.OUT_OF_MEMORY:
            raise MemoryError(f"{doing}: {self.cause}")
        if self.ending == Ending.TIMED_OUT:
            raise TimedOutError(f"{doing} failed: {self.cause}")
        if self.ending != Ending.ANSWERED:
            raise MeasurementError(f"{doing} failed: {self.cause}")
        return self.answer


def supervise(
    pid: int, answers: int, allowance: Allowance, *, is_wanted: Callable[[], bool] = lambda: True
) -> tuple[bytes, Finding | None]:
    """Reads what a process writes until it has ended, and ends it if it takes more than it may.

    When this returns or raises, the process and all it started are dead; the caller, whose child it is, reaps it.

    Args:
        pid: of a child of this process that leads a process group of its own.
        answers: the end of a pipe that it writes to.
        allowance: what it may take.
        is_wanted: asked now and then; False ends it.

    Returns:
        All it wrote; and why it was ended, None where it ended by itself.
    """
    watched = _Watched(pid)
    started, is_open, written = time.monotonic(), True, bytearray()
    try:
        while True:
            has_ended = watched.has_ended()
            if is_open and select.select([answers], [], [], 0 if has_ended else _LOOK_SECONDS)[0]:
                part = os.read(answers, 2**16)
                is_open = bool(part)
                written += part
            elif has_ended:
                return bytes(written), None
            elif not is_open:
                time.sleep(_LOOK_SECONDS / 10)
            broken = _broken(watched, allowance, time.monotonic() - started)
            if broken or not is_wanted():
                return b"", broken or Finding(Ending.CRASHED, cause="the process that waited for the answer is gone")
    finally:
        watched.kill()


def end(pid: int) -> None:
    """Ends a process, which may be this one, that leads a process group of its own, and all it started."""
    _Watched(pid).kill()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, of the machine or a device; imports no torch."""
    torch = sys.modules.get("torch")
    of_device = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return of_device or isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY in str(error))


def explain(exit_code: int) -> Finding:
    """Why a process that nobody ended gave no answer.

    Args:
        exit_code: negative where a signal ended it.
    """
    if exit_code == -signal.SIGKILL:
        cause = f"the process was ended by signal {-exit_code}, as the system does when memory runs out"
        return Finding(Ending.OUT_OF_MEMORY, cause=cause)
    if exit_code < 0:
        words = signal.strsignal(-exit_code)
        return Finding(Ending.CRASHED, cause=f"the process crashed: signal {-exit_code} ({words})")
    return Finding(Ending.CRASHED, cause=f"the process exited with {exit_code} and gave no answer")


def _broken(watched: "_Watched", allowance: Allowance, seconds: float) -> Finding | None:
    """Which limit a process breaks."""
    if allowance.seconds is not None and seconds > allowance.seconds:
        return Finding(Ending.TIMED_OUT, cause=f"it took longer than {allowance.seconds:g} s")
    if allowance.memory_bytes is not None and (held := watched.resident_bytes()) > allowance.memory_bytes:
        cause = f"the process held {held / 1e6:.0f} MB, more than the {allowance.memory_bytes / 1e6:.0f} MB it may take"
        return Finding(Ending.OUT_OF_MEMORY, cause=cause)
    return None


class _Watched:
    """A child process, and those it started."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._kin: list[psutil.Process] = []
        self._looked = 0.0

    def has_ended(self) -> bool:
        """Whether it is dead, and at most waits to be reaped."""
        try:
            return self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def resident_bytes(self) -> int:
        """What it and those it started hold; pages that they share count for each."""
        if time.monotonic() - self._looked > _KIN_SECONDS:
            self._look_for_kin()
        held = 0
        for process in (self._process, *self._kin):
            with suppress(psutil.Error):
                held += process.memory_info().rss
        return held

    def kill(self) -> None:
        """Ends those it started, also where they left its process group; then itself and the group."""
        self._look_for_kin()
        for process in (*self._kin, self._process):
            with suppress(psutil.Error):
                if process.pid != os.getpid():
                    process.kill()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _look_for_kin(self) -> None:
        self._looked = time.monotonic()
        with suppress(psutil.Error):
            found = self._process.children(recursive=True)
            self._kin = [*found, *(one for one in self._kin if one not in found)]

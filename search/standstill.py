"""A machine kept quiet for a measurement: what of ours works on it stands still meanwhile."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

import psutil
from filelock import FileLock

from ..profilers.occupancy import lock_file


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that judges.

    Attributes:
        node: of the cluster that it runs on.
        pid: there.
        started: seconds since 1970; tells it from a later process that got its number.
    """

    node: str
    pid: int
    started: float

    @classmethod
    def here(cls, node: str) -> Self:
        """This process."""
        return cls(node, os.getpid(), psutil.Process().create_time())


@contextmanager
def standstill(workers: Iterable[Worker]) -> Iterator[None]:
    """Stops processes of this machine, and lets them go on afterwards; one measurement at a time on a machine.

    The machine's stopwatch is locked: another search that measures here waits. Processes are stopped where they are, in
    the midst of a batch: to wait until each has judged its plan would leave the others idle for as long as that takes.

    Args:
        workers: of this machine; those that ended meanwhile are left out.
    """
    with FileLock(lock_file("stopwatch")):
        stopped: list[psutil.Process] = []
        try:
            for one in workers:
                with suppress(psutil.Error):
                    process = psutil.Process(one.pid)
                    if process.create_time() == one.started:
                        process.suspend()
                        stopped.append(process)
            yield
        finally:
            for process in stopped:
                with suppress(psutil.Error):
                    process.resume()

"""One benchmark at a time on a machine, and none while others work on it."""

import getpass
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import BusyError, StorageError
from .conditions import MOST_CORES, Reading, taken_cores

# Others' work is watched for so long.
_WATCHED_SECONDS = 2.0


def lock_file(what: str = "bench") -> Path:
    """What every benchmark of this user on this machine locks; not in the home, which several machines may share.

    Args:
        what: is done one at a time.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        user = "unknown"
    return Path(tempfile.gettempdir()) / f"paring-{what}-{user}.lock"


@contextmanager
def alone(wait_seconds: float = 0.0) -> Iterator[None]:
    """Keeps other benchmarks of this user off this machine for as long as the context lasts.

    The lock is the system's: it is free again when the process that holds it ends, however it ends.

    Args:
        wait_seconds: for one that runs already.

    Raises:
        BusyError: if it does not end in time.
        StorageError: if the file of the lock cannot be made.
    """
    lock = FileLock(lock_file(), timeout=wait_seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(
            f"another benchmark is running on this machine, and has been for the {wait_seconds:g} seconds waited; wait "
            "for it, or give a longer --wait."
        ) from error
    except OSError as error:
        raise StorageError(f"cannot lock {lock_file()}: {error.strerror or error}; set TMPDIR.") from error
    try:
        yield
    finally:
        lock.release()


def occupied(
    wait: Callable[[float], object], *, most_cores: float = MOST_CORES, read: Callable[[], Reading] = Reading.now
) -> str | None:
    """Who works on this machine, in words; None where it is quiet enough to measure on.

    Args:
        wait: sleeps so many seconds, while others are watched.
        most_cores: that other processes, and through the hypervisor other machines, may take.
        read: the counters of the machine.
    """
    before = read()
    wait(_WATCHED_SECONDS)
    taken = taken_cores(before, read())
    if taken is None or taken <= most_cores:
        return None
    return f"other processes and machines take {taken:.2f} cores; at most {most_cores:g} may be taken"

"""The scheduler that runs in the foreground: looks what is due, and starts one benchmark at a time.

It asks the clock on the wall every half minute at the latest, so that a clock that is set does not surprise it, and it
keeps nothing in memory that matters: killed and started again, it goes on where it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import BusyError, ParingError, StorageError
from .schedule import CLOCK, DONE, FAILED, INTERRUPTED, REGRESSION, SKIPPED, STARTED, Schedule, Schedules

_LONGEST_SLEEP_SECONDS = 30.0
# A clock that is set by less than this was only corrected.
_CORRECTION_SECONDS = 90.0
# Where new hardware was busy, it is tried again after so long.
_AGAIN_SECONDS = 3600.0
# Exit codes of `paring bench`.
_OUTCOMES = {0: DONE, 3: REGRESSION}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the scheduler asks of the machine; tests hand over their own.

    Attributes:
        now: seconds since 1970.
        sleep: for so many seconds.
        start: benchmarks a schedule, and says how it ended and the last it said; 0 fine, 3 regression.
        occupied: why nothing can be measured now; None where it can.
        is_known: whether the history has seen this hardware with the schedule's study.
        tell: hears what is done.
    """

    now: Callable[[], float]
    sleep: Callable[[float], object]
    start: Callable[[Schedule], tuple[int, str]]
    occupied: Callable[[], str | None]
    is_known: Callable[[Schedule], bool]
    tell: Callable[[str], object]


@dataclass(slots=True)
class Scheduler:
    """Runs the schedules of one file.

    Attributes:
        schedules: the file.
        around: the machine.
    """

    schedules: Schedules
    around: Surroundings
    _tried: dict[str, float] = field(default_factory=dict)

    def run(self, *, once: bool = False) -> None:
        """Runs until it is interrupted.

        Args:
            once: looks once, does what is due, and returns.

        Raises:
            BusyError: if another scheduler runs on the same file.
            StorageError: if the disk refuses.
        """
        with _only_one(self.schedules.path):
            for schedule in self.schedules.all():
                self._close_interrupted(schedule)
            while True:
                for schedule in self.schedules.all():
                    self._look_at(schedule)
                if once:
                    return
                self.around.sleep(self._pause())

    def _look_at(self, schedule: Schedule) -> None:
        now = self.around.now()
        if schedule.considered > now:
            if schedule.considered - now > _CORRECTION_SECONDS:
                back = schedule.considered - now
                reason = f"by {back:.0f} s at least; what was measured until then is not repeated"
                self._tell(schedule, CLOCK, reason)
                self.schedules.consider(schedule, now)
            return
        if schedule.is_due(now):
            # Before it is started: what kills its own scheduler is not tried again and again.
            self.schedules.consider(schedule, now)
            self._measure(schedule, f"due by {schedule.cron.text!r}")
        elif schedule.on_new_hardware and self._is_new(schedule, now):
            self._measure(schedule, "new hardware")

    def _is_new(self, schedule: Schedule, now: float) -> bool:
        tried = self._tried.get(schedule.id)
        if tried is not None and 0 <= now - tried < _AGAIN_SECONDS:
            return False
        self._tried[schedule.id] = now
        try:
            return not self.around.is_known(schedule)
        except ParingError as error:
            self._tell(schedule, FAILED, str(error))
            return False

    def _measure(self, schedule: Schedule, why: str) -> None:
        busy = self.around.occupied()
        if busy is not None:
            self._tell(schedule, SKIPPED, busy)
            return
        self._tell(schedule, STARTED, why)
        try:
            code, said = self.around.start(schedule)
        except KeyboardInterrupt:
            self._tell(schedule, INTERRUPTED, "by the user")
            raise
        self._tell(schedule, _OUTCOMES.get(code, FAILED), said)

    def _close_interrupted(self, schedule: Schedule) -> None:
        """What was running when the scheduler was killed; it is not started again before its next time."""
        events = self.schedules.events(schedule)
        if events and events[-1].outcome == STARTED:
            self._tell(schedule, INTERRUPTED, "the scheduler was stopped while it ran; the next time is as scheduled")

    def _pause(self) -> float:
        """Until the next time, but no longer than a clock may be trusted."""
        now = self.around.now()
        nearest = min((schedule.cron.next(now) - now for schedule in self.schedules.all()), default=float("inf"))
        return max(1.0, min(nearest, _LONGEST_SLEEP_SECONDS))

    def _tell(self, schedule: Schedule, outcome: str, reason: str) -> None:
        self.schedules.tell(schedule, self.around.now(), outcome, reason)
        self.around.tell(f"{schedule.id} {schedule.source.name}: {outcome}: {reason}")


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Keeps a second scheduler from the same schedules; free again when the process ends, however it ends."""
    lock = FileLock(path.with_name(f"{path.name}.scheduler.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(
            f"another scheduler runs the schedules in {path}; end it, or give another --history."
        ) from error
    except OSError as error:
        raise StorageError(f"cannot lock {lock.lock_file}: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()

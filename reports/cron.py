"""Times as cron writes them: when the last one was, when the next one is, and the same for systemd."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from cronsim import CronSim, CronSimError

from ..errors import ScheduleError

_FIELDS = "minute hour day-of-month month day-of-week"
_SUNDAY = 7
_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
# What only some of cron, systemd, GitHub and Kubernetes understand.
_UNCOMMON = ("L", "#", "W", "?")


@dataclass(frozen=True, slots=True)
class Cron:
    """When to do something, by the clock on the wall.

    Attributes:
        text: five fields; Sunday is 0.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads cron text as all of cron, systemd, GitHub and Kubernetes understand it.

        Raises:
            ScheduleError: if it says no time, or says it in a way that not all of them understand.
        """
        fields = text.split()
        wrong = f"{text!r} is no time of cron"
        if len(fields) != 5:
            raise ScheduleError(f"{wrong}: it has {len(fields)} fields, not five ({_FIELDS}), such as '0 3 * * 1'.")
        days = fields[4].upper().replace("JUL", "")
        if any(sign in field.upper().replace("JUL", "") for sign in _UNCOMMON for field in (fields[2], days)):
            raise ScheduleError(
                f"{wrong} that every scheduler reads: {', '.join(_UNCOMMON)} are not understood by all."
            )
        try:
            found = CronSim(text, datetime(2000, 1, 1))
            weekdays = {day for day in found.weekdays if isinstance(day, int)}
            if _SUNDAY in weekdays and len(weekdays) <= _SUNDAY:
                fields[4] = ",".join(str(day) for day in sorted({day % _SUNDAY for day in weekdays}))
            next(CronSim(" ".join(fields), datetime(2000, 1, 1)))
        except CronSimError as error:
            raise ScheduleError(
                f"{wrong}: {str(error)[:1].lower()}{str(error)[1:]}; the fields are {_FIELDS}."
            ) from error
        except StopIteration as error:
            raise ScheduleError(f"{wrong} that ever comes.") from error
        return cls(" ".join(fields))

    def last(self, now: float) -> float:
        """The latest of its times up to a moment.

        Args:
            now: seconds since 1970.

        Returns:
            The same; where the clock on the wall is put back, a time that comes twice counts once, and one that is
            left out comes an hour later.
        """
        # One second later, because the library looks for times before the one it is given.
        moment = datetime.fromtimestamp(int(now) + 1)
        found = next(CronSim(self.text, moment, reverse=True))
        return found.timestamp()

    def next(self, now: float) -> float:
        """The first of its times after a moment.

        Args:
            now: seconds since 1970.
        """
        return next(CronSim(self.text, datetime.fromtimestamp(int(now)))).timestamp()

    def on_calendar(self) -> tuple[str, ...]:
        """The same as `OnCalendar` of systemd; two lines where cron means a day of the month or one of the week."""
        found = CronSim(self.text, datetime(2000, 1, 1))
        days, weekdays = _list(found.days, 31), {day % _SUNDAY for day in found.weekdays if isinstance(day, int)}
        named = ",".join(name for number, name in enumerate(_WEEKDAYS) if number in weekdays)
        months = _list(found.months, 12)
        clock = f"{_list(found.hours, 24)}:{_list(found.minutes, 60)}:00"
        if len(weekdays) == _SUNDAY:
            return (f"*-{months}-{days} {clock}",)
        if days == "*" or found.day_and:
            return (f"{named} *-{months}-{days} {clock}",)
        return (f"*-{months}-{days} {clock}", f"{named} *-{months}-* {clock}")


def _list(numbers: set[int], every: int) -> str:
    return "*" if len(numbers) == every else ",".join(f"{number:02d}" for number in sorted(numbers))

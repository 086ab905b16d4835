"""What is to be measured when, and what became of it: kept beside the history, in the same file."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    delete,
    select,
    update,
)

from ..errors import ScheduleError
from ..profilers.database import Database
from ..profilers.history import SCHEMA
from .cron import Cron

TABLES = MetaData()
_SCHEDULES = Table(
    "schedules",
    TABLES,
    Column("id", String, primary_key=True),
    Column("source", Text, nullable=False),
    Column("cron", String, nullable=False),
    Column("on_new_hardware", Boolean, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("considered", Float, nullable=False),
)
_EVENTS = Table(
    "events",
    TABLES,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("schedule", String, nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("outcome", String, nullable=False),
    Column("reason", Text, nullable=False),
    sqlite_autoincrement=True,
)
# How an event of a benchmark may end; STARTED stays the last one where its process was killed.
STARTED, DONE, REGRESSION, FAILED, SKIPPED, INTERRUPTED, CLOCK = (
    "started",
    "done",
    "regression",
    "failed",
    "skipped",
    "interrupted",
    "clock moved back",
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One study that is measured again and again.

    Attributes:
        id: eight hexadecimal digits.
        source: a run folder or a bundle.
        cron: when.
        on_new_hardware: whether also at once where the history has not seen the hardware.
        arguments: for `paring bench`, beside the source and the history.
        considered: up to this moment, in seconds since 1970, its times were looked at.
    """

    id: str
    source: Path
    cron: Cron
    on_new_hardware: bool
    arguments: tuple[str, ...]
    considered: float

    def is_due(self, now: float) -> bool:
        """Whether at least one of its times passed since it was last considered; however many, it is due once."""
        return self.considered < self.cron.last(now) <= now


@dataclass(frozen=True, slots=True)
class Event:
    """Something that became of a schedule.

    Attributes:
        schedule: its id.
        at: seconds since 1970.
        outcome: "done", "regression", "failed", "skipped", "interrupted", "clock moved back", or "started" where it
            has not ended.
        reason: in words.
    """

    schedule: str
    at: float
    outcome: str
    reason: str


class Schedules:
    """The schedules in one file."""

    def __init__(self, path: Path) -> None:
        """Makes the file where there is none.

        Raises:
            HistoryError: if it is no history, damaged, or of a newer schema.
            StorageError: if the disk refuses.
        """
        self._database = Database(path, TABLES, schema=SCHEMA)
        self.path = path

    def add(self, source: Path, cron: Cron, *, on_new_hardware: bool, arguments: Sequence[str], now: float) -> Schedule:
        """Keeps a schedule; only its times from now on count.

        Args:
            source: a run folder or a bundle.
            cron: when.
            on_new_hardware: whether also at once on hardware the history has not seen.
            arguments: for `paring bench`.
            now: seconds since 1970.
        """
        made = Schedule(uuid.uuid4().hex[:8], source, cron, on_new_hardware, tuple(arguments), now)
        row = {
            "id": made.id,
            "source": str(source),
            "cron": cron.text,
            "on_new_hardware": on_new_hardware,
            "arguments": json.dumps(list(arguments)),
            "considered": now,
        }
        with self._database.writing() as connection:
            connection.execute(_SCHEDULES.insert().values(row))
        return made

    def all(self) -> list[Schedule]:
        """Every schedule, by id."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_SCHEDULES).order_by(_SCHEDULES.c.id)).mappings().all()
        return [_schedule(row) for row in rows]

    def named(self, wanted: str) -> Schedule:
        """The schedule of this id, or whose id begins so.

        Raises:
            ScheduleError: if there is none, or more than one.
        """
        known = self.all()
        found = [schedule for schedule in known if schedule.id.startswith(wanted)]
        if len(found) != 1:
            ids = ", ".join(schedule.id for schedule in known) or "none"
            raise ScheduleError(f"{wanted!r} names {len(found)} schedules; there are: {ids}.")
        return found[0]

    def remove(self, schedule: Schedule) -> None:
        """Forgets a schedule; what became of it stays."""
        with self._database.writing() as connection:
            connection.execute(delete(_SCHEDULES).where(_SCHEDULES.c.id == schedule.id))

    def consider(self, schedule: Schedule, now: float) -> None:
        """Remembers that its times were looked at up to now, whatever comes of it."""
        with self._database.writing() as connection:
            connection.execute(update(_SCHEDULES).where(_SCHEDULES.c.id == schedule.id).values(considered=now))

    def tell(self, schedule: Schedule, now: float, outcome: str, reason: str) -> None:
        """Keeps what became of a schedule."""
        row = {"schedule": schedule.id, "at": now, "outcome": outcome, "reason": reason}
        with self._database.writing() as connection:
            connection.execute(_EVENTS.insert().values(row))

    def events(self, schedule: Schedule) -> list[Event]:
        """What became of a schedule, in the order in which it was kept."""
        wanted = select(_EVENTS).where(_EVENTS.c.schedule == schedule.id).order_by(_EVENTS.c.number)
        with self._database.reading() as connection:
            rows = connection.execute(wanted).mappings().all()
        return [Event(row["schedule"], row["at"], row["outcome"], row["reason"]) for row in rows]


def _schedule(row: RowMapping) -> Schedule:
    arguments = tuple(json.loads(row["arguments"]))
    return Schedule(
        row["id"], Path(row["source"]), Cron(row["cron"]), row["on_new_hardware"], arguments, row["considered"]
    )

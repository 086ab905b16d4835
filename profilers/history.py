"""Every measurement there was, in one SQLite file: with its machine, workload, versions and time.

Sessions are ordered by the number they got when they were written, not by their time: a clock that was moved back
changes what a date says, not what came after what.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platformdirs import user_data_path
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    select,
)

from .database import Database
from .hardware import hardware_of
from .latency import Latency
from .machine import Machine
from .workload import Workload

SCHEMA = 1
TABLES = MetaData()

_SESSIONS = Table(
    "sessions",
    TABLES,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("taken", Float, nullable=False),
    Column("study", String, nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("source", String, nullable=False),
    Column("metric", String, nullable=False),
    Column("hardware", String, nullable=False, index=True),
    Column("runtime", String, nullable=False),
    Column("workload", Text, nullable=False),
    Column("machine", Text, nullable=False),
    Column("software", Text, nullable=False),
    Column("notes", Text, nullable=False),
    sqlite_autoincrement=True,
)
_MEASUREMENTS = Table(
    "measurements",
    TABLES,
    Column("id", Integer, primary_key=True),
    Column("session", ForeignKey("sessions.number"), nullable=False, index=True),
    Column("plan", String, nullable=False, index=True),
    Column("label", Text, nullable=False),
    Column("is_baseline", Boolean, nullable=False),
    Column("quality", Float),
    Column("drop", Float),
    Column("is_verified", Boolean, nullable=False),
    Column("on_front", Boolean, nullable=False),
    Column("is_pick", Boolean, nullable=False),
    Column("memory_bytes", Float),
    Column("stored_bytes", Float, nullable=False),
    Column("latency", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One plan in one session.

    Attributes:
        plan: its fingerprint.
        label: in words.
        latency: beside the baseline of the session, with all samples.
        stored_bytes: of its tensors.
        is_baseline: whether it is the original.
        quality: on the test split, wherever it was judged; None where it was not.
        drop: quality of the baseline less its own.
        is_verified: whether its answers here are those it was judged by.
        on_front: whether no plan of the session beats it.
        is_pick: whether it is what to deploy here.
        memory_bytes: at the peak; None where not measured.
    """

    plan: str
    label: str
    latency: Latency
    stored_bytes: float
    is_baseline: bool = False
    quality: float | None = None
    drop: float | None = None
    is_verified: bool = True
    on_front: bool = False
    is_pick: bool = False
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What two sessions must have in common for their numbers to be compared as one machine's.

    Attributes:
        study: what was searched: hash of model, data and task.
        hardware: see `hardware_of`; the device is part of it.
        runtime: what ran the models.
        workload: what was served.
    """

    study: str
    hardware: str
    runtime: str
    workload: Workload


@dataclass(frozen=True, slots=True)
class Session:
    """Plans measured side by side, at one time, on one machine.

    Attributes:
        study: hash of model, data and task.
        name: of the model, for people.
        runtime: what ran the models.
        workload: what was served.
        machine: where.
        software: name -> version or setting of what may be upgraded there.
        entries: the plans, the baseline among them.
        taken: seconds since 1970, by the machine's clock.
        source: "bench", or "search" for the front as the search measured it.
        metric: of the qualities.
        notes: what makes it doubtful, in words.
        id: the same wherever the session is copied to.
        number: its place in this file; 0 before it is in one.
    """

    study: str
    name: str
    runtime: str
    workload: Workload
    machine: Machine
    software: Mapping[str, str]
    entries: tuple[Entry, ...]
    taken: float
    source: str = "bench"
    metric: str = ""
    notes: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    number: int = 0

    @property
    def context(self) -> Context:
        """What it may be compared in."""
        return Context(self.study, hardware_of(self.machine), self.runtime, self.workload)

    @property
    def baseline(self) -> Entry:
        """The original."""
        return next(entry for entry in self.entries if entry.is_baseline)


class History:
    """The sessions in one file."""

    def __init__(self, path: Path) -> None:
        """Makes the file where there is none.

        Raises:
            HistoryError: if it is no history, damaged, or of a newer schema.
            StorageError: if the disk refuses.
        """
        self._database = Database(path, TABLES, schema=SCHEMA)
        self.path = path

    def add(self, session: Session) -> int:
        """Keeps a session, all of it or nothing; one that is known already is left as it is.

        Returns:
            Its number.

        Raises:
            StorageError: if the disk refuses.
        """
        with self._database.writing() as connection:
            return _add(connection, session)

    def sessions(
        self, *, study: str | None = None, hardware: str | None = None, context: Context | None = None
    ) -> list[Session]:
        """Sessions in the order they were written.

        Args:
            study: only of this one.
            hardware: only on this one.
            context: only those that compare in it.
        """
        wanted = select(_SESSIONS).order_by(_SESSIONS.c.number)
        if context is not None:
            study, hardware = context.study, context.hardware
            wanted = wanted.where(
                _SESSIONS.c.runtime == context.runtime, _SESSIONS.c.workload == _text(context.workload.to_json())
            )
        if study is not None:
            wanted = wanted.where(_SESSIONS.c.study == study)
        if hardware is not None:
            wanted = wanted.where(_SESSIONS.c.hardware == hardware)
        with self._database.reading() as connection:
            rows = connection.execute(wanted).mappings().all()
            return [_session(row, list(_entries(connection, row["number"]))) for row in rows]

    def merge(self, other: "History") -> int:
        """Takes over the sessions of another file that are not in this one yet.

        Returns:
            How many there were.
        """
        # Read before anything is locked, so that two files may take over from each other at the same time.
        theirs = other.sessions()
        known = {session.id for session in self.sessions()}
        fresh = [session for session in theirs if session.id not in known]
        with self._database.writing() as connection:
            for session in fresh:
                _add(connection, session)
        return len(fresh)


def default_path() -> Path:
    """Where the history of this user is kept if nothing else is said."""
    return user_data_path("paring", appauthor=False) / "history.db"


def _add(connection: Connection, session: Session) -> int:
    known = connection.execute(select(_SESSIONS.c.number).where(_SESSIONS.c.id == session.id)).scalar()
    if known is not None:
        return int(known)
    row = {
        "id": session.id,
        "taken": session.taken,
        "study": session.study,
        "name": session.name,
        "source": session.source,
        "metric": session.metric,
        "hardware": session.context.hardware,
        "runtime": session.runtime,
        "workload": _text(session.workload.to_json()),
        "machine": _text(session.machine.to_json()),
        "software": _text(dict(session.software)),
        "notes": _text(list(session.notes)),
    }
    number = connection.execute(_SESSIONS.insert().values(row)).inserted_primary_key
    assert number is not None
    connection.execute(_MEASUREMENTS.insert(), [_measurement(int(number[0]), entry) for entry in session.entries])
    return int(number[0])


def _measurement(number: int, entry: Entry) -> dict[str, Any]:
    plain = {
        column.name: getattr(entry, column.name) for column in _MEASUREMENTS.columns if hasattr(entry, column.name)
    }
    return {**plain, "session": number, "latency": _text(entry.latency.to_json())}


def _entries(connection: Connection, number: int) -> Iterator[Entry]:
    wanted = select(_MEASUREMENTS).where(_MEASUREMENTS.c.session == number).order_by(_MEASUREMENTS.c.id)
    for row in connection.execute(wanted).mappings():
        plain = {name: value for name, value in row.items() if name not in ("id", "session", "latency")}
        yield Entry(**plain, latency=Latency.from_json(json.loads(row["latency"])))


def _session(row: RowMapping, entries: list[Entry]) -> Session:
    return Session(
        study=row["study"],
        name=row["name"],
        runtime=row["runtime"],
        workload=Workload.from_json(json.loads(row["workload"])),
        machine=Machine.from_json(json.loads(row["machine"])),
        software=json.loads(row["software"]),
        entries=tuple(entries),
        taken=row["taken"],
        source=row["source"],
        metric=row["metric"],
        notes=tuple(json.loads(row["notes"])),
        id=row["id"],
        number=row["number"],
    )


def _text(content: Any) -> str:
    """JSON that is the same for equal content, so that rows can be found by it."""
    return json.dumps(content, sort_keys=True)

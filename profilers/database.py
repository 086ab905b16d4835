"""One SQLite file that several processes write: opened, checked to be ours, and made where there is none."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, MetaData, NullPool, create_engine, event
from sqlalchemy.exc import DatabaseError

from ..errors import HistoryError, StorageError

# Stands in the head of the file, so that another program's database is never taken for ours.
APPLICATION_ID = 0x70617267
_WAIT_SECONDS = 60.0
# Marks connections that will write: they ask for the file at once, so that two of them wait instead of failing halfway.
_WRITES = {"paring_writes": True}


@dataclass(frozen=True, slots=True)
class _Head:
    """Whose file it is, its schema, and the tables in it."""

    application: int
    schema: int
    names: frozenset[str]

    def is_ours(self, schema: int) -> bool:
        """Whether tables may be made in it; an empty file is ours to begin."""
        return not self.names or (self.application, self.schema) == (APPLICATION_ID, schema)


class Database:
    """A file of tables; every use opens it anew, so that nothing is held while something is measured."""

    def __init__(self, path: Path, tables: MetaData, *, schema: int) -> None:
        """Makes the file where there is none.

        Args:
            path: of the file; its folder is made if missing.
            tables: that it holds.
            schema: number of their form; it grows whenever older versions of paring could not read them any more.

        Raises:
            HistoryError: if it is another program's, damaged, or of a newer schema.
            StorageError: if it cannot be made or read.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder of {path}: {error.strerror or error}; give --history FILE where you may write."
            ) from error
        self._engine = _engine(path)
        with self._errors():
            self._prepare(tables, schema)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One look at the file, unchanged by what others write meanwhile."""
        with self._errors(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Everything written inside is in the file afterwards, or nothing, even if the process is killed.

        Raises:
            StorageError: if the disk refuses, or others write for longer than a minute.
        """
        with self._errors(), self._engine.connect().execution_options(**_WRITES) as connection, connection.begin():
            yield connection

    def _prepare(self, tables: MetaData, schema: int) -> None:
        with self._engine.connect() as connection:
            head = _head(connection)
        if not head.names:
            _keep_log(self.path)
        if head.is_ours(schema) and not set(tables.tables) <= head.names:
            with self.writing() as connection:
                # Another process may have made it since.
                head = _head(connection)
                if head.is_ours(schema):
                    tables.create_all(connection)
                    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.exec_driver_sql(f"PRAGMA user_version = {schema}")
        if head.names and head.application != APPLICATION_ID:
            raise HistoryError(f"{self.path} is a database, but no history of paring; give another --history FILE.")
        if head.names and head.schema != schema:
            raise HistoryError(
                f"{self.path} has schema {head.schema} and this paring reads schema {schema}; upgrade paring, or give "
                "another --history FILE. Nothing in it was changed."
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            if any(sign in cause for sign in ("not a database", "malformed")):
                raise HistoryError(
                    f"{self.path} is no history of paring, or damaged: {cause}; give another --history FILE."
                ) from error
            raise StorageError(
                f"cannot use the history {self.path}: {cause}. Free some space or make it writable; what is in it "
                "already is kept."
            ) from error


def _engine(path: Path) -> Engine:
    url = URL.create("sqlite", database=str(path.resolve()))
    # A pool would keep the file open across forks, and its connections until the interpreter ends.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": _WAIT_SECONDS})

    # The driver would begin transactions only at the first change, when another writer may be ahead already.
    @event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("paring_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _keep_log(path: Path) -> None:
    """Switches the file to a write-ahead log, with which readers and one writer do not wait for each other.

    The setting stays in the file. Where the system of the disk cannot do it, such as some network drives, SQLite keeps
    its older way, which is as safe and slower.
    """
    with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def _head(connection: Connection) -> _Head:
    application, schema = (
        int(connection.exec_driver_sql(question).scalar_one())
        for question in ("PRAGMA application_id", "PRAGMA user_version")
    )
    names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars()
    return _Head(application, schema, frozenset(map(str, names)))

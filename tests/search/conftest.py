"""Studies of tests need not outlive a power cut."""

from collections.abc import Iterator
from sqlite3 import Connection

import pytest
from sqlalchemy import Engine, event


@pytest.fixture(autouse=True, scope="session")
def _databases_without_fsync() -> Iterator[None]:
    """Each commit waits for the disk otherwise, and a study commits dozens of times per trial."""

    def relax(connection: Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)
    yield
    event.remove(Engine, "connect", relax)

import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from paring.errors import HistoryError, StorageError
from paring.profilers import history as kept
from paring.profilers.database import APPLICATION_ID
from paring.profilers.history import Entry, History, Session
from paring.profilers.latency import Latency
from paring.profilers.machine import Machine
from paring.profilers.workload import Workload

# Children inherit what was imported, so that a writer costs no second of its own.
FORK = multiprocessing.get_context("fork")
PLANS = 20


def machine(**facts: Any) -> Machine:
    plain = {"device": "cpu", "facts": {"name": "A"}, "cores": 2, "instruction_sets": ("avx2",), "memory_bytes": 2**33}
    return Machine(**{**plain, "system": "Linux 6", "versions": {"torch": "2.13"}, **facts})


def session(taken: float = 0.0, **more: Any) -> Session:
    baseline = Entry("b" * 12, "original", Latency((0.02, 0.021), 1.0, 1.0, 1.0), 100.0, True, 0.9, 0.0)
    plan = Entry("p" * 12, "plan", Latency((0.01, 0.011), 0.5, 0.49, 0.51), 50.0, quality=0.89, memory_bytes=1e6)
    plain = {"study": "s", "name": "tiny", "runtime": "torch", "workload": Workload(threads=1), "machine": machine()}
    return Session(**{**plain, "software": {"torch": "2.13"}, "entries": (baseline, plan), "taken": taken, **more})


def large(taken: float) -> Session:
    """A session of many rows."""
    late = Latency((0.01,) * 50, 1.0, 0.99, 1.01)
    return session(taken, entries=tuple(Entry(f"p{one}", f"p{one}", late, 1e6, one == 0) for one in range(PLANS)))


def write_some(path: Path, count: int) -> None:
    history = History(path)
    for number in range(count):
        history.add(large(float(number)))


def write_for_ever(path: Path, told: Connection) -> None:
    history, number = History(path), 0
    while True:
        number += 1
        history.add(large(float(number)))
        told.send(number)


def hang_in_the_middle(path: Path, told: Connection) -> None:
    """Writes half of a session, says so, and waits to be killed before the rest."""
    whole = kept._add

    def half(connection: Any, one: Session) -> int:
        number = whole(connection, one)
        told.send(number)
        time.sleep(60)
        return number

    kept._add = half
    History(path).add(large(1.0))


@contextmanager
def writing(what: Callable[[Path, Connection], None], path: Path) -> Iterator[tuple[Any, Connection]]:
    """A process that writes, and what it says."""
    hears, says = FORK.Pipe(duplex=False)
    process = FORK.Process(target=what, args=(path, says))
    process.start()
    try:
        yield process, hears
    finally:
        process.kill()
        process.join()
        hears.close()
        says.close()


def is_sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    history, one = History(tmp_path / "new" / "history.db"), session(5.0, notes=("busy",))
    number = history.add(one)
    assert History(history.path).sessions() == [replace(one, number=number)]


def test_a_session_is_kept_once(tmp_path: Path) -> None:
    history, one = History(tmp_path / "history.db"), session()
    assert history.add(one) == history.add(one)
    assert len(history.sessions()) == 1


def test_sessions_come_in_the_order_they_were_kept_whatever_the_clock_said(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db")
    for taken in (100.0, 50.0, 75.0):
        history.add(session(taken))
    assert [one.taken for one in history.sessions()] == [100.0, 50.0, 75.0]


def test_only_sessions_of_one_context_compare(tmp_path: Path) -> None:
    history, own = History(tmp_path / "history.db"), session()
    others = [
        session(study="other"),
        session(runtime="openvino"),
        session(workload=Workload(threads=2)),
        session(machine=machine(cores=4)),
        session(machine=machine(facts={"name": "B"})),
    ]
    # The same hardware with other software still compares: that is what a regression is looked for by.
    upgraded = session(machine=machine(versions={"torch": "2.14"}, system="Linux 7"))
    for one in (own, *others, upgraded):
        history.add(one)
    assert [one.id for one in history.sessions(context=own.context)] == [own.id, upgraded.id]
    assert len(history.sessions(study="s", hardware=own.context.hardware)) == 4


def test_histories_merge_without_repeats(tmp_path: Path) -> None:
    here, there = History(tmp_path / "here.db"), History(tmp_path / "there.db")
    shared = session()
    for history in (here, there):
        history.add(shared)
    there.add(session(1.0))
    assert (here.merge(there), here.merge(there)) == (1, 0)
    assert len(here.sessions()) == 2


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.db"  # which all of them find missing
    writers = [FORK.Process(target=write_some, args=(path, 15)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    found = History(path).sessions()
    assert len(found) == 60
    assert all(len(one.entries) == PLANS for one in found)


def test_a_kill_in_the_middle_of_a_session_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    History(path).add(session())
    with writing(hang_in_the_middle, path) as (process, hears):
        assert hears.poll(30)
        process.kill()
    assert is_sound(path)
    history = History(path)
    assert len(history.sessions()) == 1
    history.add(session(9.0))  # the lock died with its owner
    assert history.sessions()[-1].taken == 9.0


def test_kills_at_any_moment_leave_whole_sessions(tmp_path: Path) -> None:
    path, kept_before = tmp_path / "history.db", 0
    for pause in (0.0, 0.002, 0.005, 0.011):
        with writing(write_for_ever, path) as (process, hears):
            assert hears.poll(30)
            time.sleep(pause)
            process.kill()
        assert is_sound(path)
        found = History(path).sessions()
        assert len(found) > kept_before
        assert all(len(one.entries) == PLANS for one in found)
        kept_before = len(found)


def damaged(path: Path) -> None:
    History(path).add(session())
    content = bytearray(path.read_bytes())
    content[100:3000] = b"\xff" * 2900
    path.write_bytes(content)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE studies (id INTEGER)")
        connection.commit()


def newer(path: Path) -> None:
    History(path).add(session())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def text(path: Path) -> None:
    path.write_text("a diary, and long enough to be read as the head of a file " * 20, encoding="utf8")


@pytest.mark.parametrize(
    ("make", "words"),
    [(damaged, "damaged"), (foreign, "no history"), (newer, "schema 99 .* upgrade paring"), (text, "no history")],
)
def test_what_is_no_history_is_refused_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "history.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(HistoryError, match=words) as caught:
        History(path).sessions()
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf8")
    with pytest.raises(StorageError, match="--history FILE"):
        History(tmp_path / "file" / "history.db")


def test_the_file_says_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    History(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

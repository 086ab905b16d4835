from pathlib import Path
from typing import Any

import pytest

from paring.errors import HistoryError
from paring.profilers.history import Entry, Session
from paring.profilers.latency import Latency
from paring.profilers.machine import Machine
from paring.profilers.workload import Workload
from paring.reports.fleet import standings_of, write_fleet

DAY = 86400.0
LOADS = (8,) * 6


def session(taken: float, *, name: str = "A", ratio: float = 0.5, pick: int = 1, **more: Any) -> Session:
    machine = Machine("cpu", {"name": name}, 2, (), 2**33, "Linux 6", {"torch": "2.13"})

    def entry(number: int, ratio: float) -> Entry:
        late = Latency((0.02 * ratio,) * sum(LOADS), ratio, ratio * 0.995, ratio * 1.005, loads=LOADS)
        is_pick = number == pick
        label = "original" if number == 0 else f"<b>plan</b> {number}"
        return Entry(f"p{number}", label, late, 1e6, number == 0, 0.9, 0.0, on_front=True, is_pick=is_pick)

    entries = (entry(0, 1.0), entry(1, ratio), entry(2, 0.4))
    plain = {"study": "s", "name": "<i>tiny</i>", "runtime": "torch", "workload": Workload(), "metric": "accuracy"}
    return Session(**{**plain, "machine": machine, "software": {}, "entries": entries, "taken": taken, **more})


def test_every_machine_stands_where_it_was_last_measured() -> None:
    sessions = [
        session(0.0),
        session(DAY, name="B", pick=2),
        session(2 * DAY, ratio=0.6),
        session(0.0, source="search"),
    ]
    found = standings_of(sessions, now=10 * DAY, stale_seconds=8.5 * DAY)
    assert [one.session.taken for one in sorted(found, key=lambda one: one.session.taken)] == [DAY, 2 * DAY]
    by_name = {one.session.machine.facts["name"]: one for one in found}
    assert [one.plan for one in by_name["A"].verdicts.regressions] == ["p1"]
    assert by_name["B"].verdicts.against == ()
    assert {name: one.is_stale for name, one in by_name.items()} == {"A": False, "B": True}
    assert {name: one.pick.plan for name, one in by_name.items() if one.pick} == {"A": "p1", "B": "p2"}
    assert (by_name["A"].sessions, by_name["A"].age) == (2, "8 days")


def test_a_clock_that_was_moved_back_is_said() -> None:
    (one,) = standings_of([session(5 * DAY)], now=DAY, stale_seconds=DAY)
    assert "clock was moved back" in one.age
    assert not one.is_stale


def test_the_page_says_it_all_and_escapes_what_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fleet.html"
    sessions = [session(0.0), session(DAY, ratio=0.6), session(0.0, name="B")]
    assert write_fleet(sessions, path, now=40 * DAY, stale_seconds=39.5 * DAY) == 2
    page = path.read_text(encoding="utf8")
    for words in ("2 machines", "1 regressions", "1 out of date", "&lt;i&gt;tiny&lt;/i&gt;", "slower: &lt;b&gt;plan"):
        assert words in page
    assert "<i>tiny</i>" not in page
    assert 'src="http' not in page


def test_an_empty_history_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="holds no benchmark yet"):
        write_fleet([session(0.0, source="search")], tmp_path / "fleet.html", now=0.0, stale_seconds=1.0)
    assert not (tmp_path / "fleet.html").exists()

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from paring.errors import ScheduleError
from paring.reports.cron import Cron

TEXTS = (
    "0 3 * * 1",
    "*/15 * * * *",
    "30 2 1 * *",
    "0 0 1,15 */2 *",
    "5 4 * * MON-FRI",
    "0 12 13 * 5",
    "59 23 31 12 *",
    "0 6 * JAN,JUL 7",
)


@pytest.fixture(name="in_berlin")
def in_berlin_fixture(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place where the clock is put forward and back."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_the_last_time_is_this_minute_or_before() -> None:
    daily = Cron.parse("0 3 * * *")
    assert daily.last(at("2026-11-21T03:00")) == at("2026-11-21T03:00")
    assert daily.last(at("2026-11-21T02:59:59")) == at("2026-11-20T03:00")
    assert daily.last(at("2026-11-21T03:00") + 0.4) == at("2026-11-21T03:00")


def test_the_next_time_is_after_now() -> None:
    daily = Cron.parse("0 3 * * *")
    assert daily.next(at("2026-11-21T03:00")) == at("2026-11-22T03:00")
    assert daily.next(at("2026-11-21T02:59:59")) == at("2026-11-21T03:00")


def test_an_hour_that_comes_twice_counts_once(in_berlin: None) -> None:
    half_past_two = Cron.parse("30 2 * * *")
    first, second = at("2026-10-25T02:30+02:00"), at("2026-10-25T02:30+01:00")
    assert half_past_two.last(first) == half_past_two.last(second) == first


def test_an_hour_that_is_left_out_comes_once(in_berlin: None) -> None:
    half_past_two = Cron.parse("30 2 * * *")
    before, after = at("2026-03-28T12:00"), at("2026-03-29T12:00")
    moments = {half_past_two.last(at("2026-03-29T00:00") + 600 * step) for step in range(72)}
    moments = {moment for moment in moments if before < moment <= after}
    assert len(moments) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0 fields"),
        ("0 3 * *", "4 fields"),
        ("0 0 3 * * 1", "6 fields"),
        ("@daily", "1 fields"),
        ("61 * * * *", "bad minute"),
        ("0 25 * * *", "bad hour"),
        ("0 3 * * FOO", "bad day-of-week"),
        ("0 3 31 2 *", "no time"),
        ("0 3 L * *", "understood by all"),
        ("0 3 * * 5#2", "understood by all"),
        ("0 3 ? * 1", "understood by all"),
        ("*/0 * * * *", "bad minute"),
    ],
)
def test_wrong_text_is_refused_with_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ScheduleError, match=words) as caught:
        Cron.parse(text)
    assert repr(text) in str(caught.value)


def test_sunday_is_written_as_all_of_them_read_it() -> None:
    assert Cron.parse("0 3 * * 7").text == "0 3 * * 0"
    assert Cron.parse("0 3 * * 5-7").text == "0 3 * * 0,5,6"
    assert Cron.parse("0 3 * * 0-7").next(at("2026-11-21T12:00")) == at("2026-11-22T03:00")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("text", TEXTS)
def test_systemd_reads_the_same_times(text: str) -> None:
    cron, now = Cron.parse(text), at("2026-11-21T18:15")
    told: set[float] = set()
    for line in cron.on_calendar():
        asked = ["systemd-analyze", "calendar", "--base-time=2026-11-21 18:15:00", "--iterations=6", line]
        said = subprocess.run(
            asked, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}
        ).stdout
        found = re.findall(r"(?:Next elapse|Iter\. #\d+): \w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", said)
        told |= {at(moment) for moment in found}
    wanted = []
    for _ in range(6):
        now = cron.next(now)
        wanted.append(now)
    assert sorted(told)[:6] == wanted


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("0 3 * * 1", ("Mon *-*-* 03:00:00",)),
        ("*/30 * * * *", ("*-*-* *:00,30:00",)),
        ("0 12 13 * 5", ("*-*-13 12:00:00", "Fri *-*-* 12:00:00")),
        ("0 0 1 1,7 *", ("*-01,07-01 00:00:00",)),
        ("0 6 * * 7", ("Sun *-*-* 06:00:00",)),
    ],
)
def test_on_calendar(text: str, lines: tuple[str, ...]) -> None:
    assert Cron.parse(text).on_calendar() == lines

import multiprocessing
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from paring.errors import BundleError, BusyError, ScheduleError
from paring.reports import scheduler
from paring.reports.cron import Cron
from paring.reports.schedule import Schedule, Schedules
from paring.reports.scheduler import Scheduler, Surroundings

FORK = multiprocessing.get_context("fork")
HOUR, DAY = 3600.0, 86400.0
# A Saturday noon in any time zone within half a day of Greenwich; times below are told from there.
START = 1_795_262_400.0


class Clock:
    """Time that only passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.until = START, START

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.until:
            raise KeyboardInterrupt


class World:
    """A machine on which benchmarks take ten minutes."""

    def __init__(self, path: Path) -> None:
        self.schedules, self.clock = Schedules(path), Clock()
        self.started: list[tuple[str, float]] = []
        self.told: list[str] = []
        self.busy: Callable[[], str | None] = lambda: None
        self.code, self.is_known = 0, True

    def add(self, text: str = "0 * * * *", **more: Any) -> Schedule:
        return self.schedules.add(
            Path("run"), Cron.parse(text), arguments=(), now=self.clock.now, **{"on_new_hardware": False, **more}
        )

    def start(self, schedule: Schedule) -> tuple[int, str]:
        self.started.append((schedule.id, self.clock.now))
        self.clock.now += 600
        return self.code, "Deploy (->): the pick stays the original."

    def run(self, seconds: float = 0.0, *, once: bool = False) -> None:
        """A scheduler that is started now and ended later."""
        self.clock.until = self.clock.now + seconds
        around = Surroundings(
            lambda: self.clock.now,
            self.clock.sleep,
            self.start,
            lambda: self.busy(),
            lambda _: self.is_known,
            self.told.append,
        )
        if once:
            Scheduler(self.schedules, around).run(once=True)
            return
        with pytest.raises(KeyboardInterrupt):
            Scheduler(self.schedules, around).run()

    def outcomes(self, schedule: Schedule) -> list[str]:
        return [event.outcome for event in self.schedules.events(schedule)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # The clock jumps further than it would, so that hours are not hundreds of looks into the file.
    monkeypatch.setattr(scheduler, "_LONGEST_SLEEP_SECONDS", 900.0)
    return World(tmp_path / "history.db")


def test_every_time_is_followed_once(world: World) -> None:
    one = world.add("0 * * * *")
    world.run(5 * HOUR - 60)
    assert len(world.started) in (4, 5)  # the first may be now, by the clock of this time zone
    assert world.outcomes(one) == ["started", "done"] * len(world.started)
    late = [moment - Cron.parse("0 * * * *").last(moment) for _, moment in world.started]
    assert max(late) <= 31


def test_times_before_it_was_added_do_not_count(world: World) -> None:
    world.add("0 0 1 1 *")
    world.run(HOUR)
    assert world.started == []


def test_what_was_missed_is_caught_up_once(world: World) -> None:
    one = world.add("0 * * * *")
    world.clock.now += 5 * DAY + 120
    world.run(600 + 60)
    assert len(world.started) == 1
    world.run(60)  # started anew, it does not repeat it
    assert len(world.started) == 1
    assert world.outcomes(one) == ["started", "done"]


def test_one_benchmark_at_a_time(world: World) -> None:
    for _ in range(3):
        world.add("0 * * * *")
    world.run(HOUR + 3 * 600)
    starts = sorted(moment for _, moment in world.started)
    assert all(later - earlier >= 600 for earlier, later in pairwise(starts))
    assert len({name for name, _ in world.started}) == 3


def test_a_busy_machine_is_skipped_with_the_reason(world: World) -> None:
    one = world.add("0 * * * *")
    world.busy = lambda: "other processes take 1.50 cores"
    world.run(2 * HOUR + 60)
    assert world.started == []
    events = world.schedules.events(one)
    assert {event.outcome for event in events} == {"skipped"}
    assert {event.reason for event in events} == {"other processes take 1.50 cores"}
    assert len(events) == 2


@pytest.mark.parametrize(
    ("code", "outcome"), [(0, "done"), (3, "regression"), (1, "failed"), (2, "failed"), (-9, "failed")]
)
def test_how_a_benchmark_ended_is_kept(world: World, code: int, outcome: str) -> None:
    one = world.add()
    world.code, world.clock.now = code, world.clock.now + HOUR
    world.run(once=True)
    assert world.outcomes(one) == ["started", outcome]


def test_a_scheduler_that_was_killed_goes_on_and_does_not_repeat(world: World) -> None:
    one = world.add("0 * * * *")
    world.clock.now += HOUR

    def killed(_: Schedule) -> tuple[int, str]:
        raise SystemExit  # as little is written down as after a kill: nothing more

    world.start, whole = killed, world.start  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        world.run(once=True)
    assert world.outcomes(one) == ["started"]
    world.start = whole  # type: ignore[method-assign]
    world.run(once=True)
    assert world.outcomes(one) == ["started", "interrupted"]
    assert world.started == []
    world.clock.now += HOUR
    world.run(once=True)
    assert len(world.started) == 1


def test_a_clock_that_was_moved_back_is_told_and_repeats_nothing(world: World) -> None:
    one = world.add("0 * * * *")
    world.clock.now += 3 * DAY
    world.run(once=True)
    world.clock.now -= 2 * DAY
    world.run(once=True)
    assert len(world.started) == 1
    assert world.outcomes(one)[-1] == "clock moved back"
    world.clock.now += HOUR  # by the new clock, times count again
    world.run(once=True)
    assert len(world.started) == 2


def test_a_clock_that_was_corrected_by_seconds_is_not_worth_telling(world: World) -> None:
    one = world.add("0 * * * *")
    world.clock.now += HOUR
    world.run(once=True)
    world.clock.now -= 620  # ten minutes went by in the benchmark
    world.run(once=True)
    assert world.outcomes(one) == ["started", "done"]
    assert len(world.started) == 1


def test_new_hardware_is_measured_at_once_and_no_other(world: World) -> None:
    one, other = world.add("0 0 1 1 *", on_new_hardware=True), world.add("0 0 1 1 *")
    world.run(once=True)
    assert world.started == []
    world.is_known = False
    world.run(once=True)
    assert world.started == [(one.id, START)]
    assert world.outcomes(other) == []


def test_new_hardware_that_is_busy_is_tried_again_but_not_all_the_time(world: World) -> None:
    one = world.add("0 0 1 1 *", on_new_hardware=True)
    world.is_known = False
    world.busy = lambda: "busy" if world.clock.now < START + 2.5 * HOUR else None
    world.run(4 * HOUR)
    assert world.outcomes(one)[:5] == ["skipped", "skipped", "skipped", "started", "done"]


def test_a_study_that_is_gone_stops_no_other(world: World, tmp_path: Path) -> None:
    gone, other = world.add("0 0 1 1 *", on_new_hardware=True), world.add("0 * * * *")

    def is_known(schedule: Schedule) -> bool:
        raise BundleError(f"there is no bundle {schedule.source}.")

    world.clock.now += HOUR
    around = Surroundings(lambda: world.clock.now, world.clock.sleep, world.start, lambda: None, is_known, print)
    Scheduler(world.schedules, around).run(once=True)
    assert world.outcomes(gone) == ["failed"]
    assert world.outcomes(other) == ["started", "done"]


def hold(path: Path, told: Any) -> None:
    around = Surroundings(
        lambda: START, lambda _: told.send(1) or told.recv(), lambda _: (0, ""), lambda: None, bool, print
    )
    Scheduler(Schedules(path), around).run()


def test_a_second_scheduler_is_refused_and_a_killed_one_holds_nothing(world: World) -> None:
    ours, theirs = FORK.Pipe()
    first = FORK.Process(target=hold, args=(world.schedules.path, theirs))
    first.start()
    try:
        assert ours.poll(30)
        with pytest.raises(BusyError, match="another scheduler"):
            world.run(once=True)
    finally:
        first.kill()
        first.join()
        ours.close()
        theirs.close()
    world.run(once=True)


def test_schedules_are_found_by_the_beginning_of_their_id_and_removed(world: World) -> None:
    one, other = world.add(), world.add("0 3 * * 1", on_new_hardware=True)
    assert world.schedules.named(one.id[:7]) == one
    assert {schedule.id for schedule in world.schedules.all()} == {one.id, other.id}
    world.schedules.remove(one)
    assert world.schedules.all() == [other]
    with pytest.raises(ScheduleError, match=f"names 0 schedules; there are: {other.id}"):
        world.schedules.named(one.id)

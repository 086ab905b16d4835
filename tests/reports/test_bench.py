import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

from paring.errors import BundleError, DataError, HistoryError, MeasurementError, RunError, SettingError
from paring.profilers import occupancy
from paring.profilers.comparison import Late
from paring.profilers.history import History
from paring.profilers.latency import Latency
from paring.profilers.memory import Memory, MemoryMeter
from paring.profilers.verdicts import Verdict
from paring.reports import remeasure as remeasuring
from paring.reports.bench import Asked, bench, carried_from
from paring.reports.bench_texts import junit, render_bench
from paring.reports.benched import Benched
from paring.reports.bundling import make_bundle
from paring.reports.carried import Carried
from paring.reports.remeasure import Remeasured
from paring.search import rejudging
from paring.search.deployed import Deployed
from paring.search.objectives import Limits
from paring.search.study import Record
from paring.spaces.plan import Plan

LOADS = (8,) * 6
BASELINE_SECONDS = 0.02


def late(ratio: float, seconds: float = BASELINE_SECONDS) -> Late:
    return Late(Latency((seconds * ratio,) * sum(LOADS), ratio, ratio * 0.99, ratio * 1.01, loads=LOADS), None)


@pytest.fixture(scope="module")
def bundle(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the finished run; not to be changed."""
    path = tmp_path_factory.mktemp("bundle") / "study.zip"
    make_bundle(Record.open(finished_run), path, near=2)
    return path


class Machine:
    """A machine on which plans take what a test says."""

    def __init__(self) -> None:
        self.times: Callable[[Deployed], float] = lambda one: 1.0 if one.plan.is_identity else self.usual[one.plan]
        self.usual: dict[Any, float] = {}
        self.seconds, self.judged, self.now = BASELINE_SECONDS, 0, 1000.0

    def latencies(self, members: Sequence[Deployed], stand: object) -> list[Late]:
        for one in members:
            self.usual.setdefault(one.plan, 0.9 - 0.05 * len(self.usual))
        return [late(self.times(one), self.seconds) for one in members]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    here = Machine()
    judge = rejudging.Rejudge.quality

    def counted(self: rejudging.Rejudge, executable: Any) -> Any:
        here.judged += 1
        return judge(self, executable)

    monkeypatch.setattr(remeasuring, "latencies_of", here.latencies)
    monkeypatch.setattr(rejudging.Rejudge, "quality", counted)
    monkeypatch.setattr(occupancy, "lock_file", lambda: tmp_path / "lock")
    monkeypatch.setattr(MemoryMeter, "measure", lambda self, folder: Memory(200_000_000, 100_000_000, 150_000_000))
    return here


@pytest.fixture
def measured(machine: Machine, bundle: Path, tmp_path: Path) -> Callable[..., Benched]:
    """Benchmarks the bundle on the machine, in a history of its own."""
    history = History(tmp_path / "history.db")

    def run(source: Path = bundle, **asked: Any) -> Benched:
        machine.now += 100
        return bench(source, Asked(**{"plans": 4, **asked}), history, now=lambda: machine.now, out=tmp_path / "out")

    return run


def test_a_bundle_is_measured_without_judging_any_quality(
    measured: Callable[..., Benched], machine: Machine, bundle: Path
) -> None:
    found = measured(plans=4)
    assert machine.judged == 0
    assert all(one.is_verified and not one.was_judged for one in found.found)
    carried = {member.plan: member.final.quality for member in carried_from(bundle).members}
    assert {one.plan: one.quality for one in found.found}.items() <= carried.items()
    assert len(found.found) == 5
    assert {one.quality.split for one in found.found} == {"test"}
    assert found.verdicts.against == ()
    assert found.exit_code == 0


def test_a_bundle_of_the_same_run_is_the_same_file(bundle: Path, finished_run: Path, tmp_path: Path) -> None:
    make_bundle(Record.open(finished_run), tmp_path / "again.zip", near=2)
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_a_bundle_tells_no_path_of_the_machine_it_was_made_on(bundle: Path, odd_model_folder: Path) -> None:
    content = json.dumps(carried_from(bundle).bundle.content)
    assert str(odd_model_folder.parent) not in content
    assert "/tmp" not in content


def test_the_front_here_follows_what_was_measured_here(measured: Callable[..., Benched], machine: Machine) -> None:
    usual = measured(plans=100)

    def is_only_fast(one: Remeasured) -> bool:
        """Whether another plan is as good and as small."""
        rest = (other for other in usual.found if other is not one)
        own = (-one.quality.value, one.profile.stored_bytes)
        return any(-other.quality.value <= own[0] and other.profile.stored_bytes <= own[1] for other in rest)

    victim = next(one.plan for one in usual.found[1:] if one.member.was_on_front and is_only_fast(one))
    machine.times = lambda one: 1.0 if one.plan.is_identity else 3.0 if one.plan == victim else 0.5
    now = measured(plans=100)
    left = {move.plan: move.reason for move in now.fresh.left}
    assert "is no worse here in anything" in left[victim]
    on_front = {point.plan for point in now.fresh.front.members}
    was = {one.plan for one in now.found if one.member.was_on_front}
    assert {move.plan for move in now.fresh.left} == was - on_front
    assert {move.plan for move in now.fresh.came} == on_front - was


def test_the_pick_changes_where_another_plan_is_the_fastest(measured: Callable[..., Benched], machine: Machine) -> None:
    first = measured()
    others = [one for one in first.found if one.plan != first.fresh.earlier.plan and not one.plan.is_identity]
    same = [one for one in others if one.quality.value >= first.found[0].quality.value - 0.5]
    machine.times = lambda one: 1.0 if one.plan.is_identity else 0.1 if one.plan == same[0].plan else 0.8
    found = measured(limits=Limits(max_drop=0.5))
    assert found.fresh.answer.plan == same[0].plan
    assert found.fresh.pick_changes == (found.fresh.earlier.plan != same[0].plan)
    assert "the pick" in found.fresh.reason


def test_an_unchanged_machine_gives_no_regression_and_a_slower_plan_one(
    measured: Callable[..., Benched], machine: Machine
) -> None:
    measured()
    again = measured()
    assert {one.verdict for one in again.verdicts.plans} == {Verdict.SAME}
    assert again.exit_code == 0
    victim = again.found[2].plan
    machine.times = lambda one: (
        1.0 if one.plan.is_identity else machine.usual[one.plan] * (1.15 if one.plan == victim else 1.0)
    )
    slower = measured()
    assert [one.plan for one in slower.verdicts.regressions] == [victim.fingerprint]
    assert slower.exit_code == 3


def test_what_is_written_can_be_read_again(measured: Callable[..., Benched], tmp_path: Path) -> None:
    measured()
    found = measured()
    content = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf8"))
    assert content == json.loads(json.dumps(found.to_json()))
    assert {row["fingerprint"] for row in content["plans"]} == {one.plan.fingerprint for one in found.found}
    assert content["pick"] == found.fresh.answer.plan.fingerprint
    assert len((tmp_path / "out" / "front.csv").read_text(encoding="utf8").splitlines()) == 1 + len(
        found.fresh.front.members
    )
    suite = ElementTree.fromstring(junit(found))
    assert (suite.tag, int(suite.get("tests", 0)), int(suite.get("failures", 9))) == ("testsuite", len(found.found), 0)
    shown = render_bench(found, Console(width=200))
    assert "Deploy (->)" in shown
    assert "0 regressions" in shown


def test_junit_fails_what_became_slower_and_skips_what_cannot_be_told(
    measured: Callable[..., Benched], machine: Machine
) -> None:
    first = measured()
    victim = first.found[1].plan
    machine.times = lambda one: (
        1.0 if one.plan.is_identity else machine.usual[one.plan] * (1.3 if one.plan == victim else 1.0)
    )
    suite = ElementTree.fromstring(junit(measured()))
    failed = [case for case in suite if case.find("failure") is not None]
    assert len(failed) == int(suite.get("failures", 0)) == 1
    assert victim.fingerprint in failed[0].get("name", "")
    # One earlier session does not show how the whole machine scatters.
    assert [case.get("name") for case in suite if case.find("skipped") is not None] == ["the whole machine"]


def differing(monkeypatch: pytest.MonkeyPatch, plan_number: int) -> None:
    """Makes the answers of one plan other ones than were carried."""
    answers = Carried.answers

    def moved(self: Carried, plan: Any) -> Mapping[str, torch.Tensor]:
        known = answers(self, plan)
        return {"values": known["values"] + 1.0} if plan == self.members[plan_number].plan else known

    monkeypatch.setattr(Carried, "answers", moved)


def test_where_answers_differ_quality_is_judged_again_and_nowhere_else(
    measured: Callable[..., Benched], machine: Machine, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    differing(monkeypatch, 1)
    found = measured(data=str(data_folder))
    assert machine.judged == 1
    judged = found.found[1]
    assert (judged.was_judged, judged.is_verified) == (True, True)
    assert judged.quality == judged.member.final.quality  # the model is what it was; only what was carried is not
    assert any("judged again" in note for note in found.notes)


def test_without_the_data_such_quality_is_unverified_and_never_picked(
    measured: Callable[..., Benched], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = measured()
    number = next(n for n, one in enumerate(usual.found) if one.plan == usual.fresh.answer.plan)
    differing(monkeypatch, number)
    found = measured()
    assert machine.judged == 0
    assert [one.is_verified for one in found.found] == [n != number for n in range(len(found.found))]
    if number:
        assert found.fresh.answer.plan != usual.fresh.answer.plan
    assert any("unverified" in note for note in found.notes)
    assert "?" in render_bench(found, Console(width=200))


def test_a_plan_that_cannot_run_here_leaves_and_the_others_are_measured(
    measured: Callable[..., Benched], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = next(one.plan for one in carried_from(bundle).thinned(4, keep=None).members[1:] if one.was_on_front)
    loaded = remeasuring.reload

    def refuse(plan: Plan, *rest: Any) -> Deployed:
        if plan == victim:
            raise MeasurementError("memory ran out")
        return loaded(plan, *rest)

    monkeypatch.setattr(remeasuring, "reload", refuse)
    found = measured()
    assert victim not in {one.plan for one in found.found}
    assert len(found.found) == 4
    assert {move.plan: move.reason for move in found.fresh.left}[victim] == "it cannot run here: memory ran out"
    assert any("was not measured: memory ran out" in note for note in found.notes)


def test_other_data_than_the_studys_are_refused_before_anything_is_measured(
    measured: Callable[..., Benched], machine: Machine, data_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(data_folder, tmp_path / "other"))
    rows = (other / "test.jsonl").read_text(encoding="utf8").splitlines()
    (other / "test.jsonl").write_text("\n".join(rows[1:]), encoding="utf8")
    with pytest.raises(DataError, match="does not hold the data of the study"):
        measured(data=str(other))
    assert machine.usual == {}


def test_another_workload_is_another_context(measured: Callable[..., Benched]) -> None:
    first = measured()
    other = measured(workload={"batch": 2})
    assert other.session.workload == replace(first.session.workload, batch=2)
    assert other.verdicts.against == ()
    assert len(measured().verdicts.against) == 1


def test_a_session_to_compare_with_is_named_by_the_beginning_of_its_id(measured: Callable[..., Benched]) -> None:
    first = measured()
    measured()
    found = measured(against=first.session.id[:10])
    assert [session.id for session in found.verdicts.against] == [first.session.id]
    with pytest.raises(HistoryError, match="names 0 sessions"):
        measured(against="xyz")


def test_fewer_plans_keep_the_original_the_ends_of_the_front_and_the_pick(bundle: Path) -> None:
    carried = carried_from(bundle)
    front = sorted(
        (one for one in carried.members[1:] if one.was_on_front),
        key=lambda one: one.final.profile.latency.ratio,  # type: ignore[union-attr]
    )
    keep = front[len(front) // 2].plan
    few = carried.thinned(2, keep=keep)
    assert few.members[0] == carried.members[0]
    assert len(few.members) == 3
    assert keep in {one.plan for one in few.members}
    assert carried.thinned(100, keep=None).members[0] == carried.members[0]
    assert len(carried.thinned(100, keep=None).members) == len(carried.members)


def test_the_searchs_own_numbers_are_kept_once(measured: Callable[..., Benched], tmp_path: Path) -> None:
    measured()
    measured()
    sources = [session.source for session in History(tmp_path / "history.db").sessions()]
    assert sources == ["search", "bench", "bench"]


def test_a_clock_that_was_moved_back_is_noted_and_the_order_stays(
    measured: Callable[..., Benched], machine: Machine
) -> None:
    measured()
    machine.now = 10.0
    found = measured()
    assert any("the clock is" in note for note in found.notes)
    assert len(found.verdicts.against) == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cuda:77"}, "no device 'cuda:77'"),
        ({"runtime": "tensorrt"}, "unknown runtime 'tensorrt'"),
        ({"workload": {"tokens": 10_000}}, "positions"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"seconds": float("nan")}, "seconds"),
        ({"plans": 0}, "at least one plan"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    measured: Callable[..., Benched], asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        measured(**asked)


def test_neither_run_nor_bundle(measured: Callable[..., Benched], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="neither a run folder nor a bundle"):
        measured(tmp_path / "nothing")
    with pytest.raises(RunError, match="is no run folder"):
        measured(tmp_path / "empty")


def test_a_run_folder_is_bundled_once(run_folder: Path) -> None:
    first = carried_from(run_folder, near=0)
    made = (run_folder / "bundle.zip").stat().st_mtime_ns
    again = carried_from(run_folder, near=0)
    assert (run_folder / "bundle.zip").stat().st_mtime_ns == made
    assert again.state == first.state
    (run_folder / "bundle.zip").write_bytes(b"damaged")
    assert carried_from(run_folder, near=0).state == first.state

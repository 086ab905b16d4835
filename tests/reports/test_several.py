import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paring.api import compare_runs
from paring.errors import RunError, SettingError
from paring.reports.page import write_side_by_side
from paring.reports.several import comparison, labels
from paring.reports.story import story_of
from paring.search.study import Record
from paring.search.trial import Final, State

MakeFinal = Callable[..., Final]
MakeRecord = Callable[..., Record]
MakeRun = Callable[..., Record]


@pytest.fixture
def make_run(make_record: MakeRecord, finished_run: Path, tmp_path: Path) -> MakeRun:
    """A run in a folder of its own, with settings of its own."""

    def make(name: str, *finals: Final, **identity: Any) -> Record:
        settings = Record.open(finished_run).settings
        settings["identity"] |= identity
        record = make_record(*finals, finals=finals, settings=settings)
        return Record.open(Path(shutil.move(record.folder, tmp_path / name)))

    return make


@pytest.fixture
def two(make_run: MakeRun, make_final: MakeFinal) -> list[Record]:
    """On the second runtime, what was fastest on the first one is slow."""
    one = (make_final(), make_final(1, ratio=0.5), make_final(2, ratio=0.7, quality=0.905))
    other = (make_final(), make_final(1, ratio=0.9), make_final(2, ratio=0.6, quality=0.905))
    return [make_run("one", *one), make_run("other", *other, runtime="openvino")]


def stories_of(records: list[Record]) -> list[Any]:
    return [story_of(record, label) for record, label in zip(records, labels(records), strict=True)]


def test_the_pick_that_changes_is_looked_up_in_the_other_run(two: list[Record]) -> None:
    stories = stories_of(two)
    found = comparison(stories)
    one, other = labels(two)
    assert one.startswith("torch on ") and other.startswith("openvino on ")
    assert [(row["pick"], row["speedup"]) for row in found["picks"]] == [
        ("encoder 5/6 layers (without 1)", pytest.approx(1 / 0.5)),
        ("encoder 5/6 layers (without 2)", pytest.approx(1 / 0.6)),
    ]
    assert [(row["pick_of"], row["run"], row["speedup"]) for row in found["elsewhere"]] == [
        (one, other, pytest.approx(1 / 0.9)),
        (other, one, pytest.approx(1 / 0.7)),
    ]
    assert found["words"][0] == "The pick changes: 2 different plans are recommended for 2 runs."
    assert found["words"][1] == (
        f"The pick of {one!r}, looked up in {other!r}, is 1.11 times as fast as the original with a drop of +0.0000 "
        "(test split); the pick there is 1.67 times as fast with a drop of -0.0050 (test split)."
    )
    assert found["caution"] == []


def test_a_pick_that_stays_the_same_is_said(make_run: MakeRun, make_final: MakeFinal) -> None:
    finals = (make_final(), make_final(1, ratio=0.5))
    records = [make_run("one", *finals), make_run("other", *finals, runtime="openvino")]
    assert comparison(stories_of(records))["words"] == ["The pick is the same everywhere."]


def test_a_pick_that_another_run_never_judged_is_said(make_run: MakeRun, make_final: MakeFinal) -> None:
    records = [
        make_run("one", make_final(), make_final(1, ratio=0.5)),
        make_run("other", make_final(), runtime="openvino"),
    ]
    one, other = labels(records)
    assert (
        f"The pick of {one!r}, looked up in {other!r}, was not judged there."
        in comparison(stories_of(records))["words"]
    )


def test_runs_of_different_data_and_requests_are_cautioned(make_run: MakeRun, make_final: MakeFinal) -> None:
    workload = {"batch": 8, "tokens": 16, "threads": 1}
    records = [make_run("one", make_final()), make_run("other", make_final(), data="another", workload=workload)]
    assert comparison(stories_of(records))["caution"] == [
        "These runs differ in data: their qualities do not compare.",
        "They serve different workloads: their milliseconds do not compare.",
    ]


def test_runs_alike_in_everything_are_told_apart_by_their_folders(make_run: MakeRun, make_final: MakeFinal) -> None:
    records = [make_run("one", make_final()), make_run("other", make_final())]
    assert [label.rpartition("/")[2] for label in labels(records)] == ["one", "other"]


def test_one_page_holds_both_runs(two: list[Record], tmp_path: Path) -> None:
    page = compare_runs([record.folder for record in two], tmp_path / "both.html")
    raw = page.read_text(encoding="utf8")
    data = json.loads(raw.partition('id="data">')[2].partition("</script>")[0])
    assert [len(run["trials"]["rows"]) for run in data["runs"]] == [3, 3]
    assert raw.count('role="tab" id=') == raw.count('<article class="run"') == 2
    assert not (two[0].folder / "report.html").exists()


def test_a_run_without_an_answer_stands_beside_the_others(
    two: list[Record], make_record: MakeRecord, tmp_path: Path
) -> None:
    record = make_record((two[0].trials()[0].plan, State.FAILED, "broken"))
    text = write_side_by_side([*two, record], tmp_path / "all.html").read_text(encoding="utf8")
    assert "recommends nothing." in text and "No answer yet" in text


def test_pages_that_cannot_be_are_refused(two: list[Record], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="each run is given once"):
        write_side_by_side([two[0], two[0]], tmp_path / "both.html")
    with pytest.raises(SettingError, match=r"a file in a folder that exists, got .*none"):
        write_side_by_side(two, tmp_path / "none" / "both.html")
    with pytest.raises(RunError, match="is no run folder"):
        compare_runs([two[0].folder, tmp_path / "none"], tmp_path / "both.html")
    assert not (tmp_path / "both.html").exists()

import copy
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from paring.api import Study
from paring.errors import RunError, StorageError
from paring.reports import page, story
from paring.reports.front import front_of
from paring.reports.page import REPORT, write_report
from paring.search.study import DATABASE, Record
from paring.search.trial import Final, State
from paring.spaces.plan import Plan

MakeFinal = Callable[..., Final]
MakePlan = Callable[..., Plan]
MakeRecord = Callable[..., Record]

HOSTILE = """<script>alert(1)</script>"'&amp; 😀 שלום <img src=x onerror=alert(2)>"""
LARGEST_PAGE = 6_000_000


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, text outside scripts, style sheets, rows of tables."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.styles, self.rows = list[tuple[str, dict[str, str | None]]](), "", list[list[str]]()
        self._open, self._text, self._in_cell, self._data = "", "", False, ""
        self.feed(path.read_text(encoding="utf8"))
        self.close()
        self.text = " ".join(self._text.split())
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        self.data = json.loads(self._data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = "data" if ("id", "data") in attrs else tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._open = ""
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open == "style":
            self.styles += data
        elif self._open == "data":
            self._data += data
        elif self._open != "script":
            self._text += data
            if self._in_cell:
                self.rows[-1][-1] += data

    def table(self, first: str) -> list[list[str]]:
        """The rows under the heading row that begins with this cell."""
        start = next(number for number, row in enumerate(self.rows) if row[0] == first) + 1
        stop = next((n for n in range(start, len(self.rows)) if len(self.rows[n]) != len(self.rows[start])), None)
        return self.rows[start:stop]

    def drawn(self, name: str, run: int = 0) -> list[dict[str, Any]]:
        """Rows that the page's script is handed."""
        table = self.data["runs"][run][name]
        return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


@pytest.fixture(scope="module")
def study(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A copy of the finished run with a report of its own."""
    found = Study(shutil.copytree(finished_run, tmp_path_factory.mktemp("page") / "run"))
    assert found.report() == found.record.folder / REPORT
    return found


@pytest.fixture(scope="module")
def shown(study: Study) -> Page:
    return Page(study.record.folder / REPORT)


def with_hostile_strings(data: Any) -> Any:
    """The same data with every string replaced."""
    if isinstance(data, dict):
        return {name: with_hostile_strings(value) for name, value in data.items()}
    if isinstance(data, list):
        return [with_hostile_strings(value) for value in data]
    return HOSTILE if isinstance(data, str) else data


def test_the_page_needs_nothing_beside_it(study: Study, shown: Page) -> None:
    assert [(tag, attrs) for tag, attrs in shown.tags if {"src", "href", "srcset", "data"} & attrs.keys()] == []
    assert not {"link", "iframe", "object", "embed", "base", "img"} & {tag for tag, _ in shown.tags}
    assert "@import" not in shown.styles and "url(" not in shown.styles
    assert (study.record.folder / REPORT).stat().st_size < LARGEST_PAGE
    (policy,) = [
        attrs["content"] or "" for _, attrs in shown.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy and "unsafe-eval" not in policy


def test_the_page_answers_with_the_pick_and_names_the_splits(study: Study, shown: Page) -> None:
    pick = study.pick()
    assert f"Deploy {'the original' if pick.point.is_baseline else pick.point.plan}" in shown.text
    assert f"It is {pick.reason}. Kernels: {pick.point.profile.kernels}." in shown.text
    assert "Splits: search on validation, front on test, ranges calibrated on train." in shown.text
    assert "Not final" not in shown.text and "did not give the same numbers" not in shown.text


def test_the_page_says_what_was_asked(study: Study, shown: Page, odd_model_folder: Path, data_folder: Path) -> None:
    facts = study.record.settings["facts"]["machine"]
    model, data = ("/".join(folder.parts[-2:]) for folder in (odd_model_folder, data_folder))
    assert f"Model {model}, task classification on {data}, judged by accuracy" in shown.text
    assert str(odd_model_folder.parent.parent) not in shown.text
    assert "one request being 1 × 16 tokens on 1 threads" in shown.text
    assert "Searched: depth, bits; optimised: quality, latency, memory, size." in shown.text
    assert facts["facts"]["name"] in shown.text and f"torch {facts['versions']['torch']}" in shown.text
    assert re.search(r"told the baseline from itself to within \d+\.\d % when", shown.text)


def test_the_page_says_what_is_generated(make_record: MakeRecord, make_final: MakeFinal, finished_run: Path) -> None:
    settings = Record.open(finished_run).settings
    settings["identity"]["workload"]["generated"] = 24
    shown = Page(write_report(make_record(make_final(), settings=settings)))
    assert "one request being 1 × 16 tokens and 24 generated on 1 threads" in shown.text


def test_the_page_lists_every_trial(study: Study, shown: Page) -> None:
    trials = study.record.trials()
    rows = shown.drawn("trials")
    assert len(rows) == 8 and "All 8 trials" in shown.text
    assert [(row["number"], row["state"], row["plan"]) for row in rows] == [
        (t.number, "judged", str(t.plan)) for t in trials
    ]
    assert [row["size_mb"] for row in rows] == [t.measures.size_bytes / 1e6 for t in trials if t.measures]
    assert [row["quality"] for row in rows] == pytest.approx([t.quality.value for t in trials if t.quality])


def test_the_table_of_the_page_is_the_front(study: Study, shown: Page) -> None:
    front, rows = study.front(), shown.table("accuracy")[: len(study.front())]
    numbers = ("quality", ".4f"), ("drop", "+.4f"), ("search_quality", ".4f"), ("latency_ms", ".2f")
    more = ("speedup", ".2f"), ("memory_mb", ".0f"), ("size_mb", ".1f")
    for row, (_, member) in zip(rows, front.iterrows(), strict=True):
        assert row[:7] == [format(member[name], form) for name, form in (*numbers, *more)]
        plan = "the original" if member["is_baseline"] else member["plan"]
        naive = {fingerprint: f" {name}" for name, fingerprint in study.record.naive.items()}
        assert row[7] == f"{plan} {member['fingerprint']}{naive.get(member['fingerprint'], '')}"


def test_what_the_script_draws_is_the_front(study: Study, shown: Page) -> None:
    front = study.whole_front
    rows = shown.drawn("front")
    members = [row for row in rows if row["role"] == "front"]
    assert [row["fingerprint"] for row in members] == [point.plan.fingerprint for point in front.members]
    assert [row["tie"] for row in members] == list(front.ties)
    assert len(rows) == len(study.record.finals())
    for row, point in zip(members, front.members, strict=True):
        assert row["quality"] == pytest.approx(point.quality.value, rel=1e-8)
        assert (row["quality_low"], row["quality_high"]) == pytest.approx(
            (point.quality.low, point.quality.high), rel=1e-8
        )
        assert row["trial"] in {trial.number for trial in study.record.trials() if trial.plan == point.plan}


def test_no_number_of_the_page_is_a_negative_zero(shown: Page) -> None:
    titles = " ".join(attrs.get("title") or "" for _, attrs in shown.tags)
    assert not re.search(r"-0\.0+(?!\d)", f"{shown.text} {titles}")


def test_the_files_agree_with_the_front(study: Study) -> None:
    front = study.front()
    read = pd.read_csv(study.record.folder / "front.csv", dtype={"fingerprint": str})
    pd.testing.assert_frame_equal(read, front, rtol=1e-12, check_dtype=False)
    data = json.loads((study.record.folder / "front.json").read_text(encoding="utf8"))
    plans = [member.pop("plan_json") for member in data["members"]]
    measured = [member.pop("measured") for member in data["members"]]
    assert data["members"] == front.to_dict("records")
    for one in measured:
        assert 0 < one["p50_ms"] <= one["p90_ms"] <= one["p99_ms"]
        assert one["requests_per_second"] > 0
        assert one["energy"]["source"]
        assert isinstance(one["warnings"], list)
    assert [Plan.from_json(plan).fingerprint for plan in plans] == front["fingerprint"].tolist()
    assert data["hypervolume"] == study.whole_front.hypervolume
    assert (data["metric"], data["split"]) == ("accuracy", "test")
    assert data["objectives"] == ["quality", "latency", "memory", "size"]
    assert data["baseline"]["is_baseline"] is True and data["baseline"]["speedup"] == 1.0


def test_a_second_report_replaces_the_first(run_folder: Path) -> None:
    write_report(Record.open(run_folder))
    first = {path.name for path in run_folder.iterdir()}
    write_report(Record.open(run_folder))
    assert {path.name for path in run_folder.iterdir()} == first >= {REPORT, "front.csv", "front.json"}


def test_a_disk_that_refuses_leaves_the_old_report(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run_folder / REPORT).read_bytes()

    def refuse(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "replace_file", refuse)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        write_report(Record.open(run_folder))
    assert (run_folder / REPORT).read_bytes() == before


def test_names_from_outside_are_text_and_never_markup(
    finished_run: Path, make_record: MakeRecord, make_final: MakeFinal, make_plan: MakePlan
) -> None:
    known = Record.open(finished_run).settings
    odd = replace(make_final(1, ratio=0.5, kernels=HOSTILE), plan=replace(make_plan(1), weights=HOSTILE))
    settings = with_hostile_strings(copy.deepcopy(known))
    settings["facts"]["machine"]["versions"] = {HOSTILE: HOSTILE}
    failed = (make_plan(2), State.FAILED, HOSTILE)
    record = make_record(make_final(), odd, failed, finals=(make_final(), odd), settings=settings)
    path = write_report(record)
    shown = Page(path)
    raw = path.read_text(encoding="utf8")
    assert "<script>alert" not in raw and "<img" not in raw
    assert sum(tag == "script" for tag, _ in shown.tags) == raw.count("<script") == raw.count("</script>")
    assert f"Model {HOSTILE}, task {HOSTILE} on {HOSTILE}, judged by" in shown.text
    assert f"seed 0, sampler {HOSTILE}." in shown.text and f"{HOSTILE} {HOSTILE}." in shown.text
    assert shown.drawn("trials")[-1]["cause"] == HOSTILE
    member, baseline = shown.table("accuracy")
    assert member[7] == f"{odd.plan} {odd.plan.fingerprint}" and member[8] == HOSTILE
    assert baseline[7].startswith("the original")


def test_a_run_that_was_only_searched_says_so(make_record: MakeRecord, make_final: MakeFinal) -> None:
    shown = Page(write_report(make_record(make_final(), make_final(1, quality=0.895, ratio=0.5))))
    assert "Not final. The front below was only searched" in shown.text
    assert "Deploy encoder 5/6 layers (without 1)" in shown.text
    assert "on the search split." in shown.text and "95 % interval" not in shown.text.split("The front", 2)[1]


def test_a_report_without_a_pick_says_why(
    make_record: MakeRecord, make_final: MakeFinal, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(make_final(), make_final(1))
    settings = record.settings
    assert settings["identity"]["budget"] == {}
    front = front_of(record)
    worse = replace(front.baseline, measures=replace(front.baseline.measures, drop=0.5))
    monkeypatch.setattr(story, "front_of", lambda *_, **__: replace(front, baseline=worse, members=(worse,)))
    shown = Page(write_report(record))
    assert "No plan is recommended no member of the front keeps drop=0.01" in shown.text and "Deploy" not in shown.text


def test_causes_of_failed_trials_are_listed(
    make_record: MakeRecord, make_final: MakeFinal, make_plan: MakePlan
) -> None:
    failures = (
        (make_plan(2), State.FAILED, "the model answers NaN"),
        (make_plan(3), State.OUT_OF_MEMORY, "killed by signal 9"),
        (None, State.INTERRUPTED, "interrupted by the user"),
    )
    shown = Page(write_report(make_record(make_final(), *failures)))
    states = [(row["state"], row["quality"], row["plan"], row["cause"]) for row in shown.drawn("trials")[1:]]
    assert states == [
        ("failed", None, "encoder 5/6 layers (without 2)", "the model answers NaN"),
        ("out of memory", None, "encoder 5/6 layers (without 3)", "killed by signal 9"),
        ("interrupted", None, None, "interrupted by the user"),
    ]


@pytest.mark.parametrize("failed", [0, 2])
def test_a_run_with_no_judged_trial_says_so_and_lists_the_causes(
    make_record: MakeRecord, make_plan: MakePlan, failed: int
) -> None:
    record = make_record(*[(make_plan(*range(number)), State.FAILED, f"broken {number}") for number in range(failed)])
    with pytest.raises(RunError, match=r"no trial of .* has numbers yet.*go on with .*What became of its trials is in"):
        write_report(record)
    shown = Page(record.folder / REPORT)
    assert "No answer yet no trial of" in shown.text and "Deploy" not in shown.text
    assert [row["cause"] for row in shown.drawn("trials")] == [f"broken {number}" for number in range(failed)]
    assert not (record.folder / "front.csv").exists()


def test_a_run_with_one_trial_recommends_the_original(make_record: MakeRecord, make_final: MakeFinal) -> None:
    shown = Page(write_report(make_record(make_final())))
    assert "Deploy the original" in shown.text and "All 1 trials" in shown.text
    assert [row["role"] for row in shown.drawn("front")] == ["front"]
    assert shown.drawn("growth") == [{"trials": 1, "minutes": shown.drawn("growth")[0]["minutes"], "hypervolume": 0.0}]


def test_a_metric_that_is_not_a_number_is_a_damaged_run(make_record: MakeRecord, make_final: MakeFinal) -> None:
    record = make_record(make_final(), make_final(1))
    report = record.folder / REPORT
    write_report(record)
    before = report.read_bytes()
    quality = {**make_final(1).quality.to_json(), "value": float("nan")}
    with sqlite3.connect(record.folder / DATABASE) as database:
        written = database.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'quality' AND trial_id = 2",
            [json.dumps(quality)],
        )
        assert written.rowcount == 1
    database.close()
    with pytest.raises(RunError, match=r"trial 1 of the run is damaged: accuracy on the test split is not finite"):
        write_report(Record.open(record.folder))
    assert report.read_bytes() == before


def test_a_member_that_reloads_differently_is_named(make_record: MakeRecord, make_final: MakeFinal) -> None:
    odd = replace(make_final(1, ratio=0.5), reloads_equal=False)
    shown = Page(write_report(make_record(make_final(), odd, finals=(make_final(), odd))))
    assert "Reloaded, these did not give the same numbers: encoder 5/6 layers (without 1)." in shown.text


def test_the_gap_between_the_splits_is_relative_to_the_baseline(make_record: MakeRecord, make_final: MakeFinal) -> None:
    searched = (make_final(quality=0.95), make_final(1, quality=0.94, ratio=0.5))
    finals = (make_final(quality=0.9), make_final(1, quality=0.87, ratio=0.5))
    shown = Page(write_report(make_record(*searched, finals=finals)))
    assert "members look 0.0200 better against the baseline than on the test split, on average." in shown.text


@pytest.mark.parametrize(
    ("objectives", "numbers"),
    [(("latency", "size"), {"ratio": 0.5, "size": 50_000_000}), (("quality", "size"), {"quality": 0.99, "size": 10})],
)
def test_a_hypervolume_is_never_above_what_the_page_calls_the_most(
    make_record: MakeRecord, make_final: MakeFinal, objectives: tuple[str, ...], numbers: dict[str, float]
) -> None:
    searched = (make_final(), make_final(1, **numbers))
    shown = Page(write_report(make_record(*searched, objectives=objectives)))
    found = re.search(r"Hypervolume (\d\.\d+)(?: of at most ([\d.]+))?", shown.text)
    assert found is not None
    assert float(found[1]) <= float(found[2] or "inf")

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from paring.api import Study
from paring.errors import RunError, StorageError
from paring.reports import page
from paring.reports.page import REPORT, blocks_of, write_report
from paring.search.study import Record
from paring.search.trial import Final, State
from paring.spaces.plan import Layer, Plan, Slot, Stack

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
        self._open, self._text, self._in_cell = "", "", False
        self.feed(path.read_text(encoding="utf8"))
        self.close()
        self.text = " ".join(self._text.split())
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
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
        elif self._open != "script":
            self._text += data
            if self._in_cell:
                self.rows[-1][-1] += data

    def table(self, first: str) -> list[list[str]]:
        """The rows under the heading row that begins with this cell."""
        start = next(number for number, row in enumerate(self.rows) if row[0] == first) + 1
        stop = next((n for n in range(start, len(self.rows)) if len(self.rows[n]) != len(self.rows[start])), None)
        return self.rows[start:stop]


@pytest.fixture(scope="module")
def study(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A copy of the finished run with a report of its own."""
    found = Study(shutil.copytree(finished_run, tmp_path_factory.mktemp("page") / "run"))
    assert found.report() == found.record.folder / REPORT
    return found


@pytest.fixture(scope="module")
def shown(study: Study) -> Page:
    return Page(study.record.folder / REPORT)


def without_picture(cell: str) -> str:
    """The cell of a plan begins with its blocks, one digit or dash each."""
    return re.sub(r"^(\d+|-)+ ", "", cell)


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


def test_the_page_answers_with_the_pick_and_names_the_splits(study: Study, shown: Page) -> None:
    pick = study.pick()
    assert f"Deploy {'the original' if pick.point.is_baseline else pick.point.plan}" in shown.text
    assert f"It is {pick.reason}." in shown.text
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
    rows = shown.table("#")
    assert len(rows) == 8 and "All 8 trials" in shown.text
    assert [(row[0], row[1], row[-1]) for row in rows] == [(str(t.number), "judged", str(t.plan)) for t in trials]
    sizes = [f"{t.measures.size_bytes / 1e6:.1f}" for t in trials if t.measures]
    assert [row[6] for row in rows] == sizes


def test_the_table_of_the_page_is_the_front(study: Study, shown: Page) -> None:
    front, rows = study.front(), shown.table("accuracy")[: len(study.front())]
    numbers = ("quality", ".4f"), ("drop", "+.4f"), ("search_quality", ".4f"), ("latency_ms", ".2f")
    more = ("speedup", ".2f"), ("memory_mb", ".0f"), ("size_mb", ".1f")
    for row, (_, member) in zip(rows, front.iterrows(), strict=True):
        assert row[:7] == [format(member[name], form) for name, form in (*numbers, *more)]
        plan = "the original" if member["is_baseline"] else member["plan"]
        assert without_picture(row[7]) == f"{plan} {member['fingerprint']}"


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
    assert shown.table("#")[-1][-1].endswith(HOSTILE)
    member, baseline = shown.table("accuracy")
    assert without_picture(member[7]) == f"{odd.plan} {odd.plan.fingerprint}" and member[8] == HOSTILE
    assert without_picture(baseline[7]).startswith("the original")


def test_a_run_that_was_only_searched_says_so(make_record: MakeRecord, make_final: MakeFinal) -> None:
    shown = Page(write_report(make_record(make_final(), make_final(1, quality=0.895, ratio=0.5))))
    assert "Not final. The front below was only searched" in shown.text
    assert "Deploy encoder 5/6 layers (without 1)" in shown.text
    assert "on the search split." in shown.text and "95 % interval" not in shown.text.split("The front")[0]


def test_a_report_without_a_pick_says_why(make_record: MakeRecord, make_final: MakeFinal) -> None:
    record = make_record(make_final(), make_final(1))
    settings = record.settings
    assert settings["identity"]["budget"] == {}
    front = page.front_of(record)
    worse = replace(front.baseline, measures=replace(front.baseline.measures, drop=0.5))
    html = page.render_page(record, replace(front, baseline=worse, members=(worse,)))
    assert "no member of the front keeps drop=0.01" in html and "<b>Deploy" not in html


def test_causes_of_failed_trials_are_listed(
    make_record: MakeRecord, make_final: MakeFinal, make_plan: MakePlan
) -> None:
    failures = (
        (make_plan(2), State.FAILED, "the model answers NaN"),
        (make_plan(3), State.OUT_OF_MEMORY, "killed by signal 9"),
        (None, State.INTERRUPTED, "interrupted by the user"),
    )
    shown = Page(write_report(make_record(make_final(), *failures)))
    states = [(row[1], row[2], row[-1]) for row in shown.table("#")[1:]]
    assert states == [
        ("failed", "-", "encoder 5/6 layers (without 2) the model answers NaN"),
        ("out of memory", "-", "encoder 5/6 layers (without 3) killed by signal 9"),
        ("interrupted", "-", "interrupted by the user"),
    ]


def test_a_run_with_no_judged_trial_has_no_report(make_record: MakeRecord, make_plan: MakePlan) -> None:
    record = make_record((make_plan(), State.FAILED, "broken"))
    with pytest.raises(RunError, match=r"no trial of .* has numbers yet"):
        write_report(record)
    assert not (record.folder / REPORT).exists()


def test_a_member_that_reloads_differently_is_named(make_record: MakeRecord, make_final: MakeFinal) -> None:
    odd = replace(make_final(1, ratio=0.5), reloads_equal=False)
    shown = Page(write_report(make_record(make_final(), odd, finals=(make_final(), odd))))
    assert "Reloaded, these did not give the same numbers: encoder 5/6 layers (without 1)." in shown.text


def test_the_gap_between_the_splits_is_relative_to_the_baseline(make_record: MakeRecord, make_final: MakeFinal) -> None:
    searched = (make_final(quality=0.95), make_final(1, quality=0.94, ratio=0.5))
    finals = (make_final(quality=0.9), make_final(1, quality=0.87, ratio=0.5))
    shown = Page(write_report(make_record(*searched, finals=finals)))
    assert "members look +0.0200 better against the baseline than on the test split, on average." in shown.text


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


def test_the_picture_of_a_plan(make_plan: MakePlan) -> None:
    ((name, blocks),) = blocks_of(make_plan(1, bits=True, layers=3))
    assert (name, [block.label for block in blocks]) == ("encoder", ["0", "-", "2"])
    assert [block.title for block in blocks] == ["query: w8a8", "dropped", "query: w8a8"]
    assert [block.share for block in blocks] == pytest.approx([1 / 6, 0.0, 1 / 6])


def test_a_modular_layer_says_what_it_stands_for() -> None:
    plan = Plan((Stack("encoder", (Slot(Layer(0)), Slot(Layer(1)), Slot(Layer(1, 2)))),))
    ((_, blocks),) = blocks_of(plan)
    assert [(block.label, block.title) for block in blocks] == [
        ("0", "as it was"),
        ("1", "as it was"),
        ("m2.1", "stands for layers 2 to 3"),
    ]

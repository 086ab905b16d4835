"""The page as a reader has it: in a headless Chromium, clicked, walked with the keyboard, in the dark, on a phone."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paring.api import Study
from paring.errors import RunError
from paring.reports.page import REPORT, write_report, write_side_by_side
from paring.search.study import Record
from paring.search.trial import Final, State
from paring.spaces.plan import Plan

MakeFinal = Callable[..., Final]
MakePlan = Callable[..., Plan]
MakeRecord = Callable[..., Record]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium is installed here, so the page was not opened in one", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed, so the page was not opened: pip install paring[browser]"
)

HOSTILE = """</script><script>alert(1)</script>"'&amp; 😀 שלום <img src=x onerror=alert(2)> {{ 7 * 7 }} =1+1"""
SETTLED_MS = 20_000
# Two clicks sooner than that are one double click, which resets the ranges.
DOUBLE_CLICK_MS = 400
FOCUSED = """
() => {
  const { control, chart, download } = document.activeElement.dataset;
  return control ?? chart ?? download ?? document.activeElement.closest("[data-control]")?.dataset.control ?? "";
}
"""
PLACES = """
() => {
  const box = document.querySelector('[data-chart="front"]');
  const { xaxis, yaxis } = box._fullLayout;
  const area = box.getBoundingClientRect();
  const traces = box.data.filter((trace) => trace.customdata);
  const points = traces.flatMap((trace) => trace.customdata.map((name, place) => ({
    name,
    x: area.x + xaxis._offset + xaxis.d2p(trace.x[place]),
    y: area.y + yaxis._offset + yaxis.d2p(trace.y[place]),
  })));
  return points;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as found:
        chromium = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page and waits until its charts are drawn; afterwards, nothing may have gone wrong in it."""
    contexts, troubles = [], list[str]()

    def open_(path: Path, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: troubles.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda asked: troubles.append(asked.url) if not asked.url.startswith(("file:", "data:", "blob:")) else None,
        )
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=SETTLED_MS)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def study(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A copy of the finished run with a report of its own."""
    found = Study(shutil.copytree(finished_run, tmp_path_factory.mktemp("browser") / "run"))
    found.report()
    return found


@pytest.fixture
def shown(study: Study, open_page: Callable[..., Any]) -> Any:
    return open_page(study.record.folder / REPORT)


def until(page: Any, condition: str) -> None:
    """Waits for a condition in the page; Playwright's own way evaluates a string, which the page forbids."""
    for _ in range(SETTLED_MS // 20):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"never so: {condition}")


def heading(page: Any) -> str:
    return str(page.inner_text("[data-details] h3"))


def name_of(study: Study, fingerprint: str) -> str:
    plan = next(final.plan for final in study.record.finals() if final.plan.fingerprint == fingerprint)
    return "the original" if plan.is_identity else str(plan)


def places(page: Any, trace: str) -> list[float]:
    """Where the points of a trace stand along the horizontal axis; none where it is not drawn."""
    found = page.evaluate(
        "(name) => document.querySelector('[data-chart=front]').data.find((one) => one.name === name)?.x ?? []", trace
    )
    return list(found)


def test_the_charts_are_drawn_and_the_pick_is_chosen(study: Study, shown: Any) -> None:
    assert shown.locator(".chart .main-svg").count() >= 3
    pick = study.pick().point.plan
    assert heading(shown) == ("the original" if pick.is_identity else str(pick))
    assert "the pick" in shown.inner_text("[data-details]")
    latencies = sorted(point.measures.latency_seconds * 1e3 for point in study.whole_front.members)
    assert sorted(places(shown, "front")) == pytest.approx(latencies)
    assert len(places(shown, "the original")) == 1


def test_a_click_on_a_point_shows_its_plan_and_its_numbers(
    make_record: MakeRecord, make_final: MakeFinal, open_page: Callable[..., Any]
) -> None:
    base, fast = make_final(), make_final(1, bits=True, quality=0.893, ratio=0.5, kernels="int8 5/30 Linears")
    slow = make_final(2, quality=0.87, ratio=0.8)
    finals = (base, make_final(1, bits=True, quality=0.8812, ratio=0.5, kernels="int8 5/30 Linears"), slow)
    page = open_page(write_report(make_record(base, fast, slow, finals=finals)))
    for final, other in ((slow, fast), (fast, slow)):
        name = final.plan.fingerprint
        page.locator('[data-chart="front"]').scroll_into_view_if_needed()
        page.wait_for_timeout(DOUBLE_CLICK_MS)
        aim = next(point for point in page.evaluate(PLACES) if point["name"] == name)
        page.mouse.click(aim["x"], aim["y"])
        until(page, f"document.querySelector('[data-details]').textContent.includes({name!r})")
        assert heading(page) == str(final.plan)
        assert other.plan.fingerprint not in page.inner_text("[data-details]")
    details = page.inner_text("[data-details]")
    assert "0.8930" in details and "0.8812" in details
    assert "Kernels that ran: int8 5/30 Linears." in details
    blocks = page.locator("[data-details] g.block")
    states = [blocks.nth(number).get_attribute("data-state") for number in range(blocks.count())]
    assert states == ["kept", "dropped", *["kept"] * 4]
    assert page.locator("[data-details] g.block title").all_text_contents()[-1] == "encoder, layer 5, query: w8a8"


def test_the_arrow_keys_walk_along_the_front_and_home_goes_back(study: Study, shown: Any) -> None:
    at_home = heading(shown)
    shown.focus('[data-chart="front"]')
    fingerprints = [row.inner_text() for row in shown.locator("table.front td .dim").all()]
    seen = []
    for _ in fingerprints:
        shown.keyboard.press("ArrowRight")
        seen.append(heading(shown))
    assert seen[-1] == at_home
    assert set(seen) == {
        name_of(study, fingerprint) for fingerprint in fingerprints if re.fullmatch(r"\w{12}", fingerprint)
    }
    shown.keyboard.press("ArrowUp")
    assert heading(shown) != at_home
    shown.keyboard.press("Home")
    assert heading(shown) == at_home


def test_all_that_can_be_used_is_reached_with_the_tab_key(shown: Any) -> None:
    reached = set()
    for _ in range(80):
        shown.keyboard.press("Tab")
        reached.add(shown.evaluate(FOCUSED))
    assert {"across", "up", "marker", "axes", "front", "search", "state", "trials"} <= reached
    shown.locator("table.front [data-select]").first.focus()
    shown.keyboard.press("Enter")
    assert heading(shown) == shown.locator("table.front [data-select]").first.inner_text()


def test_the_area_of_a_marker_and_the_axes_shown_are_choosable(study: Study, shown: Any) -> None:
    def sizes() -> list[float]:
        return list(
            shown.evaluate(
                "document.querySelector('[data-chart=front]').data.find((one) => one.name === 'front').marker.size"
            )
        )

    before = sizes()
    shown.select_option('[data-control="marker"]', "memory_mb")
    assert sizes() != before
    shown.uncheck('[data-control="axes"] input[value="bits"]')
    without = [point for point in study.whole_front.members if point.plan.is_plain]
    assert sorted(places(shown, "front")) == pytest.approx(sorted(p.measures.latency_seconds * 1e3 for p in without))
    shown.select_option('[data-control="across"]', "size_mb")
    assert sorted(places(shown, "front")) == pytest.approx(sorted(p.measures.size_bytes / 1e6 for p in without))


def test_trials_are_sorted_and_searched(study: Study, shown: Any) -> None:
    def numbers() -> list[int]:
        return [int(row.get_attribute("data-number")) for row in shown.locator("[data-trials] tbody tr").all()]

    trials = study.record.trials()
    assert numbers() == [trial.number for trial in trials]
    shown.click("[data-trials] th[data-name=size_mb] button")
    by_size = sorted(trials, key=lambda trial: (trial.measures.size_bytes if trial.measures else 0, trial.number))
    assert numbers() == [trial.number for trial in by_size]
    assert shown.get_attribute("[data-trials] th[data-name=size_mb]", "aria-sort") == "ascending"
    shown.click("[data-trials] th[data-name=size_mb] button")
    assert numbers()[0] == by_size[-1].number
    wanted = trials[-1].plan
    assert wanted is not None
    shown.fill('[data-control="search"]', wanted.fingerprint)
    assert numbers() == [trials[-1].number]
    shown.click("[data-trials] tbody button")
    assert heading(shown) == str(wanted)


def test_every_table_is_downloaded_as_it_is(study: Study, shown: Any) -> None:
    with shown.expect_download() as kept:
        shown.click('[data-download="front"][data-form="json"]')
    rows = json.loads(Path(kept.value.path()).read_text(encoding="utf8"))
    assert kept.value.suggested_filename == "paring-front.json"
    assert {row["fingerprint"] for row in rows} == {final.plan.fingerprint for final in study.record.finals()}
    with shown.expect_download() as kept:
        shown.click('[data-download="trials"][data-form="csv"]')
    table = list(csv.DictReader(io.StringIO(Path(kept.value.path()).read_text(encoding="utf8"))))
    assert [row["plan"] for row in table] == [str(trial.plan) for trial in study.record.trials()]
    assert [float(row["quality"]) for row in table] == pytest.approx(
        [t.quality.value for t in study.record.trials() if t.quality]
    )
    with shown.expect_download() as kept:
        shown.click("[data-details] .downloads button >> nth=1")
    rows = json.loads(Path(kept.value.path()).read_text(encoding="utf8"))
    pick = study.pick().point
    assert [(row["split"], row["fingerprint"]) for row in rows] == [
        (s, pick.plan.fingerprint) for s in ("search", "test")
    ]
    assert [row["quality"] for row in rows] == pytest.approx([pick.search_quality, pick.quality.value])


def test_the_page_is_dark_where_the_reader_likes_it(study: Study, open_page: Callable[..., Any]) -> None:
    page = open_page(study.record.folder / REPORT, color_scheme="dark")

    def lightness(expression: str) -> float:
        return sum(map(float, re.findall(r"\d+", page.evaluate(expression))[:3])) / 765

    text = "getComputedStyle(document.querySelector('[data-chart=front] .xtitle')).fill"
    assert lightness("getComputedStyle(document.body).backgroundColor") < 0.15 < 0.8 < lightness(text)
    page.emulate_media(color_scheme="light")
    until(page, f"{text} !== 'rgb(230, 234, 240)'")
    assert lightness("getComputedStyle(document.body).backgroundColor") > 0.95 > 0.3 > lightness(text)


def test_a_phone_shows_it_without_scrolling_sideways(study: Study, open_page: Callable[..., Any]) -> None:
    page = open_page(
        study.record.folder / REPORT, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    chart, details = (page.locator(name).bounding_box() for name in ('[data-chart="front"]', "[data-details]"))
    assert chart["width"] > 300
    assert details["y"] > chart["y"] + chart["height"] - 1


def test_hostile_names_do_nothing(
    finished_run: Path,
    make_record: MakeRecord,
    make_final: MakeFinal,
    make_plan: MakePlan,
    open_page: Callable[..., Any],
) -> None:
    settings = Record.open(finished_run).settings
    settings["sources"] = dict.fromkeys(settings["sources"], HOSTILE)
    settings["identity"]["task"] |= {"metric": HOSTILE, "name": HOSTILE}
    settings["facts"]["machine"]["facts"]["name"] = HOSTILE
    odd = replace(make_final(1, ratio=0.5, kernels=HOSTILE), plan=replace(make_plan(1), weights=HOSTILE))
    failed = (make_plan(2), State.FAILED, HOSTILE), (make_plan(3), State.FAILED, "=HYPERLINK(1)")
    record = make_record(make_final(), odd, *failed, finals=(make_final(), odd), settings=settings)
    page = open_page(write_report(record))
    assert heading(page) == str(odd.plan)
    assert HOSTILE in page.inner_text(".question") and HOSTILE in page.inner_text("[data-trials]")
    assert page.text_content("[data-chart=front] .ytitle") == f"{HOSTILE}, test split"
    assert page.locator("img").count() == 0
    area = page.locator('[data-chart="front"]')
    area.scroll_into_view_if_needed()
    aim = page.evaluate(PLACES)[0]
    page.mouse.move(aim["x"], aim["y"])
    page.wait_for_selector(".hoverlayer .hovertext")
    with page.expect_download() as kept:
        page.click('[data-download="trials"][data-form="csv"]')
    causes = [row["cause"] for row in csv.DictReader(io.StringIO(Path(kept.value.path()).read_text(encoding="utf8")))]
    assert causes == ["", "", HOSTILE, "'=HYPERLINK(1)"]


def test_a_run_in_which_all_failed_shows_why(
    make_record: MakeRecord, make_plan: MakePlan, open_page: Callable[..., Any]
) -> None:
    record = make_record((make_plan(), State.OUT_OF_MEMORY, "killed by signal 9"), (None, State.FAILED, "no plan"))
    with pytest.raises(RunError, match="no trial of"):
        write_report(record)
    page = open_page(record.folder / REPORT)
    assert page.locator("[data-trials] .cause").all_inner_texts() == ["killed by signal 9", "no plan"]
    page.select_option('[data-control="state"]', "failed")
    assert page.locator("[data-trials] .cause").all_inner_texts() == ["no plan"]
    page.click("[data-trials] tbody button")


def test_several_runs_are_turned_to_with_the_keyboard(
    study: Study,
    finished_run: Path,
    make_record: MakeRecord,
    make_final: MakeFinal,
    open_page: Callable[..., Any],
    tmp_path: Path,
) -> None:
    settings = Record.open(finished_run).settings
    settings["identity"] |= {"runtime": "openvino"}
    finals = (make_final(), make_final(1, ratio=0.5))
    page = open_page(
        write_side_by_side(
            [study.record, make_record(*finals, finals=finals, settings=settings)], tmp_path / "both.html"
        )
    )
    assert len(page.evaluate("document.querySelector('[data-chart=beside]').data")) >= 4
    assert [page.locator("article.run").nth(place).is_visible() for place in (0, 1)] == [True, False]
    page.focus("#tab-0")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#run-1 [data-chart=front] .main-svg")
    assert [page.locator("article.run").nth(place).is_visible() for place in (0, 1)] == [False, True]
    assert page.inner_text("#run-1 [data-details] h3") == str(finals[1].plan)

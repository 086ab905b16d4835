"""The gallery in docs: finished runs, their fronts as tables, and their reports as a headless browser shows them.

    python benchmarks/gallery.py "The demo=demo-run/run" "MiniLM on SST-2, torch=runs/sst2" ... [--out docs/gallery]

Every run folder gives one section of `README.md` there, `NUMBER.png` (a wide window, light) and `NUMBER-phone.png` (a
phone, dark, opened where the answer stands). Nothing is drawn or written by hand; the reports are written anew first.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from paring.reports.front import Front
from paring.reports.page import write_report
from paring.reports.story import Story, brief, dates, story_of
from paring.reports.tables import in_short
from paring.search.study import Record

WIDE = {"viewport": {"width": 1280, "height": 1500}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 1500}, "color_scheme": "dark", "is_mobile": True, "has_touch": True}
READY = "html[data-ready]"
HEAD = """# Gallery

Reports of finished runs, as `python benchmarks/gallery.py` found them: it writes this page and takes the pictures. How
each run was made stands above its front; the report itself is `report.html` in the run folder. Latencies are of shared
machines and compare within one run only.
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", metavar="TITLE=RUN")
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"))
    arguments = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no Chromium is installed here, so no report can be drawn.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    sections = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for number, text in enumerate(arguments.runs, 1):
            title, _, folder = text.rpartition("=")
            record = Record.open(Path(folder))
            page = write_report(record)
            shoot(browser, page, arguments.out / f"{number}.png", WIDE)
            shoot(browser, page, arguments.out / f"{number}-phone.png", PHONE)
            sections.append(section(title, number, story_of(record, title), page.stat().st_size))
        browser.close()
    (arguments.out / "README.md").write_text("\n".join([HEAD, *sections]), encoding="utf8")


def shoot(browser: Browser, page: Path, picture: Path, window: dict[str, Any]) -> None:
    """The first window of a report, when all charts are drawn."""
    context = browser.new_context(**window)
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector(READY, timeout=60_000)
    tab.screenshot(path=picture)
    context.close()


def section(title: str, number: int, story: Story, n_bytes: int) -> str:
    """One run in Markdown: what was asked, the recommendation, the front, two pictures."""
    asked, front = story.settings["identity"], story.front
    if front is None:
        sys.exit(f"{story.record.folder} has no front yet: {story.why_no_front}")
    question = (
        f"{brief(story.settings['sources']['model'])} on {brief(story.settings['sources']['data'])}, "
        f"{asked['task']['metric']}; {asked['runtime']} on {asked['device']}; axes {', '.join(asked['axes'])}; "
        f"objectives {', '.join(asked['objectives'])}; sampler {asked['sampler']}, seed {asked['seed']}; "
        f"{len(story.data['trials'])} plans, {dates(story.record)}; a page of {n_bytes / 1e6:.1f} MB."
    )
    pictures = f"![The report of this run]({number}.png)\n\n![The same on a phone, in the dark]({number}-phone.png)"
    return "\n".join([f"## {title}", "", question, "", story.answer.reason, "", *table(front), "", pictures, ""])


def table(front: Front) -> list[str]:
    """The members of the front, and the original, as rows of Markdown."""
    rows = [f"| {front.metric} | ms | times as fast | MB stored | plan |", "| --- | --- | --- | --- | --- |"]
    base = front.baseline.measures
    for point in dict.fromkeys([*front.members, front.baseline]):
        numbers, late = point.measures, point.measures.latency_seconds
        faster = None if late is None or base.latency_seconds is None else base.latency_seconds / late
        cells = (
            f"{numbers.quality:.4f}",
            "" if late is None else f"{late * 1e3:.2f}",
            "" if faster is None else f"{faster:.2f}",
            f"{numbers.size_bytes / 1e6:.1f}",
            "the original" if point.is_baseline else in_short(point.plan),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    main()

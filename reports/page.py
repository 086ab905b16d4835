"""The report: one HTML page that needs nothing beside it."""

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..errors import RunError, SettingError
from ..search.cache import replace_file, writing
from ..search.study import Record
from ..search.trial import State
from .figures import Row
from .several import comparison, labels
from .story import Story, brief, dates, doubts, gap, mean_error, plan_in_words, story_of, unbeaten
from .tables import render

REPORT, FRONT_CSV, FRONT_JSON = "report.html", "front.csv", "front.json"
# In the order in which they build on each other.
_SCRIPTS = ("data.js", "plan.js", "charts.js", "figures.js", "details.js", "trials.js", "start.js")
_STYLES = ("page.css", "parts.css")
# Long tables are written by column: names of columns said once.
_TABLES = ("front", "trials", "guesses", "ablation", "growth")


def write_report(record: Record) -> Path:
    """Writes the page, and the front as CSV and JSON, into the run folder.

    Returns:
        The path of the page.

    Raises:
        RunError: if no trial has numbers yet; the page is there then all the same, and lists what became of them.
        StorageError: if the disk refuses.
    """
    (story,) = _stories([record])
    page = render_page([story])
    with writing(record.folder):
        if story.front is not None:
            replace_file(record.folder / FRONT_CSV, render(story.front, "csv"))
            replace_file(record.folder / FRONT_JSON, render(story.front, "json"))
        replace_file(record.folder / REPORT, page)
    if story.front is None:
        raise RunError(f"{story.why_no_front.rstrip('.')}. What became of its trials is in {record.folder / REPORT}.")
    return record.folder / REPORT


def write_side_by_side(records: Sequence[Record], page: Path) -> Path:
    """Writes several runs into one page.

    Args:
        records: of the runs, two at least, in the order in which they are shown.
        page: the file to write; its folder is there already.

    Returns:
        The path of the page.

    Raises:
        SettingError: if a run is given twice, or the page cannot be there.
        StorageError: if the disk refuses.
    """
    folders = [record.folder.resolve() for record in records]
    if len(set(folders)) < len(folders):
        raise SettingError("each run is given once; leave out those that are repeated.")
    if page.is_dir() or not page.resolve().parent.is_dir():
        raise SettingError(
            f"the page is a file in a folder that exists, got {page}; give for instance --out both.html."
        )
    text = render_page(_stories(records))
    with writing(page.resolve().parent):
        replace_file(page, text)
    return page


def render_page(stories: Sequence[Story]) -> str:
    """The page as text; everything that is not ours is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(shown=format, brief=brief, plan=plan_in_words)
    beside = comparison(stories) if len(stories) > 1 else None
    script, library = _script(), get_plotlyjs()
    return environment.from_string(_web("page.html")).render(
        stories=[_told(story) for story in stories],
        beside=beside,
        style=Markup("".join(map(_web, _STYLES))),
        script=Markup(script),
        # Nothing but these two scripts may run, whatever got into the page, and nothing may be fetched.
        allowed=" ".join(f"'sha256-{_digest(code)}'" for code in (script, library)),
        library=_packed_library(),
        data=Markup(_for_script({"runs": [_carried(story) for story in stories], "beside": beside})),
    )


def _stories(records: Sequence[Record]) -> list[Story]:
    return [story_of(record, label) for record, label in zip(records, labels(records), strict=True)]


def _told(story: Story) -> dict[str, Any]:
    """What the template says of a run in words."""
    front = story.front
    return {
        "label": story.label,
        "settings": story.settings,
        "front": front,
        "why_no_front": story.why_no_front,
        "answer": story.answer,
        "pick": story.row(story.answer.fingerprint),
        "runners_up": [row for name in story.answer.runners_up if (row := story.row(name))],
        "rows": story.data["front"],
        "guesses": story.data["guesses"],
        "ablation": story.data["ablation"],
        "growth": story.data["growth"],
        "n_trials": len(story.data["trials"]),
        "n_dropped": sum(row["state"] == State.DROPPED for row in story.data["trials"]),
        "reference": story.data["reference"],
        "dates": dates(story.record),
        "noise": story.record.noise,
        "prediction": story.record.prediction,
        "is_predicted": any(row.get("predicted") for row in story.data["trials"]),
        "mean_error": mean_error(story),
        "gap": gap(front),
        "doubts": doubts(story.finals),
        "unbeaten": [point.plan for point in unbeaten(story)],
        "unequal": [final.plan for final in story.finals if not final.reloads_equal],
    }


def _carried(story: Story) -> dict[str, Any]:
    """What the script of the page draws a run from."""
    return {"label": story.label, **story.data, **{name: by_column(story.data[name]) for name in _TABLES}}


def by_column(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows as the names of all their columns, and lists of values in that order, None where a row has none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "rows": [[row.get(name) for name in columns] for row in rows]}


def _for_script(data: Any) -> str:
    """JSON that cannot end the script element it stands in, or begin anything."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script() -> str:
    parts = "\n".join(_web(name) for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();'


def _web(name: str) -> str:
    return files(__package__).joinpath("web", name).read_text(encoding="utf8")


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


@cache
def _packed_library() -> str:
    """Plotly, compressed: two fifths of its bytes, and the browser need not read it before it has painted the page."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()

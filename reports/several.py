"""Several runs in one page: how they are called, and whether the recommendation changes from one to the other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..search.study import Record
from .figures import Row, plain
from .story import Story, brief

_SHOWN = ("quality", "drop", "latency_ms", "speedup", "memory_mb", "size_mb", "kernels", "split")
# What must be alike for two qualities to compare, and how to call it.
_SAME = {"model": "model", "data": "data"}


def labels(records: Sequence[Record]) -> list[str]:
    """A short name for each run, unlike the others: by what they differ in, the folder last."""
    identities = [record.settings["identity"] for record in records]
    processors = [record.settings["facts"]["machine"]["facts"].get("name", "") for record in records]
    runtimes = [identity["runtime"] for identity in identities]
    devices = [identity["device"] for identity in identities]
    models = [Path(record.settings["sources"]["model"]).name for record in records]
    folders = [brief(str(record.folder.resolve())) for record in records]
    for parts in ((runtimes, processors), (runtimes, devices), (models, runtimes, processors), (folders,)):
        found = [" on ".join(part for part in one if part) for one in zip(*parts, strict=True)]
        if len(set(found)) == len(found):
            return found
    return [f"{number}: {folder}" for number, folder in enumerate(folders, 1)]


def comparison(stories: Sequence[Story]) -> dict[str, Any]:
    """The recommendations of several runs, and what each would be in the others.

    Args:
        stories: of the runs, with labels that differ.

    Returns:
        "picks": one row per run; "elsewhere": one row per pick and run in which it was judged, or not; "words": what
        follows, sentence by sentence; "caution": what makes the runs differ in more than where they ran.
    """
    elsewhere = [row for story in stories for row in _elsewhere(story, stories)]
    return {
        "picks": [_pick_row(story) for story in stories],
        "elsewhere": elsewhere,
        "words": _words(stories, elsewhere),
        "caution": _caution(stories),
    }


def _pick_row(story: Story) -> Row:
    identity, machine = story.settings["identity"], story.settings["facts"]["machine"]
    row = story.row(story.answer.fingerprint) or {}
    plan = "the original" if row.get("is_baseline") else row.get("plan")
    return plain(
        {
            "run": story.label,
            "device": f"{identity['device']}, {machine['facts'].get('name', 'unknown')}",
            "runtime": identity["runtime"],
            "workload": _workload(identity["workload"]),
            "pick": plan,
            "fingerprint": story.answer.fingerprint,
            **{name: row.get(name) for name in _SHOWN},
            "hypervolume": None if story.front is None else story.front.hypervolume,
            "reason": story.answer.reason,
        }
    )


def _elsewhere(story: Story, stories: Sequence[Story]) -> list[Row]:
    """What the pick of one run was in each of the others."""
    rows = []
    for other in stories:
        name = story.answer.fingerprint
        if name is None or other is story:
            continue
        trial = next((row for row in other.data["trials"] if row.get("fingerprint") == name), None)
        found = other.row(name) or trial or {}
        seen = found.get("role") or found.get("state") or "not judged there"
        numbers = {key: found.get(key) for key in _SHOWN} | {"split": found.get("split") or (trial and "search")}
        rows.append(plain({"pick_of": story.label, "run": other.label, "fingerprint": name, "there": seen, **numbers}))
    return rows


def _words(stories: Sequence[Story], elsewhere: Sequence[Row]) -> list[str]:
    picks = {story.label: story.answer.fingerprint for story in stories}
    without = [label for label, name in picks.items() if name is None]
    words = [f"{label!r} recommends nothing." for label in without]
    distinct = {name for name in picks.values() if name is not None}
    if len(distinct) == 1 and not without:
        return ["The pick is the same everywhere."]
    if len(distinct) > 1:
        words.append(f"The pick changes: {len(distinct)} different plans are recommended for {len(stories)} runs.")
    for row in elsewhere:
        own = next(story for story in stories if story.label == row["run"])
        there = own.row(picks[row["run"]])
        if row["fingerprint"] == picks[row["run"]] or there is None:
            continue
        words.append(_compared(row, there))
    return words


def _compared(row: Row, own: Row) -> str:
    """A pick of one run beside the pick of the run it is looked at in."""
    start = f"The pick of {row['pick_of']!r}, looked up in {row['run']!r},"
    if row["quality"] is None:
        return f"{start} was {row['there']}."
    if row["speedup"] is None or own["speedup"] is None:
        return f"{start} takes {row['size_mb']:.1f} MB; the pick there takes {own['size_mb']:.1f} MB."
    return (
        f"{start} is {row['speedup']:.2f} times as fast as the original with a drop of {row['drop']:+z.4f} "
        f"({row['split']} split); the pick there is {own['speedup']:.2f} times as fast "
        f"with a drop of {own['drop']:+z.4f} ({own['split']} split)."
    )


def _caution(stories: Sequence[Story]) -> list[str]:
    identities = [story.settings["identity"] for story in stories]
    differ = [words for name, words in _SAME.items() if len({str(identity[name]) for identity in identities}) > 1]
    if len({str(identity["task"]["metric"]) for identity in identities}) > 1:
        differ.append("metric")
    words = [f"These runs differ in {' and '.join(differ)}: their qualities do not compare."] if differ else []
    if len({str(identity["workload"]) for identity in identities}) > 1:
        words.append("They serve different workloads: their milliseconds do not compare.")
    return words


def _workload(data: dict[str, Any]) -> str:
    generated = f", {data['generated']} generated" if "generated" in data else ""
    return f"{data['batch']} x {data['tokens']} tokens{generated}, {data['threads']} threads"

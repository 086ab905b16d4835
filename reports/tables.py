"""The front as a table: for the terminal, as CSV and as JSON."""

import json
from collections import Counter

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import SettingError
from ..profilers.timing import Latency
from ..spaces.plan import ORIGINAL_WEIGHTS, Plan, Treatment, described_factors
from .front import Front, Point
from .front_table import row_of, table_of

FORMATS = ("table", "csv", "json")
_MILLISECONDS = 1e3
# Title of a column -> its place among the cells of a row; a console is wide where all of them fit.
_TITLES = ("", "quality", "drop", "ms", "speed-up", "MB peak", "MB stored", "plan", "id")
_COLUMNS = {title: at for at, title in enumerate(_TITLES)}
_SPARED, _WIDE = ("MB peak", "id"), 120


def render(front: Front, form: str, *, console: Console | None = None) -> str:
    """The front as text.

    Args:
        front: of a run.
        form: one of `FORMATS`.
        console: whose width and colours a table is drawn for; None for a plain one.

    Raises:
        SettingError: if the form is unknown.
    """
    if form == "table":
        return terminal_table(front, console or Console(width=140))
    if form == "csv":
        return table_of(front).to_csv(index=False)
    if form == "json":
        return json.dumps(to_json(front), indent=1)
    raise SettingError.unknown("format", form, FORMATS)


def to_json(front: Front) -> dict[str, object]:
    """The front with everything needed to draw it again: plain data, SI units said in the names of the columns."""
    members = [
        {**row_of(point, front.baseline), "measured": _samples(point), "tie": tie, "plan_json": point.plan.to_json()}
        for point, tie in zip(front.members, front.ties, strict=True)
    ]
    return {
        "metric": front.metric,
        "split": front.split,
        "objectives": list(front.objectives),
        "hypervolume": front.hypervolume,
        "baseline": {**row_of(front.baseline, front.baseline), "measured": _samples(front.baseline)},
        "members": members,
    }


def _samples(point: Point) -> dict[str, object]:
    """How requests scattered, and what makes their times doubtful; nothing where latency was not measured."""
    late = point.profile.latency
    if not isinstance(late, Latency):
        return {}
    percentiles = {f"p{percent}_ms": late.percentile(percent) * _MILLISECONDS for percent in (50, 90, 99)}
    energy = {} if point.profile.energy is None else {"energy": point.profile.energy.to_json()}
    return {**percentiles, "requests_per_second": late.throughput, **energy, "warnings": list(late.warnings)}


def terminal_table(front: Front, console: Console) -> str:
    """A compact table: fastest last, the baseline where it stands or last, tied neighbours marked with ~.

    On a narrow console the columns that a choice needs least are left out, so that no number is broken.
    """
    shown = _COLUMNS if console.width >= _WIDE else {name: at for name, at in _COLUMNS.items() if name not in _SPARED}
    title = f"Pareto front, {front.metric} on the {front.split} split"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        is_text = name in ("", "plan", "id")
        heading = front.metric if name == "quality" else name
        table.add_column(
            heading, justify="left" if is_text else "right", overflow="fold", no_wrap=name != "plan", min_width=1
        )
    for index, point in enumerate(front.points):
        tied = 0 < index < len(front.members) and front.ties[index] == front.ties[index - 1]
        cells = ("~" if tied else "", *_cells(point, front.baseline))
        is_beaten = index >= len(front.members)
        # Not as markup: names come from outside.
        table.add_row(*(Text(cells[at]) for at in shown.values()), style="dim" if is_beaten else "")
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def one_line(point: Point, baseline: Point) -> str:
    """A candidate in one line of text."""
    row = row_of(point, baseline)
    parts = [
        str(row["plan"]) if not point.is_baseline else "the original",
        f"{point.quality.metric} {row['quality']:.4f}",
    ]
    parts.append(f"drop {row['drop']:+z.4f}")
    if row["latency_ms"] is not None:
        parts.append(f"{row['latency_ms']:.2f} ms ({row['speedup']:.2f} times as fast)")
    if row["memory_mb"] is not None:
        parts.append(f"{row['memory_mb']:.0f} MB at the peak")
    return " | ".join([*parts, f"{row['size_mb']:.1f} MB stored", f"kernels {row['kernels']}"])


def in_short(plan: Plan) -> str:
    """A plan as briefly as a row of a table needs: layers that stand, how many Linears have which bits, and tables.

    For instance "5/6 layers (without 4), w8a8 on 30; tables w4-1x64 w8"; the whole plan is in the other formats.
    """
    texts = []
    for stack in plan.stacks:
        standing = [slot.layer for slot in stack.slots if slot.layer is not None]
        name = f"{stack.name} " if len(plan.stacks) > 1 else ""
        if any(layer.granularity > 1 for layer in standing):
            text = f"{name}{' '.join(map(str, standing))}"
        else:
            gone = f" (without {' '.join(map(str, stack.dropped))})" if stack.dropped else ""
            text = f"{name}{len(standing)}/{len(stack.slots)} layers{gone}"
        treatments = [treatment for slot in stack.slots for _, treatment in slot.treatments.items]
        bits = Counter(str(treatment.precision) for treatment in treatments if treatment.precision is not None)
        done = [*described_factors(treatments).items(), *sorted(bits.items())]
        texts.append(", ".join([text, *(f"{what} on {count}" for what, count in done)]))
    tables = sorted({_done(treatment) for _, treatment in plan.outside.items})
    texts += [f"tables {' '.join(tables)}"] if tables else []
    return "; ".join(texts if plan.weights == ORIGINAL_WEIGHTS else [*texts, f"weights {plan.weights}"])


def _done(treatment: Treatment) -> str:
    return " ".join(map(str, treatment.to_json().values()))


def _cells(point: Point, baseline: Point) -> tuple[str, ...]:
    row = row_of(point, baseline)

    def text(name: str, form: str) -> str:
        # What was not measured yet, but predicted, is marked.
        mark = "~" if point.is_predicted and name in ("latency_ms", "speedup", "memory_mb") else ""
        return "-" if pd.isna(row[name]) else mark + format(row[name], form)  # type: ignore[call-overload]

    plan = "the original" if point.is_baseline else in_short(point.plan)
    numbers = (("quality", ".4f"), ("drop", "+z.4f"), ("latency_ms", ".2f"), ("speedup", ".2f"))
    sizes = (("memory_mb", ".0f"), ("size_mb", ".1f"))
    return (*(text(name, form) for name, form in (*numbers, *sizes)), plan, str(row["fingerprint"])[:8])

"""What `paring profile` prints: models side by side, workload by workload."""

import json
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table

from ..errors import SettingError
from ..profilers.side_by_side import Measured
from ..profilers.side_by_side_isolated import Unmeasured
from ..profilers.supervision import Ending
from .tables import FORMATS

_COLUMNS = ("model", "ratio (95 %)", "p50 ms", "p90", "p99", "requests/s", "MB peak", "MB", "mJ", "kernels")
_MILLISECONDS, _MEGABYTES, _MILLIJOULES = 1e3, 1e-6, 1e3
# What is known of a model that was measured, in the units people read; None where it is not known.
_NUMBERS: Mapping[str, Callable[[Measured], object]] = {
    "ratio": lambda one: one.late.whole.ratio,
    "ratio_low": lambda one: one.late.whole.ratio_low,
    "ratio_high": lambda one: one.late.whole.ratio_high,
    "median_ms": lambda one: one.late.whole.seconds * _MILLISECONDS,
    "p50_ms": lambda one: one.late.whole.percentile(50) * _MILLISECONDS,
    "p90_ms": lambda one: one.late.whole.percentile(90) * _MILLISECONDS,
    "p99_ms": lambda one: one.late.whole.percentile(99) * _MILLISECONDS,
    "first_token_ms": lambda one: None if one.late.first is None else one.late.first.seconds * _MILLISECONDS,
    "requests_per_second": lambda one: one.late.whole.throughput,
    "examples_per_second": lambda one: one.late.whole.throughput * one.workload.batch,
    "memory_mb": lambda one: None if one.memory is None else one.memory.peak_bytes * _MEGABYTES,
    "size_mb": lambda one: one.stored_bytes * _MEGABYTES,
    "millijoules": lambda one: _times(one.energy.joules_per_request, _MILLIJOULES),
    "energy": lambda one: one.energy.source,
    "kernels": lambda one: one.kernels,
    "warnings": lambda one: "; ".join(one.late.whole.warnings),
}


def render_profiles(found: Sequence[Measured | Unmeasured], form: str, *, console: Console | None = None) -> str:
    """Measurements as text.

    Args:
        found: workload by workload, the first model of each being what others are compared with.
        form: "table", "csv" or "json".
        console: whose width and colours a table is drawn for; None for a plain one.

    Raises:
        SettingError: if the form is unknown.
    """
    if form == "table":
        return _table(found, console or Console(width=160))
    if form == "csv":
        return pd.DataFrame([profile_row(one) for one in found]).to_csv(index=False)
    if form == "json":
        return json.dumps([_to_json(one) for one in found], indent=1)
    raise SettingError.unknown("format", form, FORMATS)


def profile_row(one: Measured | Unmeasured) -> dict[str, object]:
    """One measurement in the units people read; what is not known is None, and `ending` and `cause` say why."""
    what: dict[str, object] = {"model": one.model, "workload": str(one.workload)}
    if isinstance(one, Unmeasured):
        return {**what, **dict.fromkeys(_NUMBERS), "ending": one.ending.value, "cause": one.cause}
    numbers = {name: number(one) for name, number in _NUMBERS.items()}
    return {**what, **numbers, "ending": Ending.ANSWERED.value, "cause": ""}


def _to_json(one: Measured | Unmeasured) -> dict[str, object]:
    """The row, and all it rests on in SI units."""
    row = {**profile_row(one), "workload_json": one.workload.to_json()}
    if isinstance(one, Unmeasured):
        return {**row, "warnings": [], **dict.fromkeys(("latency", "first_token", "memory", "energy"))}
    return {
        **row,
        "warnings": list(one.late.whole.warnings),
        "latency": one.late.whole.to_json(),
        "first_token": None if one.late.first is None else one.late.first.to_json(),
        "memory": None if one.memory is None else one.memory.to_json(),
        "energy": one.energy.to_json(),
    }


def _table(found: Sequence[Measured | Unmeasured], console: Console) -> str:
    with console.capture() as captured:
        for workload in dict.fromkeys(one.workload for one in found):
            same = [one for one in found if one.workload == workload]
            table = Table(title=str(workload), title_justify="left")
            for name in _COLUMNS:
                table.add_column(name, justify="left" if name in ("model", "kernels") else "right", overflow="fold")
            for number, one in enumerate(same):
                table.add_row(*_cells(one, is_first=number == 0))
            console.print(table)
            for remark in dict.fromkeys(remark for one in same for remark in _remarks(one)):
                console.print(f"{remark}.", markup=False)
        for source in dict.fromkeys(one.energy.source for one in found if isinstance(one, Measured)):
            console.print(f"Energy: {source}.", markup=False)
    return captured.get()


def _remarks(one: Measured | Unmeasured) -> tuple[str, ...]:
    if isinstance(one, Unmeasured):
        return (f"Not measured, {one.ending.replace('_', ' ')}: {one.cause.removesuffix('.')}",)
    return tuple(f"Doubtful: {warning}" for warning in one.late.whole.warnings)


def _cells(one: Measured | Unmeasured, *, is_first: bool) -> tuple[str, ...]:
    if isinstance(one, Unmeasured):
        return (one.model, *("-" for _ in _COLUMNS[1:]))
    row = profile_row(one)

    def text(name: str, form: str) -> str:
        return "-" if row[name] is None else format(row[name], form)

    ratio = "1" if is_first else f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"
    times = tuple(text(name, ".2f") for name in ("p50_ms", "p90_ms", "p99_ms"))
    rest = (text("requests_per_second", ".1f"), text("memory_mb", ".0f"), text("size_mb", ".1f"))
    return (one.model, ratio, *times, *rest, text("millijoules", ".1f"), one.kernels)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor

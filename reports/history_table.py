"""The history as a table: filtered, drawn, and as Parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich.console import Console
from rich.table import Table

from ..errors import SettingError
from ..profilers.history import Entry, Session
from ..profilers.replacing import replacing
from ..search.cache import writing

FORMATS = ("table", "csv", "json")
# Of the table.
COLUMNS = (
    "number",
    "session",
    "taken",
    "source",
    "study",
    "model",
    "device",
    "device_name",
    "cores",
    "hardware",
    "machine",
    "software",
    "runtime",
    "workload",
    "plan",
    "fingerprint",
    "is_baseline",
    "latency_ms",
    "p90_ms",
    "ratio",
    "ratio_low",
    "ratio_high",
    "loads",
    "metric",
    "quality",
    "drop",
    "is_verified",
    "on_front",
    "is_pick",
    "memory_mb",
    "size_mb",
    "notes",
)
# Of what a terminal shows.
_COLUMNS = ("session", "taken", "source", "hardware", "runtime", "workload", "ms", "ratio (95 %)", "plan", "id")
_MILLISECONDS, _MEGABYTES = 1e3, 1e-6


@dataclass(frozen=True, slots=True)
class Filter:
    """Which measurements to show; None, or "", means all.

    Attributes:
        study: beginning of its hash, or the name of the model.
        plan: beginning of its fingerprint, or part of its words.
        hardware: beginning of its fingerprint, or part of the device's name.
        runtime: what ran the models.
        since: seconds since 1970.
    """

    study: str = ""
    plan: str = ""
    hardware: str = ""
    runtime: str = ""
    since: float | None = None

    def keeps(self, session: Session, entry: Entry) -> bool:
        """Whether a measurement is to be shown."""
        named = session.machine.facts.get("name", "")
        return (
            (session.study.startswith(self.study) or session.name == self.study)
            and (entry.plan.startswith(self.plan) or self.plan in entry.label)
            and (session.context.hardware.startswith(self.hardware) or self.hardware in named)
            and self.runtime in ("", session.runtime)
            and (self.since is None or session.taken >= self.since)
        )


def table_of(sessions: Sequence[Session], kept: Filter | None = None) -> pd.DataFrame:
    """One measurement per row, in the units people read, sessions in the order in which they were kept."""
    kept = kept or Filter()
    rows = [_row(session, entry) for session in sessions for entry in session.entries if kept.keeps(session, entry)]
    return pd.DataFrame(rows, columns=None if rows else list(COLUMNS))


def export(sessions: Sequence[Session], path: Path, kept: Filter | None = None) -> int:
    """Writes the table as Parquet.

    Returns:
        Its rows.

    Raises:
        StorageError: if the disk refuses.
    """
    table = table_of(sessions, kept)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            table.to_parquet(draft, index=False)
    return len(table)


def render_history(table: pd.DataFrame, form: str, console: Console) -> str:
    """The table as text.

    Raises:
        SettingError: if the form is unknown.
    """
    if form == "csv":
        return table.to_csv(index=False)
    if form == "json":
        return table.to_json(orient="records", indent=1, date_format="iso") + "\n"
    if form != "table":
        raise SettingError.unknown("format", form, FORMATS)
    shown = Table()
    for name in _COLUMNS:
        shown.add_column(name, justify="right" if name in ("ms", "ratio (95 %)") else "left", overflow="fold")
    for row in table.to_dict("records"):
        ratio = f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"
        taken = row["taken"].strftime("%Y-%m-%d %H:%M")
        named = "the original" if row["is_baseline"] else row["plan"]
        where = (row["source"], row["hardware"], row["runtime"], row["workload"])
        shown.add_row(
            row["session"][:8], taken, *where, f"{row['latency_ms']:.2f}", ratio, named, row["fingerprint"][:8]
        )
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def history_figure(table: pd.DataFrame) -> go.Figure:
    """Latency of every plan over time: above in milliseconds, below beside the original of the same session."""
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        subplot_titles=("milliseconds", "times the original's"),
        vertical_spacing=0.08,
    )
    groups = table.groupby(["hardware", "runtime", "workload", "fingerprint"], sort=False)
    for (hardware, runtime, workload, fingerprint), rows in groups:
        first = rows.iloc[0]
        named = "the original" if first["is_baseline"] else first["plan"]
        title = (
            f"{named} [{str(fingerprint)[:8]}] on {first['device_name']} ({str(hardware)[:8]}), {runtime}, {workload}"
        )
        spread = {"array": rows["ratio_high"] - rows["ratio"], "arrayminus": rows["ratio"] - rows["ratio_low"]}
        shared = {"x": rows["taken"], "mode": "lines+markers", "name": title, "legendgroup": title}
        figure.add_trace(go.Scatter(**shared, y=rows["latency_ms"]), row=1, col=1)
        figure.add_trace(go.Scatter(**shared, y=rows["ratio"], error_y=spread, showlegend=False), row=2, col=1)
    figure.update_layout(
        height=800, legend={"orientation": "h", "y": -0.1}, hovermode="closest", template="plotly_white"
    )
    figure.update_yaxes(rangemode="tozero")
    return figure


def write_figure(table: pd.DataFrame, path: Path) -> None:
    """Writes the drawing as a page that needs nothing beside it.

    Raises:
        StorageError: if the disk refuses.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_text(history_figure(table).to_html(include_plotlyjs="inline"), encoding="utf8")


def _row(session: Session, entry: Entry) -> dict[str, object]:
    late = entry.latency
    return {
        "number": session.number,
        "session": session.id,
        "taken": datetime.fromtimestamp(session.taken, UTC),
        "source": session.source,
        "study": session.study,
        "model": session.name,
        "device": session.machine.device,
        "device_name": session.machine.facts.get("name", session.machine.device),
        "cores": session.machine.cores,
        "hardware": session.context.hardware,
        "machine": session.machine.fingerprint,
        "software": ", ".join(f"{name} {version}" for name, version in sorted(session.software.items())),
        "runtime": session.runtime,
        "workload": str(session.workload),
        "plan": entry.label,
        "fingerprint": entry.plan,
        "is_baseline": entry.is_baseline,
        "latency_ms": late.seconds * _MILLISECONDS,
        "p90_ms": late.percentile(90) * _MILLISECONDS,
        "ratio": late.ratio,
        "ratio_low": late.ratio_low,
        "ratio_high": late.ratio_high,
        "loads": len(late.loads),
        "metric": session.metric,
        "quality": entry.quality,
        "drop": entry.drop,
        "is_verified": entry.is_verified,
        "on_front": entry.on_front,
        "is_pick": entry.is_pick,
        "memory_mb": None if entry.memory_bytes is None else entry.memory_bytes * _MEGABYTES,
        "size_mb": entry.stored_bytes * _MEGABYTES,
        "notes": "; ".join(session.notes),
    }

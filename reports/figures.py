"""The figures of a report, drawn with Plotly."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from .front import Front, Point, non_dominated, row_of

_FRONT, _BEATEN, _BASELINE, _PICK = "#2563eb", "#9ca3af", "#111827", "#dc2626"
_SMALLEST, _LARGEST = 9.0, 26.0


def front_figure(front: Front, pick: Point | None, searched: Sequence[Point] = ()) -> go.Figure:
    """Quality against latency (against size where latency was not measured), the size of a marker being bytes stored.

    Args:
        front: of a run.
        pick: the recommended member, which is ringed.
        searched: candidates known from the search only, drawn faintly.
    """
    figure = go.Figure()
    if searched:
        figure.add_trace(_trace(searched, front, "searched, not on the front", _BEATEN, opacity=0.35, bars=False))
    if front.beaten:
        figure.add_trace(_trace(front.beaten, front, "beaten when measured whole", _BEATEN, opacity=0.8))
    figure.add_trace(_staircase(front))
    figure.add_trace(_trace(front.members, front, "front", _FRONT))
    figure.add_trace(_trace([front.baseline], front, "baseline", _BASELINE, symbol="diamond"))
    if pick is not None:
        figure.add_trace(_trace([pick], front, "pick", _PICK, symbol="circle-open", bars=False, grow=12))
    has_latency = _across(front) == "latency_ms"
    figure.update_layout(
        template="plotly_white",
        height=520,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title="latency of one request, ms" if has_latency else "stored, MB",
        yaxis_title=f"{front.metric}, {front.split} split",
        legend={"orientation": "h", "y": 1.08},
        hoverlabel={"align": "left"},
        xaxis_rangemode="tozero",
    )
    return figure


def _trace(
    points: Sequence[Point],
    front: Front,
    name: str,
    colour: str,
    *,
    symbol: str = "circle",
    opacity: float = 1.0,
    bars: bool = True,
    grow: float = 0.0,
) -> go.Scatter:
    rows = [row_of(point, front.baseline) for point in points]
    x_name = _across(front)
    largest = front.baseline.measures.size_bytes
    areas = [point.measures.size_bytes / largest for point in points]
    sizes = [grow + _SMALLEST + (_LARGEST - _SMALLEST) * min(area, 1.5) for area in areas]
    return go.Scatter(
        x=[row[x_name] for row in rows],
        y=[row["quality"] for row in rows],
        mode="markers",
        marker={
            "symbol": symbol,
            "color": colour,
            "size": sizes,
            "opacity": opacity,
            "line": {"width": 1, "color": "white"},
        },
        error_x=_bars(rows, x_name, "latency_low_ms", "latency_high_ms") if bars and x_name == "latency_ms" else None,
        error_y=_bars(rows, "quality", "quality_low", "quality_high") if bars else None,
        name=name,
        hovertext=[_hover(row) for row in rows],
        hoverinfo="text",
        customdata=[row["fingerprint"] for row in rows],
    )


def _staircase(front: Front) -> go.Scatter:
    """Through the members that no other one beats in the two objectives drawn; further ones are on the front too."""
    name = _across(front)
    rows = [row_of(point, front.baseline) for point in front.members]
    places = np.array([[float(str(row[name])), -float(str(row["quality"]))] for row in rows]).reshape(len(rows), 2)
    corners = sorted(places[non_dominated(places)].tolist())
    return go.Scatter(
        x=[x for x, _ in corners],
        y=[-y for _, y in corners],
        mode="lines",
        line={"shape": "hv", "width": 1, "color": _FRONT},
        hoverinfo="skip",
        showlegend=False,
    )


def _across(front: Front) -> str:
    """What the horizontal axis shows."""
    return "size_mb" if front.baseline.measures.latency_seconds is None else "latency_ms"


def _bars(rows: Sequence[dict[str, object]], middle: str, low: str, high: str) -> dict[str, object]:
    def distance(row: dict[str, object], end: str) -> float:
        return abs(float(str(row[end])) - float(str(row[middle])))

    return {
        "type": "data",
        "symmetric": False,
        "array": [distance(row, high) for row in rows],
        "arrayminus": [distance(row, low) for row in rows],
        "thickness": 1,
        "width": 3,
    }


def _hover(row: dict[str, object]) -> str:
    """Only numbers and names that paring itself made: nothing of the user's goes into Plotly's markup."""
    lines = [str(row["plan"]).replace("; ", "<br>"), f"quality {row['quality']:.4f} (drop {row['drop']:+z.4f})"]
    if row["latency_ms"] is not None:
        lines.append(f"{row['latency_ms']:.2f} ms, {row['speedup']:.2f} times as fast")
    if row["memory_mb"] is not None:
        lines.append(f"{row['memory_mb']:.0f} MB at the peak")
    lines.append(f"{row['size_mb']:.1f} MB stored, kernels: {row['kernels']}")
    return "<br>".join(lines)

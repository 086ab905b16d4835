"""The front as a small plot of characters, for a terminal.

Drawn here: of the libraries for this, plotext changed its whole interface with its version 6 and carries players of
pictures and videos; a scatter of four signs needs none of it.
"""

from collections.abc import Sequence

import numpy as np
from rich.text import Text

from .front import REFERENCE_LOSS, Front, Point

_ROWS, _LEAST_COLUMNS, _MOST_COLUMNS = 12, 30, 72
# From what is drawn first to what is drawn over it.
_BEATEN, _MEMBER, _BASELINE, _PICK = (".", "bright_black"), ("o", "blue"), ("x", "bold"), ("@", "bold red")
_UNITS = {"latency_seconds": ("latency of one request, ms", 1e3), "size_bytes": ("stored, MB", 1e-6)}
_LABEL = 10


def plot(front: Front, pick: Point | None, width: int) -> Text:
    """Quality against latency (size where that was not measured), one sign per candidate.

    Args:
        front: of a run.
        pick: the recommended candidate; None where there is none.
        width: columns of the terminal.

    Returns:
        At most so many columns wide, if there are 45 or more; what lies on one spot is one sign, the most important.
    """
    field = "latency_seconds" if front.baseline.measures.latency_seconds is not None else "size_bytes"
    title, unit = _UNITS[field]
    columns = min(max(width - _LABEL - 3, _LEAST_COLUMNS), _MOST_COLUMNS)
    beaten = [point for point in front.beaten if point is not front.baseline]
    groups = [(beaten, _BEATEN), (front.members, _MEMBER), ([front.baseline], _BASELINE)]
    groups.append(([] if pick is None else [pick], _PICK))
    least = _least_drawn(front, pick)
    groups = [([point for point in points if point.measures.quality >= least], sign) for points, sign in groups]
    everything = [point for points, _ in groups for point in points]
    hidden = sum(point.measures.quality < least for point in (*front.members, *beaten))
    across = np.array([getattr(point.measures, field) * unit for point in everything])
    upward = np.array([point.measures.quality for point in everything])
    rows, places = _placed(upward, _ROWS), _placed(across, columns)
    signs = [[(" ", "")] * columns for _ in range(_ROWS)]
    drawn = [sign for points, sign in groups for _ in points]
    for row, place, sign in zip(rows, places, drawn, strict=True):
        signs[_ROWS - 1 - row][place] = sign
    text = _framed(signs, (upward.min(), upward.max()), (across.min(), across.max()), title, front.metric)
    return text.append(f"  {hidden} of lower {front.metric} are not drawn\n") if hidden else text


def _least_drawn(front: Front, pick: Point | None) -> float:
    """The quality below which nothing is drawn, so that those worth deploying are not pressed together.

    That is where the hypervolume ends, see `REFERENCE_LOSS`; but the pick is drawn in any case, and so is everything
    where else only the original would be.
    """
    base = front.baseline.measures.quality
    least = min([base * (1 - REFERENCE_LOSS), *([] if pick is None else [pick.measures.quality])])
    others = [point for point in front.points if point is not front.baseline and point.measures.quality >= least]
    return least if base > 0 and others else float("-inf")


def _placed(values: np.ndarray, cells: int) -> list[int]:
    """The cell of every value between the least and the largest of them; the middle one where all agree."""
    span = np.ptp(values)
    if not span:
        return [cells // 2] * len(values)
    return [int(cell) for cell in np.rint((values - values.min()) / span * (cells - 1))]


def _framed(
    signs: Sequence[Sequence[tuple[str, str]]],
    upward: tuple[float, float],
    across: tuple[float, float],
    title: str,
    metric: str,
) -> Text:
    text, columns = Text(f"{metric}\n", no_wrap=True), len(signs[0])
    for number, row in enumerate(signs):
        label = f"{upward[1]:.4f}" if number == 0 else f"{upward[0]:.4f}" if number == len(signs) - 1 else ""
        text.append(f"{label:>{_LABEL}} |")
        for sign, style in row:
            text.append(sign, style)
        text.append("\n")
    ends = f"{across[0]:.2f}", f"{across[1]:.2f}"
    text.append(f"{'':{_LABEL}} +{'-' * columns}\n{'':{_LABEL + 2}}{ends[0]}{ends[1]:>{columns - len(ends[0])}}\n")
    text.append(f"{title:>{_LABEL + 2 + columns}}\n")
    for name, (sign, style) in {"front": _MEMBER, "original": _BASELINE, "pick": _PICK, "beaten": _BEATEN}.items():
        text.append(f"  {sign}", style).append(f" {name}")
    return text.append("\n")

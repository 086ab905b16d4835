"""A front as a table, in the units people read: milliseconds and megabytes (1 MB = 1,000,000 bytes)."""

import pandas as pd

from ..profilers.profile import Profile
from .front import Front, Point

_MILLISECONDS, _MEGABYTES = 1e3, 1e-6
# The column of what the search predicted, beside what was measured; only where candidates were predicted.
PREDICTED = "predicted_ms"


def table_of(front: Front) -> pd.DataFrame:
    """The members, one per row."""
    rows = [{**row_of(point, front.baseline), "tie": tie} for point, tie in zip(front.members, front.ties, strict=True)]
    guessed = [PREDICTED] if any(PREDICTED in row for row in rows) else []
    return pd.DataFrame(rows, columns=[*row_of(front.baseline, front.baseline), *guessed, "tie"])


def row_of(point: Point, baseline: Point) -> dict[str, object]:
    """One point in the units people read; what was not measured is None."""
    late, memory, measures = point.profile.latency, point.profile.memory, point.measures
    per_ratio = None if late is None or measures.latency_seconds is None else measures.latency_seconds / late.ratio
    return {
        "plan": str(point.plan),
        "quality": measures.quality,
        "quality_low": point.quality.low,
        "quality_high": point.quality.high,
        "drop": measures.drop,
        "drop_low": None if point.gain is None else -point.gain.high,
        "drop_high": None if point.gain is None else -point.gain.low,
        "search_quality": point.search_quality,
        "search_quality_low": None if point.searched is None else point.searched.low,
        "search_quality_high": None if point.searched is None else point.searched.high,
        "latency_ms": None if measures.latency_seconds is None else measures.latency_seconds * _MILLISECONDS,
        "latency_low_ms": None if late is None or per_ratio is None else late.ratio_low * per_ratio * _MILLISECONDS,
        "latency_high_ms": None if late is None or per_ratio is None else late.ratio_high * per_ratio * _MILLISECONDS,
        "speedup": None if late is None else 1 / late.ratio,
        **_token_times(point.profile),
        "memory_mb": None if memory is None else memory.peak_bytes * _MEGABYTES,
        "size_mb": measures.size_bytes * _MEGABYTES,
        "size_ratio": baseline.measures.size_bytes / measures.size_bytes,
        "kernels": point.profile.kernels,
        "split": point.quality.split,
        "fingerprint": point.plan.fingerprint,
        "is_baseline": point.is_baseline,
        **({} if point.predicted_seconds is None else {PREDICTED: point.predicted_seconds * _MILLISECONDS}),
    }


def _token_times(profile: Profile) -> dict[str, object]:
    """Columns that only a front of generated texts has."""
    if profile.first_token is None:
        return {}
    further = profile.seconds_per_token
    return {
        "first_token_ms": profile.first_token.seconds * _MILLISECONDS,
        "further_token_ms": None if further is None else further * _MILLISECONDS,
    }

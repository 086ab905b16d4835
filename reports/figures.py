"""What the figures of the page show, as rows of plain data: every figure can be drawn again from its rows."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from ..profilers.estimates import PredictedLatency
from ..profilers.timing import Latency
from ..search.trial import Trial
from .ablation import Ablated
from .front import Front, Point, trial_point
from .front_table import row_of
from .plan_picture import Pictures, changed_axes

Row = dict[str, Any]

_MILLISECONDS = 1e3
# More digits than any measurement here has, and half the bytes of what JSON would write of a double.
_DIGITS = 9


def front_rows(front: Front, naive: Mapping[str, str], trials: Mapping[str, Trial], pictures: Pictures) -> list[Row]:
    """Every point of the session that made the front: members, the baseline, naive plans and those beaten.

    Args:
        front: of a run.
        naive: name of a naive plan -> fingerprint.
        trials: fingerprint -> trial, for their numbers.
        pictures: draws the plans.

    Returns:
        Members first, in their order; "role" is front, baseline, naive or beaten, and a member that has another role
        too says so under "is_baseline" and "naive".
    """
    named = {fingerprint: name for name, fingerprint in naive.items()}
    ties = {point.plan.fingerprint: tie for point, tie in zip(front.members, front.ties, strict=True)}
    by_name = {point.plan.fingerprint: point for point in (*front.members, front.baseline, *front.beaten)}
    if front.split == "search":
        # Then all trials are of one session, and those beaten are among the rows of trials.
        kept = {*(point.plan.fingerprint for point in (*front.members, front.baseline)), *named}
        by_name = {fingerprint: point for fingerprint, point in by_name.items() if fingerprint in kept}
    rows = []
    for fingerprint, point in by_name.items():
        row = {**row_of(point, front.baseline), **measured(point)}
        trial, name = trials.get(fingerprint), named.get(fingerprint)
        role = "front" if fingerprint in ties else "baseline" if point.is_baseline else "naive" if name else "beaten"
        row |= {
            "role": role,
            "tie": ties.get(fingerprint),
            "naive": name,
            "trial": None if trial is None else trial.number,
            "predicted": point.is_predicted,
            "changes": " ".join(sorted(changed_axes(point.plan))),
        }
        rows.append(plain(row) | {"picture": pictures.picture(point.plan)})
    return rows


def trial_rows(trials: Sequence[Trial], baseline: Point | None, pictures: Pictures) -> list[Row]:
    """Every trial: its numbers on the search split, or what it failed of.

    Args:
        trials: of a run.
        baseline: the original on the search split; None where it has no numbers.
        pictures: draws the plans.
    """
    rows = []
    for trial in trials:
        row: Row = {"number": trial.number, "state": trial.state.value.replace("_", " "), "cause": trial.cause}
        if trial.plan is not None:
            row |= {"plan": str(trial.plan), "fingerprint": trial.plan.fingerprint}
            row |= {"changes": " ".join(sorted(changed_axes(trial.plan)))}
        if trial.measures is not None and baseline is not None:
            row |= row_of(trial_point(trial), baseline)
            row |= {"predicted": trial.profile is not None and trial.profile.is_predicted}
            # They say what the columns without "search" say already, or nothing.
            for name in ("search_quality", "drop_low", "drop_high", "predicted_ms", "split"):
                row.pop(name, None)
        rows.append(plain(row) | {"picture": None if trial.plan is None else pictures.picture(trial.plan)})
    return rows


def guess_rows(front: Front, trials: Mapping[str, Trial]) -> list[Row]:
    """What the search took a latency for, by prediction or by a short measurement, beside that measured whole.

    Args:
        front: measured whole.
        trials: fingerprint -> trial.
    """
    rows = []
    for point in (*front.members, *front.beaten):
        trial = trials.get(point.plan.fingerprint)
        late, whole = None if trial is None or trial.profile is None else trial.profile.latency, point.profile.latency
        if late is None or not isinstance(whole, Latency) or point.is_baseline or front.split == "search":
            continue
        row = {
            "plan": str(point.plan),
            "fingerprint": point.plan.fingerprint,
            "predicted": isinstance(late, PredictedLatency),
            "searched_ratio": late.ratio,
            "searched_low": late.ratio_low,
            "searched_high": late.ratio_high,
            "measured_ratio": whole.ratio,
            "measured_low": whole.ratio_low,
            "measured_high": whole.ratio_high,
            "error": late.ratio / whole.ratio - 1,
        }
        rows.append(plain(row))
    return rows


def ablation_rows(found: Sequence[Ablated], baseline: Point) -> list[Row]:
    """What each axis gave, one row per set of axes.

    Args:
        found: by `ablation.ablation`.
        baseline: the original on the search split.
    """
    columns = (
        "plan",
        "fingerprint",
        "is_baseline",
        "size_ratio",
        "quality",
        "drop",
        "latency_ms",
        "speedup",
        "memory_mb",
        "size_mb",
    )
    rows = []
    for one in found:
        best = dict.fromkeys(columns) if one.best is None else row_of(one.best, baseline)
        row = {"axes": one.title, "trials": one.trials, "hypervolume": one.hypervolume}
        rows.append(plain({**row, **{name: best[name] for name in columns}}))
    return rows


def measured(point: Point) -> Row:
    """How requests scattered and what a request takes, of a point measured whole; nothing where it was not."""
    late = point.profile.latency
    if not isinstance(late, Latency):
        return {}
    percentiles = {f"p{percent}_ms": late.percentile(percent) * _MILLISECONDS for percent in (50, 90, 99)}
    return {**percentiles, "requests_per_second": late.throughput, "warnings": "; ".join(late.warnings)}


def plain(row: Mapping[str, Any]) -> Row:
    """A row as JSON may hold it: nothing that is not finite, and no digits that mean nothing."""

    def value_of(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return float(f"{value:.{_DIGITS}g}") if isfinite(value) else None

    return {name: value_of(value) for name, value in row.items()}

"""A pick in words and as JSON."""

from collections.abc import Iterator

from ..search.quality import Quality
from .front import Front, Point
from .front_table import row_of
from .pick import Pick, Splits, Step
from .relaxing import NothingFitsError
from .tables import one_line
from .verdict import verdict_of


def lines_of(pick: Pick, front: Front) -> tuple[str, ...]:
    """The pick for a person: what, why, whether it is faster, how far to trust it, what else there is."""
    return tuple(_lines(pick, front))


def to_json(pick: Pick, front: Front) -> dict[str, object]:
    """The pick with everything said of it: its row, and plain data in the units people read."""
    return {
        **row_of(pick.point, front.baseline),
        "plan_json": pick.point.plan.to_json(),
        "policy": pick.policy,
        "limits": pick.limits.to_json(),
        "reason": pick.reason,
        "verdict": verdict_of(pick.point.plan, pick.point.profile),
        "is_final": front.split == "test",
        "runners_up": [row_of(point, front.baseline) for point in pick.runners_up],
        "next_step": None if pick.step is None else _step_json(pick.step, front),
        "splits": None if pick.splits is None else _splits_json(pick.splits, front),
    }


def refusal_to_json(error: NothingFitsError, front: Front) -> dict[str, object]:
    """What a program is told where nothing fits: how near the front comes, and what to relax."""
    return {
        "plan": None,
        "limits": error.limits.to_json(),
        "nearest": error.nearest.to_json(),
        "relaxations": [
            {"limits": one.limits.to_json(), "relaxed": list(one.names), **row_of(one.point, front.baseline)}
            for one in error.relaxations
        ],
    }


def _lines(pick: Pick, front: Front) -> Iterator[str]:
    yield one_line(pick.point, front.baseline)
    yield f"It is {pick.reason}."
    yield f"It is {verdict_of(pick.point.plan, pick.point.profile)}."
    if front.split != "test":
        yield "Not final: nothing was measured whole yet. Run the same `paring search` command again to go on."
    for point in pick.runners_up:
        yield f"Next: {one_line(point, front.baseline)}{_tied(pick.point, point)}"
    yield _step_line(pick, front)
    if pick.splits is not None and not pick.point.is_baseline:
        yield _splits_line(pick.splits, front)


def _tied(pick: Point, other: Point) -> str:
    """Whether another is as fast as the pick within the noise of both."""
    a, b = pick.profile.latency, other.profile.latency
    same = a is not None and b is not None and a.ratio_low <= b.ratio_high and b.ratio_low <= a.ratio_high
    return " | as fast within the noise" if same else ""


def _step_line(pick: Pick, front: Front) -> str:
    is_timed = pick.point.measures.latency_seconds is not None
    cheaper = "faster" if is_timed else "smaller"
    if pick.step is None:
        return f"Nothing on the front is 5 % {cheaper}."
    step, loss = pick.step, pick.step.loss
    price = f"costs {loss.value:z.4f}" if loss.value > 0 else f"gains {-loss.value:z.4f}"
    noise = "" if loss.low > 0 or loss.high < 0 else ", which may be noise"
    name = "the original" if step.point.is_baseline else str(step.point.plan)
    gain = f"{step.gain:.2f} times as {'fast' if is_timed else 'small'}"
    return (
        f"The next 5 % of {'speed' if is_timed else 'size'} {price} of {front.metric} "
        f"(95 % interval {loss.low:+z.4f} to {loss.high:+z.4f}{noise}): {name}, {gain}."
    )


def _splits_line(splits: Splits, front: Front) -> str:
    def judged(quality: Quality, drop: float) -> str:
        return f"{quality.value:.4f} ({quality.low:.4f} to {quality.high:.4f}), drop {drop:+z.4f}"

    searched, tested = judged(splits.searched, splits.searched_drop), judged(splits.tested, splits.tested_drop)
    better = f"{abs(splits.flattery):.4f} {'better' if splits.flattery >= 0 else 'worse'}"
    return (
        f"Searched among {front.judged} candidates, {front.metric} was {searched} on the search split; on test it is "
        f"{tested}. Beside the original it looked {better} where it was searched. "
        f"Picked among {len(front.points)} by the test numbers, these flatter it a little too."
    )


def _step_json(step: Step, front: Front) -> dict[str, object]:
    loss = {"loss": step.loss.value, "loss_low": step.loss.low, "loss_high": step.loss.high}
    return {"times_as_cheap": step.gain, **loss, **row_of(step.point, front.baseline)}


def _splits_json(splits: Splits, front: Front) -> dict[str, object]:
    def judged(quality: Quality, drop: float) -> dict[str, object]:
        numbers = {"quality": quality.value, "quality_low": quality.low, "quality_high": quality.high, "drop": drop}
        return {**numbers, "examples": len(quality.outcomes)}

    return {
        "search": judged(splits.searched, splits.searched_drop),
        "test": judged(splits.tested, splits.tested_drop),
        "flattery": splits.flattery,
        "searched_among": front.judged,
        "picked_among": len(front.points),
    }

"""What `paring search --dry-run` says."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from .search.forecast import Forecast
    from .search.progress import Progress
    from .search.settings import Settings


def show(settings: "Settings", form: str, progress: "Progress") -> None:
    """Prints what a search would take.

    Args:
        settings: what would be asked.
        form: "table" or "json".
        progress: where to say how far it is.

    Raises:
        BudgetError: if the budget cannot be kept; it is printed all the same.
    """
    from .search.forecast import forecast

    found = forecast(settings, progress)
    typer.echo(_json(found) if form == "json" else _words(found))
    found.refuse_unreachable()


def _json(found: "Forecast") -> str:
    reaches = [{**asdict(one), "is_reachable": one.is_reachable} for one in found.reaches]
    return json.dumps({**asdict(found), "reaches": reaches}, indent=1)


def _words(found: "Forecast") -> str:
    about = "" if found.plans == found.choices else f", about {_count(found.plans)} different plans"
    asked = "as many trials as the minutes allow" if found.trials is None else f"{found.trials} trials"
    lines = [
        f"Space      {_count(found.choices)} choices{about}",
        *(f"First      {one.what}, {one.times} times: {_time(one.seconds)}" for one in found.preparing),
        f"Search     {asked}, {_time(found.trial_seconds)} each",
        f"Front      measured whole in {_time(found.front_seconds)}",
        f"In all     about {found.minutes:.1f} minutes, and {found.peak_bytes / 1e6:,.0f} MB of memory",
    ]
    for one in found.reaches:
        said = "can be kept" if one.is_reachable else "CANNOT be kept"
        lines.append(f"Budget     {one.limit}={one.asked:g} {said}: the strongest plan takes {one.best:.4g}")
    return "\n".join(lines)


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**9 else f"{number:.1e}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"

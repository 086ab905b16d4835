"""What a search would take, before it begins: plans, minutes, memory, and whether the budget can be kept at all.

Nothing is written. What takes time is timed on a few examples and on a few plans whose numbers are not learned, and
counted; so minutes are right within some tens of per cent, and memory likewise.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import psutil

from ..errors import BudgetError
from ..profilers.timing import Effort, measure
from ..profilers.workload import serving
from ..spaces.artefact import stored_bytes
from ..spaces.space import Space
from .deployed import SESSION
from .finals import saved
from .near_front import MOST as MOST_NEAR
from .objectives import MEGABYTE
from .opening import open_workbench
from .prefix_store import budget_bytes
from .preparing_time import Piece, preparing
from .progress import Progress, Silent
from .rehearsal import Rehearsal
from .settings import Settings

# Of timing one model: at most while searching, and when the front is measured.
_CANDIDATE_SECONDS, _FINAL_SECONDS = 1.5, 4.5
# A fresh process that serves a saved model.
_MEMORY_SECONDS = 0.5
# Members of a front, as searches found them; and naive plans beside them.
_MEMBERS, _NAIVE = 10, 2
_EFFORT = Effort(seconds=3.0, half_width=0.02)


@dataclass(frozen=True, slots=True)
class Reach:
    """How near a search can come to one limit.

    Attributes:
        limit: as the user writes it, such as "size_mb".
        asked: in the user's unit.
        best: the least there is: of the plan in which every choice is the strongest.
    """

    limit: str
    asked: float
    best: float

    @property
    def is_reachable(self) -> bool:
        """Whether that plan keeps it. Whether it keeps the quality as well, only judging can tell."""
        return self.best <= self.asked


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a search would take.

    Attributes:
        choices: combinations of the parameters' values.
        plans: about how many different plans they lead to.
        trials: that are asked for; None where minutes are.
        preparing: what is learned or measured before candidates are judged, or when one first needs it.
        trial_seconds: that judging one candidate takes, on average.
        front_seconds: that measuring the front whole takes.
        minutes: all together, this process and all its workers.
        peak_bytes: that this process holds at once, models that are held to be compared among them.
        reaches: one for every limit that is no quality.
    """

    choices: int
    plans: int
    trials: int | None
    preparing: tuple[Piece, ...]
    trial_seconds: float
    front_seconds: float
    minutes: float
    peak_bytes: int
    reaches: tuple[Reach, ...]

    def refuse_unreachable(self) -> None:
        """Says which limits cannot be kept.

        Raises:
            BudgetError: if there are any.
        """
        broken = [one for one in self.reaches if not one.is_reachable]
        if broken:
            words = ", ".join(f"{one.limit}={one.asked:g} (the least is {one.best:.4g})" for one in broken)
            raise BudgetError(
                f"no plan of this space keeps {words}: the strongest choice of every parameter does not. "
                "Relax the budget, or search more axes or lower precisions."
            )


def forecast(settings: Settings, progress: Progress | None = None) -> Forecast:
    """Says what a search would take, and whether its budget can be kept; writes nothing.

    Args:
        settings: what would be asked.
        progress: where to say how far it is; None says nothing.

    Raises:
        UserError: if something asked for cannot work.
    """
    progress = progress or Silent()
    with tempfile.TemporaryDirectory(prefix="paring-") as place, progress.stage("looking ahead", 5) as report:
        bench, described = open_workbench(settings, progress, folder=Path(place))
        space = Space(bench.anatomy, settings.axes)
        report(1, "judging some examples")
        rehearsal = Rehearsal(settings, bench, space)
        report(2, "counting plans")
        plans = min(space.size, ceil(space.size * rehearsal.distinct_share()))
        report(3, "looking at what is learned first")
        pieces = preparing(settings, bench, rehearsal, described)
        report(4, "looking at the budget")
        reaches = tuple(_reaches(settings, rehearsal))
    trials = settings.trials if settings.trials is None else min(settings.trials, plans)
    trial = rehearsal.trial_seconds + _measuring(settings)
    front = _front_seconds(settings, rehearsal, trials)
    workers = 1 if settings.cluster is None else settings.cluster.workers or 1
    searching = (settings.minutes or 0) * 60 if trials is None else trials * trial / workers
    if trials is not None and settings.minutes is not None:
        searching = min(searching, settings.minutes * 60)
    seconds = sum(piece.seconds for piece in pieces) + searching + front
    peak = _peak_bytes(settings, rehearsal)
    return Forecast(space.size, plans, trials, pieces, trial, front, seconds / 60, peak, reaches)


def _measuring(settings: Settings) -> float:
    """Seconds of measuring one candidate."""
    if settings.predicts:
        return 0.0
    latency = _CANDIDATE_SECONDS if "latency" in settings.measured else 0.0
    return latency + (_MEMORY_SECONDS if "memory" in settings.measured else 0.0)


def _front_seconds(settings: Settings, rehearsal: Rehearsal, trials: int | None) -> float:
    members = min(_MEMBERS, trials or _MEMBERS) + (MOST_NEAR if settings.predicts else 0) + _NAIVE + 1
    memory = _MEMORY_SECONDS if "memory" in settings.measured else 0.0
    # Built and loaded twice, in memory and from the files.
    return members * (2 * rehearsal.building_seconds + rehearsal.test_seconds + _FINAL_SECONDS + memory)


def _peak_bytes(settings: Settings, rehearsal: Rehearsal) -> int:
    """What is held now, layers kept for other candidates, and a session of the front beside the original."""
    kept = budget_bytes(rehearsal.bench.device.torch_device) if settings.reuses_prefixes else 0
    return psutil.Process().memory_info().rss + kept + (SESSION + 1) * rehearsal.held_bytes


def _reaches(settings: Settings, rehearsal: Rehearsal) -> Iterator[Reach]:
    """The strongest plan, measured where there is a limit on it."""
    budget, bench = settings.budget, rehearsal.bench
    if budget.size_bytes is not None:
        yield Reach("size_mb", budget.size_bytes / MEGABYTE, stored_bytes(rehearsal.strongest_model) / MEGABYTE)
    if budget.latency_seconds is not None:
        both = {"original": bench.model, "strongest": rehearsal.strongest_model}
        calls = {
            name: serving(bench.executable(model), settings.workload, bench.model.config)
            for name, model in both.items()
        }
        found = measure(calls, baseline="original", effort=_EFFORT, seed=settings.seed, clock=bench.device.clock)
        yield Reach("latency_ms", budget.latency_seconds * 1e3, found["strongest"].seconds * 1e3)
    if budget.memory_bytes is not None:
        with settings.meter() as meter, saved(bench, rehearsal.strongest_model, rehearsal.strongest) as folder:
            yield Reach("memory_mb", budget.memory_bytes / MEGABYTE, meter.measure(folder).peak_bytes / MEGABYTE)

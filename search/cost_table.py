"""Learning what plans cost: which few are measured, side by side, so that all others can be predicted.

The models measured are untaught (see `search/untaught.py`), so learning needs no training and no scores. They are held
in memory a session at a time: at most `_SESSION` beside the original, fewer where those would take more than a
quarter of the free memory.
"""

import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from ..profilers import kept
from ..profilers.counting import Shapes, counted, is_refinement, prior_of
from ..profilers.memory import MemoryMeter
from ..profilers.prediction import Measured, Table
from ..profilers.runtimes import Executable
from ..profilers.timing import Effort, measure
from ..profilers.workload import Workload, serving
from ..spaces.artefact import stored_bytes
from ..spaces.plan import Plan
from ..spaces.space import Space
from .cache import Cache
from .finals import saved
from .predictor import Predictor
from .progress import Progress
from .untaught import UntaughtBench, drawn_choice
from .workbench import LocalWorkbench

# What tables are called among the facts kept of a machine.
COSTS = "costs"
# Plans to learn from; more where there are more features than a usual encoder has.
PLANS = 48
SECONDS = 88.0
_SESSION = 8
_EFFORT = Effort(seconds=4.0, half_width=0.005, min_rounds=7)
_FREE_SHARE = 0.25
# Of the time, for peaks of memory; and so many in any case, since fewer say nothing.
_SHARE_OF_PEAKS, _LEAST_PEAKS = 0.4, 8
# Of plans drawn at random, from which those that say most are taken.
_DRAWN, _UNIFORM = 400, 50
# Relative noise that the choice of plans reckons with.
_NOISE = 0.02


@dataclass(frozen=True, slots=True)
class Subject:
    """What costs are learned of.

    Attributes:
        model: fingerprint of the original's content.
        runtime: name of what runs it.
        machine: fingerprint of the machine, its libraries and the runtime's among them.
        axes: what may change.
        workload: what is served.
    """

    model: str
    runtime: str
    machine: str
    axes: tuple[str, ...]
    workload: Workload

    def key(self, bench: LocalWorkbench, *, has_memory: bool) -> dict[str, Any]:
        """All that a table depends on, as plain data."""
        return {
            "version": 2,
            "model": self.model,
            "shapes": Shapes.of(bench.anatomy).to_json(),
            "granularities": {stack.name: list(stack.granularities) for stack in bench.anatomy.stacks},
            "palette": bench.anatomy.palette.to_json(),
            "factoring": bench.anatomy.factoring.to_json(),
            "machine": self.machine,
            "runtime": self.runtime,
            "axes": list(self.axes),
            "workload": self.workload.to_json(),
            "memory": has_memory,
        }


def cost_table(
    bench: LocalWorkbench,
    subject: Subject,
    *,
    cache: Cache,
    meter: MemoryMeter | None,
    progress: Progress,
    seed: int,
    seconds: float = SECONDS,
    relearn: bool = False,
) -> Table:
    """The table of a subject: learned for exactly this one by this run or an earlier one, or learned now.

    Args:
        bench: of the run.
        subject: whose costs.
        cache: of the run, which goes on with the table that it began with.
        meter: measures memory; None to leave it out.
        progress: where to say how far it is.
        seed: of the plans and of the order within the rounds.
        seconds: after which no new session of measurements starts.
        relearn: learns now what only an earlier run knows.

    Raises:
        MeasurementError: if a model cannot be measured.
    """
    key = json.loads(json.dumps(subject.key(bench, has_memory=meter is not None)))
    name = "costs-" + hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    known = cache.get(name)
    if known is not None and known["key"] == key:
        return Table.from_json(known)
    shapes = Shapes.of(bench.anatomy)
    earlier = None if relearn else kept.get(COSTS, key)
    if earlier is not None and _predicts(table := Table.from_json(earlier), shapes):
        cache.put(name, earlier)
        return table
    space = Space(bench.anatomy, subject.axes)
    untaught = UntaughtBench(bench.model, bench.anatomy, bench.calibration(), seed=seed)
    plans = telling_plans(space, untaught, shapes, count=PLANS, seed=seed)
    lesson = _Lesson(bench, untaught, subject.workload, meter, seed)
    table = lesson.learn(plans, key, progress, seconds)
    cache.put(name, table.to_json())
    if _predicts(table, shapes):  # what was disturbed shall not disturb later searches
        kept.put(COSTS, key, table.to_json())
    return table


def _predicts(table: Table, shapes: Shapes) -> bool:
    """Whether its predictions are trusted."""
    return Predictor.or_reason(table, shapes)[0] is not None


def telling_plans(space: Space, bench: UntaughtBench, shapes: Shapes, *, count: int, seed: int) -> list[Plan]:
    """The plans to measure, those that say most about all features first.

    Every second one is greedily D-optimal: the plan whose cost is least sure given all before it, those with features
    that none had yet first. The others are as they are drawn, like what a search proposes: errors left out, which say
    what a prediction is worth, would otherwise be those of extremes.

    Args:
        space: what is searched.
        bench: resolves choices.
        shapes: of the original.
        count: how many.
        seed: of the random ones.

    Returns:
        The original first; no plan twice.
    """
    draw = random.Random(seed)
    drawn = [drawn_choice(space, draw) for _ in range(_DRAWN)]
    choices = [space.identity(), *drawn, *space.uniform_choices()[:_UNIFORM]]
    pool = list({plan.fingerprint: plan for plan in (space.resolve(choice, bench) for choice in choices)}.values())
    counts = [counted(plan, shapes) for plan in pool]
    features = sorted({name for one in counts for name in one})
    design = np.array([[one.get(name, 0.0) * prior_of(name) for name in features] for one in counts])
    has = (design != 0) & ~np.array([is_refinement(name) for name in features])
    # Errors are relative: what is small is measured as exactly as what is large.
    sizes = np.array([0.1 + _layers(one) for one in counts])
    design /= _NOISE * sizes[:, None] / sizes[0]
    inverse, picked = np.eye(len(features)), [0]
    while len(picked) < min(count, len(pool)):
        last = inverse @ design[picked[-1]]
        inverse -= np.outer(last, last) / (1 + design[picked[-1]] @ last)
        fresh = (has & ~has[picked].any(axis=0)).sum(axis=1)
        variance = ((design @ inverse) * design).sum(axis=1)
        order = np.lexsort((-variance, -fresh)) if len(picked) % 2 else range(len(pool))
        picked.append(next(int(place) for place in order if place not in picked))
    return [pool[place] for place in picked]


class _Lesson:
    """Measures plans, session by session."""

    def __init__(
        self, bench: LocalWorkbench, untaught: UntaughtBench, workload: Workload, meter: MemoryMeter | None, seed: int
    ) -> None:
        self._bench, self._untaught, self._workload, self._meter, self._seed = bench, untaught, workload, meter, seed
        self._shapes = Shapes.of(bench.anatomy)
        identity = bench.anatomy.identity()
        # One copy for all sessions: another may lie elsewhere in memory, and would be a few per cent faster or slower.
        self._baseline = bench.executable(untaught.build(identity))
        # How much, further copies tell, one per session.
        self._copies: list[float] = []
        self._peaks: dict[str, int] = {}
        self._meter_seconds = 0.0

    def learn(self, plans: Sequence[Plan], key: Mapping[str, Any], progress: Progress, seconds: float) -> Table:
        """Measures as many plans as the seconds allow."""
        started = time.monotonic()
        ratios: dict[str, float] = {}
        size, done = _session_size(stored_bytes(self._bench.model)), 0
        with progress.stage("learning what plans cost", len(plans)) as report:
            longest = 0.0
            while done < len(plans) and time.monotonic() - started + longest < seconds:
                begun = time.monotonic()
                session = plans[done : done + size]
                report(done, f"measuring {len(session)} models side by side")
                ratios |= self._time(session)
                self._weigh(session, allowed=_SHARE_OF_PEAKS * seconds)
                done += len(session)
                longest = max(longest, time.monotonic() - begun)
        base = self._peaks.get(plans[0].fingerprint)
        measured = tuple(
            Measured(
                counted(plan, self._shapes),
                ratios[plan.fingerprint],
                None if base is None or (peak := self._peaks.get(plan.fingerprint)) is None else peak / base,
            )
            for plan in plans[:done]
        )
        return Table(key, measured, base, round(time.monotonic() - started, 1), tuple(self._copies))

    def _time(self, session: Sequence[Plan]) -> dict[str, float]:
        """Plan fingerprint -> latency in units of the original's."""
        loaded: dict[str, Executable] = {
            plan.fingerprint: self._bench.executable(self._untaught.build(plan)) for plan in session
        }
        copy = self._bench.executable(self._untaught.build(self._bench.anatomy.identity()))
        entrants = {"the original": self._baseline, "another copy": copy, **loaded}
        calls = {name: serving(one, self._workload, self._bench.model.config) for name, one in entrants.items()}
        clock = self._bench.device.clock
        found = measure(calls, baseline="the original", effort=_EFFORT, seed=self._seed, clock=clock)
        self._copies.append(found["another copy"].ratio)
        return {name: found[name].ratio for name in loaded}

    def _weigh(self, session: Sequence[Plan], *, allowed: float) -> None:
        """Measures peaks of memory: of every second plan, beginning with the original, while time allows."""
        for plan in session[::2] if self._meter is not None else ():
            if len(self._peaks) >= _LEAST_PEAKS and self._meter_seconds > allowed:
                return
            begun = time.monotonic()
            assert self._meter is not None
            with saved(self._bench, self._untaught.build(plan), plan) as folder:
                self._peaks[plan.fingerprint] = self._meter.measure(folder).peak_bytes
            self._meter_seconds += time.monotonic() - begun


def _session_size(model_bytes: int) -> int:
    """How many models are held at once: compiled, one takes about twice the bytes of the original at most."""
    fit = int(_FREE_SHARE * psutil.virtual_memory().available / (2 * model_bytes))
    return max(2, min(_SESSION, fit))


def _layers(counts: Mapping[str, float]) -> float:
    """Share of the original's layers that stand, on average over its stacks."""
    found = [amount for name, amount in counts.items() if name.startswith("layers:")]
    return sum(found) / len(found)

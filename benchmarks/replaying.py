"""Searches of a space of which every plan is known: proposals as `paring search` makes them, judgements looked up."""

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np
import optuna
from tied_space import TiedSpace

from paring.profilers.counting import Shapes
from paring.reports.front import REFERENCE_LOSS
from paring.reports.over_time import Volume
from paring.search.first_choices import n_starts, starting_choices
from paring.search.hints import Hints, hints_of
from paring.search.objectives import Limits, Measures
from paring.search.predictor import Predictor
from paring.search.samplers import NAMES as NAMES
from paring.search.samplers import sampler
from paring.search.samplers.costs import Costs
from paring.search.samplers.distributions import distribution_of
from paring.search.samplers.features import Features
from paring.search.samplers.guide import Guide
from paring.search.workbench import LocalWorkbench
from paring.spaces.axes import Choice
from paring.spaces.plan import Plan
from paring.spaces.plan_bytes import PlanBytes
from paring.spaces.space import Space

SHARES = (0.9, 0.95, 0.99)
# Of the plans, what one search may ask for; and what a sampler may that takes seconds for each.
_MOST_SHARE, _MOST_OF_SLOW = 0.1, {"gp": 210}
# Starting points of Optuna's samplers; of ours there are as many as in a search.
_STARTS = 20
_REPEATS = 200


class Truth:
    """What every plan of a tied space is worth.

    Attributes:
        space: tied.
        measures: plan -> its numbers, the original first; latencies in units of the original's.
        hints: what is known of the parts before anything is judged.
    """

    def __init__(
        self, space: TiedSpace, bench: LocalWorkbench, predictor: Predictor, qualities: Mapping[Plan, float]
    ) -> None:
        """Adds what plans cost to what they are worth."""
        self.space, self._bench, self._predictor = space, bench, predictor
        self._sizes = PlanBytes(bench.model, bench.anatomy)
        original = bench.anatomy.identity()
        best = qualities[original]
        self.measures = {
            plan: Measures(value, best - value, predictor.latency(plan).ratio, None, self._sizes.of(plan))
            for plan, value in qualities.items()
        }
        own = self.measures[original]
        self.measures = {original: Measures(best, 0.0, 1.0, None, own.size_bytes)} | {
            plan: one for plan, one in self.measures.items() if plan != original
        }
        real = hints_of(Space(bench.anatomy, space.axes), bench)
        self.hints = Hints(real.whole, space.tied(real.bits), real.rest, space.tied(real.factors), {}, real.harms)

    @classmethod
    def read(cls, bench: LocalWorkbench, space: TiedSpace, predictor: Predictor, path: Path) -> Self:
        """The table that was enumerated; of plans that several choices lead to, the first is kept."""
        qualities: dict[Plan, float] = {}
        for line in path.read_text(encoding="utf8").splitlines():
            for row in json.loads(line)["plans"]:
                qualities.setdefault(space.resolve(row["choice"], bench), row["quality"])
        return cls(space, bench, predictor, qualities)

    def guide(self, objectives: tuple[str, ...]) -> Guide:
        """What the sampler made for this knows beforehand."""
        shapes = Shapes.of(self._bench.anatomy)
        return Guide(
            self.space,
            lambda choice: (self.space.resolve(choice, self._bench), True),
            Features(shapes, self.hints.harms),
            Costs(self._sizes, shapes, self._predictor),
            objectives=objectives,
            limits=Limits(),
            options=(self.hints.factors, self.hints.bits),
        )

    def resolve(self, choice: Choice) -> Plan:
        """The plan of a choice."""
        return self.space.resolve(choice, self._bench)

    def point(self, plan: Plan, objectives: tuple[str, ...]) -> np.ndarray:
        """The objectives of a plan in units of the original."""
        original = next(iter(self.measures.values()))
        own = self.measures[plan]
        return np.array([own.minimised(name) / abs(original.minimised(name)) for name in objectives])

    def volume(self, objectives: tuple[str, ...]) -> float:
        """Of the true front, as reports have it."""
        found = empty_volume(objectives)
        for plan in self.measures:
            found.add(self.point(plan, objectives))
        return found.value


def empty_volume(objectives: tuple[str, ...]) -> Volume:
    """A hypervolume with the reference point of reports."""
    return Volume(len(objectives), np.array([REFERENCE_LOSS - 1 if n == "quality" else 1.0 for n in objectives]))


@dataclass(frozen=True, slots=True)
class Replay:
    """One search.

    Attributes:
        sampler: name.
        objectives: what was optimised.
        has_starts: whether it began with the starting points of paring, or with the original only.
        seed: of the sampler.
        asked: how many plans it asked for.
        needed: share of the true hypervolume -> how many plans until it was reached; None if it was not.
        reached: share of the true hypervolume in the end.
        seconds: processor time of one proposal, mean.
    """

    sampler: str
    objectives: tuple[str, ...]
    has_starts: bool
    seed: int
    asked: int
    needed: dict[str, int | None]
    reached: float
    seconds: float

    @property
    def key(self) -> tuple[str, tuple[str, ...], bool, int]:
        """What was asked."""
        return self.sampler, self.objectives, self.has_starts, self.seed

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**data, "objectives": tuple(data["objectives"])})


def replay(truth: Truth, name: str, objectives: tuple[str, ...], *, seed: int, has_starts: bool) -> Replay:
    """Searches until nearly all of the true hypervolume is reached, or enough was asked."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, whole, volume = truth.space, truth.volume(objectives), empty_volume(objectives)
    study = optuna.create_study(
        directions=["minimize"] * len(objectives), sampler=sampler(name, seed=seed, guide=truth.guide(objectives))
    )
    starts = n_starts(name, None) if name == "guided" else _STARTS
    for choice in starting_choices(space, truth.hints)[: starts if has_starts else 1]:
        study.enqueue_trial(dict(choice))
    most = _MOST_OF_SLOW.get(name, int(_MOST_SHARE * len(truth.measures)))
    draw, spent, repeats = random.Random(seed), 0.0, 0
    asked: list[Plan] = []
    needed: dict[str, int | None] = dict.fromkeys(map(str, SHARES))
    share = 0.0
    while len(asked) < most and repeats < _REPEATS and needed[str(SHARES[-1])] is None:
        started = time.process_time()
        trial = study.ask({one.name: distribution_of(one) for one in space})
        spent += time.process_time() - started
        choice = dict(trial.params)
        plan = truth.resolve(choice)
        study.tell(trial, [truth.measures[plan].minimised(objective) for objective in objectives])
        if plan in asked:  # told what is known, and a neighbour is queued, as in a search
            repeats += 1
            parameter = draw.choice(list(space))
            others = [value for value in parameter.choices if value != choice[parameter.name]]
            study.enqueue_trial({**choice, parameter.name: draw.choice(others)})
            continue
        repeats = 0
        asked.append(plan)
        volume.add(truth.point(plan, objectives))
        share = volume.value / whole
        needed |= {str(one): len(asked) for one in SHARES if needed[str(one)] is None and share >= one}
    return Replay(name, objectives, has_starts, seed, len(asked), needed, share, spent / max(1, len(asked)))


def summarised(runs: Sequence[Replay]) -> list[dict[str, Any]]:
    """One row per sampler and objectives: how many plans were needed, median and range; more than were asked is inf."""
    rows = []
    for key in dict.fromkeys((one.objectives, one.sampler, one.has_starts) for one in runs):
        own = [one for one in runs if (one.objectives, one.sampler, one.has_starts) == key]
        row: dict[str, Any] = {"objectives": " ".join(key[0]), "sampler": key[1], "starts": key[2], "seeds": len(own)}
        for share in map(str, SHARES):
            found = sorted(float("inf") if one.needed[share] is None else float(one.needed[share] or 0) for one in own)
            row[share] = " ".join(map(_number, (median(found), found[0], found[-1])))
        asked, seconds = max(one.asked for one in own), median(one.seconds for one in own)
        rows.append({**row, "asked at most": asked, "seconds per proposal": round(seconds, 4)})
    return rows


def _number(value: float) -> str:
    return "-" if value == float("inf") else f"{value:g}"

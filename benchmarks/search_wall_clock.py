"""Seconds until a search has 95 % of the best front known: ours, and the loop that one would write around Optuna.

    python benchmarks/search_wall_clock.py ours    --model MODEL --data DATA --out OUT [--seeds 5] [--trials 70]
    python benchmarks/search_wall_clock.py loop    --model MODEL --data DATA --out OUT [--seeds 5] [--minutes 40]
    python benchmarks/search_wall_clock.py compare --model MODEL --data DATA --out OUT [--seeds 5]

Ours is `paring search` as it runs; the front is measured whole after that on either side, which is not counted. The
loop asks NSGA-II for a choice, builds the model, judges it on the whole search split and measures its latency beside
the original, with paring's own parts. Both load model and data, and find the greedy order of its layers when they first
need it. What they found is kept in OUT, and a search that is there is not run again.

Two searches run at the same time on either side, with one thread each, so that all meet the same conditions on two
cores. The clock is that of the process: on a machine that others use, too, it counts what a search would take alone.
Measurements of latency end by the clock on the wall, so they count as long as they were allowed to take. Hypervolumes
are of quality on the search split and of latency as a table of costs predicts it, which `compare` learns, for the plans
of both sides: latencies measured at different times do not compare.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import optuna
import torch
from results import keep

from paring.profilers.counting import Shapes, counted
from paring.profilers.latency import Latency
from paring.profilers.timing import Effort, measure
from paring.profilers.workload import Workload, serving
from paring.reports.front import REFERENCE_LOSS
from paring.reports.over_time import Volume
from paring.search import cost_table as costs
from paring.search import driver, judge
from paring.search.cache import Cache
from paring.search.cost_table import Subject
from paring.search.opening import open_workbench
from paring.search.progress import Silent
from paring.search.samplers.distributions import distribution_of
from paring.search.settings import Settings
from paring.search.study import Record
from paring.search.tasks import Task
from paring.spaces.plan import Plan
from paring.spaces.space import Space

SHARES = (0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Found:
    """A plan that a search has judged.

    Attributes:
        seconds: since the search began.
        plan: that was judged.
        quality: on the search split.
    """

    seconds: float
    plan: Plan
    quality: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"seconds": self.seconds, "plan": self.plan.to_json(), "quality": self.quality}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(data["seconds"], Plan.from_json(data["plan"]), data["quality"])


class Clock(Silent):
    """Seconds of this process since it began, and when so many trials were done."""

    def __init__(self) -> None:
        """Begins now."""
        self._started = time.process_time()
        self.done: dict[int, float] = {}

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.process_time() - self._started

    def measure(self, *entrants: Any, effort: Effort, **how: Any) -> dict[str, Latency]:
        """As `timing.measure`; counts as long as it was allowed to take, or as it took if that is less."""
        wall, own = time.monotonic(), time.process_time()
        found = measure(*entrants, effort=effort, **how)
        spent = time.process_time() - own
        self._started -= max(0.0, min(time.monotonic() - wall, effort.seconds) - spent)
        return found

    @contextmanager
    def stage(self, title: str, total: float) -> Iterator[Any]:
        """The search reports how many trials are done."""

        def report(done: float, news: str) -> None:
            if title == "searching":
                self.done.setdefault(int(done), self.seconds)

        yield report


def asked(arguments: argparse.Namespace, out: Path, **more: Any) -> Settings:
    return Settings(
        arguments.model,
        Task("classification", arguments.data, limit=arguments.limit),
        out,
        objectives=("quality", "latency"),
        workload=Workload(tokens=arguments.tokens, threads=1),
        **more,
    )


def ours(arguments: argparse.Namespace, seed: int, out: Path) -> list[Found]:
    """`paring search`, without the front measured whole after it."""
    torch.set_num_threads(1)
    clock = Clock()
    settings = asked(
        arguments,
        out,
        seed=seed,
        trials=arguments.trials,
        latency=arguments.latency,
        sampler="guided",
        relearn_costs=True,
    )
    driver._measure_front = lambda *_: None  # type: ignore[assignment]
    judge.measure = costs.measure = clock.measure  # type: ignore[assignment]
    driver.search(settings, clock)
    return [
        Found(clock.done[count], trial.plan, trial.measures.quality)
        for count, trial in enumerate(Record.open(out).trials(), 1)
        if trial.plan is not None and trial.measures is not None
    ]


def plain_loop(arguments: argparse.Namespace, seed: int, out: Path) -> Iterator[Found]:
    """What one would write: NSGA-II, each candidate judged in full and timed."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    clock = Clock()
    settings = asked(arguments, out, reuses_prefixes=False, races=False)
    bench, _ = open_workbench(settings, Silent())
    space = Space(bench.anatomy, settings.axes)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.NSGAIISampler(seed=seed))
    study.enqueue_trial(space.identity())
    baseline = bench.executable(bench.build(bench.anatomy.identity()))
    while clock.seconds < 60 * arguments.minutes:
        trial = study.ask({one.name: distribution_of(one) for one in space})
        plan = space.resolve(trial.params, bench)
        model = bench.executable(bench.build(plan))
        quality = bench.quality(plan, bench.search, model, again=True).value
        calls = {
            name: serving(one, settings.workload, bench.model.config)
            for name, one in (("baseline", baseline), ("candidate", model))
        }
        late = clock.measure(
            calls, baseline="baseline", effort=judge._CANDIDATE_EFFORT, seed=trial.number, clock=bench.device.clock
        )["candidate"]
        study.tell(trial, (-quality, late.ratio))
        yield Found(clock.seconds, plan, quality)


SIDES: Mapping[str, Callable[[argparse.Namespace, int, Path], Iterable[Found]]] = {"ours": ours, "loop": plain_loop}
NAMES = {"ours": "paring search", "loop": "NSGA-II in a loop"}


def run(arguments: argparse.Namespace, side: str, seed: int) -> None:
    """One search, unless it was run before."""
    path = kept(arguments.out, side, seed)
    if path.exists():
        return
    growing = path.with_suffix(".growing")
    with tempfile.TemporaryDirectory() as folder, growing.open("w", encoding="utf8", buffering=1) as file:
        for one in SIDES[side](arguments, seed, Path(folder)):
            file.write(json.dumps(one.to_json()) + "\n")
    growing.replace(path)
    print(f"{NAMES[side]}, seed {seed}: {one.seconds:.0f} s", flush=True)


def kept(out: Path, side: str, seed: int) -> Path:
    """Where the plans that a search found are kept."""
    return out / f"{side}-{seed}.jsonl"


def volumes(found: Sequence[Found], ratio: Callable[[Plan], float], origin: float) -> list[tuple[float, float]]:
    """Seconds, and the hypervolume of all that was found until then."""
    volume, rows = Volume(2, np.array([REFERENCE_LOSS - 1, 1.0])), []
    for one in found:
        volume.add(np.array([-one.quality / origin, ratio(one.plan)]))
        rows.append((one.seconds, volume.value))
    return rows


def latencies(arguments: argparse.Namespace) -> Callable[[Plan], float]:
    """Plan -> its latency in units of the original's, by a table of costs that is learned once."""
    settings = asked(arguments, arguments.out)
    bench, described = open_workbench(settings, Silent())
    identity = described["identity"]
    subject = Subject(identity["model"], settings.runtime, identity["machine"], settings.axes, settings.workload)
    table = costs.cost_table(
        bench, subject, cache=Cache(arguments.out / "cache"), meter=None, progress=Silent(), seed=0
    )
    model, shapes = table.latency(), Shapes.of(bench.anatomy)
    print(f"mean error of predictions: {model.error:.3f}", flush=True)
    return lambda plan: model.predict(counted(plan, shapes)).ratio


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per seed and side: when it had which share of the hypervolume that both have together in the end."""
    ratio, rows = latencies(arguments), []
    for seed in range(arguments.seeds):
        found = {
            side: [Found.from_json(json.loads(line)) for line in kept(arguments.out, side, seed).open(encoding="utf8")]
            for side in SIDES
        }
        origin = found["ours"][0].quality
        whole = volumes([one for side in found.values() for one in side], ratio, origin)[-1][1]
        for side, own in found.items():
            grown = volumes(own, ratio, origin)
            row: dict[str, Any] = {"seed": seed, "side": NAMES[side], "plans": len(own)}
            row["seconds"] = round(grown[-1][0], 1)
            for share in SHARES:
                row[f"{share:.0%}"] = next((round(when, 1) for when, one in grown if one >= share * whole), None)
            rows.append({**row, "share in the end": round(grown[-1][1] / whole, 4)})
    return rows


def main() -> None:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=(*SIDES, "compare"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=70, help="of ours")
    parser.add_argument("--latency", choices=("predicted", "measured"), help="of the candidates of ours")
    parser.add_argument("--minutes", type=float, default=40.0, help="of the plain loop, processor time")
    parser.add_argument("--processes", type=int, default=2, help="searches at the same time")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.step == "compare":
        keep(
            "search_wall_clock",
            compare(arguments),
            limit=arguments.limit,
            tokens=arguments.tokens,
            axes=["depth", "bits"],
        )
        return
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        begun = [pool.submit(run, arguments, arguments.step, seed) for seed in range(arguments.seeds)]
        for one in begun:
            one.result()


if __name__ == "__main__":
    main()

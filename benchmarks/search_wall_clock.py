"""Seconds until a search has 95 % of the best front known: ours, and the loop that one would write around Optuna.

    python benchmarks/search_wall_clock.py --model MODEL --data DATA [--seeds 2] [--trials 100] [--minutes 15]

Ours is `paring search` as it runs, the table of costs included; the front is measured whole after that on either side,
which is not counted. The loop asks NSGA-II for a choice, builds the model, judges it on the whole search split and
measures its latency beside the original, with paring's own parts. Both load model and data, and find the greedy order
of its layers when they first need it.

Both run at the same time, with one thread each, so that they meet the same conditions. The clock is that of the
process: on a machine that others use, too, it counts what a search would take alone. Measurements of latency end by
the clock on the wall, so they count as long as they were allowed to take. Hypervolumes are of quality on the search
split and of latency as a table of costs predicts it, for the plans of both sides: latencies measured at different times
do not compare.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from results import keep

from paring.profilers.counting import Shapes, counted
from paring.profilers.latency import Latency
from paring.profilers.timing import Effort, measure
from paring.profilers.workload import Workload, serving
from paring.reports.front import REFERENCE_LOSS, hypervolume
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
from paring.search.workbench import LocalWorkbench
from paring.spaces.plan import Plan
from paring.spaces.space import Space

SHARES = (0.9, 0.95, 0.99)
# What was found by when: seconds since the start, and the plan judged then with its quality.
Found = list[tuple[float, Plan, float]]


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


def ours(arguments: argparse.Namespace, seed: int, out: Path) -> Found:
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
        (clock.done[count], trial.plan, trial.measures.quality)
        for count, trial in enumerate(Record.open(out).trials(), 1)
        if trial.plan is not None and trial.measures is not None
    ]


def plain_loop(arguments: argparse.Namespace, seed: int, out: Path) -> Found:
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
    found: Found = []

    def objective(trial: optuna.Trial) -> tuple[float, float]:
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
        found.append((clock.seconds, plan, quality))
        return -quality, late.ratio

    while clock.seconds < 60 * arguments.minutes:
        trial = study.ask({one.name: distribution_of(one) for one in space})
        study.tell(trial, objective(trial))
    return found


def volumes(found: Found, ratio: Callable[[Plan], float], origin: float) -> list[tuple[float, float]]:
    """Seconds, and the hypervolume of all that was found until then."""
    rows = np.array([[-quality / origin, ratio(plan)] for _, plan, quality in found])
    reference = np.array([REFERENCE_LOSS - 1, 1.0])
    return [(when, hypervolume(rows[: count + 1], reference)) for count, (when, *_) in enumerate(found)]


def latencies(bench: LocalWorkbench, settings: Settings, described: dict[str, Any]) -> Callable[[Plan], float]:
    """Plan -> its latency in units of the original's, by the table that ours learned, or by one learned now."""
    identity = described["identity"]
    subject = Subject(identity["model"], settings.runtime, identity["machine"], settings.axes, settings.workload)
    cache = Cache(settings.out / "cache")
    table = costs.cost_table(bench, subject, cache=cache, meter=None, progress=Silent(), seed=0)
    model, shapes = table.latency(), Shapes.of(bench.anatomy)
    print(f"mean error of predictions: {model.error:.3f}", flush=True)
    return lambda plan: model.predict(counted(plan, shapes)).ratio


def main() -> None:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--latency", choices=("predicted", "measured"), help="of the candidates of ours")
    parser.add_argument("--minutes", type=float, default=15.0, help="of the plain loop, processor time")
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            sides = {"paring search": (ours, "ours"), "NSGA-II in a loop": (plain_loop, "loop")}
            with ProcessPoolExecutor(len(sides), mp_context=get_context("spawn")) as pool:
                begun = {
                    name: pool.submit(search, arguments, seed, Path(folder) / place)
                    for name, (search, place) in sides.items()
                }
                found = {name: future.result() for name, future in begun.items()}
            settings = asked(arguments, Path(folder) / "ours", seed=seed)
            bench, described = open_workbench(settings, Silent())
            ratio = latencies(bench, settings, described)
        origin = found["paring search"][0][2]
        whole = volumes([one for side in found.values() for one in side], ratio, origin)[-1][1]
        for name, own in found.items():
            grown = volumes(own, ratio, origin)
            row: dict[str, Any] = {"seed": seed, "side": name, "plans": len(own), "seconds": round(grown[-1][0], 1)}
            for share in SHARES:
                row[f"{share:.0%}"] = next((round(when, 1) for when, one in grown if one >= share * whole), None)
            rows.append({**row, "share in the end": round(grown[-1][1] / whole, 4)})
            print(rows[-1], flush=True)
    keep("search_wall_clock", rows, limit=arguments.limit, tokens=arguments.tokens, axes=["depth", "bits"])


if __name__ == "__main__":
    main()

"""Seconds until a search has 95 % of the best front known: ours, and the loop that one would write around Optuna.

    python benchmarks/search_wall_clock.py --model MODEL --data DATA [--seeds 2] [--trials 100] [--minutes 15]

Ours is `paring search` as it runs, the table of costs included; the front is measured whole after that on either side,
which is not counted. The loop asks NSGA-II for a choice, builds the model, judges it on the whole search split and
measures its latency beside the original, with paring's own parts. Both load model and data, and find the greedy order
of its layers when they first need it.

The clock is that of the process: on a machine that others use, too, it counts what a search would take alone. Both run
on one core. Hypervolumes are of quality on the search split and of latency as the table of ours predicts it, for the
plans of both sides, since latencies that were measured at different times would not compare.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from results import keep

from paring.profilers.counting import Shapes
from paring.profilers.timing import measure
from paring.profilers.workload import Workload, serving
from paring.reports.front import REFERENCE_LOSS, hypervolume
from paring.search import driver
from paring.search.cache import Cache
from paring.search.cost_table import Subject, cost_table
from paring.search.judge import _CANDIDATE_EFFORT
from paring.search.opening import open_workbench
from paring.search.predictor import Predictor
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
    """Notes when so many trials were done."""

    def __init__(self) -> None:
        """Begins now."""
        self.started = time.process_time()
        self.done: dict[int, float] = {}

    @contextmanager
    def stage(self, title: str, total: float) -> Iterator[Any]:
        """The search reports how many trials are done."""

        def report(done: float, news: str) -> None:
            if title == "searching":
                self.done.setdefault(int(done), time.process_time() - self.started)

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
    clock = Clock()
    settings = asked(arguments, out, seed=seed, trials=arguments.trials, latency="predicted", sampler="guided")
    driver._measure_front = lambda *_: None  # type: ignore[assignment]
    driver.search(settings, clock)
    return [
        (clock.done[count], trial.plan, trial.measures.quality)
        for count, trial in enumerate(Record.open(out).trials(), 1)
        if trial.plan is not None and trial.measures is not None
    ]


def plain_loop(arguments: argparse.Namespace, seed: int, out: Path) -> Found:
    """What one would write: NSGA-II, each candidate judged in full and timed."""
    started = time.process_time()
    settings = asked(arguments, out)
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
        late = measure(
            calls, baseline="baseline", effort=_CANDIDATE_EFFORT, seed=trial.number, clock=bench.device.clock
        )["candidate"]
        found.append((time.process_time() - started, plan, quality))
        return -quality, late.ratio

    while time.process_time() - started < 60 * arguments.minutes:
        trial = study.ask({one.name: distribution_of(one) for one in space})
        study.tell(trial, objective(trial))
    return found


def volumes(found: Found, predictor: Predictor, origin: float) -> list[tuple[float, float]]:
    """Seconds, and the hypervolume of all that was found until then."""
    rows = np.array([[-quality / origin, predictor.latency(plan).ratio] for _, plan, quality in found])
    reference = np.array([REFERENCE_LOSS - 1, 1.0])
    return [(when, hypervolume(rows[: count + 1], reference)) for count, (when, *_) in enumerate(found)]


def table_of(bench: LocalWorkbench, settings: Settings, described: dict[str, Any]) -> Predictor:
    """The table that the search of ours learned."""
    identity = described["identity"]
    subject = Subject(identity["model"], settings.runtime, identity["machine"], settings.axes, settings.workload)
    table = cost_table(bench, subject, cache=Cache(settings.out / "cache"), meter=None, progress=Silent(), seed=0)
    return Predictor(table, Shapes.of(bench.anatomy))


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
    parser.add_argument("--minutes", type=float, default=15.0, help="of the plain loop, processor time")
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            sides = {
                "paring search": ours(arguments, seed, Path(folder) / "ours"),
                "NSGA-II in a loop": plain_loop(arguments, seed, Path(folder) / "loop"),
            }
            settings = asked(arguments, Path(folder) / "ours", seed=seed)
            bench, described = open_workbench(settings, Silent())
            predictor = table_of(bench, settings, described)
        origin = sides["paring search"][0][2]
        whole = volumes([one for side in sides.values() for one in side], predictor, origin)[-1][1]
        for name, found in sides.items():
            grown = volumes(found, predictor, origin)
            row: dict[str, Any] = {"seed": seed, "side": name, "plans": len(found), "seconds": round(grown[-1][0], 1)}
            for share in SHARES:
                row[f"{share:.0%}"] = next((round(when, 1) for when, one in grown if one >= share * whole), None)
            rows.append({**row, "share in the end": round(grown[-1][1] / whole, 4)})
            print(rows[-1], flush=True)
    keep("search_wall_clock", rows, limit=arguments.limit, tokens=arguments.tokens, axes=["depth", "bits"])


if __name__ == "__main__":
    main()

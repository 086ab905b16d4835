"""The table of costs: what unseen plans are predicted to take, against what they take, per runtime.

    python benchmarks/latency_prediction.py --model MODEL --data DATA [--runtimes torch,openvino,onnxruntime]
        [--plans 30] [--threads 1] [--seconds 88] [--name latency_prediction]

A table is learned as a search learns it, over all axes. Then plans drawn at random with another seed,
none of them learned from, are measured in interleaved sessions, each against the original, and compared. Modular layers
are untrained: the values of weights do not move time.
"""

import argparse
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from results import keep
from scipy.stats import spearmanr

from paring.profilers import runtimes
from paring.profilers.counting import Shapes, counted
from paring.profilers.memory import MemoryMeter
from paring.profilers.prediction import Table
from paring.profilers.timing import Effort, Latency, measure
from paring.profilers.workload import Workload, request
from paring.search.cache import Cache
from paring.search.cost_table import SECONDS, Subject, cost_table
from paring.search.finals import saved
from paring.search.opening import open_workbench
from paring.search.progress import Terminal
from paring.search.settings import Settings
from paring.search.tasks import Task
from paring.search.untaught import UntaughtBench, drawn_choice
from paring.search.workbench import LocalWorkbench
from paring.spaces.plan import Plan
from paring.spaces.space import Space
from paring.spaces.tilings import GRANULARITIES

AXES = ("assembly", "depth", "factors", "bits")
SESSION = 6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runtimes", default=",".join(runtimes.names()))
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of learning, after which no session starts")
    parser.add_argument("--session-seconds", type=float, default=15.0, help="of timing, for six plans tested")
    parser.add_argument("--memory", action="store_true", help="learn and test peaks of memory, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="latency_prediction")
    arguments = parser.parse_args()
    rows, plans = [], {}
    for name in arguments.runtimes.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            settings = Settings(
                arguments.model,
                Task("classification", arguments.data, limit=64),
                Path(scratch),
                runtime=name,
                workload=Workload(threads=arguments.threads),
                seed=arguments.seed,
            )
            row, plans[name] = examine(settings, arguments)
            rows.append(row)
            print(row, flush=True)
    keep(arguments.name, rows, threads=arguments.threads, workload=str(settings.workload), plans=plans)


def examine(settings: Settings, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a table of one runtime is worth; and all plans that it was tested on."""
    bench, described = open_workbench(settings, Terminal())
    bench.anatomy = bench.anatomy.with_modular_layers(GRANULARITIES)
    identity = described["identity"]
    subject = Subject(identity["model"], settings.runtime, identity["machine"], AXES, settings.workload)
    started = time.perf_counter()
    with MemoryMeter(settings.device, settings.runtime, settings.workload) as meter:
        table = cost_table(
            bench,
            subject,
            cache=Cache(settings.out),
            meter=meter if arguments.memory else None,
            progress=Terminal(),
            seed=settings.seed,
            seconds=arguments.seconds,
            relearn=True,
        )
        learned = time.perf_counter() - started
        shapes = Shapes.of(bench.anatomy)
        untaught = UntaughtBench(bench.model, bench.anatomy, bench.calibration(), seed=settings.seed + 1)
        plans = unseen_plans(Space(bench.anatomy, AXES), untaught, shapes, table, arguments.plans, settings.seed + 1)
        peaks = peaks_compared(bench, untaught, plans, shapes, table, meter) if arguments.memory else {}
    seen = measured(bench, untaught, plans, settings.workload, arguments.session_seconds)
    row, entries = compared(settings.runtime, table, learned, plans, shapes, seen)
    return {**row, **peaks}, entries


def peaks_compared(
    bench: LocalWorkbench,
    untaught: UntaughtBench,
    plans: list[Plan],
    shapes: Shapes,
    table: Table,
    meter: MemoryMeter,
) -> dict[str, float]:
    """Errors of predicted peaks of memory, each against a fresh process."""
    model, errors = table.memory(), []
    assert model is not None
    assert table.peak_bytes is not None
    for plan in plans:
        with saved(bench, untaught.build(plan), plan) as folder:
            seen = meter.measure(folder).peak_bytes
        errors.append(model.predict(counted(plan, shapes)).ratio * table.peak_bytes / seen - 1)
    return {"error of peaks": mean(map(abs, errors)), "largest of peaks": max(map(abs, errors))}


def unseen_plans(
    space: Space, untaught: UntaughtBench, shapes: Shapes, table: Table, count: int, seed: int
) -> list[Plan]:
    """Random plans, of which no two are alike, and none like one that was learned from."""
    draw, known, plans = random.Random(f"unseen {seed}"), [dict(one.counts) for one in table.measured], []
    while len(plans) < count:
        plan = space.resolve(drawn_choice(space, draw), untaught)
        if (counts := counted(plan, shapes)) not in known:
            known.append(counts)
            plans.append(plan)
    return plans


def measured(
    bench: LocalWorkbench, untaught: UntaughtBench, plans: list[Plan], workload: Workload, seconds: float
) -> list[Latency]:
    """Latencies beside one copy of the original, session by session."""
    inputs, found = workload.inputs(bench.model.config), []
    original = bench.executable(untaught.build(bench.anatomy.identity()))
    for start in range(0, len(plans), SESSION):
        entrants = {str(place): untaught.build(plan) for place, plan in enumerate(plans[start : start + SESSION])}
        loaded = {"original": original, **{name: bench.executable(model) for name, model in entrants.items()}}
        calls = {name: partial(request, one, inputs, workload) for name, one in loaded.items()}
        late = measure(calls, baseline="original", effort=Effort(seconds=seconds, half_width=0.005))
        found += [late[name] for name in entrants]
    return found


def compared(
    runtime: str, table: Table, learned: float, plans: list[Plan], shapes: Shapes, seen: list[Latency]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One row of the summary, and one entry per plan."""
    model = table.latency()
    times, guesses = [], []
    for plan in plans:
        started = time.perf_counter()
        guesses.append(model.predict(counted(plan, shapes)))
        times.append(time.perf_counter() - started)
    errors = [guess.ratio / late.ratio - 1 for guess, late in zip(guesses, seen, strict=True)]
    entries = [
        {
            "plan": str(plan),
            "measured": late.ratio,
            "low": late.ratio_low,
            "high": late.ratio_high,
            "predicted": guess.ratio,
            "half_width": guess.half_width,
            "error": error,
        }
        for plan, late, guess, error in zip(plans, seen, guesses, errors, strict=True)
    ]
    row = {
        "runtime": runtime,
        "learned from": len(table.measured),
        "seconds to learn": learned,
        "stated error": model.error,
        "mean absolute error": mean(map(abs, errors)),
        "mean error": mean(errors),
        "largest error": max(map(abs, errors)),
        "spearman": float(spearmanr([guess.ratio for guess in guesses], [late.ratio for late in seen]).statistic),
        "inside the interval": mean(
            guess.low <= late.ratio <= guess.high for guess, late in zip(guesses, seen, strict=True)
        ),
        "noise of the test": median((late.ratio_high - late.ratio_low) / 2 / late.ratio for late in seen),
        "microseconds per prediction": 1e6 * median(times),
    }
    return row, entries


if __name__ == "__main__":
    main()

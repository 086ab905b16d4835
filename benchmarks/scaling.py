"""What a search costs for models that are not at hand, on 1, 8 and 64 GPUs: computed from units measured here.

    python benchmarks/scaling.py --model MODEL --data DATA [--kept]

Measured here, on the CPU: what building a plan takes per parameter, what the driver takes per trial (proposing,
resolving, recording), what fractions of the work a drawn plan leaves, and what Ray takes (`ray_overhead_short.json`).
Computed: judging, from the floating-point operations of a pass and a GPU's published peak at an assumed utilisation.
Simulated: the same `Feed`, proposals and record as in a search, with workers that only exist on a clock, 1 to 64 of
them; the driver's time is its real one. With `--kept` nothing is measured or simulated: costs are computed anew from
the units that the file has.
"""

import argparse
import heapq
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

from results import FOLDER, keep

from paring import Cluster
from paring.profilers.counting import Shapes, counted
from paring.profilers.workload import Workload
from paring.search import cluster as clusters
from paring.search import driver
from paring.search.assessment import Assessment
from paring.search.driver import search
from paring.search.opening import open_workbench
from paring.search.preparing_time import rounding_seconds
from paring.search.progress import Silent
from paring.search.quality import Quality
from paring.search.ray_session import Joined
from paring.search.rehearsal import Rehearsal
from paring.search.settings import Settings
from paring.search.tasks import Task
from paring.search.worker import Answer
from paring.spaces.space import Space

# Dense bfloat16 peak of an NVIDIA A100 in its data sheet, and the part of it that batches of short texts reach.
PEAK_FLOPS, UTILISATION = 312e12, 0.3
TRIALS, MEMBERS, TABLE_PLANS = 300, 20, 48
# Seconds of timing a model when the front is measured, and of a session of the table of two models.
FINAL_SECONDS, SESSION_SECONDS = 4.5, 6.0
GPUS = (1, 8, 64)
JUDGING_SECONDS = (5.0, 50.0)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and what it is judged on.

    Attributes:
        name: of it.
        parameters: in the stacks, which a pass multiplies with.
        layers: of every stack.
        examples: on the search split.
        tokens: of an example, read and written.
    """

    name: str
    parameters: float
    layers: tuple[int, ...]
    examples: int
    tokens: int

    @property
    def pass_seconds(self) -> float:
        """Of judging the original: two operations per parameter and token."""
        return 2 * self.parameters * self.tokens * self.examples / (PEAK_FLOPS * UTILISATION)

    def greedy_passes(self, workers: int) -> float:
        """Passes of the original, one after another, that all steps of its greedy orders are worth on so many workers.

        Each step's candidates are scored side by side; no layers' states are reused.
        """
        whole = sum(self.layers)
        return sum(
            ceil(count / workers) * (whole - layers + count - 1) / whole
            for layers in self.layers
            for count in range(2, layers + 1)
        )


SUBJECTS = (
    Subject("BERT-large, classification", 303e6, (24,), 2000, 64),
    Subject("T5-3B, summaries scored by likelihood", 2.8e9, (24, 24), 1000, 600),
    Subject("decoder of 7B, multiple choice", 6.5e9, (32,), 2000, 250),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--simulated-trials", type=int, default=192)
    parser.add_argument("--kept", action="store_true")
    arguments = parser.parse_args()
    if arguments.kept:
        found = json.loads((FOLDER / "scaling.json").read_text(encoding="utf8"))
        units, simulated = found["units"], found["simulated"]
    else:
        units, simulated = _measured(arguments)
    rows = [_cost(subject, gpus, units) for subject in SUBJECTS for gpus in GPUS]
    keep("scaling", rows, units=units, simulated=simulated, peak_flops=PEAK_FLOPS, utilisation=UTILISATION)


def _measured(arguments: argparse.Namespace) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Units, and what the simulation finds."""
    with tempfile.TemporaryDirectory(prefix="paring-scaling-") as place:
        asked = Settings(
            arguments.model,
            Task("classification", arguments.data, limit=128),
            Path(place) / "run",
            objectives=("quality", "size"),
            workload=Workload(threads=1),
            sampler="random",
            trials=arguments.simulated_trials,
        )
        units = _units(asked, Path(place))
        return units, [row for seconds in JUDGING_SECONDS for row in _simulated(asked, Path(place), seconds, units)]


def _units(asked: Settings, place: Path) -> dict[str, float]:
    bench, _ = open_workbench(asked, Silent(), folder=place / "units")
    space = Space(bench.anatomy, asked.axes)
    rehearsal = Rehearsal(asked, bench, space)
    in_stacks = sum(
        rows * columns * stack.n_layers for stack in bench.anatomy.stacks for rows, columns in stack.shapes.values()
    )
    overhead = json.loads((FOLDER / "ray_overhead_short.json").read_text(encoding="utf8"))
    shapes = Shapes.of(bench.anatomy)
    identity = counted(bench.anatomy.identity(), shapes)
    layers = {name for name in identity if name.startswith("layers:")}
    drawn = [space.resolve(choice, rehearsal.untaught) for choice in space.uniform_choices()]
    left = mean(sum(counted(plan, shapes).get(name, 0.0) for name in layers) / len(layers) for plan in drawn)
    return {
        "building_seconds_per_parameter": rehearsal.building_seconds / in_stacks,
        "rounding_seconds_per_parameter": rounding_seconds(bench) / in_stacks,
        "cpu_seconds_per_example_and_layer": rehearsal.pass_seconds / len(bench.search) / shapes.layers["encoder"],
        "layers_left": left,
        "ray_seconds": max(0.0, overhead["overhead_per_trial_s"]),
    }


class Clockwork:
    """Workers that only exist on a clock: each takes so many seconds for a plan, and finds nothing of interest."""

    def __init__(self, workers: int, seconds: float, ray_seconds: float) -> None:
        self.now, self.driver_seconds = 0.0, 0.0
        self._workers, self._seconds = workers, seconds + ray_seconds

    @contextmanager
    def joined(self, cluster: Cluster, folder: Path) -> Iterator[Joined]:
        """Starts nothing."""
        yield Joined(self._workers, folder)

    def run(self, cluster: Cluster, joined: Joined, *, shipment: bytes, folder: Path, feed: clusters.Feed) -> None:
        """Runs the feed on the clock."""
        running: list[tuple[float, int]] = []
        while True:
            while len(running) < self._workers:
                job = self._driven(feed.next)
                if job is None:
                    break
                heapq.heappush(running, (self.now + self._seconds, job[0]))
            if not running:
                return
            ended, number = heapq.heappop(running)
            self.now = max(self.now, ended)
            quality = Quality("accuracy", 0.5, 0.4, 0.6, "search", (0.0, 1.0))
            self._driven(feed.answered, number, Answer(Assessment(quality, 1_000 + number, "")))

    def _driven(self, step: Any, *arguments: Any) -> Any:
        """What the driver does takes its real time, one thing after another."""
        begun = time.monotonic()
        found = step(*arguments)
        spent = time.monotonic() - begun
        self.now += spent
        self.driver_seconds += spent
        return found


def _simulated(asked: Settings, place: Path, seconds: float, units: dict[str, float]) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for workers in GPUS:
        clock = Clockwork(workers, seconds, units["ray_seconds"])
        clusters.joined, clusters.run_trials = clock.joined, clock.run  # type: ignore[assignment]
        driver.refuse_unfit = lambda *_: None  # nobody is there
        driver._measure_front = lambda *_: None  # type: ignore[assignment]
        out = place / f"{seconds:g}-{workers}"
        if not (place / "first").is_dir():
            search(_on(asked, place / "first"))
            clock.now = clock.driver_seconds = 0.0
        # What is learned once, and the greedy order, are counted apart.
        shutil.copytree(place / "first" / "cache", out / "cache")
        record = search(_on(asked, out))
        units["driver_seconds"] = clock.driver_seconds / len(record.trials())
        one = rows[0]["seconds"] if rows else clock.now
        rows.append(
            {"judging_s": seconds, "workers": workers, "seconds": clock.now, "speed_up": one / clock.now,
             "computed": _speed_up(workers, seconds + units["ray_seconds"], units["driver_seconds"])}
        )  # fmt: skip
    return rows


def _on(asked: Settings, out: Path) -> Settings:
    return replace(asked, out=out, cluster=Cluster("somewhere:6379", 1))


def _speed_up(workers: int, judging: float, driving: float) -> float:
    """Of workers that need the driver one after another: it is busy, or they are."""
    return (judging + driving) / max((judging + driving) / workers, driving)


def _cost(subject: Subject, gpus: int, units: dict[str, float]) -> dict[str, Any]:
    building = units["building_seconds_per_parameter"] * subject.parameters
    judging = subject.pass_seconds * units["layers_left"] + building + units["ray_seconds"]
    searching = TRIALS * max(judging / gpus, units["driver_seconds"])
    greedy = subject.greedy_passes(gpus) * subject.pass_seconds
    rounding = units["rounding_seconds_per_parameter"] * subject.parameters
    table = TABLE_PLANS * (building + SESSION_SECONDS / 2)
    front = MEMBERS * (2 * building + subject.pass_seconds + FINAL_SECONDS)
    parts = {"judging": searching, "greedy order": greedy, "rounding": rounding, "cost table": table, "front": front}
    total = sum(parts.values())
    return {
        "model": subject.name,
        "gpus": gpus,
        **{f"{name}_min": seconds / 60 for name, seconds in parts.items()},
        "minutes": total / 60,
        "gpu_hours": total / 3600 * gpus,
        "bottleneck": max(parts, key=lambda name: parts[name]),
    }


if __name__ == "__main__":
    main()

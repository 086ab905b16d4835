"""Seconds until a search has 95 % of the best front known: ours, and the loop that one would write around Optuna.

    python benchmarks/search_wall_clock.py ours    --model MODEL --data DATA --out OUT [--seeds 5] [--trials 70]
    python benchmarks/search_wall_clock.py loop    --model MODEL --data DATA --out OUT [--seeds 5] [--minutes 40]
    python benchmarks/search_wall_clock.py compare --model MODEL --data DATA --out OUT [--seeds 5]

Ours is `paring search` as it runs; the front is measured whole after that on either side, which is not counted. The
loop asks NSGA-II for a choice, builds the model, judges it on the whole search split and measures its latency beside
the original, with paring's own parts. Both load model and data, and find the greedy order of its layers when they first
need it. What they found is kept in OUT: a search of ours that is there is not run again, and a loop goes on where it
stands, up to the minutes asked for.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import optuna
import torch
from results import keep

from paring.profilers.counting import Shapes, counted
from paring.profilers.latency import Latency
from paring.profilers.replacing import replacing
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
        ratio: of its latency to the original's, as its search took it; of the original 1.
    """

    seconds: float
    plan: Plan
    quality: float
    ratio: float

    def to_line(self) -> str:
        """JSON."""
        return json.dumps(asdict(self) | {"plan": self.plan.to_json()}) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Self:
        """The inverse of `to_line`."""
        data = json.loads(line)
        return cls(**{**data, "plan": Plan.from_json(data["plan"])})


class Clock(Silent):
    """Seconds of this process since it began, and when so many trials were done."""

    def __init__(self, before: float = 0.0) -> None:
        """Begins now, or goes on.

        Args:
            before: seconds that were spent already.
        """
        self._started = time.process_time() - before
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


def ours(arguments: argparse.Namespace, seed: int) -> None:
    """`paring search`, without the front measured whole after it, unless it was run before."""
    path = kept(arguments.out, "ours", seed)
    if path.exists():
        return
    torch.set_num_threads(1)
    clock = Clock()
    driver._measure_front = lambda *_: None  # type: ignore[assignment]
    judge.measure = costs.measure = clock.measure  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        settings = asked(
            arguments,
            Path(folder),
            seed=seed,
            trials=arguments.trials,
            latency=arguments.latency,
            sampler="guided",
            relearn_costs=True,
        )
        driver.search(settings, clock)
        found = [
            Found(clock.done[count], trial.plan, trial.measures.quality, trial.profile.latency.ratio)
            for count, trial in enumerate(Record.open(Path(folder)).trials(), 1)
            if trial.plan is not None and trial.measures is not None and trial.profile and trial.profile.latency
        ]
    keep_found(path, found)
    print(f"{NAMES['ours']}, seed {seed}: {found[-1].seconds:.0f} s", flush=True)


def plain_loop(arguments: argparse.Namespace, seed: int) -> None:
    """What one would write: NSGA-II, each candidate judged in full and timed. Goes on with what it found before."""
    path = kept(arguments.out, "loop", seed)
    known = found_in(path) if path.exists() else []
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    clock = Clock()
    settings = asked(arguments, path.with_suffix(""), reuses_prefixes=False, races=False)
    bench, _ = open_workbench(settings, Silent())
    space = Space(bench.anatomy, settings.axes)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.NSGAIISampler(seed=seed))
    study.enqueue_trial(space.identity())
    baseline = bench.executable(bench.build(bench.anatomy.identity()))
    distributions = {one.name: distribution_of(one) for one in space}
    for one in known:
        # The same seed, told the same, asks the same.
        trial = study.ask(distributions)
        assert space.resolve(trial.params, bench) == one.plan, f"{path} is of another model or version"
        study.tell(trial, (-one.quality, one.ratio))
    if known:
        clock = Clock(known[-1].seconds)
    keep_found(path, known)
    with path.open("a", encoding="utf8", buffering=1) as file:
        while clock.seconds < 60 * arguments.minutes:
            trial = study.ask(distributions)
            plan = space.resolve(trial.params, bench)
            model = bench.executable(bench.build(plan))
            quality = bench.quality(plan, bench.search, model, again=True).value
            calls = {
                name: serving(one, settings.workload, bench.model.config)
                for name, one in (("baseline", baseline), ("candidate", model))
            }
            ratio = clock.measure(
                calls, baseline="baseline", effort=judge._CANDIDATE_EFFORT, seed=trial.number, clock=bench.device.clock
            )["candidate"].ratio
            study.tell(trial, (-quality, ratio))
            file.write(Found(clock.seconds, plan, quality, ratio).to_line())
    print(f"{NAMES['loop']}, seed {seed}: {clock.seconds:.0f} s", flush=True)


SIDES: Mapping[str, Callable[[argparse.Namespace, int], None]] = {"ours": ours, "loop": plain_loop}
NAMES = {"ours": "paring search", "loop": "NSGA-II in a loop"}


def kept(out: Path, side: str, seed: int) -> Path:
    """Where the plans that a search found are kept."""
    return out / f"{side}-{seed}.jsonl"


def keep_found(path: Path, found: Sequence[Found]) -> None:
    """Writes what a search found, in place of what was there."""
    with replacing(path) as draft:
        draft.write_text("".join(one.to_line() for one in found), encoding="utf8")


def found_in(path: Path) -> list[Found]:
    """What a search found; all but a line that it was stopped in."""
    lines = path.read_text(encoding="utf8").splitlines(keepends=True)
    return [Found.of_line(line) for line in lines if line.endswith("\n")]


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
        found = {side: found_in(kept(arguments.out, side, seed)) for side in SIDES}
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
        begun = [pool.submit(SIDES[arguments.step], arguments, seed) for seed in range(arguments.seeds)]
        for one in begun:
            one.result()


if __name__ == "__main__":
    main()

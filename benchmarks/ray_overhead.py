"""What Ray costs per trial, and what workers gain where judging is what takes the time.

    python benchmarks/ray_overhead.py --model MODEL --data DATA [--trials 40] [--limit 400]

The same search (random sampler, so the same plans in the same order; quality and size, so nothing is measured) in one
process on one thread, on one worker of one core, and on two. Seconds per trial are those between the completion of the
eighth judgement and the last: by then all workers are up, and what plans share is learned. What starting Ray and its
workers takes is the time to the first judgement. `--limit 16` makes judging short, so that the overhead shows.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from results import keep

from paring import Cluster
from paring.profilers.machine import available_cores
from paring.profilers.workload import Workload
from paring.search import driver
from paring.search.driver import search
from paring.search.settings import Settings
from paring.search.study import Record
from paring.search.tasks import Task

_SETTLED = 8


WAYS = {"one process": None, "1 worker": Cluster("local", 1), "2 workers": Cluster("local", 2)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--name", default="ray_overhead")
    parser.add_argument("--runs", type=Path, help="where runs are kept; those that are there are not run again")
    parser.add_argument("--way", choices=WAYS, action="append", help="only this one, for now")
    arguments = parser.parse_args()
    driver._measure_front = lambda *_: None  # the front is measured in one process in any case
    place = arguments.runs or Path(tempfile.mkdtemp(prefix="paring-overhead-"))
    task = Task("classification", arguments.data, limit=arguments.limit)
    for name in arguments.way or WAYS:
        out, begun = _folder(place, name), _folder(place, name).with_suffix(".begun")
        if begun.exists():
            continue
        settings = Settings(
            arguments.model,
            task,
            out,
            objectives=("quality", "size"),
            workload=Workload(threads=1),
            trials=arguments.trials,
            sampler="random",
            races=False,  # so that a trial is the same work for all
            cluster=WAYS[name],
        )
        started = time.time()
        search(settings)
        begun.write_text(str(started), encoding="utf8")
    if all(_folder(place, name).with_suffix(".begun").exists() for name in WAYS):
        _conclude(place, arguments)


def _folder(place: Path, name: str) -> Path:
    return place / name.replace(" ", "-")


def _conclude(place: Path, arguments: argparse.Namespace) -> None:
    rows, plans = list[dict[str, Any]](), list[list[str]]()
    for name in WAYS:
        record = Record.open(_folder(place, name))
        started = float(_folder(place, name).with_suffix(".begun").read_text(encoding="utf8"))
        rows.append({"judged by": name, **_times(record, started)})
        plans.append([trial.plan.fingerprint for trial in record.trials() if trial.plan is not None])
    per_trial = {row["judged by"]: row["s_per_trial"] for row in rows}
    facts = {
        "cores": available_cores(),
        "examples": arguments.limit,
        "same_plans": plans[0] == plans[1] == plans[2],
        "overhead_per_trial_s": per_trial["1 worker"] - per_trial["one process"],
        "speed_up_of_2_workers": per_trial["1 worker"] / per_trial["2 workers"],
        "speed_up_over_one_process": per_trial["one process"] / per_trial["2 workers"],
    }
    keep(arguments.name, rows, model=Path(arguments.model).name, **facts)


def _times(record: Record, started: float) -> dict[str, float]:
    """Seconds to the first judgement, and per trial once the search has settled."""
    judged = {trial.number for trial in record.trials()}
    ended = sorted(
        one.datetime_complete.timestamp()
        for one in record.study.get_trials(deepcopy=False)
        if one.number in judged and one.datetime_complete is not None
    )
    settled = ended[_SETTLED - 1 :]
    return {
        "first_after_s": ended[0] - started,
        "s_per_trial": (settled[-1] - settled[0]) / (len(settled) - 1),
        "trials": len(ended),
    }


if __name__ == "__main__":
    main()

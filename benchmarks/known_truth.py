"""How soon samplers find the whole front of a space of which every plan is known.

    python benchmarks/known_truth.py costs     --model MODEL --data DATA --out TRUTH
    python benchmarks/known_truth.py enumerate --model MODEL --data DATA --out TRUTH
    python benchmarks/known_truth.py replay    --model MODEL --data DATA --out TRUTH [--name NAME] [--seeds 5]

`costs` measures the table that latencies are predicted from, as a search does; nothing else should run meanwhile.
`enumerate` judges every plan of a tied space (see tied_space.py) once, and goes on where it was stopped. Neither is
committed. `replay` lets each sampler search that space as `paring search` would, looking judgements up, and counts how
many plans it asked for before the front of those has 90, 95 and 99 % of the hypervolume of the true one.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from replaying import NAMES, Replay, Truth, replay, summarised
from results import keep
from tied_space import TiedSpace, Walk

from paring.profilers.counting import Shapes
from paring.profilers.workload import Workload
from paring.search.cache import Cache
from paring.search.cost_table import Subject, cost_table
from paring.search.opening import open_workbench
from paring.search.predictor import Predictor
from paring.search.progress import Silent
from paring.search.settings import Settings
from paring.search.tasks import Task
from paring.search.workbench import LocalWorkbench
from paring.spaces.factoring import Factoring, Way
from paring.spaces.space import Space

AXES = ("depth", "factors", "bits")
WAYS, TABLES = ("sensitivity-allocated-1.5",), ("w8",)
TABLE, REPLAYS = "plans.jsonl", "replays.jsonl"


def opened(arguments: argparse.Namespace) -> tuple[LocalWorkbench, TiedSpace, Subject]:
    """The workbench, the space, and what its costs depend on."""
    task = Task("classification", arguments.data, metric=arguments.metric, limit=arguments.limit)
    settings = Settings(
        arguments.model,
        task,
        arguments.out,
        axes=AXES,
        objectives=("quality", "latency", "size"),
        workload=Workload(tokens=arguments.tokens, threads=1),
        factoring=Factoring(linears=tuple(map(Way.parse, WAYS)), tables=()),
    )
    bench, described = open_workbench(settings, Silent())
    identity = described["identity"]
    subject = Subject(identity["model"], settings.runtime, identity["machine"], AXES, settings.workload)
    return bench, TiedSpace(Space(bench.anatomy, AXES), WAYS, TABLES), subject


def predictor(bench: LocalWorkbench, subject: Subject, out: Path) -> Predictor:
    """What predicts latencies; measures first where that was not done yet."""
    table = cost_table(bench, subject, cache=Cache(out / "cache"), meter=None, progress=Silent(), seed=0)
    return Predictor(table, Shapes.of(bench.anatomy))


def enumerate_plans(bench: LocalWorkbench, space: TiedSpace, out: Path, *, backwards: bool) -> None:
    """Judges all plans, one structure after the other; a structure that was finished is not walked again.

    Two processes may share the work, the one forwards and the other backwards.
    """
    path, started, count = out / TABLE, time.monotonic(), 0
    for structure in sorted(space.structures(), key=str, reverse=backwards):
        known = path.read_text(encoding="utf8").splitlines() if path.exists() else []
        if structure in (json.loads(line)["structure"] for line in known):
            continue
        plans = [{"choice": choice, "quality": quality} for choice, quality in Walk(space, bench, structure).judge()]
        with path.open("a", encoding="utf8") as file:
            file.write(json.dumps({"structure": structure, "plans": plans}) + "\n")
        count += len(plans)
        print(f"{count} plans in {time.monotonic() - started:.0f} s", structure, flush=True)


def replay_all(truth: Truth, arguments: argparse.Namespace, path: Path) -> None:
    """Every sampler, with the starting points of paring and, those of Optuna, without any but the original.

    What was replayed before is not replayed again, so that several processes may share the work, and a new sampler is
    quickly compared with the others.
    """
    for number, objectives in enumerate(tuple(text.split(",")) for text in arguments.objectives.split()):
        # A proposal of "gp" takes so long that it is tried for the first objectives only.
        for name in (name for name in arguments.samplers.split(",") if name != "gp" or number == 0):
            for has_starts in (True,) if name == "guided" else (True, False):
                for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                    if (name, objectives, has_starts, seed) in {one.key for one in replayed(path)}:
                        continue
                    found = replay(truth, name, objectives, seed=seed, has_starts=has_starts)
                    with path.open("a", encoding="utf8") as file:
                        file.write(json.dumps(found.to_json()) + "\n")
                    print(found.to_json(), flush=True)


def replayed(path: Path) -> list[Replay]:
    """What was replayed so far."""
    lines = path.read_text(encoding="utf8").splitlines() if path.exists() else []
    return [Replay.from_json(json.loads(line)) for line in lines]


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("costs", "enumerate", "replay"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metric")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--backwards", action="store_true", help="enumerate from the other end")
    parser.add_argument("--name", default="known_truth", help="of the file under results/")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--samplers", default=",".join(NAMES))
    parser.add_argument("--objectives", default="quality,latency quality,latency,size")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench, space, subject = opened(arguments)
    if arguments.step == "costs":
        print(predictor(bench, subject, arguments.out).facts())
    elif arguments.step == "enumerate":
        enumerate_plans(bench, space, arguments.out, backwards=arguments.backwards)
    else:
        truth = Truth.read(bench, space, predictor(bench, subject, arguments.out), arguments.out / TABLE)
        path = arguments.out / REPLAYS
        replay_all(truth, arguments, path)
        runs = [one for one in replayed(path) if arguments.first_seed <= one.seed]
        facts = {"plans": len(truth.measures), "choices": truth.space.size, "limit": arguments.limit}
        keep(arguments.name, summarised(runs), **facts, runs=[one.to_json() for one in runs])


if __name__ == "__main__":
    main()

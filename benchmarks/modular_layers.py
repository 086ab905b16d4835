"""Modular layers against what else gives a smaller model: quality on test at every size, and what training costs.

    python benchmarks/modular_layers.py --name multi30k --model MODEL --data DATA --task seq2seq --out FOLDER
        [--steps 1000] [--seeds 0 1 2] [--rate 1e-3] [--ablate 300]

At each ratio of layers: *modular* (one training for all sizes, assembled size-first), *dropped* (the greedy order, no
training), *student* (a model of the same depth, all of it trained for the same number of steps with the same losses,
anew for each size), and at 2 *theseus* (one granularity, the task's loss only, the lowest layers to start from, the
same number of steps). With --ablate, modular layers trained for so many steps without one of the losses, with other
starts and other curricula. Everything is kept in the folder: cut off, the same command goes on.
"""

import argparse
import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from results import keep
from torch import nn
from transformers import PreTrainedModel

from paring.profilers.workload import Workload
from paring.search.data import read_tables
from paring.search.distillation import Losses, Pair, Standing
from paring.search.distilling import Schedule, distil
from paring.search.modular import Curriculum, Modular
from paring.search.opening import open_workbench
from paring.search.prepared import Prepared, identity_of, train_modular_layers
from paring.search.progress import Terminal
from paring.search.settings import Settings
from paring.search.tasks import Task, load
from paring.spaces.assembling import StackCosts, assemble, layer_ratio
from paring.spaces.build import build, copy_sharing_parameters
from paring.spaces.plan import Layer, Plan, Slot, Stack
from paring.spaces.tilings import layers_of, written

RATIOS = (1.2, 1.5, 2.0, 3.0, 6.0)
THESEUS = Modular(
    granularities=(2,),
    start="lowest",
    losses=Losses(task=1.0, logits=0.0, hidden=0.0, attention=0.0),
    # Its linear curriculum, from 0.3 on, so steep that the second half of the steps replaces everything.
    curriculum=Curriculum(first=0.3, last=1.0, ramp=0.5, unlocked=0.0, uniform=1.0),
)
ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "no task loss": {"losses": Losses(task=0.0)},
    "no logits loss": {"losses": Losses(logits=0.0)},
    "no hidden loss": {"losses": Losses(hidden=0.0)},
    "no attention loss": {"losses": Losses(attention=0.0)},
    "start: first of the group": {"start": "first"},
    "start: last of the group": {"start": "last"},
    "start: lowest of the stack": {"start": "lowest"},
    "no curriculum": {"curriculum": Curriculum(first=1.0, ramp=0.0, unlocked=0.0)},
    "only mixed tilings": {"curriculum": Curriculum(uniform=0.0)},
    "only uniform tilings": {"curriculum": Curriculum(uniform=1.0)},
}


class Contest:
    """One model and its data. What was found is kept, by name, in the folder."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder, self.progress, self.task = folder, Terminal(), settings.task
        self.bench, _ = open_workbench(settings, self.progress, folder=folder / "judged")
        self.kind = load(self.task.name)
        tables = read_tables(
            self.task.data, self.task.required_columns, self.task.label, label_is_text=self.kind.generates
        )
        self.identity = identity_of(settings.model, tables, self.task)
        assert self.bench.train is not None
        self.train = self.bench.train

    def once(self, name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `find` returns, or returned when it was first asked for."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            found = find()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1), encoding="utf8")
            print(name, found, flush=True)
        return dict(json.loads(path.read_text(encoding="utf8")))

    def quality(self, model: PreTrainedModel) -> float:
        """On the test split, in float32."""
        answers = self.kind.answer(self.bench.executable(model), self.bench.test, self.bench.metric)
        return self.kind.score(self.bench.metric, self.bench.test.labels, answers)

    def modular(self, settings: Modular, name: str) -> Prepared:
        """Modular layers, trained or found."""
        return train_modular_layers(
            self.bench.model,
            self.bench.anatomy,
            self.train,
            settings,
            folder=self.folder / name,
            identity=self.identity,
            device=self.bench.device.torch_device,
            progress=self.progress,
        )

    def assembled(self, prepared: Prepared, standing: Standing) -> float:
        """Quality of an assembly."""
        plan = Plan(tuple(Stack(name, tuple(map(Slot, layers))) for name, layers in standing.items()))
        model = build(self.bench.model, plan, materials={"assembly": prepared.layers})
        return self.quality(model)

    def tiling(self, prepared: Prepared, ratio: float) -> dict[str, tuple[int, ...]]:
        """What size-first chooses where every layer counts alike."""
        stacks = [
            StackCosts(stack.name, stack.n_layers, stack.granularities, 1.0, prepared.harm(stack.name))
            for stack in self.bench.anatomy.stacks
        ]
        return assemble(stacks, ratio)

    def dropped(self, standing: Standing) -> float:
        """Quality of the original with as many layers of each stack left, in the greedy order."""
        plan = self.bench.anatomy.identity()
        for name, layers in standing.items():
            stack = plan.stack(name)
            gone = len(stack.slots) - len(layers)
            if gone:
                order = self.bench.removal_order(self.bench.anatomy.identity(), name, gone).order[:gone]
                slots = tuple(Slot(None) if place in order else slot for place, slot in enumerate(stack.slots))
                plan = plan.with_stack(replace(stack, slots=slots))
        return self.quality(self.bench.build(plan))

    def student(self, standing: Standing, starts: Mapping[str, int], schedule: Schedule, name: str) -> dict[str, Any]:
        """Quality of a model of this depth, all of it trained, and how long that took."""
        device = self.bench.device.torch_device
        teacher = copy_sharing_parameters(self.bench.model).to(device)
        student = copy.deepcopy(self.bench.model).to(device).requires_grad_(True)
        for model in (teacher, student):
            model.set_attn_implementation("eager")
        layers: dict[str, dict[Layer, nn.Module]] = {}
        for stack in self.bench.anatomy.stacks:
            originals = student.get_submodule(stack.path)
            assert isinstance(originals, nn.ModuleList)
            layers[stack.name] = {
                layer: originals[starts.get(f"{stack.name}.{layer}", layer.index)] for layer in standing[stack.name]
            }
        pair = Pair(teacher, student, self.bench.anatomy, layers, Losses())
        pair.stand(standing)
        log = distil(
            pair,
            dict(student.named_parameters()),
            lambda _: standing,
            self.train,
            schedule,
            self.progress,
            what=name,
            checkpoint=self.folder / f"{name.replace(' ', '-')}.safetensors",
            key=name,
        )
        return {"quality": self.quality(student.cpu().requires_grad_(False)), "seconds": log.seconds}


def compare(contest: Contest, schedule: Schedule, student_rate: float, seed: int) -> list[dict[str, Any]]:
    """One row per ratio, all ways beside each other."""
    schedule = replace(schedule, seed=seed)
    original = contest.once("original", lambda: {"quality": contest.quality(contest.bench.model)})["quality"]
    ours = contest.modular(Modular(schedule=schedule), f"seed{seed}/modular")
    theirs = contest.modular(replace(THESEUS, schedule=schedule), f"seed{seed}/theseus")
    pairs = {stack.name: layers_of((2,) * (stack.n_layers // 2)) for stack in contest.bench.anatomy.stacks}
    theseus = contest.once(f"seed{seed}/theseus-judged", lambda: {"quality": contest.assembled(theirs, pairs)})
    rows = []
    for ratio in RATIOS:
        tiling = contest.tiling(ours, ratio)
        standing = {name: layers_of(sizes) for name, sizes in tiling.items()}
        place = f"seed{seed}/ratio{ratio:g}"
        row = {
            "ratio": layer_ratio(tiling),
            "seed": seed,
            "tiling": " ".join(f"{name}={written(sizes)}" for name, sizes in tiling.items()),
            "original": original,
            "modular": contest.once(f"{place}-modular", lambda s=standing: {"quality": contest.assembled(ours, s)})[
                "quality"
            ],
            "dropped": contest.once(f"{place}-dropped", lambda s=standing: {"quality": contest.dropped(s)})["quality"],
            "modular_seconds": ours.facts["seconds"],
        }
        row["kept"] = row["modular"] / original
        student = contest.once(
            f"{place}-student",
            lambda s=standing, p=place: contest.student(
                s, ours.facts["starts"], replace(schedule, learning_rate=student_rate), f"{p} student"
            ),
        )
        row |= {"theseus": theseus["quality"]} if ratio == 2 else {}
        rows.append({**row, "student": student["quality"], "student_seconds": student["seconds"]})
    return rows


def ablate(contest: Contest, schedule: Schedule) -> list[dict[str, Any]]:
    """One row per way to train, the quality at every ratio of uniform tilings, so that all stand alike."""
    rows = []
    for name, changes in ABLATIONS.items():
        folder = f"ablation/{name.replace(' ', '-').replace(':', '')}"
        prepared = contest.modular(replace(Modular(schedule=schedule), **changes), folder)
        row: dict[str, Any] = {"way": name, "steps": schedule.steps}
        for sizes in ((1, 1, 2, 2), (2, 2, 2), (3, 3), (6,)):
            standing = {
                stack.name: layers_of(sizes * (stack.n_layers // sum(sizes))) for stack in contest.bench.anatomy.stacks
            }
            row[written(sizes)] = contest.once(
                f"{folder}/{written(sizes)}", lambda p=prepared, s=standing: {"quality": contest.assembled(p, s)}
            )["quality"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("--name", "--model", "--data"):
        parser.add_argument(option, required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--task", default="classification")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=Schedule().learning_rate)
    parser.add_argument("--student-rate", type=float)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ablate", type=int, default=0, metavar="STEPS")
    given = parser.parse_args()
    schedule = Schedule(steps=given.steps, learning_rate=given.rate)
    settings = Settings(
        given.model,
        Task(given.task, given.data),
        out=given.out,
        device=given.device,
        axes=("assembly", "depth"),
        workload=Workload.on_all_cores(tokens=32),
    )
    contest = Contest(settings, given.out)
    rows = [row for seed in given.seeds for row in compare(contest, schedule, given.student_rate or given.rate, seed)]
    facts: dict[str, Any] = {"metric": contest.bench.metric, "steps": given.steps, "rate": given.rate}
    facts["student_rate"] = given.student_rate or given.rate
    if given.ablate:
        facts["ablations"] = ablate(contest, replace(schedule, steps=given.ablate))
    keep(f"modular_layers_{given.name}", rows, **facts)


if __name__ == "__main__":
    main()

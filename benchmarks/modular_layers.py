"""Modular layers against what else gives a smaller model: quality on test at every size, and what training costs.

    python benchmarks/modular_layers.py --name multi30k --model MODEL --data DATA --task seq2seq --out FOLDER
        [--steps 1000] [--seeds 0 1 2] [--rate 1e-3] [--ablate 300 [--ways "no task loss" ...]]

At each ratio of layers: *modular* (one training for all sizes, assembled size-first), *dropped* (the greedy order, no
training), *student* (a model of the same depth, all of it trained for the same number of steps with the same losses,
anew for each size), and at 2 *theseus* (one granularity, the task's loss only, the lowest layers to start from, the
same number of steps). With --ablate, modular layers trained for so many steps without one of the losses, with other
starts and other curricula. Everything is kept in the folder: cut off, the same command goes on.
"""

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from results import keep
from torch import nn
from transformers import PreTrainedModel

from paring.profilers.workload import Workload
from paring.search.data import read_tables
from paring.search.distillation import Losses, Pair, Standing
from paring.search.distilling import Schedule, distil
from paring.search.modular import STARTS, Curriculum, Modular, Start
from paring.search.opening import open_workbench
from paring.search.prepared import Prepared, identity_of, train_modular_layers
from paring.search.progress import Terminal
from paring.search.settings import Settings
from paring.search.tasks import Task, load
from paring.spaces.assembling import StackCosts, assemble
from paring.spaces.build import build, copy_sharing_parameters
from paring.spaces.plan import Layer, Plan, Slot, Stack
from paring.spaces.tilings import layers_of, written

TILINGS = {1.2: (1, 1, 1, 1, 2), 1.5: (1, 1, 2, 2), 2.0: (2, 2, 2), 3.0: (3, 3), 6.0: (6,)}
RATIOS = tuple(TILINGS)
THESEUS = Modular(
    granularities=(2,),
    start="lowest",
    losses=Losses(task=1.0, logits=0.0, hidden=0.0, attention=0.0),
    # Its linear curriculum, from 0.3 on, so steep that the second half of the steps replaces everything.
    curriculum=Curriculum(first=0.3, last=1.0, ramp=0.5, unlocked=0.0, uniform=1.0, draws=1),
)
ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "no task loss": {"losses": Losses(task=0.0)},
    "no logits loss": {"losses": Losses(logits=0.0)},
    "no hidden loss": {"losses": Losses(hidden=0.0)},
    "no attention loss": {"losses": Losses(attention=0.0)},
    "start: nearest of the group": {"start": "nearest"},
    "start: last of the group": {"start": "last"},
    "start: lowest of the stack": {"start": "lowest"},
    "no curriculum": {"curriculum": Curriculum(first=1.0, ramp=0.0, unlocked=0.0)},
    "one draw a batch": {"curriculum": Curriculum(draws=1)},
    "only mixed tilings": {"curriculum": Curriculum(uniform=0.0)},
    "only uniform tilings": {"curriculum": Curriculum(uniform=1.0)},
}


@dataclass(frozen=True)
class Students:
    """How the models are trained that modular layers are compared with: their size alone, all of their parameters.

    Attributes:
        ratios: at which there is one.
        rate: learning rate.
        start: which layer of every group they start from.
    """

    ratios: tuple[float, ...]
    rate: float
    start: Start


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

    def judged(self, name: str, prepared: Prepared, standing: Standing) -> float:
        """Quality of an assembly."""
        plan = Plan(tuple(Stack(stack, tuple(map(Slot, layers))) for stack, layers in standing.items()))

        def find() -> dict[str, Any]:
            model = build(self.bench.model, plan, materials={"assembly": prepared.layers})
            return {"quality": self.quality(model), "plan": str(plan)}

        return float(self.once(name, find)["quality"])

    def alike(self, ratio: float) -> dict[str, tuple[Layer, ...]]:
        """A tiling of this ratio, the same for every block of every stack: by hand, so that all ways stand alike."""
        return {stack.name: layers_of(TILINGS[ratio] * (stack.n_layers // 6)) for stack in self.bench.anatomy.stacks}

    def chosen(self, prepared: Prepared, ratio: float) -> dict[str, tuple[int, ...]]:
        """What size-first chooses where every layer counts alike."""
        return assemble(
            [
                StackCosts(stack.name, stack.n_layers, stack.granularities, 1.0, prepared.harm(stack.name))
                for stack in self.bench.anatomy.stacks
            ],
            ratio,
        )

    def dropped(self, standing: Standing) -> dict[str, Any]:
        """Quality of the original with as many layers of each stack left, in the greedy order."""
        plan = self.bench.anatomy.identity()
        for name, layers in standing.items():
            stack = plan.stack(name)
            gone = len(stack.slots) - len(layers)
            if gone:
                order = self.bench.removal_order(self.bench.anatomy.identity(), name, gone).order[:gone]
                slots = tuple(Slot(None) if place in order else slot for place, slot in enumerate(stack.slots))
                plan = plan.with_stack(replace(stack, slots=slots))
        return {"quality": self.quality(self.bench.build(plan)), "plan": str(plan)}

    def student(self, how: Students, schedule: Schedule, ratio: float) -> dict[str, Any]:
        """Quality of a student, and how long its training took."""
        standing, seed = self.alike(ratio), schedule.seed
        schedule = replace(schedule, learning_rate=how.rate)
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
                layer: originals[Modular(start=how.start).guess(layer)] for layer in standing[stack.name]
            }
        pair = Pair(teacher, student, self.bench.anatomy, layers, Losses())
        pair.stand(standing)
        log = distil(
            pair,
            dict(student.named_parameters()),
            lambda _: [standing],
            self.train,
            schedule,
            self.progress,
            what=f"a student {ratio:g} times as small",
            checkpoint=self.folder / f"seed{seed}" / f"student{ratio:g}.safetensors",
            key=f"{schedule} {standing}",
        )
        return {"quality": self.quality(student.cpu().requires_grad_(False)), "seconds": log.seconds}


def compare(contest: Contest, schedule: Schedule, how: Students) -> list[dict[str, Any]]:
    """One row per ratio, all ways beside each other."""
    seed = schedule.seed
    original = contest.once("original", lambda: {"quality": contest.quality(contest.bench.model)})["quality"]
    theirs = contest.modular(replace(THESEUS, schedule=schedule), f"seed{seed}/theseus")
    ours = contest.modular(Modular(schedule=schedule), f"seed{seed}/modular")
    students = {
        ratio: contest.once(f"seed{seed}/student{ratio:g}", partial(contest.student, how, schedule, ratio))
        for ratio in how.ratios
    }
    rows = []
    for ratio in RATIOS:
        alike, place = contest.alike(ratio), f"seed{seed}/{{}}{ratio:g}"
        chosen = {name: layers_of(sizes) for name, sizes in contest.chosen(ours, ratio).items()}
        found = {
            "modular, all stacks alike": contest.judged(place.format("alike"), ours, alike),
            "modular, size-first": contest.judged(place.format("chosen"), ours, chosen),
            "dropped": contest.once(place.format("dropped"), partial(contest.dropped, alike))["quality"],
            **({"theseus": contest.judged(place.format("theseus"), theirs, alike)} if ratio == 2 else {}),
            **({"student": students[ratio]["quality"]} if ratio in students else {}),
        }
        rows.append(
            {
                "seed": seed,
                "ratio": ratio,
                **found,
                "alike": " ".join(f"{name}={brief(layers)}" for name, layers in alike.items()),
                "size-first": " ".join(f"{name}={brief(layers)}" for name, layers in chosen.items()),
                "kept, alike": found["modular, all stacks alike"] / original,
                "kept, size-first": found["modular, size-first"] / original,
                "original": original,
                "modular seconds": ours.facts["seconds"],
                "theseus seconds": theirs.facts["seconds"],
                **({"student seconds": students[ratio]["seconds"]} if ratio in students else {}),
            }
        )
    return rows


def brief(layers: Sequence[Layer]) -> str:
    """The sizes of pieces."""
    return written([layer.granularity for layer in layers])


def ablate(contest: Contest, schedule: Schedule, ways: Sequence[str]) -> list[dict[str, Any]]:
    """One row per way to train, the quality at every ratio of uniform tilings, so that all stand alike."""
    rows = []
    for name in ways:
        changes = ABLATIONS[name]
        folder = f"ablation/{name.replace(' ', '-').replace(':', '')}"
        prepared = contest.modular(replace(Modular(schedule=schedule), **changes), folder)
        row: dict[str, Any] = {"way": name, "steps": schedule.steps}
        for ratio in (1.5, 2.0, 3.0, 6.0):
            row[f"{ratio:g}x"] = contest.judged(f"{folder}/alike{ratio:g}", prepared, contest.alike(ratio))
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
    parser.add_argument("--student-start", choices=STARTS, default="first")
    parser.add_argument("--student-ratios", type=float, nargs="*", default=list(RATIOS))
    parser.add_argument("--ablate", type=int, default=0, metavar="STEPS")
    parser.add_argument("--ways", nargs="+", choices=tuple(ABLATIONS), default=tuple(ABLATIONS), metavar="WAY")
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
    how = Students(tuple(given.student_ratios), given.student_rate or given.rate, given.student_start)
    rows = [row for seed in given.seeds for row in compare(contest, replace(schedule, seed=seed), how)]
    facts: dict[str, Any] = {"metric": contest.bench.metric, "steps": given.steps, "rate": given.rate}
    facts["students"] = asdict(how)
    if given.ablate:
        facts["ablations"] = ablate(contest, replace(schedule, steps=given.ablate), given.ways)
    keep(f"modular_layers_{given.name}", rows, **facts)


if __name__ == "__main__":
    main()

"""What factorising Linears costs in quality, with no fine-tuning: methods, stacking and ratios, by kind and together.

    python benchmarks/offline_factors.py --name sst2 --model MODEL --data DATA [--task seq2seq] [--metric matthews]
        [--ratios 1.5,2,3,5,10] [--methods svd,activation,...] [--stacking separated,concatenated]
        [--kinds each,all] [--steps 4000] [--seeds 1,2,3]

A row of the table is one model: those kinds of Linear replaced in all layers, everything else as it was. "all" are all
kinds of all stacks together, "each" one after the other; kinds may be named too. Calibration (moments, sensitivities)
uses 256 rows of the training split; both other splits are judged, and nothing is chosen by them. Ratios are of the
numbers of the replaced Linears, side data counted. Random methods are fitted once for each seed.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import keep
from torch import Tensor, nn

from paring.search.opening import open_workbench
from paring.search.progress import Terminal
from paring.search.settings import Settings
from paring.search.tasks import Task
from paring.spaces.autoencoder_training import AutoencoderTraining
from paring.spaces.autoencoders import AUTOENCODER_METHODS, train_autoencoder
from paring.spaces.calibration import standing_linears
from paring.spaces.factor_sizes import METHODS, size_for, stored_numbers
from paring.spaces.factorising import factorise
from paring.spaces.seen import look_at

Fit = tuple[list[Tensor], list[Tensor | None], int]


class Factored:
    """A model whose Linears are exchanged in place, and the workbench that judges it."""

    def __init__(self, task: Task, model: str, scratch: Path) -> None:
        """Loads the model and looks at what calibration shows of it."""
        self.bench, _ = open_workbench(Settings(model, task, scratch, axes=("bits",)), Terminal())
        self.plan = self.bench.anatomy.identity()
        self.model = self.bench.build(self.plan)
        found = standing_linears(self.model, self.plan, self.bench.anatomy)
        self.linears = {name: part for name, part in found if not name.startswith("outside.")}
        self.seen = look_at(self.model, self.linears, self.bench)
        # The model shares its parameters with the original until they are exchanged.
        self.original = {name: (part.weight, part.bias) for name, part in self.linears.items()}
        self.kinds: dict[str, list[str]] = {}
        for name in self.linears:
            stack, _, kind = name.split(".", 2)
            self.kinds.setdefault(kind if len(self.plan.stacks) == 1 else f"{stack}.{kind}", []).append(name)
        self._fits: dict[tuple[Any, ...], tuple[Fit, float]] = {}

    def fit(
        self, kind: str, method: str, stacking: str, ratio: float, training: AutoencoderTraining
    ) -> tuple[Fit, float]:
        """Dense weights and changes of biases of all Linears of a kind, the numbers stored, and the seconds it took."""
        key = (kind, method, stacking, ratio, training if method in AUTOENCODER_METHODS else None)
        if key not in self._fits:
            names, started = self.kinds[kind], time.monotonic()
            groups = [names] if stacking == "concatenated" else [[name] for name in names]
            parts = [self._fitted(group, method, ratio, training) for group in groups]
            fit = (
                [w for part in parts for w in part[0]],
                [b for part in parts for b in part[1]],
                sum(p[2] for p in parts),
            )
            self._fits[key] = fit, time.monotonic() - started
        return self._fits[key]

    def _fitted(self, names: Sequence[str], method: str, ratio: float, training: AutoencoderTraining) -> Fit:
        weights = [self.original[name][0] for name in names]
        rows, columns = sum(map(len, weights)), weights[0].shape[1]
        size = size_for(method, rows, columns, ratio)
        stored = stored_numbers(method, rows, columns, size)
        if method in AUTOENCODER_METHODS:
            return list(train_autoencoder(method, weights, size, training).dense()), [None] * len(names), stored
        biased = self.original[names[0]][1] is not None
        found = factorise(method, weights, size, [self.seen[name] for name in names], move_bias=biased)
        return list(found.dense()), list(found.bias_changes), stored

    def put(self, fits: dict[str, Fit]) -> None:
        """Exchanges the Linears of these kinds; all others are the original's."""
        for name, part in self.linears.items():
            part.weight, part.bias = self.original[name]
        for kind, (weights, changes, _) in fits.items():
            for name, weight, change in zip(self.kinds[kind], weights, changes, strict=True):
                self.linears[name].weight = nn.Parameter(weight.contiguous(), requires_grad=False)
                if change is not None:
                    self.linears[name].bias = nn.Parameter(self.original[name][1] + change, requires_grad=False)

    def scores(self) -> dict[str, float]:
        """Of both splits, and of all their examples together."""
        executable = self.bench.executable(self.model)
        splits = (self.bench.search, self.bench.test)
        search, test = (self.bench.quality(self.plan, split, executable, again=True) for split in splits)
        labels = np.concatenate([split.labels for split in splits])
        outcomes = np.concatenate([np.asarray(found.outcomes) for found in (search, test)])
        return {"validation": search.value, "test": test.value, "both": self.bench.score(labels, outcomes)}


def rows(case: Factored, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The float model, then one row per ratio, method, stacking, kinds and seed."""
    yield {"kinds": "none", "method": "float", "stacking": "", "ratio": 1.0, "stored": 1.0, **case.scores()}
    sets = []
    for word in arguments.kinds.split(","):
        sets += {"each": [[kind] for kind in case.kinds], "all": [list(case.kinds)]}.get(word, [[word]])
    for ratio in map(float, arguments.ratios.split(",")):
        for method in arguments.methods.split(","):
            for stacking in arguments.stacking.split(","):
                for seed in arguments.seeds.split(",") if method in AUTOENCODER_METHODS else ["1"]:
                    training = AutoencoderTraining(steps=arguments.steps, seed=int(seed))
                    for kinds in sets:
                        yield row(case, kinds, method, stacking, ratio, training)


def row(
    case: Factored, kinds: list[str], method: str, stacking: str, ratio: float, training: AutoencoderTraining
) -> dict[str, Any]:
    found = {kind: case.fit(kind, method, stacking, ratio, training) for kind in kinds}
    case.put({kind: fit for kind, (fit, _) in found.items()})
    whole = sum(case.original[name][0].numel() for kind in kinds for name in case.kinds[kind])
    wrong = sum(
        float((a - case.original[n][0]).square().sum())
        for k in kinds
        for n, a in zip(case.kinds[k], found[k][0][0], strict=True)
    )
    right = sum(float(case.original[name][0].square().sum()) for kind in kinds for name in case.kinds[kind])
    said = {
        "kinds": "all" if len(kinds) == len(case.kinds) else ",".join(kinds),
        "method": method,
        "stacking": stacking,
        "ratio": ratio,
        "stored": whole / sum(fit[2] for fit, _ in found.values()),
        **case.scores(),
        "relative error": (wrong / right) ** 0.5,
        "seed": training.seed if method in AUTOENCODER_METHODS else None,
        "seconds": sum(seconds for _, seconds in found.values()),
    }
    print({name: round(value, 4) if isinstance(value, float) else value for name, value in said.items()}, flush=True)
    return said


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--task", default="classification")
    parser.add_argument("--metric")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--ratios", default="1.5,2,3,5,10")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--stacking", default="separated,concatenated")
    parser.add_argument("--kinds", default="all,each")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", default="1,2,3")
    arguments = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(arguments.task, arguments.data, arguments.metric, limit=arguments.limit)
        case = Factored(task, arguments.model, Path(scratch))
        found = list(rows(case, arguments))
    keep(
        f"offline_factors_{arguments.name}", found, metric=case.bench.metric, seconds=round(time.monotonic() - started)
    )


if __name__ == "__main__":
    main()

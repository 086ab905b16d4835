"""What factorising Linears costs in quality, with no fine-tuning: methods, stacking and ratios, by kind and together.

    python benchmarks/offline_factors.py --name sst2 --model MODEL --data DATA [--task seq2seq] [--metric matthews]
        [--ratios 1.5,2,3,5,10] [--ways svd-separated,sensitivity-allocated,...] [--kinds all,each] [--seeds 1,2,3]

A row of the table is one model: those kinds of Linear replaced in all layers, everything else as it was. "all" are all
kinds of all stacks together, "each" one after the other; kinds may be named too, and only then is the table of words
among them (`embeddings`, which stands alone). A way is a method and how layers go together: `separated`,
`concatenated` (one factor or decoder for all), `allocated` (separated, the ranks of a kind's layers by predicted harm,
at the numbers that equal ranks would have) or `budgeted` (the same over all kinds together). Autoencoders are trained
the paper's way; `latents` are fitted to the answers, and `--steps` is for them. Ratios are of the numbers of what is
replaced, side data counted. Calibration uses 256 rows of the training split; validation and test are judged, in
bfloat16 where that is asked for, and nothing is chosen by them. The file is written after every row; with `--add`, rows
that it has are kept and not judged again.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import FOLDER, keep, write
from torch import Tensor, nn

from paring.search.opening import open_workbench
from paring.search.progress import Terminal
from paring.search.settings import Settings
from paring.search.tasks import Task
from paring.spaces.autoencoder_training import AutoencoderTraining
from paring.spaces.autoencoders import AUTOENCODER_METHODS, train_autoencoder
from paring.spaces.calibration import standing_linears
from paring.spaces.error_metrics import Metric, harms, metric_of, metric_of_words
from paring.spaces.factor_sizes import METHODS, size_for, stored_numbers
from paring.spaces.factorising import factorise, factorise_words
from paring.spaces.latents import LatentTraining, fit_latents
from paring.spaces.rank_allocation import allocate_ranks
from paring.spaces.seen import look_at, look_at_words
from paring.spaces.ties import holders

WAYS = [
    *(f"{method}-{stacking}" for method in METHODS for stacking in ("separated", "concatenated")),
    "sensitivity-allocated",
    "sensitivity-budgeted",
    "latents-concatenated",
]
RANDOM = (*AUTOENCODER_METHODS, "latents")
# The table of words, as a kind.
WORDS = "embeddings"
# What tells a row from all others; there is no seed where there is no chance.
FACTS = ("kinds", "method", "stacking", "ratio", "seed")


@dataclass(frozen=True)
class Fit:
    """One Linear, factorised: its dense weight, the change of its bias, and how many numbers are stored for it."""

    weight: Tensor
    bias_change: Tensor | None
    stored: float


class Factored:
    """A model whose Linears are exchanged in place, and the workbench that judges it."""

    def __init__(self, task: Task, model: str, scratch: Path, *, steps: int, bfloat16: bool) -> None:
        """Loads the model and looks at what calibration shows of it."""
        self.bench, _ = open_workbench(Settings(model, task, scratch, axes=("bits",)), Terminal())
        self.plan = self.bench.anatomy.identity()
        self.model = self.bench.build(self.plan)
        found = standing_linears(self.model, self.plan, self.bench.anatomy)
        self.linears = {name: part for name, part in found if not name.startswith("outside.")}
        words = self.model.get_input_embeddings().weight
        self.tables = [*holders(self.model, words).values()]
        self.original = {name: (part.weight.detach(), part.bias) for name, part in self.linears.items()}
        self.original[WORDS] = words.detach(), None
        self.seen = look_at(self.model, self.linears, self.bench)
        self._words_seen = look_at_words(self.model, words, self.bench)
        self.kinds: dict[str, list[str]] = {}
        for name in self.linears:
            stack, _, kind = name.split(".", 2)
            self.kinds.setdefault(kind if len(self.plan.stacks) == 1 else f"{stack}.{kind}", []).append(name)
        self._steps, self._bfloat16 = steps, bfloat16
        self._metrics: dict[str, Metric] = {}

    def fits(self, names: Sequence[str], method: str, stacking: str, ratio: float, seed: int) -> dict[str, Fit]:
        """All of these Linears, which are of one kind unless they are budgeted."""
        if stacking in ("allocated", "budgeted"):
            return self._allocated(names, ratio)
        groups = [names] if stacking == "concatenated" else [[name] for name in names]
        return {name: fit for group in groups for name, fit in self._group(group, method, ratio, seed).items()}

    def put(self, fits: dict[str, Fit]) -> None:
        """Exchanges these Linears; all others are the original's."""
        for name, part in self.linears.items():
            weight, bias = self.original[name]
            fit = fits.get(name)
            part.weight = nn.Parameter(weight if fit is None else fit.weight.contiguous(), requires_grad=False)
            changed = bias if fit is None or fit.bias_change is None else bias + fit.bias_change
            part.bias = None if changed is None else nn.Parameter(changed, requires_grad=False)
        table = nn.Parameter(fits[WORDS].weight if WORDS in fits else self.original[WORDS][0], requires_grad=False)
        for one in self.tables:
            one.weight = table

    def names(self, kind: str) -> list[str]:
        """The parts of a kind."""
        return [WORDS] if kind == WORDS else self.kinds[kind]

    def scores(self) -> dict[str, float]:
        """Of both splits, and of all their examples together."""
        executable = self.bench.executable(self.model)
        splits = (self.bench.search, self.bench.test)
        with torch.autocast("cpu", dtype=torch.bfloat16) if self._bfloat16 else nullcontext():
            search, test = (self.bench.quality(self.plan, split, executable, again=True) for split in splits)
        labels = np.concatenate([split.labels for split in splits])
        outcomes = np.concatenate([np.asarray(found.outcomes) for found in (search, test)])
        return {"validation": search.value, "test": test.value, "both": self.bench.score(labels, outcomes)}

    def harm(self, fits: dict[str, Fit]) -> float:
        """The predicted squared change of the logits."""
        return sum(self._metric(name).error(self.original[name][0] - fit.weight) for name, fit in fits.items())

    def _group(self, names: Sequence[str], method: str, ratio: float, seed: int) -> dict[str, Fit]:
        weights, seen = [self.original[name][0] for name in names], [self.seen[name] for name in names if name != WORDS]
        rows, columns, biased = sum(map(len, weights)), weights[0].shape[1], self.original[names[0]][1] is not None
        counted = "autoencoder" if method == "latents" else method
        size = size_for(counted, rows, columns, ratio)
        if method in AUTOENCODER_METHODS:
            found = train_autoencoder(method, weights, size, AutoencoderTraining(seed=seed))
        elif method == "latents":
            means = [own.mean if biased else None for own in seen]
            metrics, training = [self._metric(name) for name in names], LatentTraining(steps=self._steps, seed=seed)
            found = fit_latents(weights, size, metrics, training, means=means)
        elif method == "sensitivity" and names == [WORDS]:
            found = factorise_words(weights[0], size, self._metric(WORDS))
        else:
            found = factorise(method, weights, size, seen, move_bias=biased)
        each = stored_numbers(counted, rows, columns, size) / len(names)
        return {
            name: Fit(weight, change, each)
            for name, weight, change in zip(names, found.dense(), found.bias_changes, strict=True)
        }

    def _allocated(self, names: Sequence[str], ratio: float) -> dict[str, Fit]:
        weights = {name: self.original[name][0] for name in names}
        shapes = {name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()}
        numbers = sum(weight.numel() for weight in weights.values()) / ratio
        ranks = allocate_ranks({n: harms(w, self._metric(n)) for n, w in weights.items()}, shapes, numbers)
        fits = {}
        for name, rank in ranks.items():
            weight, bias = self.original[name]
            if rank is None:
                fits[name] = Fit(weight, None, weight.numel())
                continue
            found = factorise("sensitivity", [weight], rank, [self.seen[name]], move_bias=bias is not None)
            fits[name] = Fit(found.dense()[0], found.bias_changes[0], rank * sum(weight.shape))
        return fits

    def _metric(self, name: str) -> Metric:
        if name not in self._metrics:
            biased = self.original[name][1] is not None
            self._metrics[name] = (
                metric_of_words(self._words_seen)
                if name == WORDS
                else metric_of("sensitivity", self.seen[name], centred=biased)
            )
        return self._metrics[name]


def rows(case: Factored, arguments: argparse.Namespace, known: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The float model, then one row per ratio, way, seed and set of kinds, without those that are known."""
    if not known:
        yield {"kinds": "none", "method": "float", "stacking": "", "ratio": 1.0, "stored": 1.0, **case.scores()}
    had = {tuple(row.get(fact) for fact in FACTS) for row in known}
    asked = arguments.kinds.split(",")
    words = [kind for word in asked for kind in (case.kinds if word == "each" else [word])]
    for ratio in map(float, arguments.ratios.split(",")):
        for way in arguments.ways.split(","):
            method, stacking = way.split("-")
            for seed in map(int, arguments.seeds.split(",")) if method in RANDOM else [0]:
                new = [word for word in words if (word, method, stacking, ratio, seed or None) not in had]
                yield from judged(case, method, stacking, ratio, seed, new)


def judged(
    case: Factored, method: str, stacking: str, ratio: float, seed: int, words: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Every kind is fitted once, whether it is judged alone, together with all others, or both."""
    if stacking == "budgeted":
        started, everything = time.monotonic(), [name for names in case.kinds.values() for name in names]
        if "all" in words:
            fits = case.fits(everything, method, stacking, ratio, seed)
            yield row(case, "all", fits, method, stacking, ratio, seed, time.monotonic() - started)
        return
    together: dict[str, Fit] = {}
    seconds = 0.0
    for kind in case.kinds if "all" in words else words:
        started = time.monotonic()
        fits = case.fits(case.names(kind), method, stacking, ratio, seed)
        took = time.monotonic() - started
        together, seconds = together | fits, seconds + took
        if kind in words:
            yield row(case, kind, fits, method, stacking, ratio, seed, took)
    if "all" in words:
        yield row(case, "all", together, method, stacking, ratio, seed, seconds)


def row(
    case: Factored,
    kinds: str,
    fits: dict[str, Fit],
    method: str,
    stacking: str,
    ratio: float,
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    case.put(fits)
    whole = sum(case.original[name][0].numel() for name in fits)
    wrong = sum(float((case.original[name][0] - fit.weight).square().sum()) for name, fit in fits.items())
    length = sum(float(case.original[name][0].square().sum()) for name in fits)
    said = {
        "kinds": kinds,
        "method": method,
        "stacking": stacking,
        "ratio": ratio,
        "stored": whole / sum(fit.stored for fit in fits.values()),
        **case.scores(),
        "harm": case.harm(fits),
        "relative error": (wrong / length) ** 0.5,
        "seed": seed or None,
        "seconds": seconds,
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
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--kinds", default="all,each")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--add", action="store_true")
    arguments = parser.parse_args()
    started, name = time.monotonic(), f"offline_factors_{arguments.name}"
    known = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf8")) if arguments.add else {}
    found = known.get("rows", [])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(arguments.task, arguments.data, arguments.metric, limit=arguments.limit)
        case = Factored(task, arguments.model, Path(scratch), steps=arguments.steps, bfloat16=arguments.bfloat16)

        def facts() -> dict[str, Any]:
            seconds = known.get("seconds", 0) + round(time.monotonic() - started)
            return {"metric": case.bench.metric, "seconds": seconds}

        for new in rows(case, arguments, tuple(found)):
            found.append(new)
            write(name, found, **facts())
    keep(name, found, **facts())


if __name__ == "__main__":
    main()

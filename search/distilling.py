"""The training loop of distillation: any parameters of an assembly learn from the original; resumable and exact."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ..errors import SearchError, SettingError
from ..profilers.machine import instruction_sets
from ..spaces.workbench import Inputs
from .batching import endless
from .cache import replace_tensors, writing
from .distillation import Pair, Standing
from .examples import Examples
from .progress import Progress

_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.01
_MAX_GRADIENT_NORM = 1.0
_LAST_RATE = 0.02
_CHECKPOINT_SECONDS = 60.0
_NATIVE_BF16 = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long, how fast and how much at a time.

    Attributes:
        steps: of the optimiser.
        learning_rate: of AdamW after warming up; it falls along a cosine to a fiftieth.
        warmup: share of the steps over which the learning rate rises from 0.
        tokens: per batch, padding included; of source or target, whichever is longer.
        accumulate: batches per step.
        precision: of the products, "float32", "bfloat16", or "auto" for bfloat16 where the device multiplies in it.
        seed: of everything random.
    """

    steps: int = 3000
    learning_rate: float = 5e-4
    warmup: float = 0.05
    tokens: int = 1600
    accumulate: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.tokens, self.accumulate) < 1 or not self.learning_rate > 0 or not 0 <= self.warmup < 1:
            raise SettingError(
                "training needs steps, tokens and accumulate >= 1, learning_rate > 0 and 0 <= warmup < 1; got "
                f"{self.steps}, {self.tokens}, {self.accumulate}, {self.learning_rate} and {self.warmup}."
            )
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise SettingError.unknown("precision", self.precision, ("auto", "float32", "bfloat16"))

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True, slots=True)
class Log:
    """What a training did.

    Attributes:
        losses: of every step of the last call, unweighted.
        seconds: of all calls together, up to their last checkpoints.
    """

    losses: tuple[Mapping[str, float], ...]
    seconds: float


def distil(
    pair: Pair,
    learning: Mapping[str, nn.Parameter],
    draw: Callable[[int], Sequence[Standing]],
    examples: Examples,
    schedule: Schedule,
    progress: Progress,
    *,
    what: str,
    checkpoint: Path | None = None,
    key: str = "",
) -> Log:
    """Trains parameters of a pair's student in place; the same arguments on the same machine give the same numbers.

    Args:
        pair: original and assembly, on the device to train on.
        learning: name -> parameter; all others must not require gradients.
        draw: number of a batch -> the assemblies that learn from it; the same number always gives the same.
        examples: of the train split.
        schedule: how long and how fast.
        progress: where to say how far it is.
        what: what the progress is called.
        checkpoint: a file to keep the state in, from which the same call goes on; None to keep nothing. It is written
            every minute and on an interrupt, and removed at the end by who keeps the result.
        key: of all that decides the result; a checkpoint with another one is not used.

    Raises:
        SearchError: if a loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        learning.values(), lr=schedule.learning_rate, betas=_BETAS, weight_decay=_WEIGHT_DECAY, foreach=True
    )
    begun, before = (0, 0.0) if checkpoint is None else _restore(checkpoint, key, learning, optimizer)
    batches = endless(examples.lengths(), schedule.tokens, schedule.seed, skip=begun * schedule.accumulate)
    history: list[dict[str, float]] = []
    started = kept = time.monotonic()
    done, is_between_steps = begun, True

    def keep() -> None:
        if checkpoint is not None:
            facts = {"key": key, "step": str(done), "seconds": str(before + time.monotonic() - started)}
            _keep(checkpoint, facts, learning, optimizer)

    with progress.stage(what, schedule.steps) as report:
        try:
            while done < schedule.steps:
                found = _accumulate(pair, batches, draw, examples, schedule, done)
                if not all(map(math.isfinite, found.values())):
                    raise SearchError(f"{what} diverged at step {done}: {found}; lower the learning rate.")
                is_between_steps = False
                _step(optimizer, learning, schedule.rate(done))
                done, is_between_steps = done + 1, True
                history.append(found)
                report(done, ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
                if time.monotonic() - kept >= _CHECKPOINT_SECONDS and done < schedule.steps:
                    keep()
                    kept = time.monotonic()
        except KeyboardInterrupt:
            # Gradients may be half there, but those are never kept; parameters are whole but within a step.
            if is_between_steps and done > begun:
                keep()
            raise
    return Log(tuple(history), before + time.monotonic() - started)


def _accumulate(
    pair: Pair,
    batches: Iterator[list[int]],
    draw: Callable[[int], Sequence[Standing]],
    examples: Examples,
    schedule: Schedule,
    step: int,
) -> dict[str, float]:
    """Adds the gradients of all batches of a step; returns the means of their losses."""
    device = next(pair.student.parameters()).device
    means: dict[str, float] = {}
    for part in range(schedule.accumulate):
        batch = {name: value.to(device) for name, value in examples.with_labels(next(batches)).items()}
        for name, value in _learn(pair, batch, draw(step * schedule.accumulate + part), schedule).items():
            means[name] = means.get(name, 0.0) + value / schedule.accumulate
    return means


def _step(optimizer: torch.optim.Optimizer, learning: Mapping[str, nn.Parameter], rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    clip_grad_norm_(learning.values(), _MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()


def _learn(pair: Pair, batch: Inputs, draws: Sequence[Standing], schedule: Schedule) -> dict[str, float]:
    """Adds the gradients of one batch; returns the means of its losses."""
    means: dict[str, float] = {}
    device = batch["input_ids"].device
    if pair.compares:
        with half_precision(device, schedule.precision):
            pair.show(batch)
    for standing in draws:
        with half_precision(device, schedule.precision):
            found = pair.losses(batch, standing)
            total = pair.total(found) / (len(draws) * schedule.accumulate)
        # Where nothing but originals stand, nothing learns.
        if total.requires_grad:
            total.backward()
        for name, value in found.items():
            means[name] = means.get(name, 0.0) + float(value.detach()) / len(draws)
    return means


def half_precision(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Products in bfloat16 where that is asked for, or native to the device and left to it."""
    if precision == "auto":
        if device.type == "cpu":
            native = bool(_NATIVE_BF16 & set(instruction_sets()))
        else:
            native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def _keep(
    path: Path, facts: Mapping[str, str], learning: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Writes all that the next step depends on."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in learning.items():
        tensors[f"value {name}"] = parameter.detach()
        for kind, value in optimizer.state[parameter].items():
            tensors[f"{kind} {name}"] = value
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_tensors(path, tensors, facts)


def _restore(
    path: Path, key: str, learning: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Reads a checkpoint of the same training; returns the steps and seconds it took, 0 where there is none to use."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
            if facts["key"] != key:
                return 0, 0.0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, KeyError):
        return 0, 0.0
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.copy_(tensors.pop(f"value {name}"))
    for title, tensor in tensors.items():
        kind, _, name = title.partition(" ")
        # AdamW counts its steps on the CPU.
        optimizer.state[learning[name]][kind] = tensor.to(tensor.device if kind == "step" else learning[name].device)
    return int(facts["step"]), float(facts["seconds"])

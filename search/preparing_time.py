"""How long it takes to learn what a search needs before candidates, or the first of a kind, can be judged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import ceil
from typing import Any

import torch

from ..profilers import kept
from ..spaces.blocks import quantise
from ..spaces.rounded_weights import is_rounded_beforehand
from ..spaces.rounding import round_with_feedback
from ..spaces.sensitivity import part_harms
from .cost_table import COSTS, PLANS, SECONDS, Subject
from .rehearsal import Rehearsal, timed
from .settings import Settings
from .workbench import LocalWorkbench

# The original beside itself, before anything else is measured.
_REFERENCE_SECONDS = 5.0
# A pass back takes twice as long as one forward.
_BOTH_WAYS = 3
# Looking at all inputs of a pass takes about as long as the pass.
_LOOKING = 2
# Examples from whose gradients the harm of rounding is learned.
_HARM_EXAMPLES = 128
# Assemblies that learn from every batch of a training of modular layers, beside the teacher's one pass.
_STUDENTS = 3
# Rows of a table that are rounded to know how long all take.
_ROWS = 1024
# Decompositions of a Linear until its factors are known: of its inputs' moments, and of the weight they are applied to.
_DECOMPOSITIONS = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that is learned or measured.

    Attributes:
        what: in words.
        times: how often something is done for it: passes, evaluations, steps, models.
        seconds: all together.
    """

    what: str
    times: int
    seconds: float


def preparing(
    settings: Settings, bench: LocalWorkbench, rehearsal: Rehearsal, described: Mapping[str, Any]
) -> tuple[Piece, ...]:
    """All that is learned, if nothing is known yet.

    Args:
        settings: what would be asked.
        bench: opened for it.
        rehearsal: what single steps take.
        described: what `Settings.describe` said.
    """
    calibration_seconds = rehearsal.pass_seconds * _examples(bench) / len(bench.search)
    axes = {
        "assembly": lambda: _modular(settings, bench, rehearsal),
        "depth": lambda: _greedy(settings, bench, rehearsal),
        "bits": lambda: _bits(settings, bench, rehearsal, calibration_seconds),
        "factors": lambda: _factors(bench, rehearsal, calibration_seconds),
    }
    found = chain.from_iterable(axes[name]() for name in settings.axes)
    return (*found, *_costs(settings, bench, rehearsal, described))


def _examples(bench: LocalWorkbench) -> int:
    """How many are calibrated on."""
    return sum(len(next(iter(batch.values()))) for batch in bench.calibration())


def _modular(settings: Settings, bench: LocalWorkbench, rehearsal: Rehearsal) -> Iterator[Piece]:
    if settings.prepared is not None:
        return
    schedule = settings.modular.schedule
    steps = schedule.steps * schedule.accumulate
    passes = steps * schedule.tokens / sum(bench.search.lengths())
    yield Piece("training modular layers", steps, passes * (1 + _STUDENTS * _BOTH_WAYS) * rehearsal.pass_seconds)


def _greedy(settings: Settings, bench: LocalWorkbench, rehearsal: Rehearsal) -> Iterator[Piece]:
    """All steps until one layer is left, each shared by workers unless it trains; other tilings need their own."""
    whole = sum(stack.n_layers for stack in bench.anatomy.stacks)
    tunes = settings.greedy.scorer == "fine_tune"
    workers = 1 if settings.cluster is None or tunes else settings.cluster.workers or 1
    for stack in bench.anatomy.stacks:
        left = [stack.n_layers - step for step in range(stack.n_layers - 1)]
        turns = [ceil(count / workers) for count in left]
        passes = sum(
            turn * (whole - stack.n_layers + count - 1) / whole for turn, count in zip(turns, left, strict=True)
        )
        seconds = passes * rehearsal.pass_seconds + sum(turns) * rehearsal.building_seconds
        if tunes and bench.train is not None:
            share = sum(bench.train.lengths()) / sum(bench.search.lengths())
            seconds += passes * share * settings.greedy.training.epochs * _BOTH_WAYS * rehearsal.pass_seconds
        yield Piece(f"greedy order of {stack.name}", sum(left), seconds)


def _bits(
    settings: Settings, bench: LocalWorkbench, rehearsal: Rehearsal, calibration_seconds: float
) -> Iterator[Piece]:
    seconds, harms = timed(lambda: part_harms(rehearsal.untaught))
    share = min(1.0, _HARM_EXAMPLES / _examples(bench))
    harm = seconds + share * calibration_seconds * _BOTH_WAYS
    yield Piece("how much each part minds rounding", len(harms), harm)
    yield Piece("rounding weights", 1, rounding_seconds(bench) + _LOOKING * calibration_seconds)
    depths = sum(stack.n_layers - 1 for stack in bench.anatomy.stacks) if "depth" in settings.axes else 0
    structures = min(1 + depths, settings.trials or 1 + depths)
    yield Piece("calibrating inputs", structures, structures * _LOOKING * calibration_seconds)


def rounding_seconds(bench: LocalWorkbench) -> float:
    """Of rounding the weights of the original to all precisions that are rounded beforehand, those below 8 bits."""
    palette, anatomy = bench.anatomy.palette, bench.anatomy
    linears = [one for one in palette.linears if is_rounded_beforehand(one)]
    tables = [one for one in palette.tables if is_rounded_beforehand(one)]
    seconds = 0.0
    for stack in anatomy.stacks if linears else ():
        for rows, columns in stack.shapes.values():
            took, _ = timed(partial(round_with_feedback, torch.randn(rows, columns), linears[0], torch.eye(columns)))
            seconds += took * len(linears) * stack.n_layers
    for path in anatomy.outside.values() if tables else ():
        table = bench.model.get_submodule(path).weight
        assert isinstance(table, torch.Tensor)
        took, _ = timed(partial(quantise, table[:_ROWS], tables[0]))
        seconds += took * len(tables) * len(table) / min(_ROWS, len(table))
    return seconds


def _factors(bench: LocalWorkbench, rehearsal: Rehearsal, calibration_seconds: float) -> Iterator[Piece]:
    shapes = [shape for stack in bench.anatomy.stacks for shape in stack.shapes.values() for _ in range(stack.n_layers)]
    decompose = partial(torch.linalg.svd, full_matrices=False)
    seconds = {shape: timed(partial(decompose, torch.randn(shape)))[0] for shape in set(shapes)}
    learning = _DECOMPOSITIONS * sum(seconds[shape] for shape in shapes) + _BOTH_WAYS * calibration_seconds
    yield Piece("factorising weights", len(shapes), learning)


def _costs(
    settings: Settings, bench: LocalWorkbench, rehearsal: Rehearsal, described: Mapping[str, Any]
) -> Iterator[Piece]:
    if "latency" in settings.measured:
        yield Piece("timing the original", 2, _REFERENCE_SECONDS + 2 * rehearsal.building_seconds)
    if not settings.predicts:
        return
    identity = described["identity"]
    subject = Subject(identity["model"], settings.runtime, identity["machine"], settings.axes, settings.workload)
    key = subject.key(bench, has_memory="memory" in settings.measured)
    if settings.relearn_costs or kept.get(COSTS, key) is None:
        yield Piece("learning what plans cost", PLANS, SECONDS)

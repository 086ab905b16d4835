"""What the calibration batches show of the inputs of Linears: samples of the values, and their second moments."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import PlanError
from .anatomy import Anatomy
from .factored import FactoredLinear, pieces
from .plan import Plan
from .workbench import Workbench

_SAMPLES_PER_BATCH = 8192
_LEAST_ROWS = 16
_DECODERS_NEED = "batches for a model with a decoder need labels or decoder_input_ids."


def standing_linears(model: nn.Module, plan: Plan, anatomy: Anatomy) -> Iterator[tuple[str, nn.Linear]]:
    """Slot and kind, as "encoder.3.query", of every Linear that stands in a built model in float, and the Linear.

    Those outside the stacks are called "outside" and their kind. A factorised one is two, "encoder.3.query.narrow" and
    "encoder.3.query.wide"; one that is decoded, and what a factorised table consists of, take no inputs in and are left
    out.
    """
    for stack in plan.stacks:
        places = anatomy.stack(stack.name)
        for place, position in enumerate(stack.standing):
            for kind, path in places.linears.items():
                part = model.get_submodule(f"{places.path}.{place}.{path}")
                yield from _products(f"{stack.name}.{position}.{kind}", part)
    for kind, path in anatomy.outside.items():
        yield from _products(f"outside.{kind}", model.get_submodule(path))


def _products(name: str, part: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The Linears of a part that inputs of the model go through."""
    if isinstance(part, nn.Linear | FactoredLinear):
        for piece_name, piece in pieces(name, part):
            assert isinstance(piece, nn.Linear)
            yield piece_name, piece


def input_samples(model: nn.Module, parts: Mapping[str, nn.Module], bench: Workbench) -> dict[str, Tensor]:
    """Values that the inputs of these parts take in the calibration batches.

    Args:
        model: in evaluation mode.
        parts: modules of the model by name.
        bench: whose batches are run.

    Returns:
        Name -> the extremes and a random part of the rest of every batch, one-dimensional.

    Raises:
        PlanError: if the batches do not run, or never reach a part.
    """
    samples: dict[str, list[Tensor]] = {name: [] for name in parts}

    def look(name: str, inputs: Tensor) -> None:
        samples[name].append(sampled_values(inputs))

    watch(model, parts, bench, look)
    return {name: torch.cat(found) for name, found in samples.items()}


def input_moments(model: nn.Module, parts: Mapping[str, nn.Module], bench: Workbench) -> dict[str, Tensor]:
    """Sums of x x^T over all inputs x of these parts in the calibration batches.

    Args:
        model: in evaluation mode.
        parts: modules of the model by name.
        bench: whose batches are run.

    Returns:
        Name -> in x in, float32.

    Raises:
        PlanError: if the batches do not run, or never reach a part.
    """
    moments: dict[str, Tensor] = {}

    def look(name: str, inputs: Tensor) -> None:
        rows = inputs.detach().float().flatten(0, -2)
        if name in moments:
            moments[name].addmm_(rows.t(), rows)
        else:
            moments[name] = rows.t() @ rows

    watch(model, parts, bench, look)
    return moments


def watch(
    model: nn.Module,
    parts: Mapping[str, nn.Module],
    bench: Workbench,
    look: Callable[[str, Tensor], None],
    *,
    all_run: bool = True,
) -> None:
    """Runs the calibration batches and shows every input of every part.

    Args:
        model: in evaluation mode.
        parts: modules of the model by name.
        bench: whose batches are run.
        look: called with a part's name and its first input.
        all_run: whether each part must be reached.

    Raises:
        PlanError: if the batches do not run, or never reach a part that they must.
    """
    unseen = dict.fromkeys(parts)

    def hook(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        unseen.pop(name, None)
        look(name, inputs[0])

    hooks = [part.register_forward_pre_hook(partial(hook, name)) for name, part in parts.items()]
    try:
        with torch.inference_mode():
            for batch in bench.calibration():
                model(**batch)
    except ValueError as error:
        raise PlanError(f"the calibration batches do not run: {error} {_DECODERS_NEED}") from error
    finally:
        for handle in hooks:
            handle.remove()
    if unseen and all_run:
        raise PlanError(
            f"the calibration batches never reached {len(unseen)} parts, among them {next(iter(unseen))}; "
            f"{_DECODERS_NEED}"
        )


def sampled_values(values: Tensor) -> Tensor:
    """The extremes of a tensor of any shape and a random part of the rest, one-dimensional: enough for a range.

    Tensors of equal size are drawn from alike, so Linears that share an input get one range, and a runtime may round
    that input once for all of them.
    """
    flat = values.detach().float().flatten()
    if flat.numel() <= _SAMPLES_PER_BATCH:
        return flat
    return torch.cat(
        [flat[_drawn(flat.numel(), _SAMPLES_PER_BATCH, flat)], flat.min().reshape(1), flat.max().reshape(1)]
    )


def drawn_rows(rows: Tensor) -> Tensor:
    """Random rows of a matrix, about as many numbers as `sampled_values` draws; of matrices as tall, the same rows."""
    count = max(_LEAST_ROWS, _SAMPLES_PER_BATCH // rows.shape[1])
    return rows if len(rows) <= count else rows[_drawn(len(rows), count, rows)]


def sampled_rows(values: Tensor, count: int) -> Tensor:
    """Of ... x features: random rows, and the extremes of every feature as two rows more; float32."""
    rows = values.detach().float().flatten(0, -2)
    if len(rows) <= count:
        return rows
    return torch.cat([rows[_drawn(len(rows), count, rows)], rows.amin(0, keepdim=True), rows.amax(0, keepdim=True)])


def _drawn(size: int, count: int, like: Tensor) -> Tensor:
    return torch.randint(size, (count,), generator=torch.Generator().manual_seed(size)).to(like.device)

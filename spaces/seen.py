"""What calibration shows of Linears: the inputs they meet, and how much the answers mind changes of their outputs.

One backward pass tells both. The answers are the centred logits, as in `sensitivity.py`; of them a random direction is
taken per prediction, so that the squared gradient is, in the mean, that of all of them together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import PlanError
from .workbench import Inputs, Workbench

_NO_LABEL = -100

Part = TypeVar("Part", bound=nn.Module)
# Name of a part, the part, its inputs, and its output or the gradient at it.
Calls = list[tuple[str, Part, Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Seen:
    """Sums over the tokens of the calibration batches that count; all float64.

    A token counts for a Linear if the answers depend on what the Linear makes of it. Padding does not, nor do, in the
    last layer of a classifier, the words whose hidden states nobody reads.

    Attributes:
        answers: predictions that were made, sentences or target tokens; no dimensions.
        count: tokens; no dimensions.
        total: inputs added up; in.
        moment: x x^T added up; in x in.
        gradient: g g^T added up, for gradients g at the outputs; out x out.
        fisher: squared gradients of the weights, each those of one example, added up along rows; out.
    """

    answers: Tensor
    count: Tensor
    total: Tensor
    moment: Tensor
    gradient: Tensor
    fisher: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean input; in."""
        return self.total / self.count


@dataclass(frozen=True, slots=True)
class WordsSeen:
    """What calibration shows of a table of words; all float64.

    Attributes:
        answers: predictions that were made; no dimensions.
        counts: how often each word comes up where the answers depend on it; words.
        gradient: g g^T added up, for gradients g at what was looked up, as the table holds it; width x width.
    """

    answers: Tensor
    counts: Tensor
    gradient: Tensor


def look_at(model: nn.Module, parts: Mapping[str, nn.Linear], bench: Workbench) -> dict[str, Seen]:
    """Runs the calibration batches forwards and backwards, and adds up what these Linears saw.

    Args:
        model: in evaluation mode.
        parts: Linears of the model by name.
        bench: whose batches are run.

    Returns:
        Name -> what it saw.

    Raises:
        PlanError: if the batches do not run, no answer depends on a part, or answers are not finite.
    """
    found: dict[str, Seen] = {}
    for seed, batch in enumerate(bench.calibration()):
        calls, answers = _traced(model, parts, batch, seed)
        for name, part, inputs, gradient in calls:
            fresh = _sums(part, inputs, gradient, answers)
            found[name] = _added(found[name], fresh) if name in found else fresh
    missing = [name for name in parts if name not in found or not float(found[name].count)]
    if missing:
        raise PlanError(
            f"no answer to the calibration batches depends on {len(missing)} Linears, among them {missing[0]}; batches "
            "for a model with a decoder need labels or decoder_input_ids."
        )
    return found


def look_at_words(model: nn.Module, table: Tensor, bench: Workbench) -> WordsSeen:
    """Runs the calibration batches forwards and backwards, and adds up what became of the words.

    Args:
        model: in evaluation mode.
        table: words x width, the weight of one or more `nn.Embedding` of the model. What else holds it, such as a tied
            output, is not looked at.
        bench: whose batches are run.

    Raises:
        PlanError: if the batches do not run, no answer depends on a word, or answers are not finite.
    """
    lookups = {
        name: part for name, part in model.named_modules() if isinstance(part, nn.Embedding) and part.weight is table
    }
    answers, counts = torch.zeros((), dtype=torch.float64), torch.zeros(len(table), dtype=torch.float64)
    gradient = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64)
    for seed, batch in enumerate(bench.calibration()):
        calls, fresh = _traced(model, lookups, batch, seed)
        answers = answers + fresh
        for _, part, words, found in calls:
            # Some families hand out their words times a number.
            pulls = found.flatten(0, -2) * float(getattr(part, "embed_scale", 1.0))
            depends = pulls.abs().amax(1) > 0
            counts += torch.bincount(words.flatten()[depends], minlength=len(table))
            gradient += (pulls.t() @ pulls).double()
    if not float(counts.sum()):
        raise PlanError("no answer to the calibration batches depends on a word of the table.")
    return WordsSeen(answers, counts, gradient)


def _traced(model: nn.Module, parts: Mapping[str, Part], batch: Inputs, seed: int) -> tuple[Calls[Part], Tensor]:
    """Every call of every part in a batch, with the gradient of a random direction of the answers; their number."""
    calls: Calls[Part] = []

    def look(name: str, part: Part, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # From here on gradients are wanted, whether or not anything before was trainable.
        output = output if output.requires_grad else output.detach().requires_grad_()
        calls.append((name, part, inputs[0].detach(), output))
        return output

    hooks = [part.register_forward_hook(partial(look, name)) for name, part in parts.items()]
    try:
        with torch.enable_grad():
            logits: Tensor = model(**batch).logits
            directions = _directions(logits, batch.get("labels"), seed)
            pulled = (logits * directions).sum()
    except ValueError as error:
        raise PlanError(f"the calibration batches do not run: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not torch.isfinite(logits).all():
        raise PlanError("the model's answers to the calibration batches are not finite: it computes NaN.")
    answers = directions.detach().abs().amax(-1).gt(0).sum()
    if not calls:
        return [], answers
    gradients = torch.autograd.grad(pulled, [output for *_, output in calls], materialize_grads=True)
    return [(*call[:3], gradient) for call, gradient in zip(calls, gradients, strict=True)], answers


def _directions(logits: Tensor, labels: Tensor | None, seed: int) -> Tensor:
    """Random directions among the centred logits, whose products with themselves have the centring as their mean.

    With two classes that is one of two directions, so nothing is lost to chance; padding after a target has none.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: Tensor = torch.randn(logits.shape, generator=generator).to(logits)
    if logits.shape[-1] == 1:
        return drawn.sign()
    drawn = drawn - drawn.mean(dim=-1, keepdim=True)
    drawn = drawn * ((logits.shape[-1] - 1) ** 0.5 / drawn.norm(dim=-1, keepdim=True).clamp_min(1e-12))
    if labels is not None and labels.shape == logits.shape[:-1]:
        drawn = drawn * (labels != _NO_LABEL).unsqueeze(-1)
    return drawn


def _sums(part: nn.Linear, inputs: Tensor, gradient: Tensor, answers: Tensor) -> Seen:
    """What one call of a Linear adds: inputs and gradients are examples x ... x features."""
    examples = inputs.flatten(1, -2) if inputs.dim() > 2 else inputs.unsqueeze(1)
    pulls = gradient.reshape(*examples.shape[:2], part.out_features)
    # The squared length of g^T x, summed over the tokens of an example first, without ever holding it.
    fisher = ((examples @ examples.mT) @ pulls * pulls).sum((0, 1))
    rows, pulls = examples.flatten(0, 1), pulls.flatten(0, 1)
    counts = pulls.abs().amax(1) > 0
    rows, pulls = rows[counts], pulls[counts]
    found = (
        answers,
        counts.sum(),
        rows.sum(0),
        rows.t() @ rows,
        pulls.t() @ pulls,
        fisher,
    )
    return Seen(*(tensor.double() for tensor in found))


def _added(one: Seen, other: Seen) -> Seen:
    return Seen(*(getattr(one, field.name) + getattr(other, field.name) for field in fields(Seen)))

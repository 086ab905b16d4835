"""How much each part of a model minds being rounded: predicted from one backward pass, for every precision at once.

The harm of rounding a part is the squared change of the answers it leads to. To first order that is the change of the
part's outputs times the gradient of the answers with respect to them; over random signs of the answers, and taking
errors of different outputs to be independent, its mean is the sum of (dy)^2 g^2 over tokens and outputs. The answers
are centred logits, not probabilities: those hardly move where a model is sure, as it is of what it was trained on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import quantise
from .calibration import standing_linears
from .input_ranges import input_ranges
from .precision import BFLOAT16, Precision
from .quantised import recalled, restore
from .ranges import rounded_inputs
from .rounded_weights import rounded_model
from .workbench import Inputs, Material, Workbench

# Tokens of one batch that count: enough for a mean.
_TOKENS = 512
# Batches of calibration examples that count.
_BATCHES = 4

Calls = list[tuple[str, nn.Module, Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Rounded:
    """What a part computes with once it is rounded.

    Attributes:
        weight: out x in, or words x width, float.
        inputs: scale, zero point and bits of its inputs, and their factors, if any; None where they stay float.
    """

    weight: Tensor
    inputs: tuple[Tensor, Tensor, int, Tensor | None] | None = None

    def outputs(self, part: nn.Module, inputs: Tensor) -> Tensor:
        """What the part then makes of its inputs: one row per token."""
        if isinstance(part, nn.Embedding):
            found = functional.embedding(inputs, self.weight)
            return found * float(getattr(part, "embed_scale", 1.0))
        assert isinstance(part, nn.Linear)
        if self.inputs is not None:
            inputs = rounded_inputs(inputs, *self.inputs)
        elif self.weight.dtype == torch.bfloat16:
            inputs = inputs.to(torch.bfloat16).float()
        return functional.linear(inputs, self.weight.float(), part.bias)


def part_harms(bench: Workbench) -> Mapping[str, Mapping[str, float]]:
    """The predicted harm of every precision of the palette to every part of the original model.

    Returns:
        Site name and kind, such as "encoder.3.query" or "outside.embeddings" -> precision as it is written -> the
        predicted squared change of the centred logits, mean over answers.
    """
    palette = bench.anatomy.palette
    words = "_".join(map(str, (*palette.linears, "/", *palette.tables, palette.calibration))).replace("/", "")
    found = bench.remember(f"harm-1-{words}", partial(_learn, bench))
    return {name: {way: float(value) for way, value in ways.items()} for name, ways in found.items()}


def _learn(bench: Workbench) -> Material:
    """Predicts them, one precision of all parts after another, so that few dense weights exist at once."""
    anatomy, identity = bench.anatomy, bench.anatomy.identity()
    model = bench.build(identity)
    linears = dict(standing_linears(model, identity, anatomy))
    parts: dict[str, Sequence[nn.Module]] = {name: [part] for name, part in linears.items()}
    for kind, path in anatomy.outside.items():
        table = model.get_submodule(path).weight
        parts[f"outside.{kind}"] = [part for part in model.modules() if getattr(part, "weight", None) is table]
    harms: dict[str, dict[str, float]] = {name: {} for name in parts}
    traces = [_traced(model, parts, batch, seed) for seed, batch in enumerate(bench.calibration()[:_BATCHES])]
    answers = sum(count for _, _, count in traces)
    for outside, precisions in ((False, anatomy.palette.linears), (True, anatomy.palette.tables)):
        chosen = [name for name in parts if name.startswith("outside.") == outside]
        for precision in precisions:
            for name, rounded in _rounded(precision, chosen, parts, bench, outside=outside):
                changes = (_change(calls, gradients, name, rounded) for calls, gradients, _ in traces)
                harms[name][str(precision)] = sum(changes) / answers
    return {name: {way: torch.tensor(value) for way, value in ways.items()} for name, ways in harms.items()}


def _rounded(
    precision: Precision,
    names: Sequence[str],
    parts: Mapping[str, Sequence[nn.Module]],
    bench: Workbench,
    *,
    outside: bool,
) -> Iterator[tuple[str, Rounded]]:
    """The parts of these names, rounded to a precision."""
    identity = bench.anatomy.identity()
    assert precision.weight_bits is not None
    stored = rounded_model(identity, precision, bench, outside=outside) if precision.weight_bits < 8 else {}
    bits = precision.activation_bits if precision.has_integer_inputs else None
    ranges = {} if bits is None else input_ranges(identity, bench, precision)
    for name in names:
        weight = parts[name][0].weight
        assert isinstance(weight, Tensor)
        weight = weight.detach()
        known, found = recalled(stored.get(name, {})), ranges.get(name, {})
        factors = found.get("factors")
        if factors is not None:
            weight = weight * factors
        if precision.weight_bits == BFLOAT16:
            dense = weight.to(torch.bfloat16)
        else:
            dense = (restore(known, precision, weight.shape[1]) if known else quantise(weight, precision)).dense()
        inputs = None if bits is None else (found["scale"].float(), found["zero_point"].int(), bits, factors)
        yield name, Rounded(dense, inputs)


def _traced(
    model: nn.Module, parts: Mapping[str, Sequence[nn.Module]], batch: Inputs, seed: int
) -> tuple[Calls, Sequence[Tensor], int]:
    """Every call of every part in a batch, the squared gradients at its outputs, and how many answers there were."""
    calls: Calls = []
    handles = []

    def look(name: str, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # From here on gradients are wanted, whether or not anything before was trainable.
        output = output if output.requires_grad else output.detach().requires_grad_()
        calls.append((name, part, inputs[0].detach(), output))
        return output

    for name, modules in parts.items():
        handles += [module.register_forward_hook(partial(look, name)) for module in modules]
    try:
        with torch.enable_grad():
            logits: Tensor = model(**batch).logits
    finally:
        for handle in handles:
            handle.remove()
    generator = torch.Generator().manual_seed(seed)
    signs = (torch.randint(0, 2, logits.shape, generator=generator) * 2 - 1).to(logits)
    centred = logits - logits.mean(dim=-1, keepdim=True) if logits.shape[-1] > 1 else logits
    gradients = torch.autograd.grad((centred * signs).sum(), [output for *_, output in calls], materialize_grads=True)
    kept = [_sample(call, gradient, generator) for call, gradient in zip(calls, gradients, strict=True)]
    return [call for call, _ in kept], [squared for _, squared in kept], logits[..., 0].numel()


def _sample(
    call: tuple[str, nn.Module, Tensor, Tensor], gradient: Tensor, generator: torch.Generator
) -> tuple[tuple[str, nn.Module, Tensor, Tensor], Tensor]:
    """Some tokens of a call, one row each, and their squared gradients, weighted to stand for all."""
    name, part, inputs, output = call
    inputs = inputs.flatten() if isinstance(part, nn.Embedding) else inputs.flatten(0, -2)
    output, squared = output.detach().flatten(0, -2), gradient.flatten(0, -2).square()
    if len(squared) > _TOKENS:
        chosen = torch.randperm(len(squared), generator=generator)[:_TOKENS]
        inputs, output, squared = inputs[chosen], output[chosen], squared[chosen] * (len(squared) / _TOKENS)
    return (name, part, inputs, output), squared


def _change(calls: Calls, gradients: Sequence[Tensor], name: str, rounded: Rounded) -> float:
    """The predicted squared change of the answers of a batch when the part of this name is rounded."""
    with torch.no_grad():
        return sum(
            float(((rounded.outputs(part, inputs) - output).square() * squared).sum())
            for (called, part, inputs, output), squared in zip(calls, gradients, strict=True)
            if called == name
        )

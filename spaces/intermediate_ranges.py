"""Ranges of results between the Linears, as the calibration batches show them."""

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from .anatomy import Anatomy
from .attention import PRODUCTS, FloatSoftmax, points_of
from .calibration import sampled_rows, sampled_values, watch
from .intermediates import NORM_BLOCK
from .plan import Plan
from .ranges import affine_range, range_tensors
from .workbench import Material, Workbench

_ROWS_PER_BATCH = 128
# Of the common scale that the blocks of a norm share, tried between one power of two and the next.
_FRACTIONS = 8
# Of what is left of either end of the range of an activation's inputs, tried for the least error of its outputs.
_CLIP_FRACTIONS = tuple(1 - 0.025 * step for step in range(40))


def intermediate_ranges(plan: Plan, bench: Workbench) -> Material:
    """What `set_intermediate` must have been taught for this plan.

    Returns:
        Site name and kind, joined by a dot -> number of the part among those of its kind, name of the point, and
        "scale", "zero_point" or, for norms, "exponents", joined by dots -> the calibrated tensor.
    """
    wanted = dict(_wanted(plan))
    found: dict[str, Mapping[str, Tensor]] = {}
    for bits in sorted(set(wanted.values())):
        structure, calibration = plan.in_float(), bench.anatomy.palette.calibration
        key = f"between-{structure.fingerprint}-{bits}-{calibration}"
        ranges = bench.remember(key, partial(_calibrate, structure, bench, bits))
        found.update({name: ranges[name] for name in wanted if wanted[name] == bits})
    return found


def _wanted(plan: Plan) -> Iterator[tuple[str, int]]:
    """Site name and kind, and bits, of all treated parts that have no weights."""
    for name, _, precision in plan.precisions():
        if precision.weight_bits is None and precision.activation_bits is not None:
            yield name, precision.activation_bits


def _calibrate(structure: Plan, bench: Workbench, bits: int) -> Material:
    """Fits a range to every point of the float model of this structure."""
    model = bench.build(structure)
    sampled: dict[str, nn.Module] = {}
    by_feature: dict[str, nn.Module] = {}
    functions: dict[str, nn.Module] = {}
    for site, kind, number, path in _parts(structure, bench.anatomy):
        name = f"{site} {kind} {number}"
        if kind in PRODUCTS or kind == "softmax":
            sampled.update({f"{name}.{point}": part for point, part in _attention_points(model, path, kind).items()})
        elif kind == "activation":
            sampled[f"{name}.inputs"] = functions[f"{name}.inputs"] = model.get_submodule(path)
        else:
            by_feature.update({f"{name}.{point}": part for point, part in _around(model, path).items()})
    samples = _Samples(set(by_feature))
    watch(model, {**sampled, **by_feature}, bench, samples.look)
    calibration = bench.anatomy.palette.calibration
    found: dict[str, dict[str, Tensor]] = {}
    for name, values in samples.taken():
        site, kind, point = name.split(" ")
        if name in functions:
            fits = function_ranges(functions[name], values, bits, calibration)
            fit = {f"{end}.{key}": tensor for end in fits for key, tensor in range_tensors(*fits[end]).items()}
            point = point.removesuffix(".inputs")
        elif name in by_feature:
            fit = block_ranges(values, bits, calibration)
        else:
            # Of all kernels for this product some take integers, and these no zero points.
            fit = range_tensors(*affine_range(values, bits, calibration, symmetric=kind == "scores"))
        found.setdefault(f"{site}.{kind}", {}).update({f"{point}.{key}": tensor for key, tensor in fit.items()})
    return found


def _parts(structure: Plan, anatomy: Anatomy) -> Iterator[tuple[str, str, int, str]]:
    """Site, kind, number among those of its kind, and path in the model of all parts that may be treated."""
    for stack in structure.stacks:
        places = anatomy.stack(stack.name)
        for place, position in enumerate(stack.standing):
            for kind, paths in places.intermediates.items():
                for number, path in enumerate(paths):
                    yield f"{stack.name}.{position}", kind, number, f"{places.path}.{place}.{path}"
    for kind, paths in anatomy.intermediates.items():
        for number, path in enumerate(paths):
            yield "outside", kind, number, path


class _Seen(FloatSoftmax):
    """A softmax that shows the scores that count to a module that may be watched."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = nn.Identity()

    def forward(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """See `FloatSoftmax`."""
        self.counted(scores if allowed is None else scores[allowed.expand_as(scores)])
        return super().forward(scores, allowed)


def _attention_points(model: nn.Module, path: str, kind: str) -> dict[str, nn.Module]:
    """Names and modules of what is to be watched in one attention, which from now on goes through its points."""
    points = points_of(model.get_submodule(path))
    if kind in PRODUCTS:
        return {name: points.get_submodule(name) for name in PRODUCTS[kind]}
    points.softmax = seen = _Seen()
    return {"scores": seen.counted}


def _around(model: nn.Module, path: str) -> dict[str, nn.Module]:
    """What stands before and after one part, put there to be watched."""
    before, after = nn.Identity(), nn.Identity()
    model.set_submodule(path, nn.Sequential(before, model.get_submodule(path), after))
    return {"inputs": before, "outputs": after}


class _Samples:
    """Samples of values by name: of single values, or of whole rows where the features are told apart."""

    def __init__(self, by_feature: set[str]) -> None:
        self._by_feature = by_feature
        self._taken: dict[str, list[Tensor]] = {}

    def look(self, name: str, values: Tensor) -> None:
        """Takes a sample of one batch."""
        sample = sampled_rows(values, _ROWS_PER_BATCH) if name in self._by_feature else sampled_values(values)
        self._taken.setdefault(name, []).append(sample)

    def taken(self) -> Iterator[tuple[str, Tensor]]:
        """Every name with its sample, in the order they were first seen."""
        for name, parts in self._taken.items():
            yield name, torch.cat(parts)


def function_ranges(function: nn.Module, values: Tensor, bits: int, calibration: str) -> dict[str, tuple[float, int]]:
    """Ranges of the inputs and outputs of an elementwise function.

    With "least_error", what is least is the error of the outputs: large negative inputs all give next to nothing, so
    that codes are better spent elsewhere.

    Args:
        function: the activation.
        values: a sample of its inputs.
        bits: of the codes of both.
        calibration: see `affine_range`.

    Returns:
        "inputs" and "outputs" -> scale and zero point.
    """
    with torch.no_grad():
        results = function(values)
    inputs, outputs = (affine_range(of, bits, calibration) for of in (values, results))
    if calibration == "least_error" and inputs != (1.0, 0):
        inputs = _least_output_error(function, values, results, bits)
    return {"inputs": inputs, "outputs": outputs}


def _least_output_error(function: nn.Module, values: Tensor, results: Tensor, bits: int) -> tuple[float, int]:
    """The range of inputs by which the results have the least squared error; one end is fitted after the other."""
    steps = 2**bits - 1
    ends = [min(values.min().item(), 0.0), max(values.max().item(), 0.0)]
    least, best = float("inf"), (1.0, 0)
    for end in (0, 1, 0):
        whole, kept = ends[end], ends[end]
        for fraction in _CLIP_FRACTIONS:
            ends[end] = whole * fraction
            scale = (ends[1] - ends[0]) / steps
            tried = (scale, max(0, min(steps, round(-ends[0] / scale))))
            with torch.no_grad():
                rounded = function(torch.fake_quantize_per_tensor_affine(values, *tried, 0, steps))
            error = (rounded - results).square().mean().item()
            if error < least:
                least, best, kept = error, tried, ends[end]
        ends[end] = kept
    return best


def block_ranges(rows: Tensor, bits: int, calibration: str) -> dict[str, Tensor]:
    """Ranges of blocks of features: each its own, widened to a common scale times a power of two.

    The largest values of a residual stream are few and carry much: clipping them for the least squared error does
    harm, so "least_error" takes all that was seen, as "min_max" does.

    Args:
        rows: samples x features.
        bits: of the codes.
        calibration: see `affine_range`.

    Returns:
        "scale", "exponents" and "zero_point", as `BlockRounding` takes them.
    """
    calibration = "min_max" if calibration == "least_error" else calibration
    ranges = [affine_range(block, bits, calibration) for block in rows.split(NORM_BLOCK, dim=1)]
    wanted = torch.tensor([scale for scale, _ in ranges], dtype=torch.float64)
    lows = -wanted * torch.tensor([zero_point for _, zero_point in ranges])
    tried = []
    for fraction in range(_FRACTIONS):
        scale = wanted.min() * 2 ** (fraction / _FRACTIONS)
        exponents = torch.ceil(torch.log2(wanted / scale) - 1e-9).clamp(min=0)
        # The squared error of rounding grows with the square of the step.
        tried.append((torch.exp2(2 * exponents).sum().item() * scale.item() ** 2, scale, exponents))
    _, scale, exponents = min(tried, key=lambda found: found[0])
    zero_point = (-lows / (scale * torch.exp2(exponents))).round().clamp(0, 2**bits - 1)
    return {"scale": scale, "exponents": exponents.to(torch.int8), "zero_point": zero_point.to(torch.uint8)}

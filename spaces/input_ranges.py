"""Ranges of the inputs of Linears, as the calibration batches show them."""

from functools import partial

from torch import nn

from .calibration import input_samples, standing_linears
from .plan import Plan
from .precision import Precision
from .ranges import affine_range, range_tensors
from .smoothing import SmoothedSamples
from .workbench import Material, Workbench


def input_ranges(structure: Plan, bench: Workbench, precision: Precision, *, smoothed: bool = True) -> Material:
    """Ranges for the inputs of every Linear of a plan in float.

    Args:
        structure: the plan, in float.
        bench: where it is built and calibrated.
        precision: of the Linears, with integer inputs.
        smoothed: leaves the features as they are where not, whatever the precision does.

    Returns:
        Site name and kind -> {"scale", "zero_point"}, and {"factors"} where the inputs are smoothed.
    """
    smoothed = smoothed and precision.smooths_inputs
    way = "-smoothed-1" if smoothed else ""
    calibration = bench.anatomy.palette.calibration
    key = f"bits-{structure.fingerprint}-{precision.activation_bits}-{calibration}{way}"
    return bench.remember(key, partial(_learn, structure, bench, precision, smoothed))


def _learn(structure: Plan, bench: Workbench, precision: Precision, smoothed: bool) -> Material:
    model = bench.build(structure)
    linears: dict[str, nn.Linear] = dict(standing_linears(model, structure, bench.anatomy))
    bits, calibration = precision.activation_bits, bench.anatomy.palette.calibration
    assert bits is not None
    if not smoothed:
        samples = input_samples(model, linears, bench)
        return {name: range_tensors(*affine_range(values, bits, calibration)) for name, values in samples.items()}
    features = SmoothedSamples.of(model, linears, bench)
    return {
        name: {
            **range_tensors(*affine_range(features.values(name), bits, calibration)),
            "factors": features.factors(name),
        }
        for name in linears
    }

"""Weights of fewer than 8 bits: which are rounded in which model, once for all plans."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

from torch import Tensor, nn

from .blocks import Quantised, quantise
from .calibration import input_moments, standing_linears
from .homes import home_of
from .learned_factors import learned_factors, stacked_with
from .plan import Layer, Plan
from .precision import Precision
from .quantised import remembered
from .rounding import round_with_feedback
from .workbench import Material, Workbench


def rounded_weights(plan: Plan, bench: Workbench) -> Material:
    """The weights of a plan that have fewer than 8 bits, rounded with error feedback; of 8, the nearest is as good.

    Of a factorised Linear both factors are; factors of tables, and decoders, are rounded to the nearest elsewhere.

    Returns:
        Site name and kind, such as "encoder.3.query" or "encoder.3.query.narrow" -> {"codes", "scales"}, as modules
        hold them.
    """

    # Many parts have one home, and what is remembered of it may lie on a disk.
    @cache
    def all_of(home: Plan, together: tuple[Precision, ...], outside: bool) -> Material:
        return _all_rounded(home, together, bench, outside=outside)

    @cache
    def moments_in(home: Plan) -> dict[str, Tensor]:
        model = bench.build(home)
        return input_moments(model, dict(standing_linears(model, home, bench.anatomy)), bench)

    @cache
    def all_factors() -> Material:
        return learned_factors(plan, bench)

    found = {}
    factors = {name: factorisation for name, _, factorisation in plan.factorisations()}
    for name, layer, precision in _below_8_bits(plan):
        outside = layer is None
        home, home_name = home_of(plan, name, layer, bench.anatomy)
        if name not in factors:
            rounded = all_of(home, _together(precision, bench, outside=outside), outside)
            found[name] = rounded[f"{precision} {home_name}"]
        elif layer is not None and not factors[name].is_decoded:
            words = hashlib.sha256(f"{home_name} {factors[name]} {precision}".encode()).hexdigest()[:16]
            stacked = stacked_with(home, home_name, factors[name])
            learn = partial(
                _round_factors, all_factors()[name], precision, home_name, stacked, partial(moments_in, home), bench
            )
            rounded = bench.remember(f"rounding-2-{home.fingerprint}-{words}", learn)
            found.update({f"{name}.{piece}": stored for piece, stored in rounded.items()})
    return found


def rounded_model(home: Plan, precision: Precision, bench: Workbench, *, outside: bool) -> Material:
    """The weights of a model in float, rounded to one precision of fewer than 8 bits.

    Args:
        home: the plan of the model.
        precision: with 2 to 7 bits for weights.
        bench: where it is built and calibrated.
        outside: whether the parts outside the stacks are rounded, or those inside.

    Returns:
        Site name and kind -> {"codes", "scales"}: Linears with error feedback; tables, which have no inputs to learn
        from, to the nearest.
    """
    found = _all_rounded(home, _together(precision, bench, outside=outside), bench, outside=outside)
    prefix = f"{precision} "
    return {name.removeprefix(prefix): stored for name, stored in found.items() if name.startswith(prefix)}


def is_rounded_beforehand(precision: Precision) -> bool:
    """Whether weights have fewer than 8 bits; of 8, the nearest integer is as good, and quickly found."""
    return precision.weight_bits is not None and precision.weight_bits < 8


def _together(precision: Precision, bench: Workbench, *, outside: bool) -> tuple[Precision, ...]:
    """All that a search may ask for beside this precision, since the inputs are gone through for all at once."""
    palette = bench.anatomy.palette.tables if outside else bench.anatomy.palette.linears
    together = tuple(filter(is_rounded_beforehand, palette))
    return together if precision in together else (precision,)


def _all_rounded(home: Plan, together: Sequence[Precision], bench: Workbench, *, outside: bool) -> Material:
    """Precision, a space, and the name of a part -> its weights; remembered."""
    words = hashlib.sha256(" ".join(map(str, together)).encode()).hexdigest()[:12]
    # A change of the scales, the order of columns or the correction changes the version.
    key = f"rounding-1-{'outside' if outside else 'stacks'}-{home.fingerprint}-{words}"
    return bench.remember(key, partial(_round, home, together, bench, outside))


def _below_8_bits(plan: Plan) -> Iterator[tuple[str, Layer | None, Precision]]:
    """Site name and kind, layer and precision of every part whose weights are rounded to fewer than 8 bits."""
    for name, layer, precision in plan.precisions():
        if is_rounded_beforehand(precision):
            yield name, layer, precision


def _round_factors(
    factors: Mapping[str, Tensor],
    precision: Precision,
    name: str,
    stacked: Sequence[str],
    moments: Callable[[], Mapping[str, Tensor]],
    bench: Workbench,
) -> Material:
    """The two factors of a Linear: "narrow" and "wide" -> {"codes", "scales"}.

    Args:
        factors: "left" and "right".
        precision: of both.
        name: of the Linear.
        stacked: names of all that share its second factor, which is rounded for the inputs of all of them.
        moments: of the inputs of whole Linears, by name. Those of the first factor's inputs follow.
        bench: where the numbers count, or do not.
    """
    if not bench.is_taught:
        return {
            "narrow": remembered(_roughly(factors["right"], precision)),
            "wide": remembered(_roughly(factors["left"], precision)),
        }
    found = moments()
    own, right = found[name], factors["right"]
    shared = sum((found[other] for other in stacked[1:]), found[stacked[0]])
    narrow = round_with_feedback(right, precision, shared)
    return {
        "narrow": remembered(narrow),
        "wide": remembered(round_with_feedback(factors["left"], precision, right @ own @ right.t())),
    }


def _round(home: Plan, precisions: Sequence[Precision], bench: Workbench, outside: bool) -> Material:
    """Precision, a space, and the name of a part -> its weights."""
    model = bench.build(home)
    linears = {
        name: part
        for name, part in standing_linears(model, home, bench.anatomy)
        if name.startswith("outside.") == outside
    }
    tables = dict[str, nn.Embedding]()
    for kind, path in bench.anatomy.outside.items() if outside else ():
        part = model.get_submodule(path)
        if isinstance(part, nn.Embedding):
            tables[f"outside.{kind}"] = part
    found = {}
    if not bench.is_taught:
        for name, part in (linears | tables).items():
            found.update(
                {f"{precision} {name}": remembered(_roughly(part.weight, precision)) for precision in precisions}
            )
        return found
    moments = input_moments(model, linears, bench) if linears else {}
    for precision in precisions:
        for name, linear in linears.items():
            found[f"{precision} {name}"] = remembered(round_with_feedback(linear.weight, precision, moments[name]))
        for name, table in tables.items():
            found[f"{precision} {name}"] = remembered(quantise(table.weight, precision))
    return found


def _roughly(weight: Tensor, precision: Precision) -> Quantised:
    """Codes and scales of the right shapes, in no time, for models that are only timed."""
    return quantise(weight, precision, clipping="abs_max")

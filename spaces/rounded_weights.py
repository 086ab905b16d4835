"""Weights of fewer than 8 bits: which are rounded in which model, once for all plans."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

from torch import Tensor, nn

from .anatomy import Anatomy
from .blocks import quantise
from .calibration import input_moments, standing_linears
from .factorisation import Factorisation
from .homes import home_of
from .plan import Layer, Plan, Treatment
from .precision import Precision
from .quantised import remembered
from .rounding import round_with_feedback
from .workbench import Material, Workbench

# Which parts of a model are rounded together: those inside the stacks, those outside, or one kind in one stack.
_STACKS, _OUTSIDE = "stacks", "outside"


def rounded_weights(plan: Plan, bench: Workbench) -> Material:
    """The weights of a plan that have fewer than 8 bits, rounded with error feedback; of 8, the nearest is as good.

    Of a factorised Linear both factors are; factors of tables, and decoders, are rounded to the nearest elsewhere.

    Returns:
        Site name and kind, such as "encoder.3.query" or "encoder.3.query.narrow" -> {"codes", "scales"}, as modules
        hold them.
    """

    # Many parts have one home, and what is remembered of it may lie on a disk.
    @cache
    def all_of(home: Plan, together: tuple[Precision, ...], which: str) -> Material:
        return _all_rounded(home, together, bench, which)

    found = {}
    factors = {name: factorisation for name, _, factorisation in plan.factorisations()}
    for name, layer, precision in _below_8_bits(plan):
        outside = layer is None
        home, home_name = home_of(plan, name, layer, bench.anatomy)
        if name not in factors:
            rounded = all_of(home, _together(precision, bench, outside=outside), _OUTSIDE if outside else _STACKS)
            found[name] = rounded[f"{precision} {home_name}"]
        elif layer is not None and not factors[name].is_decoded:
            home, which = _with_factors(home, home_name, factors[name], bench.anatomy)
            rounded = all_of(home, (precision,), which)
            for piece in ("narrow", "wide"):
                found[f"{name}.{piece}"] = rounded[f"{precision} {home_name}.{piece}"]
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
    which = _OUTSIDE if outside else _STACKS
    found = _all_rounded(home, _together(precision, bench, outside=outside), bench, which)
    prefix = f"{precision} "
    return {name.removeprefix(prefix): stored for name, stored in found.items() if name.startswith(prefix)}


def _together(precision: Precision, bench: Workbench, *, outside: bool) -> tuple[Precision, ...]:
    """All that a search may ask for beside this precision, since the inputs are gone through for all at once."""
    palette = bench.anatomy.palette.tables if outside else bench.anatomy.palette.linears
    together = tuple(other for other in palette if other.has_integer_weights and other.weight_bits != 8)
    return together if precision in together else (precision,)


def _all_rounded(home: Plan, together: Sequence[Precision], bench: Workbench, which: str) -> Material:
    """Precision, a space, and the name of a part -> its weights; remembered."""
    words = hashlib.sha256(" ".join(map(str, together)).encode()).hexdigest()[:12]
    # A change of the scales, the order of columns or the correction changes the version.
    key = f"rounding-1-{which}-{home.fingerprint}-{words}"
    return bench.remember(key, partial(_round, home, together, bench, which))


def _below_8_bits(plan: Plan) -> Iterator[tuple[str, Layer | None, Precision]]:
    """Site name and kind, layer and precision of every part whose weights are rounded to fewer than 8 bits."""
    for name, layer, precision in plan.precisions():
        if precision.weight_bits is not None and precision.weight_bits < 8:
            yield name, layer, precision


def _with_factors(home: Plan, name: str, factors: Factorisation, anatomy: Anatomy) -> tuple[Plan, str]:
    """A home with one kind of Linear factorised in all layers that may have these factors, and that kind's name."""
    stack, _, kind = name.split(".", 2)
    old, treatment = home.stack(stack), Treatment(factors=factors)
    slots = tuple(
        replace(slot, treatments=slot.treatments.with_(kind, treatment))
        if slot.layer is not None and slot.layer in (factors.members or (slot.layer,))
        else slot
        for slot in old.slots
    )
    return home.with_stack(replace(old, slots=slots)), f"{stack}.{kind}"


def _round(home: Plan, precisions: Sequence[Precision], bench: Workbench, which: str) -> Material:
    """Precision, a space, and the name of a part -> its weights."""
    model = bench.build(home)
    linears = {name: part for name, part in standing_linears(model, home, bench.anatomy) if _is_of(name, which)}
    tables = {}
    for kind, path in bench.anatomy.outside.items() if which == _OUTSIDE else ():
        part = model.get_submodule(path)
        if isinstance(part, nn.Embedding):
            tables[f"outside.{kind}"] = part
    moments = _alike_where_shared(linears, input_moments(model, linears, bench)) if linears else {}
    found = {}
    for precision in precisions:
        for name, linear in linears.items():
            found[f"{precision} {name}"] = remembered(round_with_feedback(linear.weight, precision, moments[name]))
        for name, table in tables.items():
            found[f"{precision} {name}"] = remembered(quantise(table.weight, precision))
    return found


def _is_of(name: str, which: str) -> bool:
    """Whether a Linear of this name is one of those rounded together."""
    site, *rest = name.split(".")
    if which in (_STACKS, _OUTSIDE):
        return (site == "outside") == (which == _OUTSIDE)
    return f"{site}.{'.'.join(rest[1:2])}" == which and len(rest) > 2


def _alike_where_shared(linears: dict[str, nn.Linear], moments: dict[str, Tensor]) -> dict[str, Tensor]:
    """The moments, summed over Linears that hold one weight: it is to be rounded once for all of them."""
    holders: dict[int, list[str]] = {}
    for name, linear in linears.items():
        holders.setdefault(linear.weight.data_ptr(), []).append(name)
    summed = {}
    for names in holders.values():
        total = moments[names[0]] if len(names) == 1 else sum((moments[name] for name in names[1:]), moments[names[0]])
        summed.update(dict.fromkeys(names, total))
    return summed

"""What a plan has of everything that costs: the features that latency and memory are predicted from.

Counts are shares of the original (a stack of half as many layers counts 0.5; Linears count by their multiply-adds), so
that the same prior fits any model. A feature that a method of compression adds is counted here and nowhere else: a rank
is covered already, since the multiply-adds that factors leave out are counted.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from ..spaces.anatomy import Anatomy
from ..spaces.plan import Plan, Slot, Treatment

# How far, in units of the original's cost, a full count of each kind of feature may plausibly move the cost. What comes
# in many is held near what it is a refinement of: a kind of Linear near all products, a pair near no effect.
PRIORS: Mapping[str, float] = {
    "fixed": 1.0,
    "layers": 1.0,
    "modular": 0.02,
    "products": 1.0,
    "left out": 1.0,
    "kind": 0.5,
    "between": 1.0,
    "outside": 0.03,
    "tables": 1.0,
    "pair": 0.05,
}
REFINEMENTS = ("pair",)
# What memory goes by: bytes, of which a matrix has as many whatever its kind. What latency goes by: all the rest, since
# looking up takes as long in a large table as in a small one.
OF_MEMORY = ("fixed", "layers", "products", "left out", "between", "tables")
OF_LATENCY = tuple(group for group in PRIORS if group != "tables")


@dataclass(frozen=True, slots=True)
class Shapes:
    """The sizes of a model's parts.

    Attributes:
        layers: stack -> how many layers the original has.
        linears: stack -> kind of Linear -> rows and columns.
        outside: kind of table or Linear outside the stacks -> rows and columns.
    """

    layers: Mapping[str, int]
    linears: Mapping[str, Mapping[str, tuple[int, int]]]
    outside: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, anatomy: Anatomy) -> Self:
        """Those of the original.

        Args:
            anatomy: of it.
        """
        layers = {stack.name: stack.n_layers for stack in anatomy.stacks}
        return cls(layers, {stack.name: stack.shapes for stack in anatomy.stacks}, anatomy.shapes)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        linears = {stack: {kind: list(shape) for kind, shape in of.items()} for stack, of in self.linears.items()}
        outside = {kind: list(shape) for kind, shape in self.outside.items()}
        return {"layers": dict(self.layers), "linears": linears, "outside": outside}


def counted(plan: Plan, shapes: Shapes) -> dict[str, float]:
    """Feature -> how much of it a plan has, above 0.

    A feature is named after its prior (see `PRIORS`), a colon, and what it counts: "products: encoder w8a8".

    Args:
        plan: of the model.
        shapes: of the original.
    """
    found: defaultdict[str, float] = defaultdict(float, {"fixed: request": 1.0})
    for stack in plan.stacks:
        share = 1 / shapes.layers[stack.name]
        slots = [slot for slot in stack.slots if slot.layer is not None]
        for slot in slots:
            for name, amount in _of_slot(slot, stack.name, shapes.linears[stack.name]):
                found[name] += share * amount
        for name in _neighbours(slots, list(shapes.linears[stack.name])):
            found[f"pair: {stack.name} {name}"] += share
    whole = sum(rows * columns for rows, columns in shapes.outside.values())
    for kind, treatment in plan.outside.items:
        found[f"outside: {kind} {_words(treatment)}"] += 1
        if kind in shapes.outside:
            for name, amount in _of_table(treatment, *shapes.outside[kind]):
                found[f"tables: {name}"] += amount / whole
    return dict(found)


def group_of(feature: str) -> str:
    """Which kind of feature it is, one of `PRIORS`."""
    return feature.partition(":")[0]


def prior_of(feature: str) -> float:
    """How far a feature may plausibly move the cost."""
    return PRIORS[group_of(feature)]


def is_refinement(feature: str) -> bool:
    """Whether a cost can be predicted without having seen it, if less surely."""
    return group_of(feature) in REFINEMENTS


def _of_slot(slot: Slot, stack: str, linears: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, float]]:
    """What one layer has, and how much of it in units of a layer."""
    yield f"layers: {stack}", 1.0
    assert slot.layer is not None
    if slot.layer.granularity > 1:
        yield f"modular: {stack}", 1.0
    whole = sum(rows * columns for rows, columns in linears.values())
    for kind, treatment in slot.treatments.items:
        if kind not in linears:
            yield f"between: {stack}.{kind} {_words(treatment)}", 1.0
            continue
        rows, columns = linears[kind]
        kept = _products(treatment, rows, columns)
        if treatment.factors is not None and not treatment.factors.is_decoded:
            yield f"left out: {stack}", (rows * columns - kept) / whole
            yield f"kind: {stack}.{kind} factors", rows * columns / whole
        if treatment.precision is not None:
            yield f"products: {stack} {treatment.precision}", kept / whole
            yield f"kind: {stack}.{kind} {treatment.precision}", kept / whole


def _of_table(treatment: Treatment, rows: int, columns: int) -> Iterator[tuple[str, float]]:
    """What a table holds in memory, and what it no longer does."""
    factors, kept = treatment.factors, rows * columns
    if factors is not None:
        # The decoder of a table is small beside its rows.
        kept = factors.inner_size * (rows if factors.is_decoded else rows + columns)
        yield "left out", rows * columns - kept
    if treatment.precision is not None:
        yield str(treatment.precision), kept


def _products(treatment: Treatment, rows: int, columns: int) -> int:
    """Multiply-adds per token; what a decoder gives is made dense beforehand, factors that do not pay are folded."""
    factors = treatment.factors
    if factors is None or factors.is_decoded:
        return rows * columns
    thin = factors.inner_size * (rows + columns)
    return min(thin, rows * columns) if treatment.precision is None else thin


def _neighbours(slots: list[Slot], kinds: list[str]) -> Iterator[str]:
    """Pairs of Linears, one after the other in the order of the family's table, that both take integers in.

    Where a runtime passes integers on, or rounds an input once for several, such a pair costs less than its parts.
    """
    before = False
    for slot in slots:
        integer = {
            kind for kind, treatment in slot.treatments.items if treatment.precision and _takes_integers(treatment)
        }
        if before and kinds[0] in integer:
            yield f"{kinds[-1]} then {kinds[0]}"
        yield from (f"{one} then {other}" for one, other in pairwise(kinds) if {one, other} <= integer)
        before = kinds[-1] in integer


def _takes_integers(treatment: Treatment) -> bool:
    return treatment.precision is not None and treatment.precision.has_integer_inputs


def _words(treatment: Treatment) -> str:
    """What is done, whatever the rank: that has a count of its own."""
    factors = [] if treatment.factors is None else ["decoder" if treatment.factors.is_decoded else "factors"]
    return " ".join([*factors, *([] if treatment.precision is None else [str(treatment.precision)])])

"""What a plan has of everything that may harm quality, as numbers.

Everything is counted four times: in all, by kind of Linear, by layer, and by both. Nothing is known of a part that was
never changed but what is known of its kind and of its layer, and that is how far a prediction then leans on them. All
counts are shares of a stack's multiply-adds, so that a full one is 1; but layers that are gone count several times, as
rounding or factorising a layer leaves most of what it does. The original has none of anything.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import prod, sqrt

import numpy as np

from ...profilers.counting import Shapes
from ...spaces.plan import Plan, Slot, Treatment

# What rounding or factorising a part is predicted to do to the answers: name of a part and its treatment, as
# "encoder.3.query w8a8", where 3 is the layer of the original -> squared change of the logits.
Harms = Mapping[str, float]
Counts = dict[str, float]

_HARM, _ROOT = "harm", "root of harm"
# How much more a layer that is gone may change than one that is treated; see benchmarks/known_truth.py.
_GONE = 5.0


class Features:
    """Counts what plans of one model have."""

    def __init__(self, shapes: Shapes, harms: Harms) -> None:
        """Takes what counts are shares of.

        Args:
            shapes: of the original.
            harms: predicted; a part and treatment that is missing is left out of the sum.
        """
        self._shapes, self._harms = shapes, harms
        worst: defaultdict[str, float] = defaultdict(float)
        for name, harm in harms.items():
            part = name.partition(" ")[0]
            worst[part] = max(worst[part], harm)
        self._most = sum(worst.values()) or 1.0

    def of(self, plan: Plan) -> Counts:
        """Feature -> how much of it a plan has; those it has nothing of are left out.

        Args:
            plan: of this model.
        """
        found: defaultdict[str, float] = defaultdict(float)
        harm = 0.0
        for stack in plan.stacks:
            count = self._shapes.layers[stack.name]
            standing: set[int] = set()
            for slot in stack.slots:
                if slot.layer is not None:
                    standing.update(slot.layer.originals)
                    harm += self._add_slot(found, stack.name, slot)
            for layer in set(range(count)) - standing:
                _add(found, "gone", (stack.name, f"{stack.name} {layer}"), _GONE / count)
        whole = sum(map(prod, self._shapes.outside.values())) or 1
        for kind, treatment in plan.outside.items:
            share = prod(self._shapes.outside.get(kind, (0, 0))) / whole
            for what, amount in _amounts(treatment, self._shapes.outside.get(kind)):
                _add(found, what, ("outside", f"outside {kind}"), share * amount)
            harm += self._harm(f"outside.{kind}", treatment)
        if harm > 0:
            found[_HARM], found[_ROOT] = harm / self._most, sqrt(harm / self._most)
        return dict(found)

    def _add_slot(self, found: defaultdict[str, float], stack: str, slot: Slot) -> float:
        """Counts what one layer has; returns its predicted harm."""
        assert slot.layer is not None
        shapes = self._shapes.linears[stack]
        layers = slot.layer.originals
        part = 1 / self._shapes.layers[stack]
        if len(layers) > 1:
            for layer in layers:
                _add(found, f"modular {len(layers)}", (stack, f"{stack} {layer}"), part)
        whole, harm = sum(map(prod, shapes.values())), 0.0
        for kind, treatment in slot.treatments.items:
            # What lies between Linears has no multiply-adds of its own; it counts as much as a Linear does on average.
            share = part * (prod(shapes[kind]) / whole if kind in shapes else 1 / len(shapes))
            for what, amount in _amounts(treatment, shapes.get(kind)):
                for layer in layers:
                    names = (stack, f"{stack} {kind}", f"{stack} {layer}", f"{stack} {layer} {kind}")
                    _add(found, what, names, share * amount)
            harm += self._harm(f"{stack}.{layers.start}.{kind}", treatment)
        return harm

    def _harm(self, part: str, treatment: Treatment) -> float:
        done = (treatment.factors, treatment.precision)
        return sum(self._harms.get(f"{part} {one}", 0.0) for one in done if one is not None)


def _add(found: defaultdict[str, float], what: str, places: Sequence[str], amount: float) -> None:
    for place in places:
        found[f"{what}: {place}"] += amount


def _amounts(treatment: Treatment, shape: tuple[int, int] | None) -> list[tuple[str, float]]:
    """What is done to a part, and how much of it."""
    done: list[tuple[str, float]] = []
    if treatment.precision is not None:
        done.append((str(treatment.precision), 1.0))
    if treatment.factors is not None and shape is not None:
        rows, columns = shape
        size = treatment.factors.inner_size
        kept = size * (rows if treatment.factors.is_decoded else rows + columns) / (rows * columns)
        done.append((treatment.factors.method, 1.0))
        done.append((f"{treatment.factors.method} left out", max(0.0, 1.0 - kept)))
    return done


def as_matrix(counts: Sequence[Counts]) -> np.ndarray:
    """Plans x features; the columns are those that any of the plans has, in a fixed order."""
    names = {name: place for place, name in enumerate(sorted({name for one in counts for name in one}))}
    rows = np.zeros((len(counts), max(1, len(names))))
    for row, one in zip(rows, counts, strict=True):
        for name, amount in one.items():
            row[names[name]] = amount
    return rows

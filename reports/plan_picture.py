"""Plans as the page draws them: blocks along the layers of the original, and in every block its Linears by kind.

The page carries thousands of plans, so what many share (kinds, treatments) is written once, and a block says numbers.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..spaces.families import FAMILIES
from ..spaces.plan import ORIGINAL_WEIGHTS, Plan, Slot, Stack, Treatment, Treatments

# The standing order of kinds: as data flows through a layer, results between Linears last.
_ORDER = tuple(
    dict.fromkeys(
        kind
        for part in ("linears", "intermediates")
        for forms in FAMILIES.values()
        for form in forms
        for stack in reversed(form.stacks)
        for kind in getattr(stack, part)
    )
)
# A factored Linear is drawn between these parts of the width of a dense one.
_NARROWEST, _WIDEST = 0.2, 0.85
_UNTREATED = 0


def rank_of(treatment: Treatment) -> int | None:
    """The inner size of a factorised Linear; None where it is one dense matrix."""
    return None if treatment.factors is None else treatment.factors.inner_size


def changed_axes(plan: Plan) -> frozenset[str]:
    """The axes that left their identity in a plan, by what can be seen of them in it.

    Weights that were trained anew belong to the axis that trains them, which is depth.
    """
    layers = [slot.layer for stack in plan.stacks for slot in stack.slots]
    treatments = plan.treatments()
    signs = {
        "assembly": any(layer is not None and layer.granularity > 1 for layer in layers),
        "depth": None in layers or plan.weights != ORIGINAL_WEIGHTS,
        "factors": any(rank_of(treatment) is not None for treatment in treatments),
        "bits": any(treatment.precision is not None for treatment in treatments),
    }
    return frozenset(name for name, is_changed in signs.items() if is_changed)


class Pictures:
    """Draws the plans of one run.

    Attributes:
        kinds: stack -> kinds of parts that any of the plans treats, as data flows through a layer.
    """

    def __init__(self, plans: Iterable[Plan]) -> None:
        """Looks through all plans that will be drawn, for what they have in common.

        Args:
            plans: of one model.
        """
        plans = list(plans)
        treatments = dict.fromkeys(treatment for plan in plans for treatment in plan.treatments())
        self._numbers = {treatment: number for number, treatment in enumerate(treatments, 1)}
        self._ranks = [rank for treatment in treatments if (rank := rank_of(treatment)) is not None]
        used: dict[str, set[str]] = {}
        self._layers: dict[str, int] = {}
        for plan in plans:
            for stack in plan.stacks:
                used.setdefault(stack.name, set()).update(k for s in stack.slots for k, _ in s.treatments.items)
                self._layers[stack.name] = max(self._layers.get(stack.name, 0), _originals(stack))
        self.kinds = {name: sorted(kinds, key=_place) for name, kinds in used.items()}

    def shared(self) -> dict[str, Any]:
        """What all pictures refer to.

        Returns:
            "kinds" by stack, "layers" of the original by stack, and "treatments", of which the first does nothing.
        """
        described = [{"text": "as it was", "weights": None, "inputs": None, "rank": None, "width": 1.0}]
        described += [self._treatment(treatment) for treatment in self._numbers]
        return {"kinds": self.kinds, "layers": self._layers, "treatments": described}

    def picture(self, plan: Plan) -> dict[str, Any]:
        """One plan.

        Returns:
            Under "stacks" pairs of name and blocks, each block [first original, one after the last, the layer's name, a
            number of a treatment for each of the stack's kinds]; name and numbers are None where it was dropped.
            Under "outside" pairs of part and number of a treatment. "weights" where they are not the original's.
        """
        stacks = [[stack.name, [list(block) for block in self._blocks(stack)]] for stack in plan.stacks]
        outside = [[kind, self._numbers[treatment]] for kind, treatment in plan.outside.items]
        weights = {} if plan.weights == ORIGINAL_WEIGHTS else {"weights": plan.weights}
        return {"stacks": stacks, "outside": outside, **weights}

    def _blocks(self, stack: Stack) -> Iterable[tuple[int, int, str | None, list[int] | None]]:
        for slot, (start, stop) in zip(stack.slots, _spans(stack.slots, self._layers[stack.name]), strict=True):
            if slot.layer is None:
                yield start, stop, None, None
            else:
                yield start, stop, str(slot.layer), self._cells(slot.treatments, self.kinds[stack.name])

    def _cells(self, treatments: Treatments, kinds: Sequence[str]) -> list[int]:
        found = dict(treatments.items)
        return [self._numbers[found[kind]] if kind in found else _UNTREATED for kind in kinds]

    def _treatment(self, treatment: Treatment) -> dict[str, Any]:
        rank, precision = rank_of(treatment), treatment.precision
        words = [*([] if rank is None else [f"rank {rank}"]), *([] if precision is None else [str(precision)])]
        return {
            "text": " ".join(words) or "treated",
            "weights": None if precision is None else precision.weight_bits,
            "inputs": None if precision is None else precision.activation_bits,
            "rank": rank,
            "width": 1.0 if rank is None else _NARROWEST + (_WIDEST - _NARROWEST) * rank / max(self._ranks),
        }


def _originals(stack: Stack) -> int:
    """Of how many original layers the stack is known to be made; at least as many as it has slots."""
    return max(len(stack.slots), *(slot.layer.originals.stop for slot in stack.slots if slot.layer is not None))


def _spans(slots: Sequence[Slot], layers: int) -> list[tuple[int, int]]:
    """The original layers each slot stands for; neighbours that were dropped share alike what lies between the rest."""
    spans: list[tuple[int, int]] = []
    while len(spans) < len(slots):
        here = slots[len(spans)].layer
        if here is not None:
            spans.append((here.originals.start, here.originals.stop))
            continue
        rest = slots[len(spans) :]
        dropped = next((count for count, slot in enumerate(rest) if slot.layer is not None), len(rest))
        after = next((slot.layer.originals.start for slot in rest if slot.layer is not None), layers)
        start = spans[-1][1] if spans else 0
        edges = [start + (after - start) * count // dropped for count in range(dropped + 1)]
        spans += pairwise(edges)
    return spans


def _place(kind: str) -> tuple[int, str]:
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), kind)

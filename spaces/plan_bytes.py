"""What the model of a plan takes up when it is stored, without building it."""

from collections import Counter

from transformers import PreTrainedModel

from .anatomy import Anatomy
from .artefact import stored_bytes
from .factor_bytes import part_bytes
from .families import StackAnatomy
from .plan import Plan, Stack, Treatment

_FLOAT_BYTES = 4


class PlanBytes:
    """Bytes of any plan of one model.

    They are exactly those of the stored model, but for three things that are left out because they are small: what
    intermediate results add, a bias where factors stand for a Linear without one, and how the second factor of a table
    is packed.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        """Looks up what the original and its layers take up.

        Args:
            model: the original, float32.
            anatomy: of it.
        """
        self._anatomy = anatomy
        self._whole = stored_bytes(model)
        # The last layer, since the first may hold what belongs to its place.
        self._layers = {
            stack.name: stored_bytes(model.get_submodule(f"{stack.path}.{stack.n_layers - 1}"))
            for stack in anatomy.stacks
        }

    @property
    def original(self) -> int:
        """Bytes of the original."""
        return self._whole

    def of(self, plan: Plan) -> int:
        """Bytes of a plan.

        Args:
            plan: of this model.
        """
        total = float(self._whole)
        for stack in plan.stacks:
            places = self._anatomy.stack(stack.name)
            total -= (places.n_layers - len(stack.standing)) * self._layers[stack.name]
            total += _changed(stack, places)
        for kind, treatment in plan.outside.items:
            if kind in self._anatomy.shapes:
                total += _saved_or_added(self._anatomy.shapes[kind], treatment, 1)
        return round(total)


def _changed(stack: Stack, places: StackAnatomy) -> float:
    """What the treatments of a stack's layers add to it; mostly below 0."""
    parts = [item for slot in stack.slots for item in slot.treatments.items if item[0] in places.shapes]
    sharing = Counter(parts)
    return sum(
        _saved_or_added(places.shapes[kind], one, sharing[kind, one] if one.factors and one.factors.group else 1)
        for kind, one in parts
    )


def _saved_or_added(shape: tuple[int, int], treatment: Treatment, sharing: int) -> float:
    rows, columns = shape
    return part_bytes(shape, treatment, sharing) - _FLOAT_BYTES * rows * columns

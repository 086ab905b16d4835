"""What treated parts take up, and which of two methods is kept where both together would take more."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from .blocks import packed_bytes
from .factored import decoder_shapes
from .plan import Slot, Treatment, Treatments
from .precision import Precision


def part_bytes(shape: tuple[int, int], treatment: Treatment, sharing: int = 1) -> float:
    """Bytes that the weight of one part takes up with its side data; biases are left out.

    Args:
        shape: rows and columns of the weight.
        treatment: what is done to it.
        sharing: how many parts hold its second factor, or its decoder.
    """
    rows, columns = shape
    precision, factors = treatment.precision, treatment.factors
    if factors is None:
        return _bytes(rows, columns, precision) + _input_bytes(columns, precision)
    if factors.is_decoded:
        layers = decoder_shapes(factors.rank, columns)
        decoder = sum(_bytes(*layer, precision) + 4 * layer[0] for layer in layers)
        return _bytes(rows, factors.rank, precision) + 4 * rows + decoder / sharing
    size = factors.inner_size
    # Every part has a range of its own for the inputs of a factor that it shares.
    inputs = _input_bytes(size, precision) + _input_bytes(columns, precision)
    return _bytes(rows, size, precision) + _bytes(size, columns, precision) / sharing + inputs


def keep_the_smaller(slots: tuple[Slot, ...], shapes: Mapping[str, tuple[int, int]]) -> tuple[Slot, ...]:
    """Takes factors or bits away from Linears that have both and are larger so than with one of them.

    Blocks that do not fit a short factor, and factors that no longer are shared because layers differ in their bits,
    can make it so.

    Args:
        slots: of one stack.
        shapes: kind of Linear -> rows and columns.
    """
    sharing = Counter((kind, treatment) for slot in slots for kind, treatment in slot.treatments.items)

    def kept(kind: str, treatment: Treatment) -> Treatment:
        if treatment.factors is None or treatment.precision is None:
            return treatment
        count = sharing[kind, treatment] if treatment.factors.group else 1
        both = part_bytes(shapes[kind], treatment, count)
        alone = [replace(treatment, factors=None), replace(treatment, precision=None)]
        smallest = min(alone, key=lambda one: part_bytes(shapes[kind], one, count))
        return treatment if both <= part_bytes(shapes[kind], smallest, count) else smallest

    return tuple(
        replace(slot, treatments=Treatments.of({kind: kept(kind, one) for kind, one in slot.treatments.items}))
        for slot in slots
    )


def _bytes(rows: int, columns: int, precision: Precision | None) -> int:
    return 4 * rows * columns if precision is None else packed_bytes(rows, columns, precision)


def _input_bytes(columns: int, precision: Precision | None) -> int:
    """Scale and zero point of integer inputs, and their factors."""
    if precision is None or not precision.has_integer_inputs:
        return 0
    return 8 + (2 * columns if precision.smooths_inputs else 0)

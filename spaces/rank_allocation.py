"""Which Linear gets which rank, under a budget of numbers: where answers mind little, little is kept."""

from collections.abc import Mapping

from torch import Tensor

from .allocation import Option, allocate

_DENSE = "dense"


def allocate_ranks(
    harms: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]], numbers: float
) -> dict[str, int | None]:
    """Ranks of about the least total harm that so many stored numbers allow.

    Args:
        harms: part -> what its best product of rank 0, 1, ... costs, as `factorising.harms` finds it.
        shapes: part -> rows and columns.
        numbers: at most so many are stored, of all parts together.

    Returns:
        Part -> its rank, at least 1; None where two factors would not be smaller than the weight, which then stays.

    Raises:
        BudgetError: if even ranks of 1 are more.
    """
    options = {}
    for part, found in harms.items():
        rows, columns = shapes[part]
        smaller = (rank for rank in range(1, len(found)) if rank * (rows + columns) < rows * columns)
        products = [Option(str(rank), rank * (rows + columns), float(found[rank])) for rank in smaller]
        options[part] = [*products, Option(_DENSE, rows * columns, 0.0)]
    chosen = allocate(options, numbers)
    return {part: None if name == _DENSE else int(name) for part, name in chosen.items()}

"""How large a factorisation may be for a compression ratio, all that is stored counted.

After *Revisiting Offline Compression* (Banaei, Balazy, Kasymov, Lebret, Tabor, Aberer; Findings of EACL 2023), whose
code solves the same equations. Rows and columns are those of the whole stack: matrices of one kind above each other.
"""

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from math import inf, isqrt
from types import MappingProxyType
from typing import Literal

from ..errors import SettingError

Form = Literal["two_factors", "linear_autoencoder", "autoencoder"]

# What a fit is stored as. All but the autoencoders come out as two matrices.
FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "svd": "two_factors",
        "fisher": "two_factors",
        "unit_svd": "two_factors",
        "activation": "two_factors",
        "sensitivity": "two_factors",
        "linear_autoencoder": "linear_autoencoder",
        "autoencoder": "autoencoder",
        "latents": "autoencoder",
    }
)
METHODS = tuple(FORMS)
# Widths of the hidden layers of a decoder and an encoder, in units of the latent size.
DECODER_WIDTHS = (2, 4)
ENCODER_WIDTHS = (8, 4)


def size_for(method: str, rows: int, columns: int, ratio: float) -> int:
    """The rank, or the size of the latents, with which a stack is stored in 1 / `ratio` of its numbers.

    Args:
        method: one of `METHODS`.
        rows: of the whole stack, at least 1.
        columns: at least 1.
        ratio: the stack's numbers over those stored; a decimal is taken as it is written.

    Returns:
        The largest size whose numbers, as the paper counts them, are at most rows * columns / ratio.

    Raises:
        SettingError: if the method is unknown, or the ratio leaves no size from 1 to min(rows, columns).
    """
    square, linear, constant = _counted(method, rows, columns)
    most = min(rows, columns)
    # "3.3" shall mean 33/10, not the float next to it, which may fall short of a whole size.
    budget = int(rows * columns / Fraction(str(ratio))) if 0 < ratio < inf else 0
    size = _largest(square, linear, budget - constant)
    if not 1 <= size <= most:
        highest = rows * columns / (square + linear + constant)
        lowest = rows * columns / (square * most * most + linear * most + constant)
        raise SettingError(
            f"a size (rank or latents) must be from 1 to the smaller side of the stack; {method} at ratio {ratio:g} of "
            f"a {rows} x {columns} stack would have {size}. Legal ratios are {lowest:.4g} to {highest:.4g}: take one, "
            "or stack more layers."
        )
    return size


def check_size(method: str, rows: int, columns: int, size: int) -> None:
    """Refuses a size that a stack cannot have, before any solver runs.

    Raises:
        SettingError: if the method is unknown, or the size is not from 1 to min(rows, columns).
    """
    _form(method)
    if not 1 <= size <= min(rows, columns):
        raise SettingError(
            f"the size (rank or latents) of {method} must be from 1 to {min(rows, columns)}, the smaller side of the "
            f"{rows} x {columns} stack, got {size}; take a size, or a ratio, in that range."
        )


def stored_numbers(method: str, rows: int, columns: int, size: int) -> int:
    """Numbers that are stored for a stack: latents, decoder with its biases, and the norms of rows where there are any.

    The biases of the Linears themselves are not counted: they are kept as they are.

    Raises:
        SettingError: if the method is unknown, or the size is not from 1 to min(rows, columns).
    """
    check_size(method, rows, columns, size)
    if _form(method) == "two_factors":
        return size * (rows + columns)
    widths = [size, *(width * size for width in (DECODER_WIDTHS if _form(method) == "autoencoder" else ())), columns]
    layers = sum((before + 1) * after for before, after in pairwise(widths))
    return rows * (size + 1) + layers


def _form(method: str) -> Form:
    if method not in FORMS:
        raise SettingError.unknown("factorisation method", method, METHODS)
    return FORMS[method]


def _counted(method: str, rows: int, columns: int) -> tuple[int, int, int]:
    """The numbers that the paper counts, as a polynomial in the size: factors of its square and of itself, the rest.

    It counts one number per latent more than is stored, the bias of the discarded encoder.
    """
    form = _form(method)
    if form == "two_factors":
        return 0, rows + columns, 0
    if form == "linear_autoencoder":
        return 0, rows + columns, rows + columns
    first, second = DECODER_WIDTHS
    return first + first * second, rows + 1 + first + second + second * columns, rows + columns


def _largest(square: int, linear: int, budget: int) -> int:
    """The largest whole number with square * size^2 + linear * size <= budget; below 1 where 1 is too large."""
    if budget < square + linear:
        return 0
    if not square:
        return budget // linear
    return (isqrt(linear * linear + 4 * square * budget) - linear) // (2 * square)

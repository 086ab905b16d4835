"""How the numbers of one part are stored and multiplied, as a plan says it."""

import re
from dataclasses import dataclass
from typing import Self

from ..errors import PlanError

BFLOAT16 = 16
_TEXT = re.compile(r"(?:w(\d+))?(?:a(\d+))?(?:-(\d+)x(\d+|all))?(-pow2)?")


@dataclass(frozen=True, slots=True)
class Precision:
    """How the numbers of one part are stored and multiplied.

    Written "w8a8", "w4a8-64x64-pow2", "w3-1x32", "w16a16" or "a8": bits of weights and inputs, the block, the scale.

    Attributes:
        weight_bits: 2 to 8, integers that share a scale in blocks; 16 for bfloat16; None leaves weights float, or says
            that the part has none.
        activation_bits: of every input value: 2 to 8, affine with one calibrated scale; 16 for bfloat16, which goes
            with weights of 16 bits; None leaves inputs float.
        block: rows x columns that share a scale, where rows are output channels, or the words of a table; None for all
            columns. Blocks at the edges may be smaller.
        power_of_two: whether scales are powers of two of 8 bits, else bfloat16.
    """

    weight_bits: int | None = None
    activation_bits: int | None = None
    block: tuple[int, int | None] = (1, None)
    power_of_two: bool = False

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, self.activation_bits):
            if bits is not None and not (2 <= bits <= 8 or bits == BFLOAT16):
                raise PlanError(f"bits are 2 to 8, or 16 for bfloat16, got {bits}; leave them out to keep float.")
        if self.weight_bits is None and self.activation_bits is None:
            raise PlanError("a precision needs bits of weights, of inputs, or both; leave it out to keep float.")
        if self.activation_bits == BFLOAT16 and self.weight_bits != BFLOAT16:
            raise PlanError(f"inputs in bfloat16 go with weights in bfloat16, got {self}; use w16a16.")
        if self.weight_bits == BFLOAT16 and self.activation_bits not in (None, BFLOAT16):
            raise PlanError(f"weights in bfloat16 go with inputs in bfloat16 or float, got {self}; use w16a16 or w16.")
        rows, columns = self.block
        if rows < 1 or (columns is not None and columns < 1):
            raise PlanError(f"a block has at least one row and one column, got {rows}x{columns}.")
        if not self.has_integer_weights and (self.block != (1, None) or self.power_of_two):
            raise PlanError(f"blocks and powers of two are for weights of 2 to 8 bits, got {self}.")

    @property
    def has_integer_weights(self) -> bool:
        """Whether weights are integers with scales."""
        return self.weight_bits is not None and self.weight_bits <= 8

    @property
    def has_integer_inputs(self) -> bool:
        """Whether inputs are integers with a calibrated scale."""
        return self.activation_bits is not None and self.activation_bits <= 8

    @property
    def smooths_inputs(self) -> bool:
        """Whether the features of integer inputs are made alike first (see `spaces/smoothing.py`).

        Weights of 8 bits take the differences on; in fewer bits they would lose more than the inputs gain.
        """
        return self.has_integer_inputs and self.weight_bits == 8

    def __str__(self) -> str:
        weights = "" if self.weight_bits is None else f"w{self.weight_bits}"
        inputs = "" if self.activation_bits is None else f"a{self.activation_bits}"
        rows, columns = self.block
        block = "" if self.block == (1, None) else f"-{rows}x{'all' if columns is None else columns}"
        return f"{weights}{inputs}{block}{'-pow2' if self.power_of_two else ''}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` writes: "w8a8" quantises weights and inputs to 8 bits, "w3-1x32" weights in blocks of 32.

        Raises:
            PlanError: if the text is not a precision.
        """
        match = _TEXT.fullmatch(text)
        if match is None or not text.startswith(("w", "a")):
            raise PlanError(f"a precision is written like 'w8a8', 'w4a8-64x64-pow2', 'w3-1x32' or 'w8', got {text!r}.")
        weights, inputs, rows, columns, power_of_two = match.groups()
        return cls(
            None if weights is None else int(weights),
            None if inputs is None else int(inputs),
            (int(rows or 1), None if columns in (None, "all") else int(columns)),
            power_of_two is not None,
        )

"""How the weight of one part is factorised, as a plan says it."""

import re
from dataclasses import dataclass
from typing import Self

from ..errors import PlanError
from .factor_sizes import FORMS, METHODS, Form
from .layer import Layer

_TEXT = re.compile(r"([a-z_]+)-(\d+)(?:@(\S+)-(\S+))?")


@dataclass(frozen=True, slots=True)
class Factorisation:
    """How the weight of one part is factorised.

    Written "svd-64" where the part stands alone, "svd-109@0-5" where the rows of layers 0 to 5 were stacked and share
    their second factor, or their decoder.

    Attributes:
        method: one of `METHODS`.
        rank: numbers kept per row; for autoencoders the size of the latent vectors.
        group: the first and the last of the layers that were stacked, of one granularity; None for no other layer.
    """

    method: str
    rank: int
    group: tuple[Layer, Layer] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise PlanError(f"unknown method of factorisation {self.method!r}; paring knows: {', '.join(METHODS)}.")
        if self.rank < 1:
            raise PlanError(f"a rank is at least 1, got {self.rank}.")
        if self.group is not None:
            first, last = self.group
            if first.granularity != last.granularity or first.index >= last.index:
                raise PlanError(f"a group runs from a layer to a later one of its granularity, got {first} to {last}.")

    @property
    def form(self) -> Form:
        """What it is stored as."""
        return FORMS[self.method]

    @property
    def is_decoded(self) -> bool:
        """Whether rows come from a decoder that is not linear, so that there are no two factors to multiply."""
        return self.form == "autoencoder"

    @property
    def is_bounded(self) -> bool:
        """Whether a hyperbolic tangent ends the decoder."""
        return self.method == "autoencoder"

    @property
    def inner_size(self) -> int:
        """Columns of the first factor. The decoder of a linear autoencoder has a bias: as one column more."""
        return self.rank + (self.form == "linear_autoencoder")

    @property
    def members(self) -> tuple[Layer, ...]:
        """The layers that were stacked; none where the part stands alone."""
        if self.group is None:
            return ()
        first, last = self.group
        return tuple(Layer(index, first.granularity) for index in range(first.index, last.index + 1))

    def __str__(self) -> str:
        group = "" if self.group is None else f"@{self.group[0]}-{self.group[1]}"
        return f"{self.method}-{self.rank}{group}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` writes.

        Raises:
            PlanError: if the text is not a factorisation.
        """
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise PlanError(f"a factorisation is written like 'svd-64' or 'svd-109@0-5', got {text!r}.")
        method, rank, first, last = match.groups()
        group = None if first is None else (Layer.parse(first), Layer.parse(last))
        return cls(method, int(rank), group)

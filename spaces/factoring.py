"""Which ways to factorise weights a search may choose from."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ..errors import SettingError
from .autoencoder_training import AutoencoderTraining, LatentTraining
from .factor_sizes import METHODS, size_for
from .factorisation import Factorisation
from .layer import Layer

# The choice of a part that is left whole.
WHOLE = "whole"
STACKINGS = ("separated", "concatenated", "allocated")
# Methods whose harm is known for every rank before any factors are.
ALLOCATED_METHODS = ("activation", "sensitivity")
_TEXT = re.compile(r"([a-z_]+)(?:-(concatenated|allocated))?-(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to factorise a kind of part.

    Written "svd-2", "svd-concatenated-2" or "sensitivity-allocated-2".

    Attributes:
        method: one of `METHODS`.
        ratio: numbers of the weights over numbers stored, above 1.
        stacking: "separated", every layer alone; "concatenated", the rows of all layers of a group stacked, so that
            they share a factor or a decoder; "allocated", every layer alone and with a rank of its own, so that as many
            numbers do least harm (see `spaces/layer_ranks.py`).
    """

    method: str
    ratio: float
    stacking: str = "separated"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingError.unknown("method of factorisation", self.method, METHODS)
        if self.stacking not in STACKINGS:
            raise SettingError.unknown("stacking", self.stacking, STACKINGS)
        if self.stacking == "allocated" and self.method not in ALLOCATED_METHODS:
            raise SettingError(f"ranks are allocated for {', '.join(ALLOCATED_METHODS)} only, got {self.method}.")
        if not 1 < self.ratio < float("inf"):
            raise SettingError(f"a ratio of factors must be above 1 and finite, got {self.ratio}.")

    def __str__(self) -> str:
        return f"{self.method}{'' if self.stacking == 'separated' else f'-{self.stacking}'}-{self.ratio:g}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` writes.

        Raises:
            SettingError: if the text is not a way.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise SettingError(f"a way to factorise is written 'svd-2' or 'svd-concatenated-2', got {text!r}.")
        method, stacking, ratio = match.groups()
        return cls(method, float(ratio), stacking or "separated")

    def of(self, shape: tuple[int, int], members: tuple[Layer, ...] = ()) -> Factorisation | None:
        """What a part of this shape becomes; where ranks are allocated, what it would be with the mean rank.

        Args:
            shape: rows and columns of the weight of one layer.
            members: the layers of its group, of one granularity, in order.

        Returns:
            None where no rank stores so few numbers, or none so many.
        """
        rows, columns = shape
        stacked = self.stacking == "concatenated" and len(members) > 1
        rows *= len(members) if stacked else 1
        try:
            size = size_for(self.method, rows, columns, self.ratio)
        except SettingError:
            return None
        return Factorisation(self.method, size, (members[0], members[-1]) if stacked else None)


@dataclass(frozen=True, slots=True)
class Factoring:
    """Which ways to factorise weights a search may choose from, beside leaving them whole; the gentlest first.

    Attributes:
        linears: for the Linears of the layers, by kind and group of layers.
        tables: for tables of words, where "fisher", "activation" and "sensitivity" are one method.
        group: how many layers, as the original counts them, share a choice, and a factor where they are concatenated;
            None for all of a stack.
        training: of autoencoders.
        latents: how the method of that name fits them.
    """

    linears: tuple[Way, ...] = tuple(Way("sensitivity", ratio, "allocated") for ratio in (1.5, 2.0, 3.0, 5.0))
    tables: tuple[Way, ...] = tuple(Way("sensitivity", ratio) for ratio in (1.5, 2.0, 3.0))
    group: int | None = None
    training: AutoencoderTraining = field(default_factory=AutoencoderTraining)
    latents: LatentTraining = field(default_factory=LatentTraining)

    def __post_init__(self) -> None:
        if self.group is not None and self.group < 1:
            raise SettingError(f"a group has at least 1 layer, got {self.group}.")
        for ways in (self.linears, self.tables):
            if len(set(ways)) < len(ways):
                raise SettingError(f"each way to factorise is given once, got {', '.join(map(str, ways))}.")
        for way in self.tables:
            if way.stacking != "separated":
                raise SettingError(f"a table stands alone, got {way}; write {way.method}-{way.ratio:g}.")
            if way.method == "latents":
                raise SettingError(
                    f"{way} needs inputs to be fitted to, which tables have not; write autoencoder-{way.ratio:g}."
                )

    def groups(self, n_layers: int) -> tuple[range, ...]:
        """The groups of a stack: indices of original layers."""
        size = self.group or n_layers
        return tuple(range(start, min(start + size, n_layers)) for start in range(0, n_layers, size))

    def to_json(self) -> dict[str, Any]:
        """Ways as they are written."""
        return {
            "linears": list(map(str, self.linears)),
            "tables": list(map(str, self.tables)),
            "group": self.group,
            "training": asdict(self.training),
            "latents": asdict(self.latents),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        ways = {name: tuple(map(Way.parse, data[name])) for name in ("linears", "tables")}
        return cls(
            **ways,
            group=data["group"],
            training=AutoencoderTraining(**data["training"]),
            latents=LatentTraining(**data["latents"]),
        )


DEFAULT_FACTORING = Factoring()

"""Tilings: how a stack of layers is covered by pieces, each of them one layer that does the work of several.

A tiling is the sizes of its pieces from the input side up, for instance (1, 1, 2, 2) of six layers. A piece of size 1
is an original layer, a larger one a modular layer. Pieces are aligned: one of size g covers the layers g j to
g (j + 1) - 1, so that every group has its one modular layer and no two pieces overlap ([Zhou2023], Figure 1).

[Zhou2023]: Zhou, Le Bras, Choi, "Modular Transformers: Compressing Transformers into Modularized Layers for Flexible
Efficient Inference", Findings of ACL 2023, arXiv 2306.02379.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import lcm
from random import Random

from ..errors import SettingError
from .plan import Layer

Tiling = tuple[int, ...]

# The divisors of six: with them a stack of 12 reaches every ratio from 1.1 to 6, as in the paper.
GRANULARITIES = (2, 3, 6)


def fitting(n_layers: int, granularities: Iterable[int] = GRANULARITIES) -> tuple[int, ...]:
    """Those granularities by which a stack can be covered whole, fine to coarse.

    Raises:
        SettingError: if one of them is not a whole number above 1.
    """
    wanted = sorted(set(granularities))
    if any(size < 2 for size in wanted):
        raise SettingError(f"a granularity is how many layers become one, at least 2; got {wanted}.")
    return tuple(size for size in wanted if n_layers % size == 0)


def block_length(granularities: Iterable[int]) -> int:
    """Layers of the smallest block whose borders no piece ever crosses; 1 where nothing can be merged."""
    return lcm(*granularities)


@lru_cache
def tilings(length: int, granularities: tuple[int, ...]) -> tuple[Tiling, ...]:
    """Every aligned tiling of so many layers; more pieces first, and of equally many, merges near the top first."""
    return tuple(sorted(_extend(0, length, granularities), key=lambda tiling: (-len(tiling), tiling)))


def pieces_at(position: int, length: int, granularities: Iterable[int]) -> list[int]:
    """Sizes of the pieces that may begin at a position of a stack, 1 among them."""
    return [1, *(size for size in granularities if position % size == 0 and position + size <= length)]


def layers_of(tiling: Sequence[int]) -> tuple[Layer, ...]:
    """The layers that stand in a tiling's places.

    Raises:
        SettingError: if a piece is not aligned.
    """
    layers, position = [], 0
    for size in tiling:
        if size < 1 or position % size:
            raise SettingError(
                f"the pieces {written(tiling)} are not aligned: one of size {size} begins at a multiple of its size, "
                f"not at layer {position}."
            )
        layers.append(Layer(position // size, size))
        position += size
    return tuple(layers)


def written(tiling: Sequence[int]) -> str:
    """As a user writes it: "1,1,2,2"."""
    return ",".join(map(str, tiling))


def read(text: str) -> Tiling:
    """The inverse of `written`."""
    return tuple(map(int, text.split(",")))


def parse(text: str, lengths: Mapping[str, int], granularities: Mapping[str, Sequence[int]]) -> dict[str, Tiling]:
    """Reads "encoder=1,1,2,2 decoder=6"; a stack that is not named stays as it is.

    Args:
        text: stack=sizes, separated by spaces.
        lengths: stack -> its layers.
        granularities: stack -> sizes of the modular layers there are.

    Raises:
        SettingError: if a stack or a size does not exist, or the pieces do not cover the stack in order.
    """
    found = {name: (1,) * length for name, length in lengths.items()}
    for part in text.split():
        name, _, sizes = part.partition("=")
        if name not in lengths:
            raise SettingError.unknown("stack", name, lengths)
        pieces = sizes.split(",")
        if not all(piece.isdecimal() for piece in pieces):
            raise SettingError(f"a tiling is written encoder=1,1,2,2; got {part!r}.")
        found[name] = tuple(map(int, pieces))
        legal = (1, *granularities[name])
        if not set(found[name]) <= set(legal):
            raise SettingError(f"the pieces of {name} are of the sizes {', '.join(map(str, legal))}; got {part!r}.")
        if sum(found[name]) != lengths[name]:
            raise SettingError(
                f"the pieces of {name} must cover {lengths[name]} layers; {part!r} covers {sum(found[name])}."
            )
        layers_of(found[name])
    return found


def draw(length: int, granularities: Sequence[int], probability: float, random: Random) -> Tiling:
    """A random aligned tiling of mixed sizes.

    Args:
        length: layers of the stack.
        granularities: sizes to draw from.
        probability: that a place where modular layers may begin gets one.
        random: of the draw.
    """
    pieces: list[int] = []
    while (position := sum(pieces)) < length:
        larger = pieces_at(position, length, granularities)[1:]
        pieces.append(random.choice(larger) if larger and random.random() < probability else 1)
    return tuple(pieces)


def draw_uniform(length: int, granularities: Sequence[int], probability: float, random: Random) -> Tiling:
    """A random tiling of one size, some groups left as they were: module replacing as in BERT-of-Theseus."""
    if not granularities:
        return (1,) * length
    size = random.choice(granularities)
    return tuple(
        piece for _ in range(length // size) for piece in ((size,) if random.random() < probability else (1,) * size)
    )


def _extend(position: int, length: int, granularities: tuple[int, ...]) -> Iterator[Tiling]:
    if position == length:
        yield ()
    elif position < length:
        for size in pieces_at(position, length, granularities):
            for rest in _extend(position + size, length, granularities):
                yield (size, *rest)

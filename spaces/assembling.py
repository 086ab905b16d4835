"""Which tiling to assemble for a target: size-first and speed-first, as pure functions.

[Zhou2023] names two rules, one for size and one for speed, and does not publish them, so these are ours. Both take as
given what one slot of each stack costs (in parameters for size-first, in measured seconds for speed-first) and find,
exactly, the tiling that does the least harm, summed over blocks, among all whose layers cost at most 1 / ratio of the
original's. Where slots of one stack cost more, as those of a decoder do in generation, merging there pays more, and so
it happens there first. The ratio is counted on layers: embeddings and heads are not in it.

[Zhou2023]: Zhou, Le Bras, Choi, "Modular Transformers", Findings of ACL 2023, arXiv 2306.02379.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from ..errors import SettingError
from .tilings import Tiling, block_length, tilings

STRATEGIES = ("size", "speed")


@dataclass(frozen=True, slots=True)
class StackCosts:
    """What an assembling strategy knows of a stack.

    Attributes:
        name: of the stack.
        n_layers: of the original.
        granularities: sizes of the modular layers there are, above 1.
        slot_cost: of one standing layer, original or modular, above 0; in any unit, the same for all stacks.
        harm: block (see `tilings.block_length`), counted from the input side -> tiling of it -> what that costs in
            quality while all other blocks are original. Where nothing was measured, a piece of g layers counts
            g (g - 1) / 2: the pairs of layers that it makes one.
    """

    name: str
    n_layers: int
    granularities: tuple[int, ...]
    slot_cost: float
    harm: Mapping[int, Mapping[Tiling, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.slot_cost > 0:
            raise SettingError(f"the cost of a slot of {self.name} must be above 0, got {self.slot_cost}.")

    @property
    def blocks(self) -> int:
        """How many there are."""
        return self.n_layers // block_length(self.granularities)

    @property
    def choices(self) -> tuple[Tiling, ...]:
        """The tilings of a block."""
        return tilings(block_length(self.granularities), self.granularities)

    def harm_of(self, block: int, tiling: Tiling) -> float:
        """Of one tiling of one block; leaving it as it is does none."""
        formula = sum(size * (size - 1) / 2 for size in tiling)
        return self.harm.get(block, {}).get(tiling, formula) if formula else 0.0


def assemble(stacks: Sequence[StackCosts], ratio: float) -> dict[str, Tiling]:
    """The least harmful tilings whose layers cost at most 1 / ratio of the original's.

    Args:
        stacks: of the model.
        ratio: cost of the original layers over cost of the assembled, at least 1.

    Returns:
        Stack -> tiling. Of equally harmful ones the cheapest, then the one that merges nearest to the top.

    Raises:
        SettingError: if no tiling is so small; the message names the largest ratio there is.
    """
    if not ratio >= 1:
        raise SettingError(f"the ratio to assemble must be at least 1, got {ratio}.")
    whole = sum(stack.n_layers * stack.slot_cost for stack in stacks)
    best: tuple[float, float, tuple[Tiling, ...]] | None = None
    nearest = 1.0
    for chosen in product(*(_best_by_slots(stack).values() for stack in stacks)):
        cost = sum(len(tiling) * stack.slot_cost for (_, tiling), stack in zip(chosen, stacks, strict=True))
        nearest = max(nearest, whole / cost)
        harm = sum(harm for harm, _ in chosen)
        # Sums of measured seconds that should be equal may differ in the last digits.
        if cost <= whole / ratio * (1 + 1e-9):
            key = (harm, cost, tuple(tiling for _, tiling in chosen))
            best = key if best is None else min(best, key)
    if best is None:
        raise SettingError(
            f"no assembly is {ratio:g} times as small: the nearest is {nearest:.4g} times, with "
            + ", ".join(f"{stack.name} in {_fewest(stack)} of {stack.n_layers} layers" for stack in stacks)
            + "; ask for at most that, or prepare coarser granularities."
        )
    return {stack.name: tiling for stack, tiling in zip(stacks, best[2], strict=True)}


def layer_ratio(tilings: Mapping[str, Sequence[int]]) -> float:
    """Layers of the original over layers that stand."""
    return sum(map(sum, tilings.values())) / sum(map(len, tilings.values()))


def _best_by_slots(stack: StackCosts) -> dict[int, tuple[float, Tiling]]:
    """Number of slots -> harm and tiling of the least harmful that has so many.

    The first blocks of a best tiling are a best one of their layers and slots, so one pass over the blocks finds all.
    """
    reached: dict[int, tuple[float, Tiling]] = {0: (0.0, ())}
    for block in range(stack.blocks):
        longer: dict[int, tuple[float, Tiling]] = {}
        for slots, (harm, tiling) in reached.items():
            for choice in stack.choices:
                found = (harm + stack.harm_of(block, choice), (*tiling, *choice))
                there = slots + len(choice)
                longer[there] = min(longer.get(there, found), found)
        reached = longer
    return reached


def _fewest(stack: StackCosts) -> int:
    return min(_best_by_slots(stack))

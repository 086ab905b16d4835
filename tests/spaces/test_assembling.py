"""Assembling strategies against exhaustive search."""

from itertools import product
from random import Random

import pytest

from paring.errors import SettingError
from paring.spaces.assembling import StackCosts, assemble, layer_ratio
from paring.spaces.tilings import tilings

EQUAL = (StackCosts("encoder", 6, (2, 3, 6), 1.0), StackCosts("decoder", 6, (2, 3, 6), 1.0))


def harm_of(stacks: tuple[StackCosts, ...], found: dict[str, tuple[int, ...]]) -> float:
    return sum(stack.harm_of(0, found[stack.name]) for stack in stacks)


def cost_of(stacks: tuple[StackCosts, ...], found: dict[str, tuple[int, ...]]) -> float:
    return sum(stack.slot_cost * len(found[stack.name]) for stack in stacks)


@pytest.mark.parametrize("ratio", [1.0, 1.1, 1.2, 1.34, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_tiling_within_the_target_does_less_harm(ratio: float, seed: int) -> None:
    random = Random(seed)
    stacks = tuple(
        StackCosts(
            name,
            6,
            (2, 3, 6),
            random.uniform(0.5, 2),
            {0: {tiling: random.random() for tiling in tilings(6, (2, 3, 6))}},
        )
        for name in ("encoder", "decoder")
    )
    found = assemble(stacks, ratio)
    whole = sum(6 * stack.slot_cost for stack in stacks)
    assert cost_of(stacks, found) <= whole / ratio * (1 + 1e-9)
    legal = [dict(zip(("encoder", "decoder"), pair, strict=True)) for pair in product(tilings(6, (2, 3, 6)), repeat=2)]
    least = min(harm_of(stacks, one) for one in legal if cost_of(stacks, one) <= whole / ratio * (1 + 1e-9))
    assert harm_of(stacks, found) == pytest.approx(least)


def test_equal_stacks_are_merged_alike() -> None:
    assert assemble(EQUAL, 1) == {"encoder": (1,) * 6, "decoder": (1,) * 6}
    assert assemble(EQUAL, 2) == {"encoder": (2, 2, 2), "decoder": (2, 2, 2)}
    assert assemble(EQUAL, 3) == {"encoder": (3, 3), "decoder": (3, 3)}
    assert assemble(EQUAL, 6) == {"encoder": (6,), "decoder": (6,)}


def test_the_same_target_always_gives_the_same_tiling() -> None:
    assert assemble(EQUAL, 1.2) == assemble(EQUAL, 1.2)
    assert layer_ratio(assemble(EQUAL, 1.2)) == 1.2


def test_merges_happen_near_the_top_where_nothing_else_decides() -> None:
    assert assemble((StackCosts("encoder", 6, (2, 3, 6), 1.0),), 1.2) == {"encoder": (1, 1, 1, 1, 2)}


def test_a_dear_decoder_is_merged_first() -> None:
    stacks = (StackCosts("encoder", 6, (2, 3, 6), 1.0), StackCosts("decoder", 6, (2, 3, 6), 9.0))
    found = assemble(stacks, 1.8)
    assert len(found["decoder"]) < len(found["encoder"]) == 6


def test_measured_harm_decides_where_to_merge() -> None:
    harm = {0: {**dict.fromkeys(tilings(6, (2, 3, 6)), 9.0), (2, 1, 1, 1, 1): 0.1, (1, 1, 1, 1, 2): 0.2}}
    assert assemble((StackCosts("encoder", 6, (2, 3, 6), 1.0, harm),), 1.2) == {"encoder": (2, 1, 1, 1, 1)}


def test_harm_adds_up_over_blocks() -> None:
    """Two blocks of six, of which the second is merged at less harm: all of its pieces go before one of the first."""
    harm = {
        0: dict.fromkeys(tilings(6, (2, 3, 6)), 1.0),
        1: {tiling: 0.1 * (6 - len(tiling)) for tiling in tilings(6, (2, 3, 6))},
    }
    stack = StackCosts("encoder", 12, (2, 3, 6), 1.0, harm)
    assert assemble((stack,), 12 / 7) == {"encoder": (1, 1, 1, 1, 1, 1, 6)}


@pytest.mark.parametrize("slots", range(2, 13))
def test_blocks_are_merged_as_exhaustive_search_would(slots: int) -> None:
    random = Random(slots)
    harm = {block: {tiling: random.random() for tiling in tilings(6, (2, 3, 6))} for block in range(2)}
    stack = StackCosts("encoder", 12, (2, 3, 6), 1.0, harm)
    least = min(
        stack.harm_of(0, one) + stack.harm_of(1, other)
        for one, other in product(tilings(6, (2, 3, 6)), repeat=2)
        if len(one) + len(other) <= slots
    )
    found = assemble((stack,), 12 / slots)["encoder"]
    split = next(index for index in range(1, len(found)) if sum(found[:index]) == 6)
    assert stack.harm_of(0, found[:split]) + stack.harm_of(1, found[split:]) == pytest.approx(least)


def test_a_target_out_of_reach_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingError, match="no assembly is 7 times as small: the nearest is 6 times"):
        assemble(EQUAL, 7)
    with pytest.raises(SettingError, match=r"the nearest is 2 times, with encoder in 2 of 4 layers"):
        assemble((StackCosts("encoder", 4, (2,), 1.0),), 3)


@pytest.mark.parametrize("ratio", [0.5, 0.0, -1.0, float("nan")])
def test_a_ratio_below_one_is_refused(ratio: float) -> None:
    with pytest.raises(SettingError, match="at least 1"):
        assemble(EQUAL, ratio)


def test_a_slot_must_cost_something() -> None:
    with pytest.raises(SettingError, match="above 0"):
        StackCosts("encoder", 6, (2,), 0.0)


def test_a_stack_that_nothing_divides_stays_whole() -> None:
    stacks = (StackCosts("encoder", 5, (), 1.0), StackCosts("decoder", 6, (2, 3, 6), 1.0))
    assert assemble(stacks, 1.5)["encoder"] == (1,) * 5

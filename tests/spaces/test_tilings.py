"""Tilings: counted by hand, drawn at random, written and read."""

from itertools import product
from random import Random

import pytest

from paring.errors import SettingError
from paring.spaces.plan import Layer
from paring.spaces.tilings import (
    block_length,
    draw,
    draw_uniform,
    fitting,
    layers_of,
    parse,
    pieces_at,
    tilings,
    written,
)


def brute_force(length: int, sizes: tuple[int, ...]) -> set[tuple[int, ...]]:
    """Every sequence of sizes that covers the length with pieces at multiples of their size."""
    found = set()
    for count in range(1, length + 1):
        for pieces in product((1, *sizes), repeat=count):
            starts = [sum(pieces[:index]) for index in range(count)]
            if sum(pieces) == length and all(start % size == 0 for start, size in zip(starts, pieces, strict=True)):
                found.add(pieces)
    return found


def test_a_block_of_six_has_fourteen_tilings() -> None:
    assert len(tilings(6, (2, 3, 6))) == 14


def test_a_stack_of_twelve_is_two_blocks_of_six() -> None:
    assert len(tilings(12, (2, 3, 6))) == 14**2


@pytest.mark.parametrize(("length", "sizes"), [(6, (2, 3, 6)), (4, (2, 4)), (4, (2,)), (3, (3,)), (5, ())])
def test_tilings_are_those_that_brute_force_finds(length: int, sizes: tuple[int, ...]) -> None:
    found = tilings(length, sizes)
    assert set(found) == brute_force(length, sizes)
    assert len(set(found)) == len(found)


def test_the_untouched_stack_comes_first_and_the_smallest_last() -> None:
    found = tilings(6, (2, 3, 6))
    assert found[0] == (1,) * 6
    assert found[1] == (1, 1, 1, 1, 2)
    assert found[-1] == (6,)
    assert [len(tiling) for tiling in found] == sorted(map(len, found), reverse=True)


@pytest.mark.parametrize("tiling", tilings(12, (2, 3, 6))[::7])
def test_layers_cover_every_original_once_and_in_order(tiling: tuple[int, ...]) -> None:
    assert [index for layer in layers_of(tiling) for index in layer.originals] == list(range(12))


def test_layers_of_a_mixed_tiling() -> None:
    assert layers_of((1, 1, 2, 2)) == (Layer(0), Layer(1), Layer(1, 2), Layer(2, 2))


def test_pieces_that_are_not_aligned_are_refused() -> None:
    with pytest.raises(SettingError, match="size 2 begins at a multiple of its size, not at layer 1"):
        layers_of((1, 2, 1, 2))


def test_only_divisors_fit() -> None:
    assert fitting(6) == (2, 3, 6)
    assert fitting(12, (6, 4, 2, 2)) == (2, 4, 6)
    assert fitting(8, (2, 3, 4, 6)) == (2, 4)
    assert fitting(5) == ()


def test_a_granularity_of_one_is_refused() -> None:
    with pytest.raises(SettingError, match="at least 2"):
        fitting(6, (1, 2))


def test_the_block_divides_every_stack_its_granularities_fit() -> None:
    for n_layers in range(1, 49):
        fit = fitting(n_layers, (2, 3, 4, 6))
        assert not fit or n_layers % block_length(fit) == 0


def test_pieces_at_a_position() -> None:
    assert pieces_at(0, 6, (2, 3, 6)) == [1, 2, 3, 6]
    assert pieces_at(3, 6, (2, 3, 6)) == [1, 3]
    assert pieces_at(4, 6, (2, 3, 6)) == [1, 2]
    assert pieces_at(5, 6, (2, 3, 6)) == [1]


def test_drawn_tilings_are_aligned_and_in_time_all_are_seen() -> None:
    random = Random(0)
    seen = {draw(6, (2, 3, 6), 0.6, random) for _ in range(3000)}
    assert seen == set(tilings(6, (2, 3, 6)))


def test_nothing_is_replaced_at_probability_zero_and_all_that_can_be_at_one() -> None:
    random = Random(0)
    assert {draw(6, (2, 3, 6), 0.0, random) for _ in range(50)} == {(1,) * 6}
    assert {draw(6, (2, 3, 6), 1.0, random) for _ in range(200)} == {(2, 2, 2), (3, 3), (6,)}
    assert draw_uniform(6, (3,), 1.0, random) == (3, 3)
    assert draw_uniform(6, (3,), 0.0, random) == (1,) * 6


def test_a_uniform_draw_leaves_whole_groups() -> None:
    random = Random(1)
    seen = {draw_uniform(6, (2,), 0.5, random) for _ in range(200)}
    assert seen == set(tilings(6, (2,)))


LENGTHS, SIZES = {"encoder": 6, "decoder": 6}, {"encoder": (2, 3, 6), "decoder": (2, 3, 6)}


def test_what_is_written_is_read() -> None:
    assert parse("encoder=1,1,2,2 decoder=6", LENGTHS, SIZES) == {"encoder": (1, 1, 2, 2), "decoder": (6,)}
    for tiling in tilings(6, (2, 3, 6)):
        assert parse(f"decoder={written(tiling)}", LENGTHS, SIZES) == {"encoder": (1,) * 6, "decoder": tiling}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encodr=6", "did you mean 'encoder'"),
        ("encoder=1,1", "must cover 6 layers; 'encoder=1,1' covers 2"),
        ("encoder=4,2", "sizes 1, 2, 3, 6; got 'encoder=4,2'"),
        ("encoder=1,2,1,2", "not aligned"),
        ("encoder=", "is written encoder=1,1,2,2"),
        ("encoder=a", "is written encoder=1,1,2,2"),
        ("encoder=-1,7", "is written encoder=1,1,2,2"),
    ],
)
def test_what_cannot_be_assembled_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=f"(?i){message}"):
        parse(text, LENGTHS, SIZES)

"""Training batches: full, complete, and the same after a break."""

from itertools import islice
from random import Random

import pytest
import torch

from paring.search.batching import endless, token_batches
from paring.search.training import _batches

LENGTHS = [Random(row).randint(1, 60) for row in range(500)]


@pytest.mark.parametrize("tokens", [64, 200, 100_000])
def test_every_example_comes_once_and_no_batch_is_too_large(tokens: int) -> None:
    batches = token_batches(LENGTHS, tokens, Random(0))
    assert sorted(row for batch in batches for row in batch) == list(range(500))
    assert all(len(batch) * max(LENGTHS[row] for row in batch) <= tokens for batch in batches)


def test_little_is_padded() -> None:
    batches = token_batches(LENGTHS, 400, Random(0))
    padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in batches)
    assert sum(LENGTHS) > 0.9 * padded


def test_an_example_longer_than_a_batch_comes_alone() -> None:
    assert {frozenset(batch) for batch in token_batches([5, 90, 5], 20, Random(0))} == {
        frozenset({0, 2}),
        frozenset({1}),
    }


def test_passes_differ_and_seeds_differ() -> None:
    one, other = list(islice(endless(LENGTHS, 400, 0), 200)), list(islice(endless(LENGTHS, 400, 1), 200))
    per_pass = len(token_batches(LENGTHS, 400, Random(0)))
    assert one[:per_pass] != one[per_pass : 2 * per_pass]
    assert one != other


@pytest.mark.parametrize("skip", [0, 1, 37, 120])
def test_skipping_gives_what_would_have_come(skip: int) -> None:
    whole = list(islice(endless(LENGTHS, 400, 3), 150))
    assert list(islice(endless(LENGTHS, 400, 3, skip=skip), 150 - skip)) == whole[skip:]


class Rows:
    """Examples of which only the lengths matter."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def lengths(self) -> list[int]:
        return LENGTHS


@pytest.mark.parametrize("by_length", [False, True])
def test_fine_tuning_sees_every_example_once_per_epoch(by_length: bool) -> None:
    torch.manual_seed(0)
    one, other = (_batches(Rows(), 32, by_length=by_length) for _ in range(2))  # type: ignore[arg-type]
    for batches in (one, other):
        assert sorted(row for batch in batches for row in batch) == list(range(500))
        assert sorted(map(len, batches)) == [20, *[32] * 15]
    assert one != other
    torch.manual_seed(0)
    assert _batches(Rows(), 32, by_length=by_length) == one  # type: ignore[arg-type]
    padded = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in one)
    assert (sum(LENGTHS) > 0.9 * padded) == by_length
    longest = [max(LENGTHS[row] for row in batch) for batch in one]
    assert longest != sorted(longest)

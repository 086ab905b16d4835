"""Batches for training: as many examples as fit a number of tokens, those of like length together."""

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random

# Examples are sorted by length within pools of so many, so that batches are full and yet differ from epoch to epoch.
_POOL = 4096


def token_batches(lengths: Sequence[int], tokens: int, random: Random) -> list[list[int]]:
    """One pass over all examples in random order.

    Args:
        lengths: of the examples, in tokens.
        tokens: rows times longest of a batch is at most this; a longer example comes alone.
        random: of the order.

    Returns:
        Row numbers, every one in exactly one batch.
    """
    order = random.sample(range(len(lengths)), len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), _POOL):
        batch: list[int] = []
        for row in sorted(order[start : start + _POOL], key=lambda row: lengths[row]):
            # Sorted, so this row is the longest so far.
            if batch and lengths[row] * (len(batch) + 1) > tokens:
                batches.append(batch)
                batch = []
            batch.append(row)
        batches.append(batch)
    random.shuffle(batches)
    return batches


def endless(lengths: Sequence[int], tokens: int, seed: int, *, skip: int = 0) -> Iterator[list[int]]:
    """Batches without end, pass after pass; the same for the same seed, also when the first ones are skipped."""
    for epoch in count():
        batches = token_batches(lengths, tokens, Random(f"{seed} epoch {epoch}"))
        yield from batches[skip:]
        skip = max(0, skip - len(batches))

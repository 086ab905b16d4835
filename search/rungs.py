"""The growing parts of a split on which candidates are compared: an eighth of it, a quarter, a half, all."""

import hashlib
from collections.abc import Sequence

import numpy as np

from .examples import Examples

_SHARES = (1 / 8, 1 / 4, 1 / 2)
# Fewer tell no two models apart.
_LEAST = 64


def sizes(examples: int) -> tuple[int, ...]:
    """How many examples each rung has, the last one all of them.

    Args:
        examples: of the split, at least one.
    """
    shares = [round(share * examples) for share in _SHARES]
    return (*(size for size in shares if size >= _LEAST), examples)


def rungs(examples: Examples) -> list[np.ndarray]:
    """The rows that each rung adds to the one below it.

    Which they are depends on nothing but what the examples say, so every rung is a sample that no model had a part in.
    """
    order = np.argsort([_hash(one["input_ids"]) for one in examples.encoded], kind="stable")
    return list(np.split(order, sizes(len(examples))[:-1]))


def _hash(tokens: Sequence[int]) -> str:
    return hashlib.sha256(",".join(map(str, tokens)).encode()).hexdigest()

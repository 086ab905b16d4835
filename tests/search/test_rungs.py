import random

import numpy as np
import pytest

from paring.search.examples import Examples
from paring.search.rungs import rungs, sizes


def examples(count: int, seed: int = 0) -> Examples:
    draw = random.Random(seed)
    encoded = tuple({"input_ids": [draw.randint(0, 999) for _ in range(draw.randint(1, 9))]} for _ in range(count))
    return Examples("search", encoded, np.zeros(count), {"input_ids": 0})


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (872, (109, 218, 436, 872)),
        (512, (64, 128, 256, 512)),
        (300, (75, 150, 300)),
        (126, (126,)),
        (127, (64, 127)),
        (1, (1,)),
    ],
)
def test_rungs_double_and_none_is_small(count: int, expected: tuple[int, ...]) -> None:
    assert sizes(count) == expected
    assert tuple(np.cumsum([len(rows) for rows in rungs(examples(count))])) == expected


def test_every_example_is_asked_once() -> None:
    assert sorted(np.concatenate(rungs(examples(500)))) == list(range(500))


def test_rungs_depend_on_what_examples_say_and_not_on_their_order() -> None:
    """The same texts in another order: the same ones come first."""
    first = examples(300)
    turned = first.at(range(299, -1, -1))
    for one, other in zip(rungs(first), rungs(turned), strict=True):
        assert [first.encoded[row] for row in one] == [turned.encoded[row] for row in other]


def test_the_first_rung_is_a_sample() -> None:
    """Were rows taken as they come, those of the first half would all be there."""
    first = rungs(examples(2000))[0]
    assert 90 < (first < 1000).sum() < 160

import pytest

from paring.search.objectives import Measures
from paring.search.portable import shortfall

OBJECTIVES = ("quality", "latency", "memory")


def one(quality: float, latency: float, memory: float = 100.0, size: float = 1.0) -> Measures:
    return Measures(quality, 1 - quality, latency, memory, size)


@pytest.mark.parametrize(
    ("own", "others", "short"),
    [
        (one(0.9, 10.0), [], 0.0),
        (one(0.9, 10.0), [one(0.9, 10.0)], 0.0),  # itself, or its equal
        (one(0.9, 10.0), [one(0.8, 5.0)], 0.0),  # cheaper, but worse
        (one(0.9, 10.0), [one(0.9, 8.0)], 0.2),
        (one(0.9, 10.0), [one(0.9, 8.0), one(0.95, 9.0)], 0.2),
        (one(0.9, 10.0, 100.0), [one(0.9, 8.0, 99.0)], 0.2),  # memory is the same everywhere
        (one(0.9, 10.0), [one(0.95, 10.0)], 0.0),  # equal in time: any less and it is not beaten
    ],
)
def test_what_a_candidate_lacks_to_the_front(own: Measures, others: list[Measures], short: float) -> None:
    assert shortfall(own, [own, *others], OBJECTIVES) == pytest.approx(short)


def test_where_time_does_not_count_nothing_can_fall() -> None:
    assert shortfall(one(0.9, 1.0, size=2.0), [one(0.9, 1.0)], ("quality", "memory", "size")) == 1.0

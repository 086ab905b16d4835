"""A proposal that waits for scores which others find, in a thread of its own."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from paring.search.assessment import Brief
from paring.search.proposals import Proposal
from paring.search.steps import Steps
from paring.spaces.plan import Layer, Plan, Slot, Stack


def plan_of(number: int) -> Plan:
    """Any plan; another one for another number."""
    return Plan((Stack("encoder", tuple(Slot(Layer(index)) for index in range(1 + number))),))


class Bench:
    """Has its greedy orders foreseen, and nothing else."""

    def __init__(self) -> None:
        self.removal = self
        self.foreseen: Callable[[Sequence[Plan]], None] | None = None

    def foresee(self, foreseen: Callable[[Sequence[Plan]], None]) -> None:
        self.foreseen = foreseen

    def order(self, *steps: int) -> None:
        """A greedy order whose steps have so many candidates."""
        for step, count in enumerate(steps):
            assert self.foreseen is not None
            self.foreseen([plan_of(100 * step + number) for number in range(count)])


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def steps_of(bench: Bench) -> Iterator[Callable[[Callable[[], Proposal | None]], Steps]]:
    made: list[Steps] = []

    def make(propose: Callable[[], Proposal | None]) -> Steps:
        made.append(Steps(bench, propose))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for steps in made:
        steps.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("proposing")]


def handed_out(steps: Steps) -> list[tuple[int, Plan]]:
    """All that is to be scored now."""
    found = []
    while (job := steps.next()) is not None:
        brief = Brief.loads(job[1])
        assert brief.is_step
        found.append((job[0], brief.plan))
    return found


def test_a_step_is_handed_out_whole_and_the_next_when_it_is_scored(
    bench: Bench, steps_of: Callable[..., Steps]
) -> None:
    proposal = object()

    def propose() -> object:
        bench.order(3, 2)
        return proposal

    steps = steps_of(propose)
    steps.begin()
    first = handed_out(steps)
    assert [plan for _, plan in first] == [plan_of(number) for number in range(3)]
    assert steps.n_out == 3
    for number, _ in reversed(first[1:]):
        steps.scored(number)
        assert handed_out(steps) == []  # one is still out
        assert not steps.is_made
    steps.scored(first[0][0])
    second = handed_out(steps)
    assert [plan for _, plan in second] == [plan_of(100), plan_of(101)]
    assert {number for number, _ in first + second} == {-1, -2, -3, -4, -5}
    for number, _ in second:
        steps.scored(number)
    assert handed_out(steps) == []
    assert steps.is_proposing
    assert steps.fetch() is proposal
    assert not steps.is_proposing


def test_a_proposal_that_waits_for_nothing_is_just_made(steps_of: Callable[..., Steps]) -> None:
    steps = steps_of(lambda: None)
    for _ in range(3):
        steps.begin()
        assert steps.next() is None
        assert steps.fetch() is None


def test_what_a_proposal_raises_is_raised_where_it_is_fetched(bench: Bench, steps_of: Callable[..., Steps]) -> None:
    def fails() -> None:
        bench.order(1)
        raise ValueError("boom")

    steps = steps_of(fails)
    steps.begin()
    ((number, _),) = handed_out(steps)
    steps.scored(number)
    assert steps.next() is None
    with pytest.raises(ValueError, match="boom"):
        steps.fetch()


def test_closing_ends_a_proposal_that_waits(bench: Bench, steps_of: Callable[..., Steps]) -> None:
    ended = []

    def waits() -> None:
        try:
            bench.order(2, 2)
        except KeyboardInterrupt:
            ended.append(True)
            raise

    steps = steps_of(waits)
    steps.begin()
    assert steps.next() is not None
    assert steps.close() is None
    assert ended == [True]
    bench.order(2)  # nobody waits any more


def test_closing_gives_what_was_made_and_not_fetched(steps_of: Callable[..., Steps]) -> None:
    proposal = object()
    steps = steps_of(lambda: proposal)
    steps.begin()
    assert steps.close() is proposal
    assert steps.close() is None

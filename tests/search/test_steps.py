"""Plans that workers score first: each once, and none that they could not."""

import pytest

from paring.search.assessment import Brief
from paring.search.steps import Steps, UnscoredError
from paring.spaces.plan import Layer, Plan, Slot, Stack

PLANS = [Plan((Stack("encoder", tuple(Slot(Layer(index)) for index in range(count))),)) for count in range(1, 6)]


def handed_out(steps: Steps) -> dict[int, Plan]:
    """All that is to be scored now."""
    found = {}
    while (job := steps.next()) is not None:
        brief = Brief.loads(job[1])
        assert brief == Brief(brief.plan, is_step=True)
        found[job[0]] = brief.plan
    return found


def test_a_step_is_handed_out_whole_and_done_when_all_is_scored() -> None:
    steps = Steps()
    assert steps.are_done
    with pytest.raises(UnscoredError, match="3 plans"):
        steps.demand(PLANS[:3])
    assert not steps.are_done
    out = handed_out(steps)
    assert list(out.values()) == PLANS[:3]
    assert steps.n_out == 3
    for left, number in zip((2, 1, 0), reversed(out), strict=True):
        steps.scored(number)
        assert (steps.n_out, steps.are_done) == (left, left == 0)
    with pytest.raises(UnscoredError):
        steps.demand(PLANS[3:])
    further = handed_out(steps)
    assert list(further.values()) == PLANS[3:]
    assert all(number < 0 for number in out | further)
    assert not out.keys() & further.keys()


def test_what_workers_could_not_score_is_left_to_who_asks() -> None:
    steps = Steps()
    with pytest.raises(UnscoredError):
        steps.demand(PLANS[:2])
    for number in handed_out(steps):
        steps.scored(number)
    steps.demand(PLANS[:2])
    with pytest.raises(UnscoredError, match="1 plans"):
        steps.demand(PLANS[:3])
    assert list(handed_out(steps).values()) == PLANS[2:3]

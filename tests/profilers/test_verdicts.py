import random
from collections.abc import Sequence
from dataclasses import replace
from math import exp, log
from typing import Any

import pytest

from paring.profilers.history import Entry, Session
from paring.profilers.latency import Latency
from paring.profilers.machine import Machine
from paring.profilers.verdicts import Verdict, Verdicts, scatter_of, verdicts_on
from paring.profilers.workload import Workload

LOADS = (8,) * 6
# Half of an interval over six loads is so many standard deviations: Student's t for five degrees of freedom.
REACH = 2.5706


def late(ratio: float, *, error: float = 0.004, seconds: float = 0.02) -> Latency:
    """A ratio over six loads whose standard error is a part of it."""
    return Latency(
        (seconds * ratio,) * sum(LOADS), ratio, ratio * exp(-REACH * error), ratio * exp(REACH * error), loads=LOADS
    )


def session(
    ratios: Sequence[float], *, error: float = 0.004, seconds: float = 0.02, software: str = "2.13", **more: Any
) -> Session:
    """An original and plans of these ratios to it."""
    machine = Machine("cpu", {"name": "A"}, 2, (), 2**33, "Linux 6", {"torch": software})
    original = Entry("b", "original", late(1.0, error=0.0, seconds=seconds), 1.0, True)
    plans = [Entry(f"p{n}", f"plan {n}", late(r, error=error, seconds=seconds), 1.0) for n, r in enumerate(ratios)]
    entries = (original, *plans)
    return Session("s", "tiny", "torch", Workload(), machine, {"torch": software}, entries, 0.0, **more)


def words(found: Verdicts) -> list[Verdict]:
    return [one.verdict for one in found.plans]


def test_a_first_session_tells_nothing() -> None:
    found = verdicts_on(session([0.5, 0.3]), [])
    assert words(found) == [Verdict.CANNOT_TELL] * 2
    assert found.machine.verdict == Verdict.CANNOT_TELL
    assert (found.against, found.regressions) == ((), ())


@pytest.mark.parametrize(("times", "verdict"), [(1.1, Verdict.SLOWER), (1 / 1.1, Verdict.FASTER), (1.0, Verdict.SAME)])
def test_one_plan_that_changed_is_told_from_those_that_did_not(times: float, verdict: Verdict) -> None:
    before = session([0.5, 0.4, 0.3])
    found = verdicts_on(session([0.5, 0.4 * times, 0.3]), [before])
    assert words(found) == [Verdict.SAME, verdict, Verdict.SAME]
    assert found.plans[1].change is not None
    assert found.plans[1].change.value == pytest.approx(times)
    assert [one.plan for one in found.regressions] == (["p1"] if verdict == Verdict.SLOWER else [])


def test_of_many_plans_one_must_change_by_more_to_be_told() -> None:
    few, many = [0.5], [0.5] * 40
    step = 1.085
    one = verdicts_on(session([0.5 * step]), [session(few)])
    of_forty = verdicts_on(session([0.5 * step, *many[1:]]), [session(many)])
    assert words(one) == [Verdict.SLOWER]
    assert words(of_forty)[0] != Verdict.SLOWER
    assert one.plans[0].chance is not None
    assert of_forty.plans[0].chance == pytest.approx(40 * one.plans[0].chance)


def test_what_is_sure_but_tiny_is_the_same() -> None:
    past = [session([0.5, 0.4], error=1e-6) for _ in range(60)]  # which scatter by nothing at all
    found = verdicts_on(session([0.5 * 1.015, 0.4 * 1.03], error=1e-6), past)
    assert found.plans[0].chance is not None
    assert found.plans[0].chance < 0.01
    assert words(found) == [Verdict.SAME, Verdict.SLOWER]


def test_a_wide_interval_cannot_tell() -> None:
    assert words(verdicts_on(session([0.5], error=0.05), [session([0.5], error=0.05)])) == [Verdict.CANNOT_TELL]


def test_unchanged_sessions_are_never_called_slower_or_faster() -> None:
    """Ratios that scatter from session to session by as much as is believed at first, and within by as much again."""
    draw = random.Random(0)

    def unchanged() -> Session:
        scattered = [0.9 - 0.06 * n for n in range(12)]
        return session([r * exp(draw.gauss(0, 0.012) + draw.gauss(0, 0.006)) for r in scattered], error=0.006)

    past = [unchanged()]
    wrong = 0
    for _ in range(120):
        now = unchanged()
        wrong += any(word in (Verdict.SLOWER, Verdict.FASTER) for word in words(verdicts_on(now, past[-30:])))
        past.append(now)
    # One in a hundred may be, by the rule; four of 120 would be seen once in thirty such tests.
    assert wrong <= 3


def beside(session: Session, cores: float) -> Session:
    """The same session, while others took so many cores."""
    entries = tuple(replace(one, latency=replace(one.latency, taken_cores=cores)) for one in session.entries)
    return replace(session, entries=entries)


def test_beside_other_work_nothing_is_called_slower() -> None:
    past = [session([0.5, 0.4])] * 8
    slower = session([0.5, 0.4 * 1.3], seconds=0.05)
    assert words(verdicts_on(beside(slower, 0.2), past)) == [Verdict.SAME, Verdict.SLOWER]
    found = verdicts_on(beside(slower, 1.0), past)
    assert words(found) == [Verdict.SAME, Verdict.CANNOT_TELL]
    assert found.machine.verdict == Verdict.CANNOT_TELL
    assert found.regressions == ()
    assert found.plans[1].reason == (
        "it looks slower, but others took 1.00 cores now and 0.00 before; measure again when they have ended"
    )


def test_sessions_beside_other_work_are_not_compared_with_while_there_are_others() -> None:
    quiet, loud = session([0.5, 0.4]), beside(session([0.5, 0.52]), 1.0)
    found = verdicts_on(quiet, [quiet, loud, quiet, loud])
    assert found.against == (quiet, quiet)
    assert words(found) == [Verdict.SAME] * 2
    assert words(verdicts_on(quiet, [loud, loud]))[1] == Verdict.CANNOT_TELL


def test_a_slowdown_of_five_per_cent_is_found_where_sessions_are_known_to_agree() -> None:
    draw = random.Random(1)
    past = [session([r * exp(draw.gauss(0, 0.003)) for r in (0.5, 0.4, 0.3)], error=0.003) for _ in range(12)]
    assert words(verdicts_on(session([0.5, 0.4 * 1.05, 0.3], error=0.003), past))[1] == Verdict.SLOWER


def test_scatter_is_learned_from_sessions_of_one_software() -> None:
    believed, none = scatter_of([])
    calm = [session([0.5, 0.4]) for _ in range(20)]
    wild = [session([0.5 * 1.08**sign, 0.4 * 1.08**sign]) for sign in (0, 1) * 10]
    assert none == 0
    assert scatter_of(calm)[0] < believed < scatter_of(wild)[0]
    assert scatter_of(calm)[1] == 19
    upgraded = [session([0.5, 0.4]), session([0.9, 0.8], software="2.14")]
    assert scatter_of(upgraded) == (believed, 0)


def test_one_plan_that_became_slower_is_no_scatter() -> None:
    past = [session([0.5, 0.4, 0.3]), session([0.5, 0.8, 0.3])]
    assert scatter_of(past)[0] < scatter_of([])[0]


def test_a_new_library_that_speeds_up_the_original_is_no_regression_of_the_plan() -> None:
    before = session([0.5])
    now = session([0.5 / 0.8], seconds=0.02 * 0.8, software="2.14")
    found = verdicts_on(now, [before])
    assert words(found) == [Verdict.CANNOT_TELL]
    assert found.changed == ("torch 2.13 to 2.14",)
    assert "its own time did not move that way" in found.plans[0].reason


def test_a_new_library_that_slows_the_plan_is_a_regression_and_is_named() -> None:
    found = verdicts_on(session([0.5 * 1.2], software="2.14"), [session([0.5])])
    assert words(found) == [Verdict.SLOWER]
    assert "torch 2.13 to 2.14" in found.plans[0].reason


def test_a_slower_machine_leaves_ratios_and_shows_in_the_originals_time() -> None:
    draw = random.Random(2)
    past = [session([0.5], seconds=0.02 * exp(draw.gauss(0, 0.01))) for _ in range(10)]
    found = verdicts_on(session([0.5], seconds=0.03, software="2.14"), past)
    assert words(found) == [Verdict.SAME]
    assert found.machine.verdict == Verdict.SLOWER
    assert found.regressions == (found.machine,)
    assert "torch 2.13 to 2.14" in found.machine.reason


def test_a_machine_that_always_drifts_is_not_judged_by_one_time_more() -> None:
    past = [session([0.5], seconds=seconds) for seconds in (0.02, 0.03, 0.024, 0.018, 0.027, 0.021)]
    assert verdicts_on(session([0.5], seconds=0.031), past).machine.verdict == Verdict.CANNOT_TELL


def test_four_sessions_do_not_show_how_a_machine_scatters() -> None:
    found = verdicts_on(session([0.5], seconds=0.2), [session([0.5]) for _ in range(4)])
    assert found.machine.verdict == Verdict.CANNOT_TELL
    assert "from 5 on" in found.machine.reason


def test_a_session_may_be_compared_with_any_earlier_one() -> None:
    plans = [0.5, 0.4, 0.3]
    first, crept = session(plans), session([0.5, 0.4 * 1.12, 0.3])
    past = [first, *[crept] * 9]
    found = verdicts_on(crept, past)
    assert words(found)[1] == Verdict.SAME
    assert found.against == tuple(past[-7:])
    assert words(verdicts_on(crept, past, first))[1] == Verdict.SLOWER


def test_one_odd_session_misleads_nobody() -> None:
    usual, odd = session([0.5, 0.4]), session([0.5, 0.6])
    assert words(verdicts_on(usual, [usual, usual, usual, usual, odd])) == [Verdict.SAME] * 2


def test_sessions_with_other_software_are_not_mixed() -> None:
    before, after = session([0.5, 0.4]), session([0.5, 0.6], software="2.14")
    found = verdicts_on(after, [before, before, before, after])
    assert found.against == (after,)
    assert words(found) == [Verdict.SAME] * 2


def test_a_plan_the_earlier_session_did_not_measure_is_not_told() -> None:
    found = verdicts_on(session([0.5, 0.4]), [session([0.5])])
    assert words(found) == [Verdict.SAME, Verdict.CANNOT_TELL]
    assert found.plans[1].change is None


def test_intervals_of_models_loaded_once_count_by_their_rounds() -> None:
    once = Latency((0.01,) * 40, 0.5, 0.49, 0.51)
    many = Latency((0.01,) * 40, 0.5, 0.49, 0.51, loads=(20, 20))
    base = session([])
    wide, narrow = (
        verdicts_on(sure, [sure]).plans[0].change
        for sure in (
            Session("s", "t", "torch", Workload(), base.machine, {}, (*base.entries, Entry("p", "p", one, 1.0)), 0.0)
            for one in (many, once)
        )
    )
    assert wide is not None
    assert narrow is not None
    # The same interval over two loads was stretched by Student's t, so its own error is small.
    assert log(wide.high / wide.low) < log(narrow.high / narrow.low)

"""Searches in which candidates race, beside the same ones in which every candidate is judged in full."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paring.api import Study, pare
from paring.profilers.workload import Workload
from paring.reports.front import front_of
from paring.search import examiner, rungs
from paring.search.objectives import Limits
from paring.search.study import Record
from paring.search.tasks import Task
from paring.search.trial import State, Trial
from paring.spaces.palette import Palette
from paring.spaces.plan import Plan
from paring.spaces.precision import Precision

TRIALS = 16

pytestmark = pytest.mark.usefixtures("little_effort")


@pytest.fixture(scope="module")
def searched(
    wild: tuple[Path, Task], little_effort: None, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Study]:
    """A search by quality and size whose plans are drawn at random, so that both ways meet the same ones."""
    known: dict[str, Study] = {}

    def search(name: str, trials: int = TRIALS, again: bool = False, **settings: object) -> Study:
        if name not in known or again:
            known[name] = pare(
                *wild,
                out=known[name].record.folder if again else tmp_path_factory.mktemp("run") / name,
                objectives=("quality", "size"),
                trials=trials,
                workload=Workload(1, 16, 1),
                palette=Palette((Precision(8, 8), Precision(4)), (Precision(8),)),
                sampler="random",
                **settings,  # type: ignore[arg-type]
            )
        return known[name]

    return search


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples each batch of questions had."""
    found: list[int] = []
    real = examiner.check_finite

    def count(outcomes: np.ndarray) -> None:
        found.append(len(outcomes))
        real(outcomes)

    monkeypatch.setattr(examiner, "check_finite", count)
    return found


def by_plan(study: Study) -> dict[str, Trial]:
    return {trial.plan.fingerprint: trial for trial in study.record.trials() if trial.plan is not None}


def test_what_is_dropped_is_worse_than_its_rival_and_costs_no_less(searched: Callable[..., Study]) -> None:
    raced, whole = by_plan(searched("raced")), by_plan(searched("whole", races=False))
    dropped = [trial for trial in raced.values() if trial.state == State.DROPPED]
    numbers = {trial.number: trial for trial in raced.values()}
    assert len(dropped) >= 3
    for trial in dropped:
        assert trial.plan is not None
        assert trial.dropped is not None
        assert trial.profile is not None
        assert (trial.quality, trial.measures) == (None, None)
        assert trial.dropped.examples in (65, 130, 260)
        assert trial.cause.startswith(f"after {trial.dropped.examples} of 520 examples: trial {trial.dropped.rival} ")
        rival, known = numbers[trial.dropped.rival or 0], whole[trial.plan.fingerprint]
        assert rival.measures is not None
        assert known.measures is not None
        assert rival.measures.size_bytes <= trial.dropped.measures.size_bytes == known.measures.size_bytes
        assert rival.measures.quality > trial.dropped.measures.quality
        assert rival.measures.quality > known.measures.quality


def test_what_is_not_dropped_is_judged_alike(searched: Callable[..., Study]) -> None:
    raced, whole = by_plan(searched("raced")), by_plan(searched("whole", races=False))
    assert raced.keys() == whole.keys()
    judged = [name for name, trial in raced.items() if trial.state == State.JUDGED]
    assert len(judged) >= 3
    assert [raced[name].quality for name in judged] == [whole[name].quality for name in judged]
    assert {trial.state for trial in whole.values()} == {State.JUDGED}


def test_the_front_is_the_same(searched: Callable[..., Study]) -> None:
    fronts = [
        {trial.plan for trial in searched(name, **more).record.best()}
        for name, more in (("raced", {}), ("whole", {"races": False}))
    ]
    assert fronts[0] == fronts[1]
    finals = [{point.plan for point in front_of(searched(name).record).members} for name in ("raced", "whole")]
    assert finals[0] == finals[1]


def test_samplers_are_told_numbers_that_no_front_has(searched: Callable[..., Study]) -> None:
    record = searched("raced").record
    best = {trial.number for trial in record.study.best_trials}
    for trial in record.trials():
        if trial.dropped is not None:
            measures = trial.dropped.measures
            assert record.study.trials[trial.number].values == [-measures.quality, measures.size_bytes]
            assert trial.number not in best


def test_the_original_runs_to_the_end(searched: Callable[..., Study]) -> None:
    identity = next(trial for trial in by_plan(searched("raced")).values() if trial.plan and trial.plan.is_identity)
    assert identity.state == State.JUDGED


def test_a_search_that_goes_on_asks_nobody_again(searched: Callable[..., Study], answered: list[int]) -> None:
    before = by_plan(searched("raced"))
    after = by_plan(searched("raced", trials=TRIALS, again=True))
    assert answered == []
    assert after == before


def test_reports_tell_who_was_dropped_by_whom(searched: Callable[..., Study]) -> None:
    study = searched("raced")
    dropped = next(trial for trial in study.record.trials() if trial.state == State.DROPPED)
    page = study.report().read_text(encoding="utf8")
    assert dropped.cause in page
    assert '"dropped"' in page


def test_what_surely_breaks_the_limit_is_infeasible(
    searched: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rungs, "_SHARES", (1 / 8,))
    study = searched("limited", trials=10, budget=Limits(max_drop=0.05))
    given_up = [trial for trial in study.record.trials() if trial.dropped is not None and trial.dropped.rival is None]
    assert given_up
    for trial in given_up:
        assert trial.state == State.INFEASIBLE
        assert trial.dropped is not None
        assert trial.dropped.examples == 65
        assert trial.dropped.measures.drop > 0.05
        assert max(study.record.study.trials[trial.number].constraints.values()) > 0
    assert not {trial.number for trial in given_up} & {trial.number for trial in study.record.best()}


def test_a_run_says_how_it_was_asked(searched: Callable[..., Study]) -> None:
    assert "quality" not in Record.open(searched("raced").record.folder).settings["effort"]
    asked = Record.open(searched("whole").record.folder).settings["effort"]["quality"]
    assert asked == {"reuses_prefixes": True, "races": False}


def test_plans_are_the_same_in_any_order_of_racing(searched: Callable[..., Study]) -> None:
    plans: list[list[Plan | None]] = [
        [trial.plan for trial in searched(name).record.trials()] for name in ("raced", "whole")
    ]
    assert plans[0] == plans[1]

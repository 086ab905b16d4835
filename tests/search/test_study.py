from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from paring.errors import RunError, StorageError
from paring.profilers.memory import Memory
from paring.profilers.profile import Profile
from paring.profilers.timing import Latency
from paring.search.damage import database_errors
from paring.search.finals import measures_of
from paring.search.objectives import Limits, Measures
from paring.search.quality import Difference, Quality
from paring.search.study import DATABASE, Record
from paring.search.trial import Dropped, Final, State, Trial
from paring.spaces.factorisation import Factorisation
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision

SETTINGS = {"identity": {"seed": 0, "task": {"metric": "accuracy"}}, "effort": {"trials": 3}}
OBJECTIVES = ("quality", "latency", "memory")
LATENCY = Latency((0.001, 0.0012, 0.000987654), 0.1 + 0.2, 0.25, 1 / 3)
PROFILE = Profile(123_456, "int8 5/6 Linears", "abc", "batch 1", LATENCY, Memory(300_000_001, 200, 300))
QUALITY = Quality("accuracy", 2 / 3, 0.1, 0.9, "search", (0.0, 1.0, 1.0))
MEASURES = Measures(2 / 3, 0.1, 0.0123456789, 300_000_001.0, 123_456.0)


def plan(*dropped: int) -> Plan:
    treated = Treatments.of(
        {
            "query": Treatment(precision=Precision(8, 8)),
            "key": Treatment(factors=Factorisation("svd", 3, (Layer(0), Layer(3)))),
        }
    )
    slots = tuple(Slot(None) if i in dropped else Slot(Layer(i), treated) for i in range(4))
    return Plan((Stack("encoder", slots),), Treatments.of({"embeddings": Treatment(precision=Precision(8))}), "tuned-1")


def final(*dropped: int, gain: float = -0.25) -> Final:
    quality = replace(QUALITY, split="test", outcomes=(0.25, 1e-17))
    return Final(plan(*dropped), quality, Difference(gain, -0.5, 0.1), PROFILE, MEASURES, True)


def create(folder: Path, settings: dict[str, object] = SETTINGS, objectives: int = 3) -> Record:
    return Record.create(folder, settings, objectives, RandomSampler(seed=0))


def judged(record: Record, *dropped: int, measures: Measures = MEASURES, limits: Limits | None = None) -> Trial:
    limits = limits or Limits()
    asked = record.study.ask()
    state = State.JUDGED if limits.are_kept(measures) else State.INFEASIBLE
    trial = Trial(asked.number, state, plan(*dropped), "", QUALITY, PROFILE, measures)
    record.tell_judged(asked, trial, limits, OBJECTIVES)
    return trial


def test_a_judged_trial_comes_back_equal(tmp_path: Path) -> None:
    record = create(tmp_path)
    lean = replace(PROFILE, latency=None, memory=None)
    first = judged(record, 1)
    asked = record.study.ask()
    second = Trial(asked.number, State.JUDGED, plan(2), "", QUALITY, lean, MEASURES)
    record.tell_judged(asked, second, Limits(), OBJECTIVES)
    assert Record.open(tmp_path).trials() == [first, second]
    assert Record.open(tmp_path).judged() == {plan(1).fingerprint: first, plan(2).fingerprint: second}
    assert record.study.trials[0].values == [-2 / 3, 0.0123456789, 300_000_001.0]


def dropped(record: Record, rival: int | None = 0, told: Measures = MEASURES) -> Trial:
    asked = record.study.ask()
    state = State.INFEASIBLE if rival is None else State.DROPPED
    lost = Dropped(109, rival, told)
    trial = Trial(asked.number, state, plan(1), "trial 0 is better", profile=PROFILE, dropped=lost)
    record.tell_judged(asked, trial, Limits(), OBJECTIVES)
    return trial


@pytest.mark.parametrize("rival", [None, 0])
def test_a_dropped_trial_comes_back_equal_and_is_never_best(tmp_path: Path, rival: int | None) -> None:
    record = create(tmp_path)
    first, lost = judged(record), dropped(record, rival, replace(MEASURES, quality=0.9))
    record.tell_judged(record.study.ask(), lost, Limits(), OBJECTIVES, repeats=lost.number)
    opened = Record.open(tmp_path)
    assert opened.trials() == [first, lost]
    assert opened.judged() == {plan().fingerprint: first}
    assert [trial.number for trial in opened.best()] in ([], [0])  # however good the guess: never the dropped one
    assert [one.values for one in record.study.trials[1:]] == [[-0.9, 0.0123456789, 300_000_001.0]] * 2


def test_a_trial_that_was_stopped_while_it_was_written_has_no_numbers(tmp_path: Path) -> None:
    record = create(tmp_path)
    dropped(record)
    record.study.ask().set_user_attr("state", "dropped")
    record.begin(SETTINGS)
    assert [trial.state for trial in Record.open(tmp_path).trials()] == [State.DROPPED, State.INTERRUPTED]


@pytest.mark.parametrize("state", [State.FAILED, State.OUT_OF_MEMORY, State.INTERRUPTED])
@pytest.mark.parametrize("candidate", [None, plan(0, 2)])
def test_a_failed_trial_keeps_its_cause(tmp_path: Path, state: State, candidate: Plan | None) -> None:
    record = create(tmp_path)
    record.tell_failed(record.study.ask(), state, "it broke: ünder way", candidate)
    assert Record.open(tmp_path).trials() == [Trial(0, state, candidate, "it broke: ünder way")]
    assert Record.open(tmp_path).judged() == {}


def test_repeats_are_counted_but_not_listed(tmp_path: Path) -> None:
    record = create(tmp_path)
    first = judged(record)
    record.tell_judged(record.study.ask(), first, Limits(), OBJECTIVES, repeats=0)
    record.tell_failed(record.study.ask(), State.FAILED, "as before", plan(1), repeats=0)
    opened = Record.open(tmp_path)
    assert (opened.trials(), opened.begun) == ([first], 3)
    assert opened.best() == [first]


def test_best_is_within_the_limits_and_not_beaten(tmp_path: Path) -> None:
    record = create(tmp_path)
    limits = Limits(size_bytes=200_000)
    too_big = judged(record, 0, measures=Measures(1.0, 0.0, 0.0001, 1e8, 300_000.0), limits=limits)
    good = judged(record, 1, limits=limits)
    judged(record, 2, measures=replace(MEASURES, memory_bytes=4e8), limits=limits)
    equal = judged(record, 3, limits=limits)
    quick = judged(record, 0, 1, measures=replace(MEASURES, quality=0.5, latency_seconds=0.001), limits=limits)
    assert Record.open(tmp_path).best() == [good, equal, quick]
    assert Record.open(tmp_path).trials()[0] == too_big
    assert too_big.state == State.INFEASIBLE


def test_measures_are_those_of_quality_and_profile() -> None:
    found = measures_of(0.7, 0.9, PROFILE, 0.01)
    assert found == Measures(0.7, 0.9 - 0.7, LATENCY.ratio * 0.01, 300_000_001.0, 123_456.0)
    lean = replace(PROFILE, latency=None, memory=None)
    assert measures_of(0.9, 0.7, lean, None) == Measures(0.9, 0.7 - 0.9, None, None, 123_456.0)


def test_finals_come_back_equal_and_the_last_front_counts(tmp_path: Path) -> None:
    record = create(tmp_path)
    assert record.finals() == []
    record.set_finals([final(), final(1), final(2)])
    assert {f.plan: f for f in Record.open(tmp_path).finals()} == {f.plan: f for f in (final(), final(1), final(2))}
    record.set_finals([final(), final(1, gain=0.5)])
    assert sorted(Record.open(tmp_path).finals(), key=lambda f: f.gain.value) == [final(), final(1, gain=0.5)]


def test_reference_and_noise_come_back_equal(tmp_path: Path) -> None:
    record = create(tmp_path)
    assert (record.reference_seconds, record.noise) == (None, None)
    record.set_reference(0.1 + 0.2, noise=LATENCY)
    assert (Record.open(tmp_path).reference_seconds, Record.open(tmp_path).noise) == (0.1 + 0.2, LATENCY)


def test_a_killed_trial_is_closed_and_tried_once_more(tmp_path: Path) -> None:
    record = create(tmp_path)
    first = judged(record, 1)
    record.study.ask().suggest_int("depth", 2, 2)
    again = create(tmp_path)
    again.begin(SETTINGS)
    assert again.trials() == [first, Trial(1, State.INTERRUPTED, None, "the process was stopped while this trial ran")]
    retried = again.study.ask()
    assert (retried.number, retried.suggest_int("depth", 0, 9)) == (2, 2)
    last = create(tmp_path)
    last.begin(SETTINGS)
    assert [trial.state for trial in last.trials()] == [State.JUDGED, State.INTERRUPTED, State.INTERRUPTED]
    assert not last.study.get_trials(states=[TrialState.WAITING, TrialState.RUNNING])


def test_a_run_goes_on_only_with_the_same_search(tmp_path: Path) -> None:
    create(tmp_path)
    longer = {**SETTINGS, "effort": {"trials": 9}}
    create(tmp_path, longer).begin(longer)
    assert Record.open(tmp_path).settings["effort"] == {"trials": 9}
    other = {"seed": 1, "task": {"metric": "f1"}}
    with pytest.raises(RunError, match=r"\(seed was 0, now 1; task\.metric was accuracy, now f1\).*another --out"):
        create(tmp_path, {**SETTINGS, "identity": other})
    assert Record.open(tmp_path).settings["identity"] == SETTINGS["identity"]


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"no run folder: it has no {DATABASE}"):
        Record.open(tmp_path)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(RunError, match="holds files but no run of paring; give --out an empty or a new folder"):
        create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(RunError, match=r"cannot make the run folder .*holiday\.jpg"):
        create(tmp_path / "holiday.jpg")


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribbled_over(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x5a" * (len(content) - 4096))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("this is no database" * 100),
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": cut_in_half,
    "scribbled over": scribbled_over,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_a_clear_error_to_a_reader(tmp_path: Path, damage: str) -> None:
    judged(create(tmp_path))
    DAMAGES[damage](tmp_path / DATABASE)
    with pytest.raises(RunError, match=r"damaged"):
        Record.open(tmp_path).trials()


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "empty"])
def test_a_damaged_database_is_a_clear_error_to_a_search(tmp_path: Path, damage: str) -> None:
    judged(create(tmp_path))
    DAMAGES[damage](tmp_path / DATABASE)
    with pytest.raises(RunError, match=r"damaged"):
        create(tmp_path).trials()


def test_a_trial_that_is_no_plan_is_named(tmp_path: Path) -> None:
    record = create(tmp_path)
    record.study.ask().set_user_attr("plan", {"schema": 99})
    record.study.tell(0, state=TrialState.FAIL)
    with pytest.raises(RunError, match=r"trial 0 of the run is damaged: .*schema 99"):
        record.trials()


def test_one_search_at_a_time(tmp_path: Path) -> None:
    record = create(tmp_path)
    with record.locked(), pytest.raises(RunError, match="another search is running in"), create(tmp_path).locked():
        pytest.fail("two searches are in one folder")
    with create(tmp_path).locked():
        assert record.begun == 0


def test_what_the_database_says_of_a_disk_becomes_one_error(tmp_path: Path) -> None:
    message = "database or disk is full.*run the same command again: every trial already judged is kept"
    with pytest.raises(StorageError, match=message), database_errors(tmp_path):
        raise optuna.exceptions.StorageInternalError("internal") from OSError("database or disk is full")

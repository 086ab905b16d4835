import errno
import json
import re
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from transformers import PreTrainedModel

from paring.errors import (
    BudgetError,
    MeasurementError,
    RunError,
    SearchError,
    SettingError,
    StorageError,
    TimedOutError,
)
from paring.profilers.devices.cpu import Cpu
from paring.profilers.machine import Machine
from paring.profilers.memory import Memory, MemoryMeter
from paring.profilers.supervision import Allowance
from paring.profilers.timing import Effort
from paring.profilers.workload import Workload
from paring.search import finals, judge, quality
from paring.search.data import read_tables
from paring.search.driver import search
from paring.search.judge import Judge
from paring.search.naive import ALL_INT8, TOP_DROPPED
from paring.search.objectives import Limits
from paring.search.progress import Silent
from paring.search.settings import Settings
from paring.search.study import Record
from paring.search.tasks import Task
from paring.search.training import Training
from paring.search.trial import Final, State, Trial
from paring.search.workbench import Greedy, LocalWorkbench
from paring.spaces.plan import Plan, Slot

MakeSettings = Callable[..., Settings]
EFFORT = Effort(seconds=0.0, min_rounds=3, max_rounds=3, calls=1)
RICH = {"axes": ("depth", "bits"), "objectives": ("quality", "latency", "size"), "trials": 8}

KILLED = """
import json, os, signal, sys
from pathlib import Path
from paring.profilers.timing import Effort
from paring.search import judge
from paring.search.driver import search
from paring.search.judge import Judge
from paring.search.settings import Settings

judge._CANDIDATE_EFFORT = judge._REFERENCE_EFFORT = Effort(seconds=0.0, min_rounds=3, max_rounds=3, calls=1)
real, asked = Judge.judge, []

def judged(self, number, plan):
    found = real(self, number, plan)
    asked.append(number)
    if len(asked) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

Judge.judge = judged
search(Settings.of_run(json.loads(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.fixture(autouse=True, scope="module")
def _little_effort() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "_CANDIDATE_EFFORT", EFFORT)
        patch.setattr(judge, "_REFERENCE_EFFORT", EFFORT)
        patch.setattr(finals, "_SECONDS_PER_MODEL", 0.0)
        patch.setattr(quality, "_RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def settings(model_folder: Path, data_folder: Path) -> MakeSettings:
    """Depth only, three plans, neither latency nor memory, unless asked otherwise."""

    def make(out: Path, **changes: object) -> Settings:
        plain = Settings(
            str(model_folder),
            Task("classification", str(data_folder)),
            out,
            axes=("depth",),
            objectives=("quality", "size"),
            workload=Workload(batch=1, tokens=16, threads=1),
        )
        return replace(plain, **changes)

    return make


@pytest.fixture(scope="module")
def rich_folder(settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search over depth and bits; to be copied, not changed."""
    out = tmp_path_factory.mktemp("rich") / "run"
    search(settings(out, **RICH))
    return out


@pytest.fixture(scope="module")
def short_folder(settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of one trial; to be copied, not changed."""
    out = tmp_path_factory.mktemp("short") / "run"
    search(settings(out, trials=1))
    return out


@pytest.fixture
def short(short_folder: Path, tmp_path: Path) -> Path:
    """A copy of it, to go on with."""
    return Path(shutil.copytree(short_folder, tmp_path / "run"))


@pytest.fixture
def rich(rich_folder: Path) -> Record:
    return Record.open(rich_folder)


class Judgements:
    """Watches the judge: counts, and raises what it is told for the plan judged n-th."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plans, self.failures = list[Plan](), dict[int, BaseException]()
        real = Judge.judge

        def watched(own: Judge, number: int, plan: Plan) -> Trial:
            self.plans.append(plan)
            failure = self.failures.pop(len(self.plans) - 1, None)
            if failure is not None:
                raise failure
            return real(own, number, plan)

        monkeypatch.setattr(Judge, "judge", watched)


@pytest.fixture
def judgements(monkeypatch: pytest.MonkeyPatch) -> Judgements:
    return Judgements(monkeypatch)


def brute_force_front(trials: list[Trial], objectives: tuple[str, ...]) -> set[str]:
    """Fingerprints of the plans within the limits that no other one dominates."""
    points = {
        trial.plan.fingerprint: tuple(trial.measures.minimised(name) for name in objectives)
        for trial in trials
        if trial.state == State.JUDGED and trial.plan and trial.measures
    }
    return {
        mine
        for mine, own in points.items()
        if not any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in points.values())
    }


def plans_of(trials: list[Trial]) -> list[Plan]:
    return [trial.plan for trial in trials if trial.plan is not None]


def wanted_of(record: Record) -> set[Plan]:
    """The plans measured whole but for those that are there only to compare with."""
    asked = {trial.plan.fingerprint for trial in record.best() if trial.plan}
    extra = set(record.naive.values()) - asked
    return {final.plan for final in record.finals() if final.plan.fingerprint not in extra}


def test_trials_are_distinct_plans_and_the_baseline_comes_first(rich: Record) -> None:
    trials = rich.trials()
    assert len(trials) == len(set(plans_of(trials))) == 8
    assert {trial.state for trial in trials} == {State.JUDGED}
    baseline = trials[0]
    assert baseline.number == 0
    assert baseline.plan is not None
    assert not baseline.plan.treatments()
    assert baseline.plan.stack("encoder").dropped == ()
    for trial in trials:
        assert trial.profile is not None and trial.profile.latency is not None
        assert trial.measures is not None and trial.quality is not None
        assert trial.measures.latency_seconds == trial.profile.latency.ratio * (rich.reference_seconds or 0)
        assert trial.measures.size_bytes == trial.profile.stored_bytes
        assert trial.measures.drop == trials[0].quality.value - trial.quality.value
        assert (trial.quality.split, len(trial.quality.outcomes)) == ("search", 80)
    assert baseline.profile is not None and baseline.profile.latency is not None
    assert baseline.profile.latency.ratio == baseline.profile.latency.ratio_low == 1
    assert rich.noise is not None
    assert len(rich.noise.samples_seconds) == EFFORT.max_rounds


def test_the_best_are_exactly_those_that_nothing_dominates(rich: Record) -> None:
    best = rich.best()
    expected = brute_force_front(rich.trials(), ("quality", "latency", "size"))
    assert sorted(plan.fingerprint for plan in plans_of(best)) == sorted(expected)
    assert 1 < len(best) < 8


def test_the_front_is_measured_whole_with_the_baseline_on_the_test_split(rich: Record) -> None:
    found = {final.plan: final for final in rich.finals()}
    baseline = plans_of(rich.trials())[0]
    assert wanted_of(rich) == {baseline, *plans_of(rich.best())}
    assert len(found) == len(rich.finals())
    for plan, final in found.items():
        assert final.reloads_equal
        assert (final.quality.split, len(final.quality.outcomes)) == ("test", 60)
        assert final.gain.value == pytest.approx(final.quality.value - found[baseline].quality.value)
        assert final.profile.latency is not None
        assert final.profile.memory is None
        assert final.profile.latency.loads == (2,) * 3
        assert (final.profile.latency.ratio == 1) == (plan == baseline)
    reference = found[baseline].measures.latency_seconds or 0
    ratios = {plan: final.profile.latency.ratio for plan, final in found.items() if final.profile.latency}
    assert {plan: final.measures.latency_seconds for plan, final in found.items()} == {
        plan: pytest.approx(ratio * reference) for plan, ratio in ratios.items()
    }


def test_naive_plans_are_measured_beside_the_front(rich: Record) -> None:
    finals = {final.plan.fingerprint: final for final in rich.finals()}
    assert set(rich.naive) == {ALL_INT8, TOP_DROPPED}
    assert set(rich.naive.values()) <= finals.keys()
    top = finals[rich.naive[TOP_DROPPED]]
    assert top.plan.stack("encoder").dropped == (2,)
    assert top.plan.is_plain
    assert top.reloads_equal
    assert top.quality.split == "test"


def test_runs_from_before_naive_plans_are_not_measured_again(
    rich: Record, settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    old = Record.open(Path(shutil.copytree(rich.folder, out)))
    old.set_finals([final for final in old.finals() if final.plan in wanted_of(old)])
    old.set_naive({})
    monkeypatch.setattr("paring.search.driver.measure_whole", lambda *_, **__: pytest.fail("measured again"))
    assert search(settings(out, **RICH)).naive == {}


@pytest.mark.parametrize("error", [MeasurementError("not finite"), RuntimeError("no kernel")])
def test_a_naive_plan_that_cannot_be_measured_does_not_cost_the_answer(
    rich: Record, settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real, out = finals.measure_whole, tmp_path / "run"
    identity = plans_of(rich.trials())[0]
    (stack,) = identity.stacks
    shorter = (replace(stack, slots=(*stack.slots[:at], Slot(None), *stack.slots[at + 1 :])) for at in range(3))
    naive = next(plan for plan in map(identity.with_stack, shorter) if plan not in plans_of(rich.trials()))
    top = naive.fingerprint
    monkeypatch.setattr("paring.search.driver.naive_plans", lambda *_: {TOP_DROPPED: naive})
    Record.open(Path(shutil.copytree(rich.folder, out))).set_finals([])

    def refuses_the_top(bench: LocalWorkbench, plans: Sequence[Plan], *rest: Any, **options: Any) -> list[Final]:
        if top in {plan.fingerprint for plan in plans}:
            raise error
        return real(bench, plans, *rest, **options)

    monkeypatch.setattr("paring.search.driver.measure_whole", refuses_the_top)
    record = search(settings(out, **RICH))
    assert {final.plan for final in record.finals()} == {plans_of(record.trials())[0], *plans_of(record.best())}
    assert TOP_DROPPED not in record.naive


def test_more_trials_keep_the_earlier_ones(
    rich: Record, settings: MakeSettings, tmp_path: Path, judgements: Judgements
) -> None:
    out = tmp_path / "run"
    shutil.copytree(rich.folder, out)
    longer = search(settings(out, **{**RICH, "trials": 11}))
    assert longer.trials()[:8] == rich.trials()
    assert len(longer.trials()) == len(set(plans_of(longer.trials()))) == 11
    assert judgements.plans == plans_of(longer.trials())[8:]
    assert longer.reference_seconds == rich.reference_seconds
    assert sorted(plan.fingerprint for plan in plans_of(longer.best())) == sorted(
        brute_force_front(longer.trials(), ("quality", "latency", "size"))
    )
    assert wanted_of(longer) == {plans_of(longer.trials())[0], *plans_of(longer.best())}


def test_a_finished_search_judges_nothing_again(
    rich: Record, settings: MakeSettings, tmp_path: Path, judgements: Judgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(rich.folder, out)
    monkeypatch.setattr("paring.search.driver.measure_whole", lambda *_, **__: pytest.fail("measured again"))
    again = search(settings(out, **RICH))
    assert search(Settings.of_run(again.settings, out)).trials() == rich.trials()
    assert judgements.plans == []
    assert again.begun == rich.begun
    assert sorted(map(repr, again.finals())) == sorted(map(repr, rich.finals()))


@pytest.mark.parametrize("end", [{"trials": 60}, {"trials": None, "minutes": 5.0}])
def test_a_small_space_is_searched_to_its_end(settings: MakeSettings, tmp_path: Path, end: dict[str, object]) -> None:
    record = search(settings(tmp_path / "run", **end))
    dropped = [plan.stack("encoder").dropped for plan in plans_of(record.trials())]
    assert [len(slots) for slots in dropped] == [0, 1, 2]
    assert set(dropped[1]) < set(dropped[2])
    assert record.begun < 20


def test_a_plan_that_comes_again_is_not_judged_again(
    settings: MakeSettings, tmp_path: Path, judgements: Judgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued = [{"depth.encoder": depth} for depth in (0, 0, 1, 1, 0)]
    monkeypatch.setattr("paring.search.proposals.starting_choices", lambda *_: queued)
    judgements.failures[1] = RuntimeError("boom")
    record = search(settings(tmp_path / "run"))
    assert [trial.number for trial in record.trials()][:2] == [0, 2]
    assert [trial.state for trial in record.trials()] == [State.JUDGED, State.FAILED, State.JUDGED]
    assert plans_of(record.trials()) == judgements.plans
    assert record.begun > len(queued)
    assert len(record.best()) == len(brute_force_front(record.trials(), ("quality", "size")))
    proposed = record.study.get_trials(deepcopy=False)
    assert (proposed[1].values, proposed[3].user_attrs["cause"]) == (proposed[0].values, "RuntimeError: boom")


def test_only_what_is_asked_is_measured(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryMeter, "measure", lambda *_: pytest.fail("memory was measured"))
    monkeypatch.setattr(judge, "measure", lambda *_, **__: pytest.fail("latency was measured"))
    record = search(settings(tmp_path / "run"))
    assert {(trial.profile.latency, trial.profile.memory) for trial in record.trials() if trial.profile} == {
        (None, None)
    }
    assert (record.reference_seconds, record.noise) == (None, None)
    assert {final.profile.memory for final in record.finals()} == {None}


def test_memory_is_measured_in_a_fresh_process(settings: MakeSettings, tmp_path: Path) -> None:
    record = search(settings(tmp_path / "run", objectives=("quality", "memory"), trials=2))
    for profile, measures in [(trial.profile, trial.measures) for trial in record.trials()] + [
        (final.profile, final.measures) for final in record.finals()
    ]:
        assert profile is not None and profile.memory is not None and measures is not None
        assert profile.memory.peak_bytes == measures.memory_bytes
        assert profile.memory.runtime_bytes < profile.memory.peak_bytes
        assert profile.memory.loaded_bytes <= profile.memory.peak_bytes
    assert len(record.trials()) == 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"objectives": ("quality", "latency")}, r"objectives was \['quality', 'size'\]"),
        ({"budget": Limits(size_bytes=1e6)}, r"budget\.size_bytes was None, now 1000000"),
        ({"workload": Workload(1, 17, 1)}, r"workload\.tokens was 16, now 17"),
        ({"greedy": Greedy(decimals=None)}, r"greedy\.decimals was 3, now None"),
    ],
)
def test_another_search_is_refused(settings: MakeSettings, short: Path, change: dict[str, object], what: str) -> None:
    first, before = settings(short, trials=1), Record.open(short).trials()
    with pytest.raises(RunError, match=rf"made by another search \({what}.*another --out"):
        search(replace(first, **change))
    assert Record.open(first.out).trials() == before


def test_another_model_or_other_data_are_refused(
    settings: MakeSettings,
    short: Path,
    tmp_path: Path,
    model_folder: Path,
    data_folder: Path,
    make_model: Callable[..., PreTrainedModel],
) -> None:
    first = settings(short, trials=1)
    shutil.copytree(data_folder, tmp_path / "data")
    shutil.copytree(model_folder, tmp_path / "model")
    moved = replace(first, model=str(tmp_path / "model"), task=replace(first.task, data=str(tmp_path / "data")))
    search(moved)
    with (tmp_path / "data" / "test.jsonl").open("a", encoding="utf8") as file:
        file.write(json.dumps({"text": "good film", "label": 1}) + "\n")
    with pytest.raises(RunError, match=r"\(data was \w+, now \w+\)"):
        search(moved)
    make_model("bert").save_pretrained(tmp_path / "model")
    with pytest.raises(RunError, match=r"\(model was \w+, now \w+\)"):
        search(replace(moved, task=first.task))


def test_other_training_rows_are_another_search_where_they_are_trained_on(
    settings: MakeSettings, tmp_path: Path, data_folder: Path
) -> None:
    tables = read_tables(str(data_folder), ("text",), "label")
    assert tables.train is not None
    others = replace(tables, train=tables.train.assign(label=1 - tables.train["label"]))
    asked, machine = settings(tmp_path, greedy=Greedy("fine_tune")), Machine.here("cpu", {}, {})
    one, other = (asked.describe(found, "accuracy", machine)["identity"] for found in (tables, others))
    assert one != other


def test_a_folder_with_foreign_files_is_refused(settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("\\documentclass{article}")
    with pytest.raises(RunError, match="holds files but no run of paring"):
        search(settings(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_search_in_the_folder_is_refused(settings: MakeSettings, short: Path) -> None:
    record = Record.open(short)
    with record.locked(), pytest.raises(RunError, match=r"another search is running in .*run; wait for it"):
        search(settings(short, trials=2))
    assert len(search(settings(short, trials=2)).trials()) == 2


@pytest.mark.parametrize(
    ("failure", "state", "cause"),
    [
        (RuntimeError("boom"), State.FAILED, "RuntimeError: boom"),
        (MeasurementError("the model gave 3 answers"), State.FAILED, "the model gave 3 answers"),
        (
            MemoryError("killed by signal 9"),
            State.OUT_OF_MEMORY,
            "MemoryError: memory ran out on cpu: killed by signal 9",
        ),
        (TimedOutError("it took longer than 9 s"), State.TIMED_OUT, "it took longer than 9 s"),
    ],
)
def test_a_bad_candidate_is_a_record_and_the_search_goes_on(
    settings: MakeSettings, tmp_path: Path, judgements: Judgements, failure: Exception, state: State, cause: str
) -> None:
    judgements.failures[1] = failure
    record = search(settings(tmp_path / "run"))
    assert [trial.state for trial in record.trials()] == [State.JUDGED, state, State.JUDGED]
    bad = record.trials()[1]
    assert (bad.cause, bad.plan, bad.measures) == (cause, judgements.plans[1], None)
    assert bad.plan not in {final.plan for final in record.finals()}
    search(settings(tmp_path / "run"))
    assert len(judgements.plans) == 3


def test_an_error_of_measuring_is_not_one_of_the_disk(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def second_fails(_: MemoryMeter, folder: Path) -> Memory:
        folders.append(folder)
        if len(folders) == 2:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return Memory(3, 1, 2)

    monkeypatch.setattr(MemoryMeter, "measure", second_fails)
    first, second = search(settings(tmp_path / "run", objectives=("quality", "memory"), trials=2)).trials()
    assert first.state == State.JUDGED
    assert second.state in (State.FAILED, State.OUT_OF_MEMORY)
    assert "Cannot allocate memory" in second.cause


@pytest.mark.parametrize(
    ("isolation", "state", "cause"),
    [
        (Allowance(seconds=0.001), State.TIMED_OUT, r"it took longer than 0\.001 s"),
        (
            Allowance(memory_bytes=10**6),
            State.OUT_OF_MEMORY,
            r"the process held \d+ MB, more than the 1 MB it may take",
        ),
    ],
)
def test_what_breaks_its_isolation_is_told_apart(
    settings: MakeSettings, tmp_path: Path, isolation: Allowance, state: State, cause: str
) -> None:
    with pytest.raises(SearchError, match=f"the search cannot go on: .*measuring memory.*{cause}"):
        search(settings(tmp_path / "run", objectives=("quality", "memory"), isolation=isolation))
    (trial,) = Record.open(tmp_path / "run").trials()
    assert trial.state == state and re.search(cause, trial.cause)


def test_a_full_gpu_is_emptied(
    settings: MakeSettings, tmp_path: Path, judgements: Judgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[tuple[int, int]] = []
    kept: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
    real = Judge.judge

    def fills(own: Judge, number: int, plan: Plan) -> Trial:
        candidate = torch.nn.Module()  # what only the candidate's own frames hold, as its tensors are
        kept.add(candidate)
        return real(own, number, plan)

    monkeypatch.setattr(Judge, "judge", fills)
    monkeypatch.setattr(Cpu, "release", lambda self: released.append((len(judgements.plans), len(kept))))
    judgements.failures[1] = torch.OutOfMemoryError("tried to allocate 9 GiB")
    record = search(settings(tmp_path / "run"))
    assert [trial.state for trial in record.trials()] == [State.JUDGED, State.OUT_OF_MEMORY, State.JUDGED]
    assert record.trials()[1].cause == "MemoryError: memory ran out on cpu: tried to allocate 9 GiB"
    assert released == [(2, 0)]  # at once, and when nothing held a tensor any more


def test_a_baseline_that_fails_ends_the_search(settings: MakeSettings, tmp_path: Path, judgements: Judgements) -> None:
    judgements.failures[0] = RuntimeError("boom")
    with pytest.raises(SearchError, match="the search cannot go on: RuntimeError: boom"):
        search(settings(tmp_path / "run"))
    assert [trial.state for trial in Record.open(tmp_path / "run").trials()] == [State.FAILED]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), StorageError("the disk is full")])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_stopped_search_goes_on(
    settings: MakeSettings, tmp_path: Path, judgements: Judgements, turn: int, failure: BaseException
) -> None:
    judgements.failures[turn] = failure
    with pytest.raises(type(failure)) as raised:
        search(settings(tmp_path / "run"))
    assert raised.value is failure
    before = Record.open(tmp_path / "run").judged()
    assert len(before) == turn
    record = search(settings(tmp_path / "run"))
    assert before.items() <= record.judged().items()
    assert {len(trial.plan.stack("encoder").dropped) for trial in record.judged().values() if trial.plan} == {0, 1, 2}
    assert len(judgements.plans) == 4


def test_a_front_whose_measuring_was_stopped_is_measured(
    settings: MakeSettings, tmp_path: Path, judgements: Judgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("paring.search.driver.measure_whole", interrupt)
        with pytest.raises(KeyboardInterrupt):
            search(settings(tmp_path / "run"))
    assert Record.open(tmp_path / "run").finals() == []
    record = search(settings(tmp_path / "run"))
    assert wanted_of(record) == {judgements.plans[0], *plans_of(record.best())}
    assert len(judgements.plans) == 3


def test_a_refusing_database_is_no_fault_of_the_candidate(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Record.tell_judged

    def second_refused(record: Record, trial: optuna.Trial, *arguments: object, **options: object) -> None:
        if trial.number == 1:
            raise optuna.exceptions.StorageInternalError("internal") from OSError("database is locked")
        real(record, trial, *arguments, **options)

    monkeypatch.setattr(Record, "tell_judged", second_refused)
    with pytest.raises(StorageError, match="database is locked"):
        search(settings(tmp_path / "run"))
    assert len(Record.open(tmp_path / "run").judged()) == 1
    assert len(search(settings(tmp_path / "run")).judged()) == 3


def test_kill_9_loses_no_judged_trial(
    rich: Record, settings: MakeSettings, tmp_path: Path, judgements: Judgements
) -> None:
    out = tmp_path / "run"
    asked = {**rich.settings, "identity": rich.settings["identity"] | {"sampler": "random"}}
    child = [sys.executable, "-c", KILLED, json.dumps(asked), str(out)]
    done = subprocess.run(child, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = Record.open(out).judged()
    assert len(before) == 5
    record = search(settings(out, **RICH, sampler="random"))
    stopped = [trial for trial in record.trials() if trial.state == State.INTERRUPTED]
    assert before.items() <= record.judged().items()
    assert len(stopped) == 1
    assert len(record.judged()) == len(judgements.plans) + 5 == 8
    choices = record.study.get_trials(deepcopy=False)
    retried = [trial for trial in choices[stopped[0].number + 1 :] if trial.params == choices[stopped[0].number].params]
    assert [trial.state for trial in retried] == [optuna.trial.TrialState.COMPLETE]
    fresh = search(settings(tmp_path / "fresh", **{**RICH, "objectives": ("quality", "size")}, sampler="random"))
    assert plans_of(fresh.trials())[:5] == plans_of(record.trials())[:5]


def test_the_same_seed_gives_the_same_plans(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paring.search.driver.measure_whole", lambda *_, **__: [])
    asked = settings(tmp_path, axes=("depth", "bits"), trials=6, sampler="random")
    one, same, other = (
        plans_of(search(replace(asked, out=tmp_path / name, seed=seed)).trials())
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    assert one == same
    assert one[:3] == other[:3]
    assert not set(one[3:]) & set(other[3:])


def test_a_guided_search_goes_on_as_if_it_had_not_been_stopped(
    settings: MakeSettings, tmp_path: Path, judgements: Judgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paring.search.driver.measure_whole", lambda *_, **__: [])
    asked = settings(tmp_path / "whole", axes=("depth", "bits"), trials=9, sampler="guided")
    whole = plans_of(search(asked).trials())
    assert len(whole) == len({*whole}) == 9
    judgements.failures[len(judgements.plans) + 7] = KeyboardInterrupt()
    stopped = replace(asked, out=tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        search(stopped)
    trials = search(stopped).trials()
    assert [trial.plan for trial in trials if trial.measures is not None or trial.dropped is not None] == whole


def test_an_impossible_budget_names_what_was_reached(
    settings: MakeSettings, tmp_path: Path, judgements: Judgements
) -> None:
    asked = settings(tmp_path / "run", budget=Limits.parse(["size_mb=0.001", "quality=0.5"]))
    for _ in range(2):
        with pytest.raises(BudgetError, match=r"meets the budget size_mb=0\.001, quality=0\.5.*all 3 trials") as raised:
            search(asked)
    trials = Record.open(asked.out).trials()
    assert [trial.state for trial in trials] == [State.INFEASIBLE] * 3
    assert len(judgements.plans) == 3
    assert Record.open(asked.out).finals() == []
    reached = re.search(r"is: size_mb=([\d.]+), quality=([\d.]+)", str(raised.value))
    assert reached is not None
    assert float(reached[1]) == pytest.approx(min(t.measures.size_bytes for t in trials if t.measures) / 1e6, rel=1e-4)
    assert float(reached[2]) == pytest.approx(max(t.measures.quality for t in trials if t.measures), rel=1e-4)


def test_the_front_keeps_the_budget(settings: MakeSettings, tmp_path: Path) -> None:
    record = search(settings(tmp_path / "run", budget=Limits(size_bytes=100_000)))
    trials = record.trials()
    assert [trial.state for trial in trials] == [State.INFEASIBLE, State.JUDGED, State.JUDGED]
    assert {plan.fingerprint for plan in plans_of(record.best())} == brute_force_front(trials, ("quality", "size"))
    assert wanted_of(record) == {plans_of(trials)[0], *plans_of(record.best())}


def test_a_fine_tuned_order_is_searched_and_resumed(
    settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = Greedy("fine_tune", training=Training(epochs=1, learning_rate=1e-3))
    record = search(settings(tmp_path / "run", greedy=greedy, trials=2))
    monkeypatch.setattr("paring.search.removal.fine_tune", lambda *_, **__: pytest.fail("trained again"))
    record = search(settings(tmp_path / "run", greedy=greedy, trials=2))
    plans = plans_of(record.trials())
    assert [plan.weights.partition("-")[0] for plan in plans] == ["original", "tuned"]
    assert all(final.reloads_equal for final in record.finals())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": None}, "a search needs an end"),
        ({"trials": 0}, "trials must be above 0, got 0"),
        ({"minutes": float("nan")}, "minutes must be above 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"sampler": "tpee"}, "Did you mean 'tpe'"),
        ({"objectives": ()}, "at least one objective"),
        ({"greedy": Greedy("magic")}, "unknown scorer 'magic'"),
    ],
)
def test_settings_that_cannot_work(
    settings: MakeSettings, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        settings(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": ("dept",)}, "unknown axis 'dept'.*Did you mean 'depth'"),
        ({"runtime": "torhc"}, "unknown runtime 'torhc'.*torch"),
        ({"device": "cpv"}, "unknown device 'cpv'.*cpu"),
        ({"workload": Workload(1, 65, 1)}, "64 positions; the workload asks for 65 tokens"),
    ],
)
def test_nothing_is_left_behind_where_a_search_cannot_begin(
    settings: MakeSettings, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        search(settings(tmp_path / "run", **change), Silent())
    assert not (tmp_path / "run").exists()

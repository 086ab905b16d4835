"""Searches on several workers: the same answers as in one process, whoever dies."""

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from paring.errors import SearchError, SettingError, StorageError, TimedOutError
from paring.profilers.machine import available_cores
from paring.profilers.workload import Workload
from paring.search import judge, ray_session
from paring.search.assessment import Assessment, Brief, assess
from paring.search.cache import Cache
from paring.search.cluster import Feed
from paring.search.driver import search
from paring.search.objectives import Limits
from paring.search.ray_session import Joined
from paring.search.removal import Greedy
from paring.search.settings import Settings
from paring.search.shelf import Shelf
from paring.search.shelf_cache import ShelfCache
from paring.search.standstill import Worker, standstill
from paring.search.study import Record
from paring.search.tasks import Task
from paring.search.trial import State, Trial
from paring.search.workbench import LocalWorkbench
from paring.search.worker import Answer, Shipment, WorkerBench, answer_to, opened
from paring.search.workers import Cluster
from paring.spaces.palette import Palette
from paring.spaces.plan import Plan
from paring.spaces.precision import Precision

TWO = Cluster("local", workers=2, cpus_per_trial=min(1.0, available_cores() / 2))
TRIALS = 8

# A driver on two workers that is gone as soon as it has recorded its third judgement.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from dataclasses import replace
from paring.search.driver import search
from paring.search.proposals import Proposals
from paring.search.settings import Settings
from paring.search.workers import Cluster

real, told = Proposals.tell, []

def tell(self, proposal, judged):
    real(self, proposal, judged)
    told.append(judged)
    if len(told) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Proposals.tell = tell
asked = Settings.of_run(json.loads(sys.argv[1]), Path(sys.argv[2]))
search(replace(asked, cluster=Cluster("local", 2, float(sys.argv[3]))))
"""

# What a worker is sent, with a mine in it: the first one to judge a plan dies of it.
MINED = """
import os, pickle, signal

def unpack(content, exploded):
    from paring.search import worker
    real = worker.assess

    def assess(bench, brief, budget):
        try:
            with open(exploded, "x") as file:
                file.write(str(os.nice(0)))
        except FileExistsError:
            with open(exploded + ".judges", "a") as file:
                file.write(f"{os.getpid()}\\n")
            return real(bench, brief, budget)
        os.kill(os.getpid(), signal.SIGKILL)

    worker.assess = assess
    return pickle.loads(content)

class Parcel:
    def __init__(self, content, exploded):
        self.arguments = content, exploded

    def __reduce__(self):
        return unpack, self.arguments
"""


@pytest.fixture(autouse=True, scope="module")
def _little_effort(little_effort: None) -> None:
    """Three rounds where a real search takes seconds."""


@pytest.fixture(scope="module")
def settings(model_folder: Path, data_folder: Path) -> Callable[..., Settings]:
    def make(out: Path, **changes: object) -> Settings:
        plain = Settings(
            str(model_folder),
            Task("classification", str(data_folder)),
            out,
            objectives=("quality", "size"),
            workload=Workload(batch=1, tokens=16, threads=1),
            trials=TRIALS,
            sampler="random",
        )
        return replace(plain, **changes)

    return make


@pytest.fixture(scope="module")
def alone(settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The search in one process."""
    return search(settings(tmp_path_factory.mktemp("alone") / "run"))


@pytest.fixture(scope="module")
def mined(make_module: Callable[[str, str], ModuleType]) -> ModuleType:
    return make_module("mined_parcel", MINED)


def of_ray(folder: Path) -> list[str]:
    """Command lines of living processes that Ray started for a run."""
    scratch, found = str(ray_session._scratch(folder)), []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            found += [line] if scratch in line and process.status() != psutil.STATUS_ZOMBIE else []
        except psutil.Error:
            continue
    return found


def plans_of(trials: list[Trial]) -> list[Plan]:
    return [trial.plan for trial in trials if trial.plan is not None]


def judged(record: Record) -> list[tuple[Plan | None, State, Any, float]]:
    return [
        (trial.plan, trial.state, trial.quality, trial.measures.size_bytes if trial.measures else 0.0)
        for trial in sorted(record.trials(), key=lambda one: one.number)
    ]


def test_a_killed_driver_and_a_killed_worker_change_nothing(
    alone: Record,
    settings: Callable[..., Settings],
    mined: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, exploded = tmp_path / "run", tmp_path / "exploded"
    child = [sys.executable, "-c", KILLED, json.dumps(alone.settings), str(out), str(TWO.cpus_per_trial)]
    # Into a file: orphans of the driver hold what they inherit of it for as long as they live.
    said = tmp_path / "said"
    with said.open("wb") as file:
        done = subprocess.run(child, stdout=file, stderr=file, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, said.read_text(encoding="utf8")
    assert said.read_bytes() == b""
    before = Record.open(out).judged()
    assert len(before) == 3
    deadline = time.monotonic() + 60
    while of_ray(out) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert of_ray(out) == []

    real = Shipment.packed
    monkeypatch.setattr(Shipment, "packed", lambda own: pickle.dumps(mined.Parcel(real(own), str(exploded))))
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    record = search(settings(out, cluster=TWO))
    judges = exploded.with_name(f"{exploded.name}.judges").read_text(encoding="utf8").split()
    assert len(set(judges)) >= 2  # judging takes less than starting a worker, and still both take part
    # Workers yield to other work as much as this process does, and no more.
    assert int(exploded.read_text(encoding="utf8")) == os.nice(0)
    assert dict(os.environ) == environment
    assert signal.getsignal(signal.SIGTERM) == handler
    assert of_ray(out) == []
    assert not ray_session._scratch(out).exists()
    assert {path.name for path in out.iterdir()} <= {".lock", "cache", "study.db"}

    assert before.items() <= record.judged().items()
    known = {plan: (state, quality, size) for plan, state, quality, size in judged(alone)}
    found = {plan: (state, quality, size) for plan, state, quality, size in judged(record) if state == State.JUDGED}
    assert len(found) == TRIALS
    shared = known.keys() & found.keys()
    assert len(shared) >= TRIALS // 2  # random numbers of a run that goes on are its own
    assert {plan: found[plan] for plan in shared} == {plan: known[plan] for plan in shared}
    assert {final.plan for final in record.finals()} >= {trial.plan for trial in record.best()}


class Bystander:
    """A process that does nothing, and says in which state it is."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.worker = Worker("here", self._process.pid, psutil.Process(self._process.pid).create_time())

    @property
    def is_stopped(self) -> bool:
        """Looked at for a moment: a signal takes effect when the process is scheduled next."""
        process = psutil.Process(self._process.pid)
        for _ in range(100):
            if process.status() == psutil.STATUS_STOPPED:
                return True
            time.sleep(0.002)
        return False

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def bystander() -> Iterator[Bystander]:
    found = Bystander()
    yield found
    found.end()


class InOneProcess:
    """Runs a feed as a cluster would, but here: answers come in the reverse of the order they were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, n_workers: int = 3) -> None:
        self.most_open, self.shelf = 0, Shelf("", b"")
        self._n_workers, self.crowd = n_workers, list[Worker]()
        monkeypatch.setattr("paring.search.cluster.joined", self._joined)
        monkeypatch.setattr("paring.search.cluster.run_trials", self._run)

    @contextmanager
    def _joined(self, cluster: Cluster, folder: Path) -> Iterator[Joined]:
        with tempfile.TemporaryDirectory() as scratch:
            yield Joined(self._n_workers, Path(scratch))

    def _run(self, cluster: Cluster, joined: Joined, *, shipment: bytes, folder: Path, feed: Feed) -> None:
        self.shelf = Shelf(str(folder), shipment)
        feed.crowd = lambda: self.crowd

        def call(method: str, *arguments: Any) -> Any:
            return getattr(self.shelf, method)(*arguments)

        workers = [opened(call, joined.scratch / str(number)) for number in range(self._n_workers)]
        while True:
            jobs = []
            while (job := feed.next()) is not None:
                jobs.append(job)
            self.most_open = max(self.most_open, len(jobs))
            if not jobs:
                assert feed.is_over
                return
            for worker, (number, brief) in reversed(list(zip(workers, jobs, strict=False))):
                feed.answered(number, self.answer(worker, number, brief))

    def answer(self, worker: WorkerBench, number: int, brief: str) -> Answer:
        return answer_to(worker, brief)


def test_workers_that_answer_in_any_order_give_the_same_search(
    alone: Record, settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = InOneProcess(monkeypatch)
    record = search(settings(tmp_path / "run", cluster=TWO))
    assert cluster.most_open == 3
    assert judged(record) == judged(alone)
    assert [trial.number for trial in sorted(record.trials(), key=lambda one: one.number)] == [
        trial.number for trial in alone.trials()
    ]
    assert {plan.fingerprint for plan in plans_of(record.best())} == {
        plan.fingerprint for plan in plans_of(alone.best())
    }
    assert [final.quality for final in record.finals()] == [final.quality for final in alone.finals()]


@pytest.mark.parametrize("budget", [Limits(), Limits(max_drop=0.05)])
def test_one_worker_races_as_a_process_alone_does(
    settings: Callable[..., Settings],
    wild: tuple[Path, Task],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    budget: Limits,
) -> None:
    palette = Palette((Precision(8, 8), Precision(4)), (Precision(8),))
    asked = {"model": str(wild[0]), "task": wild[1], "palette": palette, "trials": 16, "budget": budget}
    alone = search(settings(tmp_path / "alone", **asked))
    InOneProcess(monkeypatch, n_workers=1)
    record = search(settings(tmp_path / "run", **asked, cluster=TWO))
    left = [trial for trial in record.trials() if trial.dropped is not None]
    assert len(left) >= 3
    assert [(one.plan, one.dropped, one.cause) for one in left] == [
        (one.plan, one.dropped, one.cause) for one in alone.trials() if one.dropped is not None
    ]
    assert judged(record) == judged(alone)


def test_workers_that_answer_in_any_order_drop_only_what_is_beaten(
    settings: Callable[..., Settings], wild: tuple[Path, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    palette = Palette((Precision(8, 8), Precision(4)), (Precision(8),))
    asked = {"model": str(wild[0]), "task": wild[1], "palette": palette, "trials": 16}
    whole = {trial.plan: trial for trial in search(settings(tmp_path / "whole", **asked, races=False)).trials()}
    InOneProcess(monkeypatch)
    record = search(settings(tmp_path / "run", **asked, cluster=TWO))
    trials = {trial.number: trial for trial in record.trials()}
    left = [trial for trial in trials.values() if trial.dropped is not None]
    assert left
    for trial in left:
        assert trial.state == State.DROPPED
        assert trial.dropped is not None
        rival, known = trials[trial.dropped.rival or 0].measures, whole[trial.plan].measures
        assert rival is not None
        assert known is not None
        assert rival.size_bytes <= known.size_bytes
        assert rival.quality > known.quality
    assert {one.plan for one in record.best()} == {one.plan for one in Record.open(tmp_path / "whole").best()}


def test_workers_score_the_steps_of_a_greedy_order(
    settings: Callable[..., Settings], wild: tuple[Path, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By a metric that is not the run's, which workers must be told of.
    greedy = Greedy(metric="matthews", decimals=None)
    asked = {"model": str(wild[0]), "task": wild[1], "axes": ("depth",), "trials": 4, "greedy": greedy}
    alone = search(settings(tmp_path / "alone", **asked))
    cluster, scored, built = InOneProcess(monkeypatch), list[Plan](), list[Plan]()
    real, build = cluster.answer, LocalWorkbench.build

    def answer(worker: WorkerBench, number: int, brief: str) -> Answer:
        scored.extend([Brief.loads(brief).plan] * (number < 0))
        assert Brief.loads(brief).is_step == (number < 0)
        return real(worker, number, brief)

    def watched(bench: LocalWorkbench, plan: Plan) -> Any:
        built.extend([plan] * (type(bench) is LocalWorkbench))
        return build(bench, plan)

    monkeypatch.setattr(cluster, "answer", answer)
    monkeypatch.setattr(LocalWorkbench, "build", watched)
    monkeypatch.setattr("paring.search.driver.measure_whole", lambda *_, **__: [])
    record = search(settings(tmp_path / "run", **asked, cluster=TWO))
    assert judged(record) == judged(alone)
    # One of 4 layers, of 3, of 2: none is scored twice, and none by the process that proposes.
    assert len(scored) == len(set(scored)) == 4 + 3 + 2
    assert sorted(len(plan.stack("encoder").dropped) for plan in scored) == [1] * 4 + [2] * 3 + [3] * 2
    assert not set(built) & set(scored)
    assert cluster.most_open == 3


def test_a_step_that_no_worker_can_score_is_scored_by_the_driver(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"axes": ("depth",), "trials": 3}
    alone = search(settings(tmp_path / "alone", **asked))
    cluster = InOneProcess(monkeypatch)
    real = cluster.answer

    def fails(worker: WorkerBench, number: int, brief: str) -> Answer:
        return Answer(None, State.FAILED, "it died") if number < 0 else real(worker, number, brief)

    monkeypatch.setattr(cluster, "answer", fails)
    assert judged(search(settings(tmp_path / "run", **asked, cluster=TWO))) == judged(alone)


def test_an_interrupt_in_a_greedy_order_loses_nothing(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"axes": ("depth",), "trials": 3}
    alone = search(settings(tmp_path / "alone", **asked))
    cluster, real, scored = InOneProcess(monkeypatch), answer_to, list[Plan]()

    def interrupted(worker: WorkerBench, number: int, brief: str) -> Answer:
        scored.extend([Brief.loads(brief).plan] * (number < 0))
        if len(scored) == 2:
            raise KeyboardInterrupt
        return real(worker, brief)

    monkeypatch.setattr(cluster, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(settings(tmp_path / "run", **asked, cluster=TWO))
    record = search(settings(tmp_path / "run", **asked, cluster=TWO))
    assert record.judged().keys() == alone.judged().keys()
    assert [len(set(scored)), len(scored)] == [5, 6]  # what was asked when it ended is asked again


def test_a_small_space_is_searched_to_its_end(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InOneProcess(monkeypatch)
    record = search(settings(tmp_path / "run", cluster=TWO, axes=("depth",), trials=60))
    assert sorted(len(plan.stack("encoder").dropped) for plan in plans_of(record.trials())) == [0, 1, 2]


def test_failures_are_told_apart_and_end_nothing(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, real = InOneProcess(monkeypatch, n_workers=1), assess
    failures = {1: RuntimeError("boom"), 2: MemoryError("9 GiB"), 3: TimedOutError("it took too long")}
    asked: list[Plan] = []

    def fails(bench: LocalWorkbench, brief: Brief, budget: Limits) -> Assessment:
        asked.append(brief.plan)
        if len(asked) - 1 in failures:
            raise failures[len(asked) - 1]
        return real(bench, brief, budget)

    monkeypatch.setattr("paring.search.worker.assess", fails)
    record = search(settings(tmp_path / "run", cluster=TWO, trials=5))
    assert cluster.most_open == 1
    states = [State.JUDGED, State.FAILED, State.OUT_OF_MEMORY, State.TIMED_OUT, State.JUDGED]
    assert [trial.state for trial in record.trials()] == states
    assert [trial.cause for trial in record.trials()][1:4:2] == ["RuntimeError: boom", "it took too long"]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (StorageError("the disk is full"), "a worker cannot go on: the disk is full"),
        (RuntimeError("boom"), "the search cannot go on: RuntimeError: boom"),
    ],
)
def test_what_is_no_fault_of_a_plan_ends_the_search(
    settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    message: str,
) -> None:
    InOneProcess(monkeypatch, n_workers=1)

    def fails(bench: LocalWorkbench, brief: Brief, budget: Limits) -> Assessment:
        raise failure

    monkeypatch.setattr("paring.search.worker.assess", fails)
    with pytest.raises(SearchError, match=message):
        search(settings(tmp_path / "run", cluster=TWO))


def test_an_interrupt_queues_what_was_being_judged(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = InOneProcess(monkeypatch)

    def interrupted(worker: WorkerBench, number: int, plan: str) -> Answer:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(settings(tmp_path / "run", cluster=TWO))
    record = Record.open(tmp_path / "run")
    asked = plans_of(record.trials())
    assert [trial.state for trial in record.trials()] == [State.INTERRUPTED] * 3
    again = search(settings(tmp_path / "run", cluster=TWO))
    assert set(asked) <= {trial.plan for trial in again.judged().values()}


def test_this_machine_stands_still_while_a_latency_is_measured(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bystander: Bystander
) -> None:
    cluster, real, seen = InOneProcess(monkeypatch), judge.measure, []
    cluster.crowd.append(bystander.worker)

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(bystander.is_stopped)
        return real(*arguments, **options)

    monkeypatch.setattr(judge, "measure", watched)
    monkeypatch.setattr("paring.search.driver.measure_whole", lambda *_, **__: [])
    asked = settings(tmp_path / "run", cluster=TWO, objectives=("quality", "latency"), trials=3, latency="measured")
    record = search(asked)
    assert seen == [False, True, True, True]  # the first before there are workers
    assert not bystander.is_stopped
    assert all(trial.profile and trial.profile.latency for trial in record.trials())


def test_what_ended_or_was_replaced_is_left_alone(bystander: Bystander) -> None:
    ended = Bystander()
    ended.end()
    later = replace(bystander.worker, started=bystander.worker.started - 5)
    with standstill([ended.worker, later]):
        assert not bystander.is_stopped

    def fails() -> None:
        with standstill([bystander.worker]):
            assert bystander.is_stopped
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fails()
    assert not bystander.is_stopped


def test_all_workers_are_here_when_each_has_begun_to_judge() -> None:
    shelf, workers = Shelf("", b""), [Worker("here", pid, 0.0) for pid in range(3)]
    assert shelf.are_all_here()
    shelf.expect(2)
    for worker in workers[:2]:
        shelf.register(worker, None)
    shelf.register(workers[0], "first")
    assert not shelf.are_all_here()  # the second is still starting
    shelf.register(workers[0], "third")
    assert not shelf.are_all_here()
    shelf.register(workers[1], "second")
    assert shelf.are_all_here()
    shelf.lost("third")
    assert shelf.workers() == [workers[1]]
    assert not shelf.are_all_here()
    shelf.register(workers[2], "third")
    assert shelf.are_all_here()


def test_the_first_to_put_something_on_the_shelf_decides(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path / "run"), b"")
    one, other = (
        ShelfCache(tmp_path / name, lambda method, *rest: getattr(shelf, method)(*rest)) for name in ("one", "other")
    )
    assert one.get("fact") is None
    assert one.get_tensors("tensors") is None
    one.put("fact", 1)
    other.put("fact", 2)
    assert (one.get("fact"), other.get("fact")) == (1, 1)
    other.put_tensors("tensors", {"place": {"name": torch.ones(3)}})
    one.put_tensors("tensors", {"place": {"name": torch.zeros(3)}})
    for cache in (one, other, Cache(tmp_path / "run" / "cache")):
        found = cache.get_tensors("tensors")
        assert found is not None and found["place"]["name"].tolist() == [1, 1, 1]
    assert Cache(tmp_path / "run" / "cache").get("fact") == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"address": "somewhere"}, "a cluster is 'local', 'auto' or the address of its head as host:port, got 'somew"),
        ({"address": "ray://head:10001"}, "host:port, got 'ray://head:10001'"),
        ({"workers": 0}, "at least 1 worker, got 0"),
        ({"cpus_per_trial": 0.0}, "above 0, got 0"),
        ({"gpus_per_trial": -1.0}, "at least 0, got -1"),
        ({"workers": 10_000}, r"this machine has \d+ cores, on which \d+ workers of 1 cores fit, asked for 10000"),
        ({"cpus_per_trial": 10_000.0}, r"on which 0 workers of 10000 cores fit, asked for 1; ask for fewer"),
    ],
)
def test_clusters_that_cannot_be(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Cluster(**asked)


def test_gpus_are_shared_out() -> None:
    shared = Cluster("head:6379", workers=None, cpus_per_trial=2.5, gpus_per_trial=0.25)
    assert shared.endpoint == ("head", 6379)
    assert shared.threads == 2
    assert shared.fitting(64.0, 2.0, "it") == 8
    assert shared.fitting(10.0, 2.0, "it") == 4
    with pytest.raises(
        SettingError, match=r"it has 10 cores and 1 GPUs, on which 4 workers of 2\.5 cores and 0\.25 GPU"
    ):
        replace(shared, workers=5).fitting(10.0, 1.0, "it")


def test_workers_on_gpus_need_gpus(settings: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="judge on cuda need a GPU, or a part of one, each; give --gpus-per-trial 1"):
        settings(tmp_path, cluster=TWO, device="cuda")


def test_a_cluster_that_does_not_answer_is_refused_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(SettingError, match=rf"nothing answers at {nobody}: .*`ray start --head`"):  # noqa: SIM117
        with ray_session.joined(Cluster(nobody), tmp_path):
            pytest.fail("joined")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("address", "mode", "hints"), [("head:6379", None, True), ("head:6379", "token", False), ("auto", None, False)]
)
def test_where_ray_shows_no_token_the_message_says_how(
    address: str, mode: str | None, hints: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**how: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379\nmore")

    monkeypatch.setattr(ray_session, "ray", lambda: SimpleNamespace(init=init))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(SettingError, match=f"cannot join the cluster '{address}': Failed to connect") as refused:
        ray_session._start(Cluster(address), tmp_path)
    hint = "at 10.0.0.1:6379; if it asks for a token, set RAY_AUTH_MODE=token and have the token in ~/.ray/auth_token."
    assert str(refused.value).endswith(hint if hints else "at 10.0.0.1:6379.")


def test_without_ray_the_message_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"pip install 'paring\[ray\]'"):  # noqa: SIM117
        with ray_session.joined(TWO, tmp_path):
            pytest.fail("joined")


@pytest.mark.parametrize("lacks", ["an answer", "Ray"])
def test_a_search_refuses_its_cluster_before_it_learns_or_measures_anything(
    lacks: str, settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks == "Ray":
        monkeypatch.setattr(ray_session, "find_spec", lambda _: None)
    cluster = TWO if lacks == "Ray" else Cluster("127.0.0.1:1")
    with pytest.raises(SettingError, match="needs Ray" if lacks == "Ray" else r"nothing answers at 127\.0\.0\.1:1"):
        search(settings(tmp_path / "run", cluster=cluster, objectives=("quality", "latency"), sampler="guided"))
    record = Record.open(tmp_path / "run")
    assert (record.trials(), record.reference_seconds, record.begun) == ([], None, 0)
    assert not any((tmp_path / "run" / "cache").glob("*"))


def test_a_search_with_all_its_trials_needs_no_cluster(
    alone: Record, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    out = shutil.copytree(alone.folder, tmp_path / "run")
    assert judged(search(settings(out, cluster=Cluster("127.0.0.1:1")))) == judged(alone)


def test_options_of_a_cluster_without_one(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, said = command("search", "model", "--data", "data", "--out", tmp_path / "run", "--workers", 2)
    assert (code, out) == (2, "")
    assert "--workers say how a cluster is used; add --cluster local" in said

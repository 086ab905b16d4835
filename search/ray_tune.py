"""Ray Tune, and nothing of it outside this file: it is loaded only when a cluster is asked for.

Tune runs the trials, and runs one again whose worker died; what to run next, and every record of it, is the feed's. A
worker lives as long as the search: it opens its workbench once. Nothing of Ray's state is kept, since the study is: the
same command goes on from there.
"""

import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from .ray_session import Joined, node, ray
from .shelf import Shelf
from .standstill import Worker
from .trial import State
from .worker import Answer, answer_to, opened
from .workers import Cluster

# How often a plan is tried again whose worker died, by a signal or for want of memory.
_RETRIES = 2
_SHELF = "paring-shelf"
# Tune gives a plan whose worker is still starting to one that has just become free, and ends the start: where judging
# takes less than starting, all but the first worker would never come up. So none answers first before all are here.
_TOGETHER_SECONDS = 120.0


class Feed(Protocol):
    """What is run, and who is told.

    Attributes:
        crowd: is set to what gives the workers on this machine.
    """

    crowd: Callable[[], list[Worker]]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be run."""

    def next(self) -> tuple[int, str] | None:
        """Number and brief, as JSON, of what to run next; None for nothing now."""

    def answered(self, number: int, answer: Answer) -> None:
        """Takes a worker's answer."""

    def lost(self, number: int, state: State, cause: str) -> None:
        """Is told that workers died of it, however often it was tried."""


def run_trials(cluster: Cluster, joined: Joined, *, shipment: bytes, folder: Path, feed: Feed) -> None:
    """Runs trials until the feed is over.

    Args:
        cluster: what each of them takes.
        joined: where they run.
        shipment: what every worker begins with, see `Shipment.packed`.
        folder: the run folder, on this machine.
        feed: what to run.

    Raises:
        Exception: whatever the feed raises; nothing more is run then.
    """
    tune = import_module("ray.tune")
    here = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy(node(), soft=False)
    serving = ray().remote(Shelf).options(num_cpus=0, name=_SHELF, scheduling_strategy=here)
    shelf = serving.remote(str(folder.resolve()), shipment)
    feed.crowd = lambda: _on_this_machine(ray().get(shelf.workers.remote()))
    asking = _asking(feed, lambda handed: shelf.expect.remote(min(handed, joined.n_workers)))
    tuner = tune.Tuner(
        tune.with_resources(_judging(), {"cpu": cluster.cpus_per_trial, "gpu": cluster.gpus_per_trial}),
        tune_config=tune.TuneConfig(
            search_alg=asking,
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(joined.scratch / "tune"),
            failure_config=tune.FailureConfig(max_failures=_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[_losses(asking, shelf.lost.remote)],
            stop=_stopping(asking),
            verbose=0,
        ),
    )
    tuner.fit()
    if asking.failure is not None:
        raise asking.failure


def _on_this_machine(workers: list[Worker]) -> list[Worker]:
    return [one for one in workers if one.node == node()]


def _asking(feed: Feed, handed_out: Callable[[int], object]) -> Any:
    """What Tune asks for trials; says how many it has handed out."""

    class Asking(import_module("ray.tune.search").Searcher):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.feed: Feed | None = feed
            self.numbers: dict[str, int] = {}
            self.handed = 0
            self.failure: Exception | None = None

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            found = feed.next()
            if found is None:
                return str(self.FINISHED) if feed.is_over else None
            self.numbers[trial_id], brief = found
            self.handed += 1
            handed_out(self.handed)
            return {"brief": brief}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            if result is not None and not error:
                self.tell(lambda: feed.answered(self.numbers.pop(trial_id), result["answer"]))

        def tell(self, how: Callable[[], None]) -> None:
            """Tune would take an error for one of the trial."""
            try:
                how()
            except Exception as error:
                self.failure = error

        def lose(self, trial_id: str, report: str) -> None:
            state, cause = _cause(report)
            self.tell(lambda: feed.lost(self.numbers.pop(trial_id), state, cause))

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the study is the state."""
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            """Nothing."""

        def __reduce__(self) -> tuple[Any, ...]:
            return dict, ()

    return Asking()


def _cause(report: str) -> tuple[State, str]:
    """Why a worker died, from what Ray says of it."""
    tries = f"each of {_RETRIES + 1} workers that tried"
    if "OutOfMemoryError" in report or "running low on memory" in report:
        return State.OUT_OF_MEMORY, f"{tries} was ended because its machine ran out of memory"
    last = next((line.strip() for line in reversed(report.splitlines()) if line.strip()), "no word of why")
    return State.FAILED, f"{tries} died: {last}"


def _losses(asking: Any, lost: Callable[[str], object]) -> Any:
    """What Tune tells of trials whose workers died; `lost` is told which."""

    class Losses(import_module("ray.tune").Callback):  # type: ignore[misc]
        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            lost(trial.trial_id)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            lost(trial.trial_id)
            said = Path(trial.error_file or "")
            asking.lose(trial.trial_id, said.read_text(encoding="utf8") if said.is_file() else "")

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            """Tune would hold every answer, with an outcome per example, until the search ends."""
            trial.last_result.pop("answer", None)

        def __reduce__(self) -> tuple[Any, ...]:
            return dict, ()

    return Losses()


def _stopping(asking: Any) -> Any:
    class Stopping(import_module("ray.tune").Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return asking.failure is not None

        def __reduce__(self) -> tuple[Any, ...]:
            return dict, ()

    return Stopping()


def _judging() -> Any:
    """The class of a worker, which Ray sends to where it runs."""

    class Judging(import_module("ray.tune").Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            shelf = ray().get_actor(_SHELF)

            def call(method: str, *arguments: Any) -> Any:
                return ray().get(getattr(shelf, method).remote(*arguments))

            self._brief, self._call, self._worker = config["brief"], call, Worker.here(node())
            call("register", self._worker, None)
            self._bench = opened(call, Path(self.logdir).parent / f"worker-{os.getpid()}")

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._brief = new_config["brief"]
            return True

        def step(self) -> dict[str, Any]:
            self._call("register", self._worker, self.trial_id)
            answer, deadline = answer_to(self._bench, self._brief), time.monotonic() + _TOGETHER_SECONDS
            while not self._call("are_all_here") and time.monotonic() < deadline:
                time.sleep(0.2)
            return {"answer": answer, "done": True}

    return Judging

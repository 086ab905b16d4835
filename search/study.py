"""The durable record of a search: an Optuna study in the run folder, valid after every trial."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import optuna
from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import URL

from ..errors import RunError
from ..profilers.timing import Latency
from ..spaces.plan import Plan
from .damage import damage_named, database_errors
from .kept_trial import attributes_of, trial_of, was_stopped
from .objectives import Limits
from .trial import Final, State, Trial

STUDY_NAME = "paring"
DATABASE = "study.db"
_SETTINGS = "settings"
_REFERENCE = "reference_seconds"
_NOISE = "noise"
_FINAL = "final:"
_PREDICTION = "prediction"
_NAIVE = "naive"


class Record:
    """The study of one run folder.

    Attributes:
        folder: the run folder.
        settings: what the search was asked, as plain data; see `search/driver.py`.
    """

    def __init__(self, folder: Path, study: optuna.Study) -> None:
        """Use `create` or `open`."""
        self.folder = folder
        self._study = study
        self.settings: dict[str, Any] = study.user_attrs[_SETTINGS]

    @classmethod
    def create(
        cls, folder: Path, settings: Mapping[str, Any], n_objectives: int, sampler: optuna.samplers.BaseSampler
    ) -> Self:
        """Opens the study of a run folder to go on with it, or begins it.

        Args:
            folder: made if missing.
            settings: what the search is asked; the entries under "identity" must be as before.
            n_objectives: how many values a trial has.
            sampler: who proposes choices from now on.

        Raises:
            RunError: if the folder holds another search, or something that is no run.
            StorageError: if it cannot be written.
        """
        if folder.is_dir() and any(folder.iterdir()) and not (folder / DATABASE).is_file() and not _is_begun(folder):
            raise RunError(f"{folder} holds files but no run of paring; give --out an empty or a new folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run folder {folder}: {error.strerror or error}.") from error
        with database_errors(folder):
            study = optuna.create_study(
                storage=_storage(folder),
                sampler=sampler,
                study_name=STUDY_NAME,
                directions=["minimize"] * n_objectives,
                load_if_exists=True,
            )
            known = study.user_attrs.get(_SETTINGS)
            if known is None:
                study.set_user_attr(_SETTINGS, dict(settings))
            else:
                _refuse_another(folder, known["identity"], json.loads(json.dumps(settings["identity"])))
        return cls(folder, study)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The study of a finished or interrupted run, to read it.

        Raises:
            RunError: if there is none, or it is damaged.
        """
        if not (folder / DATABASE).is_file():
            raise RunError(
                f"{folder} is no run folder: it has no {DATABASE}. Make one with: paring search ... --out DIR."
            )
        with damage_named(f"the run in {folder}"):
            study = optuna.load_study(study_name=STUDY_NAME, storage=_storage(folder))
            if _SETTINGS not in study.user_attrs:
                raise RunError(
                    f"the run in {folder} was stopped before it began; start the same `paring search` again."
                )
            return cls(folder, study)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second search out of the folder.

        Raises:
            RunError: if one is in it already.
        """
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            with lock:
                yield
        except Timeout as error:
            raise RunError(
                f"another search is running in {self.folder}; wait for it, or give another --out."
            ) from error

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, for samplers and dashboards."""
        return self._study

    @property
    def reference_seconds(self) -> float | None:
        """Median latency of the baseline when it was first measured; ratios times this are latencies."""
        found = self._study.user_attrs.get(_REFERENCE)
        return None if found is None else float(found)

    @property
    def noise(self) -> Latency | None:
        """The baseline measured against itself: a ratio inside this interval is no difference."""
        found = self._study.user_attrs.get(_NOISE)
        return None if found is None else Latency.from_json(found)

    def set_reference(self, seconds: float, *, noise: Latency) -> None:
        """Keeps the baseline's latency, and how it compares with itself."""
        self._study.set_user_attr(_NOISE, noise.to_json())
        self._study.set_user_attr(_REFERENCE, seconds)

    @property
    def prediction(self) -> dict[str, Any] | None:
        """How candidates were predicted, see `Predictor.facts`, or under "refused" why not; None if nobody asked."""
        found: dict[str, Any] | None = self._study.user_attrs.get(_PREDICTION)
        return found

    def set_prediction(self, facts: Mapping[str, Any]) -> None:
        """Keeps how candidates were predicted, or why they were not."""
        self._study.set_user_attr(_PREDICTION, dict(facts))

    @property
    def begun(self) -> int:
        """How many proposals were ever made."""
        return len(self._study.get_trials(deepcopy=False))

    def trials(self) -> list[Trial]:
        """All trials but repeats of a plan already judged, in the order they were proposed.

        Raises:
            RunError: if one is damaged.
        """
        with damage_named(f"the run in {self.folder}"):
            found = self._study.get_trials(deepcopy=False)
            kept = [one for one in found if one.state.is_finished() and "repeats" not in one.user_attrs]
            return [trial_of(frozen) for frozen in kept]

    def judged(self) -> dict[str, Trial]:
        """Plan fingerprint -> its trial, for all that have numbers."""
        return {trial.plan.fingerprint: trial for trial in self.trials() if trial.plan is not None and trial.measures}

    def best(self) -> list[Trial]:
        """Trials within the limits that no other one beats in all objectives, each plan once."""
        numbers = {frozen.number for frozen in self._study.best_trials}
        return [trial for trial in self.trials() if trial.number in numbers and trial.state == State.JUDGED]

    def finals(self) -> list[Final]:
        """The front as it was last measured whole; empty before that. The baseline is in it, and naive plans.

        Raises:
            RunError: if it is damaged.
        """
        with damage_named(f"the run in {self.folder}"):
            attributes = self._study.user_attrs
            return [Final.from_json(value) for name, value in attributes.items() if name.startswith(_FINAL) and value]

    def set_finals(self, finals: list[Final]) -> None:
        """Keeps a front measured whole, instead of an earlier one."""
        fresh = {f"{_FINAL}{final.plan.fingerprint}": final.to_json() for final in finals}
        for name in [name for name in self._study.user_attrs if name.startswith(_FINAL) and name not in fresh]:
            self._study.set_user_attr(name, None)
        for name, value in fresh.items():
            self._study.set_user_attr(name, value)

    @property
    def naive(self) -> dict[str, str]:
        """Name of a naive plan -> fingerprint of its final; empty in runs from before there were any."""
        found: dict[str, str] = self._study.user_attrs.get(_NAIVE) or {}
        return dict(found)

    def set_naive(self, fingerprints: Mapping[str, str]) -> None:
        """Keeps which of the finals are naive plans, measured to compare the front with."""
        self._study.set_user_attr(_NAIVE, dict(fingerprints))

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begins to search, or to search on; call it while the folder is locked.

        Trials that a kill left open are closed, and each choice is queued once more: it may have been what killed.

        Args:
            settings: what is asked now; "sources" and "effort" may differ from what was asked before.
        """
        self._study.set_user_attr(_SETTINGS, dict(settings))
        self.settings = dict(settings)
        trials = self._study.get_trials(deepcopy=False)
        stopped = [frozen.params for frozen in trials if frozen.state == TrialState.FAIL and was_stopped(frozen)]
        for frozen in trials:
            if frozen.state == TrialState.RUNNING:
                self._study.tell(frozen.number, state=TrialState.FAIL)
                if frozen.params and frozen.params not in stopped:
                    self._study.enqueue_trial(frozen.params)

    def tell_judged(
        self,
        trial: optuna.Trial,
        judged: Trial,
        limits: Limits,
        objectives: tuple[str, ...],
        *,
        repeats: int | None = None,
    ) -> None:
        """Records a judgement.

        Args:
            trial: as Optuna proposed it.
            judged: the judgement, with all numbers, or with where it was dropped.
            limits: that it may break.
            objectives: whose values Optuna is told.
            repeats: number of the earlier trial that this one is a repeat of.
        """
        told = judged.told
        assert told is not None
        for name, violation in limits.violations(told).items():
            trial.set_constraint(name, violation)
        if repeats is not None:
            trial.set_user_attr("repeats", repeats)
        else:
            for name, value in attributes_of(judged).items():
                trial.set_user_attr(name, value)
        self._study.tell(trial, [told.minimised(objective) for objective in objectives])

    def tell_failed(
        self, trial: optuna.Trial, state: State, cause: str, plan: Plan | None, *, repeats: int | None = None
    ) -> None:
        """Records that a trial has no numbers, and why; `repeats` is the earlier trial it is a repeat of."""
        if repeats is not None:
            trial.set_user_attr("repeats", repeats)
        trial.set_user_attr("state", state.value)
        trial.set_user_attr("cause", cause)
        trial.set_user_attr("plan", None if plan is None else plan.to_json())
        self._study.tell(trial, state=TrialState.FAIL)


def _storage(folder: Path) -> RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Not as text: a folder may be called "50%?".
    url = URL.create("sqlite", database=str((folder / DATABASE).resolve()))
    return RDBStorage(url.render_as_string(), engine_kwargs={"connect_args": {"timeout": 30}})


def _is_begun(folder: Path) -> bool:
    """Whether a run was killed before it had a database."""
    return {path.name for path in folder.iterdir()} <= {".lock", "cache"}


def _refuse_another(folder: Path, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """A run folder goes on only with the search it was made by; how long to search, and from where, may change."""
    old, new = _flatten(known), _flatten(asked)
    changed = [
        f"{name} was {old.get(name)}, now {new.get(name)}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise RunError(
            f"{folder} was made by another search ({'; '.join(changed)}). Give another --out, or repeat those settings."
        )


def _flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat

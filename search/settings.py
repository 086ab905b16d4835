"""What a search is asked, and what of it must stay the same when a run goes on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from optuna.samplers import BaseSampler

from ..errors import SettingError
from ..profilers.machine import Machine
from ..profilers.memory import MemoryMeter
from ..profilers.supervision import Allowance
from ..profilers.workload import Workload
from ..spaces import artefact, axes
from ..spaces.factoring import Factoring
from ..spaces.palette import Palette
from .data import Tables
from .halved import JUDGED_IN
from .modular import Modular
from .objectives import Limits, check_objectives
from .prepared import Prepared
from .samplers import check, name_of
from .tasks import Task, load
from .training import Training
from .workbench import SCORERS, Greedy
from .workers import Cluster

# How the latency and memory of candidates may be found.
LATENCIES = ("predicted", "measured")
# From so many trials on, candidates are predicted. To learn the table takes as long as measuring some 25 to 40
# candidates (60 to 90 s, where a candidate's latency and memory take 2 to 4 s), and up to eight more models are then
# measured whole because a prediction may err (about 60 s): below some 60 trials measuring each is quicker, and exact.
_TRIALS_TO_PREDICT = 100
_MINUTES_TO_PREDICT = 15.0
# Tokens of a request whose length the user did not say.
_GENERATED = 32
# Loading and serving takes seconds; what has not come back after so long hangs.
ISOLATION = Allowance(seconds=300.0)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a search is asked.

    Attributes:
        model: a local Hugging Face folder, or the name of a model on the hub.
        task: what the model is judged on.
        out: the run folder.
        device: where it shall run, "cpu" or "cuda:0".
        runtime: what runs it.
        axes: what may change.
        objectives: what is optimised.
        budget: limits every answer must keep.
        workload: what is served; where the task generates text and the workload does not say how much, 32 tokens per
            request with the beams of the task.
        trials: stop after so many plans in the whole run; None for no such limit.
        minutes: stop proposing after so many minutes of this call; None for no such limit.
        seed: of everything random.
        sampler: who proposes: a name, see `samplers.NAMES`, or any sampler object of Optuna.
        greedy: how the removal order is found.
        modular: how modular layers are trained, where the axis "assembly" is searched and none are prepared.
        palette: which precisions may be chosen, where the axis "bits" is searched.
        factoring: which ways to factorise weights may be chosen, where the axis "factors" is searched.
        prepared: the folder of modular layers that `paring prepare` made; None to train them in the run folder.
        isolation: what the process may take in which the memory of a candidate is measured; one that takes more is
            ended, and the trial is out of memory or timed out.
        latency: how latency and memory of candidates are found: "measured", one by one, or "predicted" from a table
            that is learned first; None predicts where the search is long enough to pay. The front is always measured.
        cluster: the workers that judge; None judges in this process and starts nothing.
        relearn_costs: learns a table anew where an earlier search of the same model on this machine learned one.
        reuses_prefixes: whether layers that a candidate shares with one before are not computed again while it is
            judged; answers are the same, bit for bit.
        races: whether candidates that are surely dominated go before all examples are asked.
        judge_in: in what the float parts of candidates are judged, "float32" or "bf16", where the device is quicker
            with that; the front is always judged as it is deployed.
    """

    model: str
    task: Task
    out: Path
    device: str = "cpu"
    runtime: str = "torch"
    axes: tuple[str, ...] = ("depth", "bits")
    objectives: tuple[str, ...] = ("quality", "latency", "memory")
    budget: Limits = field(default_factory=Limits)
    workload: Workload = field(default_factory=Workload)
    trials: int | None = 60
    minutes: float | None = None
    seed: int = 0
    sampler: str | BaseSampler = "guided"
    greedy: Greedy = field(default_factory=Greedy)
    modular: Modular = field(default_factory=Modular)
    palette: Palette = field(default_factory=Palette)
    factoring: Factoring = field(default_factory=Factoring)
    prepared: Path | None = None
    isolation: Allowance = ISOLATION
    latency: str | None = None
    cluster: Cluster | None = None
    relearn_costs: bool = False
    reuses_prefixes: bool = True
    races: bool = True
    judge_in: str = JUDGED_IN[0]

    def __post_init__(self) -> None:
        # In their standing order, whatever order they were given in.
        object.__setattr__(self, "axes", axes.ordered(self.axes))
        object.__setattr__(self, "objectives", check_objectives(self.objectives))
        object.__setattr__(self, "workload", _served(self.workload, self.task))
        if self.trials is None and self.minutes is None:
            raise SettingError("a search needs an end: give trials, minutes or both.")
        for name, value in (("trials", self.trials), ("minutes", self.minutes)):
            if value is not None and not value > 0:
                raise SettingError(f"{name} must be above 0, got {value}.")
        if self.seed < 0:
            raise SettingError(f"the seed must be at least 0, got {self.seed}.")
        if self.latency is not None and self.latency not in LATENCIES:
            raise SettingError.unknown("way to find latencies", self.latency, LATENCIES)
        if self.judge_in not in JUDGED_IN:
            raise SettingError.unknown("way to judge in", self.judge_in, JUDGED_IN)
        if self.greedy.scorer not in SCORERS:
            raise SettingError.unknown("scorer", self.greedy.scorer, SCORERS)
        check(self.sampler)
        if self.cluster is not None and self.device.startswith("cuda") and not self.cluster.gpus_per_trial:
            raise SettingError(
                f"workers that judge on {self.device} need a GPU, or a part of one, each; give --gpus-per-trial 1."
            )
        if "assembly" in self.axes and self.greedy.scorer == "fine_tune":
            raise SettingError(
                "the axis 'assembly' and the depth scorer 'fine_tune' both train the layers; search one of them at a "
                "time, or take the training_free scorer."
            )
        if self.prepared is not None and "assembly" not in self.axes:
            raise SettingError(
                "prepared modular layers are for the axis 'assembly', which is not searched; add it to the axes "
                f"{', '.join(self.axes)}."
            )

        if self.isolation != ISOLATION and "memory" not in self.measured:
            raise SettingError(
                "limits of isolation are for the process in which memory is measured, which is neither an objective "
                f"nor in the budget; add it to the objectives {', '.join(self.objectives)}, or leave the limits out."
            )

    @property
    def measured(self) -> set[str]:
        """What must be measured of every candidate: objectives, and what the budget bounds."""
        return {*self.objectives, *self.budget.needed()}

    def meter(self) -> MemoryMeter:
        """What measures memory for this search; starts nothing yet."""
        return MemoryMeter(
            self.device,
            self.runtime,
            self.workload,
            timeout_seconds=self.isolation.seconds,
            memory_limit_bytes=self.isolation.memory_bytes,
        )

    @property
    def predicts(self) -> bool:
        """Whether candidates are predicted rather than measured, where that can be done."""
        if "latency" not in self.measured:
            return False
        if self.latency is not None:
            return self.latency == "predicted"
        if self.trials is not None:
            return self.trials >= _TRIALS_TO_PREDICT
        return self.minutes is not None and self.minutes >= _MINUTES_TO_PREDICT

    @classmethod
    def of_run(cls, described: Mapping[str, Any], out: Path) -> Self:
        """The settings of an earlier search, from what its run folder remembers.

        Args:
            described: what `describe` returned.
            out: the run folder.
        """
        identity = described["identity"]
        greedy = {**identity["greedy"], "training": Training(**identity["greedy"]["training"])}
        return cls(
            model=described["sources"]["model"],
            task=Task(data=described["sources"]["data"], **identity["task"]),
            out=out,
            device=identity["device"],
            runtime=identity["runtime"],
            axes=tuple(identity["axes"]),
            objectives=tuple(identity["objectives"]),
            budget=Limits(**identity["budget"]),
            workload=Workload.from_json(identity["workload"]),
            trials=described["effort"]["trials"],
            minutes=described["effort"]["minutes"],
            seed=identity["seed"],
            sampler=identity["sampler"],
            greedy=Greedy(**greedy),
            palette=Palette.from_json(identity["palette"]) if "palette" in identity else Palette(),
            factoring=Factoring.from_json(identity["factoring"]) if "factoring" in identity else Factoring(),
            isolation=Allowance(**described["effort"].get("isolation", asdict(ISOLATION))),
            latency=described["effort"].get("latency"),
            **described["effort"].get("quality", {}),
            judge_in=identity.get("judge_in", JUDGED_IN[0]),
            **_modular_of_run(described),
        )

    def describe(self, tables: Tables, metric: str, machine: Machine) -> dict[str, Any]:
        """What the run folder remembers of a search.

        Returns:
            "identity" must be the same whenever the run goes on; "sources" and "effort" may change; "facts" inform.
        """
        task = self.task.to_json()
        data = task.pop("data")
        identity: Mapping[str, Any] = {
            "model": artefact.weights_hash(self.model),
            "data": tables.content_hash,
            "train": tables.train_hash if self.greedy.scorer == "fine_tune" or "assembly" in self.axes else "",
            "task": {**task, "metric": metric},
            "device": machine.device,
            "runtime": self.runtime,
            "machine": machine.fingerprint,
            "axes": list(self.axes),
            "objectives": list(self.objectives),
            "budget": self.budget.to_json(),
            "workload": self.workload.to_json(),
            "seed": self.seed,
            "sampler": name_of(self.sampler),
            "greedy": asdict(self.greedy),
            **self._modular_identity(),
            **({"palette": self.palette.to_json()} if "bits" in self.axes else {}),
            **({"factoring": self.factoring.to_json()} if "factors" in self.axes else {}),
            **({} if self.judge_in == JUDGED_IN[0] else {"judge_in": self.judge_in}),
        }
        prepared = {} if self.prepared is None else {"prepared": _lasting(str(self.prepared))}
        isolation = {} if self.isolation == ISOLATION else {"isolation": asdict(self.isolation)}
        shortcuts = {"reuses_prefixes": self.reuses_prefixes, "races": self.races}
        quality = {} if all(shortcuts.values()) else {"quality": shortcuts}
        return {
            "identity": identity,
            "sources": {"model": _lasting(self.model), "data": _lasting(data), **prepared},
            "effort": {"trials": self.trials, "minutes": self.minutes, "latency": self.latency, **isolation, **quality},
            "facts": {"machine": machine.to_json(), "splits": dict(tables.origin), "paring": version("paring")},
        }

    def _modular_identity(self) -> dict[str, Any]:
        """What modular layers a run has; nothing where it has none, so that runs from before there were any go on."""
        if "assembly" not in self.axes:
            return {}
        if self.prepared is not None:
            return {"modular": {"prepared": Prepared.load(self.prepared).key}}
        return {"modular": asdict(self.modular)}


def _modular_of_run(described: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of what `describe` says of modular layers."""
    modular = described["identity"].get("modular")
    if modular is None:
        return {}
    if "prepared" in modular:
        return {"prepared": Path(described["sources"]["prepared"])}
    return {"modular": Modular.from_json(modular)}


def _served(workload: Workload, task: Task) -> Workload:
    """The workload that fits the task: what is judged is what is served."""
    if not load(task.name).generates:
        if workload.generated or workload.beams > 1:
            raise SettingError(
                f"{task.name} generates no text, so a workload has neither generated tokens nor beams, got {workload}; "
                "leave out --generated-tokens and --beams."
            )
        return workload
    if workload.generated == 0:
        beams = workload.beams if workload.beams > 1 else task.beams
        workload = replace(workload, generated=_GENERATED, beams=beams)
    if workload.beams != task.beams:
        raise SettingError(
            f"the task is judged with {task.beams} beams and the workload served with {workload.beams}; "
            "give both the same number."
        )
    return workload


def _lasting(source: str) -> str:
    """A local path so that it is found from any folder; the name of something on the hub as it is."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source

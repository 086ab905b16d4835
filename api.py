"""The Python face of paring: search, answer, load."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from optuna.samplers import BaseSampler
from transformers import PreTrainedModel

from .errors import ModelError
from .profilers import devices
from .profilers.runtimes.torch import TorchExecutable
from .profilers.runtimes.torch import plugin as torch_runtime
from .profilers.supervision import Allowance
from .profilers.workload import Workload
from .reports.allocated import Allocated, allocate_model
from .reports.assembled import Assembled, assemble_model
from .reports.export import Exported, export
from .reports.front import Front, front_of
from .reports.front_table import table_of
from .reports.page import write_report, write_side_by_side
from .reports.pick import Pick, pick_from
from .search.driver import search
from .search.modular import Modular
from .search.objectives import Limits
from .search.prepared import Prepared
from .search.preparing import prepare_model
from .search.progress import Progress
from .search.settings import ISOLATION, Settings
from .search.study import Record
from .search.tasks import Task
from .search.workbench import Greedy
from .search.workers import Cluster
from .spaces import artefact
from .spaces.factoring import Factoring
from .spaces.palette import Palette


class Study:
    """A search, finished or not, and its answers.

    Attributes:
        record: the durable record in the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        """Opens a run folder.

        Raises:
            RunError: if it holds no run, or a damaged one.
        """
        self.record = Record.open(Path(folder))

    @property
    def whole_front(self) -> Front:
        """The front with everything known of its members."""
        return front_of(self.record)

    def front(self) -> pd.DataFrame:
        """The Pareto front, one member per row, in milliseconds and megabytes.

        Raises:
            RunError: if no trial was judged yet.
        """
        return table_of(self.whole_front)

    def pick(self, limits: Limits | None = None, *, policy: str | None = None, **bounds: float) -> Pick:
        """One member of the front.

        Args:
            limits: what it must keep.
            policy: "fastest" within quality, "best" within the limits, or the "knee" of the front; None is the fastest
                where quality is bounded or nothing is, else the best. See `pick_from`.
            **bounds: the same by name: latency_ms, memory_mb, size_mb, quality (at least), drop (at most). With none
                of both, the fastest member that loses at most 0.01.

        Raises:
            SettingError: if there is no such policy.
            BudgetError: if no member keeps the limits; it names the tightest that can be kept, and what to relax.
        """
        if bounds:
            limits = (limits or Limits()).and_also(Limits.parse(f"{name}={value}" for name, value in bounds.items()))
        return pick_from(self.whole_front, limits, policy)

    def export(self, pick: Pick, folder: str | Path, progress: Progress | None = None) -> Exported:
        """Writes the picked model so that `paring.load` gives it back, and measures what was written.

        Raises:
            SettingError: if the folder is not empty.
        """
        return export(self.record, pick.point.plan, Path(folder), progress)

    def report(self) -> Path:
        """Writes report.html, front.csv and front.json into the run folder; returns the page's path."""
        return write_report(self.record)


def compare_runs(folders: Sequence[str | Path], page: str | Path) -> Path:
    """Writes several runs into one page: fronts side by side, which pick changes, and each run's own report.

    Args:
        folders: run folders, two at least.
        page: the file to write.

    Returns:
        The path of the page.

    Raises:
        RunError: if a folder holds no run, or a damaged one.
        SettingError: if a run is given twice, or the page cannot be there.
    """
    return write_side_by_side([Study(folder).record for folder in folders], Path(page))


def pare(
    model: str | Path,
    task: Task,
    *,
    out: str | Path,
    device: str = "cpu",
    runtime: str = "torch",
    axes: tuple[str, ...] = ("depth", "bits"),
    objectives: tuple[str, ...] = ("quality", "latency", "memory"),
    workload: Workload | None = None,
    budget: Limits | None = None,
    trials: int | None = 60,
    minutes: float | None = None,
    seed: int = 0,
    sampler: str | BaseSampler = "guided",
    greedy: Greedy | None = None,
    modular: Modular | None = None,
    prepared: str | Path | None = None,
    palette: Palette | None = None,
    factoring: Factoring | None = None,
    isolation: Allowance | None = None,
    latency: str | None = None,
    cluster: Cluster | None = None,
    relearn_costs: bool = False,
    reuses_prefixes: bool = True,
    races: bool = True,
    judge_in: str = "float32",
    progress: Progress | None = None,
) -> Study:
    """Searches what to deploy, or goes on with the search in `out`, and writes the report.

    Args:
        model: a local Hugging Face folder, or the name of a model on the hub.
        task: what the model is judged on.
        out: the run folder; made if missing.
        device: "cpu", "cuda" or "cuda:1".
        runtime: what runs the model.
        axes: what may change.
        objectives: what is optimised, of quality, latency, memory and size.
        workload: what is served; None for one request of 128 tokens on all cores. For seq2seq, one that does not say
            how many tokens are generated means 32.
        budget: limits every answer must keep.
        trials: stop after so many plans in the whole run; None for no such limit.
        minutes: stop proposing after so many minutes of this call; None for no such limit.
        seed: of everything random.
        sampler: "guided", the one made for this; Optuna's by name: "tpe", "nsga2", "gp" or "random"; or any sampler
            object of Optuna's kind, which keeps its own seed and state.
        greedy: how the removal order of layers is found.
        modular: for the axis "assembly": how its layers are trained, in the run folder; None for the defaults.
        prepared: instead, the folder of layers that `prepare` made.
        palette: for the axis "bits": which precisions there are to choose from; None for the defaults.
        factoring: for the axis "factors": which ways to factorise there are to choose from; None for the defaults.
        isolation: what the process may take in which a candidate's memory is measured; None for 300 seconds.
        latency: "measured" measures latency and memory of every candidate, "predicted" predicts them from a table
            that is learned first; None predicts from 100 trials on. The front is measured in any case.
        cluster: the workers that judge candidates; None judges in this process and starts nothing.
        relearn_costs: learns what plans cost anew, where an earlier search on this machine knows.
        reuses_prefixes: whether layers that a candidate shares with one before are not computed again.
        races: whether candidates that are surely dominated are dropped before all examples are asked.
        judge_in: "float32", or "bf16" to compare candidates with their float parts in that, where the device is quicker
            with it; the front is judged as it is deployed.
        progress: where to say how far it is; None says nothing.

    Raises:
        UserError: if something asked for cannot work; the message says what and how to mend it.
        BudgetError: if no judged candidate keeps the budget; all trials are kept.
    """
    settings = Settings(
        model=str(model),
        task=task,
        out=Path(out),
        device=device,
        runtime=runtime,
        axes=tuple(axes),
        objectives=tuple(objectives),
        budget=budget or Limits(),
        workload=workload or Workload.on_all_cores(),
        trials=trials,
        minutes=minutes,
        seed=seed,
        sampler=sampler,
        greedy=greedy or Greedy(),
        modular=modular or Modular(),
        prepared=None if prepared is None else Path(prepared),
        palette=palette or Palette(),
        factoring=factoring or Factoring(),
        isolation=isolation or ISOLATION,
        latency=latency,
        cluster=cluster,
        relearn_costs=relearn_costs,
        reuses_prefixes=reuses_prefixes,
        races=races,
        judge_in=judge_in,
    )
    return searched(settings, progress)


def searched(settings: Settings, progress: Progress | None = None) -> Study:
    """The same as `pare`, for settings that are made already.

    Args:
        settings: what is asked.
        progress: where to say how far it is; None says nothing.
    """
    study = Study(search(settings, progress).folder)
    study.report()
    return study


def prepare(
    model: str | Path,
    task: Task,
    *,
    out: str | Path,
    modular: Modular | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Prepared:
    """Trains the modular layers of a model once, for every size it may be assembled to; or goes on with that.

    Args:
        model: a local Hugging Face folder, or the name of a model on the hub.
        task: what the model is for, and where the training rows are.
        out: where the layers are kept; made if missing.
        modular: how they are trained; None for the defaults.
        device: where, "cpu", "cuda" or "cuda:1".
        progress: where to say how far it is; None says nothing.

    Raises:
        UserError: if something asked for cannot work; the message says what and how to mend it.
        SearchError: if the training diverges.
    """
    return prepare_model(str(model), task, modular or Modular(), Path(out), device, progress)


def assemble(
    model: str | Path,
    task: Task,
    *,
    prepared: str | Path,
    out: str | Path,
    ratio: float | None = None,
    strategy: str = "size",
    tiling: str | None = None,
    device: str = "cpu",
    runtime: str = "torch",
    workload: Workload | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Assembled:
    """Assembles one size of a prepared model, exports it, and measures it beside the original.

    Args:
        model: what was prepared.
        task: what the model is judged on.
        prepared: the folder that `prepare` made.
        out: new folder for the assembled model.
        ratio: how many times smaller or faster all layers together shall be.
        strategy: "size" counts the parameters of layers, "speed" their measured latency.
        tiling: instead of a ratio, the pieces: "encoder=1,1,2,2 decoder=6".
        device: where it shall run.
        runtime: what runs it.
        workload: what is served; None as in `pare`.
        seed: of the order of measurements.
        progress: where to say how far it is; None says nothing.

    Raises:
        SettingError: if the ratio is out of reach, which names the largest there is; or the tiling is none.
        UserError: if something else asked for cannot work.
    """
    settings = Settings(
        model=str(model),
        task=task,
        out=Path(out),
        device=device,
        runtime=runtime,
        axes=("assembly",),
        workload=workload or Workload.on_all_cores(),
        seed=seed,
        prepared=Path(prepared),
    )
    return assemble_model(settings, Path(out), ratio=ratio, strategy=strategy, tiling=tiling, progress=progress)


def allocate(
    model: str | Path,
    task: Task,
    *,
    out: str | Path,
    ratio: float | None = None,
    effective_bits: float | None = None,
    speed_up: float | None = None,
    palette: Palette | None = None,
    device: str = "cpu",
    runtime: str = "torch",
    workload: Workload | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Allocated:
    """Gives every part of a model its bits by sensitivity, exports it, and measures it beside the original.

    Args:
        model: a local Hugging Face folder, or the name of a model on the hub.
        task: what the model is judged on; its calibration split is what bits are allocated by.
        out: new folder for the compressed model.
        ratio: how many times smaller the whole model shall be, everything counted.
        effective_bits: instead, bits per number: 32 over the ratio.
        speed_up: instead, how many times faster a request shall be.
        palette: which precisions there are to choose from; None for the defaults.
        device: where it shall run.
        runtime: what runs it.
        workload: what is served; None as in `pare`.
        seed: of the order of measurements.
        progress: where to say how far it is; None says nothing.

    Raises:
        BudgetError: if the target is out of reach; the message says what can be reached.
        UserError: if something else asked for cannot work.
    """
    settings = Settings(
        model=str(model),
        task=task,
        out=Path(out),
        device=device,
        runtime=runtime,
        axes=("bits",),
        workload=workload or Workload.on_all_cores(),
        seed=seed,
        palette=palette or Palette(),
    )
    targets = {"ratio": ratio, "effective_bits": effective_bits, "speed_up": speed_up}
    return allocate_model(settings, Path(out), **targets, progress=progress)


def load(folder: str | Path, *, device: str = "cpu", threads: int | None = None) -> PreTrainedModel:
    """An exported model, ready to call like the original, on the fastest kernels torch has for it here.

    Args:
        folder: what `export` wrote.
        device: where it shall run.
        threads: processor threads for the whole process; None leaves all cores.

    Raises:
        ModelError: if the folder was not written by paring, or is damaged.
        SettingError: if there is no such device, or threads is below 1.
    """
    if not Path(folder).is_dir():
        raise ModelError(f"there is no folder {str(folder)!r}; give one that `paring pick RUN --export DIR` wrote.")
    model, _ = artefact.load(Path(folder))
    workload = Workload.on_all_cores() if threads is None else Workload(threads=threads)
    executable = torch_runtime.load(model, devices.find(device), threads=workload.threads)
    assert isinstance(executable, TorchExecutable)
    assert isinstance(executable.model, PreTrainedModel)
    return executable.model

"""Opening a workbench: model, data, device, runtime and modular layers, checked against each other."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..errors import SettingError
from ..profilers import devices, runtimes
from ..profilers.machine import Machine
from ..spaces import artefact
from ..spaces.anatomy import anatomy_of
from ..spaces.space import Space
from .data import read_tables
from .halved import JUDGED_IN, refuse_halving
from .modular import Modular
from .prepared import Prepared, identity_of
from .progress import Progress
from .settings import Settings
from .tasks import load as load_kind
from .workbench import LocalWorkbench, load_tokenizer


def open_workbench(
    settings: Settings, progress: Progress, *, folder: Path | None = None
) -> tuple[LocalWorkbench, dict[str, Any]]:
    """The workbench of a search and the description its run folder keeps.

    Args:
        settings: what is asked.
        progress: where to say how far it is.
        folder: where what is learned is kept; None for the run folder.

    Raises:
        UserError: if device, runtime, model, data or workload cannot work together.
    """
    device, runtime = devices.find(settings.device), runtimes.find(settings.runtime)
    absence = runtime.absence(device)
    if absence is not None:
        raise SettingError(f"the runtime {settings.runtime!r} cannot run on {device.name}: {absence}")
    if settings.judge_in != JUDGED_IN[0]:
        refuse_halving(settings.runtime, device)
    task = settings.task
    model = artefact.load_original(settings.model)
    refusal = runtime.refusal(model)
    if refusal is not None:
        raise SettingError(f"the runtime {settings.runtime!r} cannot run {type(model).__name__}: {refusal}")
    kind = load_kind(task.name)
    kind.metric(task, model)
    modular, prepared = _modular_layers(settings, model)
    settings.workload.inputs(model.config)
    tables = read_tables(task.data, task.required_columns, task.label, limit=task.limit, label_is_text=kind.generates)
    bench = LocalWorkbench(
        model,
        load_tokenizer(settings.model),
        task,
        tables,
        device=device,
        runtime=runtime,
        threads=settings.workload.threads,
        greedy=settings.greedy,
        folder=folder or settings.out,
        progress=progress,
        modular=modular,
        prepared=prepared,
        palette=settings.palette,
        factoring=settings.factoring,
        reuses_prefixes=settings.reuses_prefixes,
        judge_in=settings.judge_in,
        identity=None if modular is None or prepared is not None else identity_of(settings.model, tables, task),
    )
    machine = Machine.here(device.name, device.facts(), runtime.versions())
    return bench, settings.describe(tables, bench.metric, machine)


def _modular_layers(settings: Settings, model: PreTrainedModel) -> tuple[Modular | None, Prepared | None]:
    """How modular layers are trained, and those there are already; None and None where none are searched."""
    prepared = None if settings.prepared is None else Prepared.load(settings.prepared)
    if prepared is not None:
        prepared.refuse_other(artefact.weights_hash(settings.model), str(settings.prepared))
    modular = settings.modular if prepared is None else prepared.settings
    Space(anatomy_of(model).with_modular_layers(modular.granularities), settings.axes)
    return (modular, prepared) if "assembly" in settings.axes else (None, None)

"""Saved models measured beside each other on one device: time, memory and energy of every workload asked for."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..errors import ModelError, SettingError
from ..spaces import artefact
from ..spaces.anatomy import anatomy_of
from . import devices, runtimes
from .comparison import Late, compare
from .devices import Device
from .energy import Energy, energy_of, meter_for
from .memory import Memory, MemoryMeter
from .runtimes import Executable, Runtime
from .timing import Effort
from .topology import thread_warnings
from .workload import Workload, request, serving


@dataclass(frozen=True, slots=True)
class Measured:
    """One model under one workload.

    Attributes:
        model: as it was given.
        workload: what it served.
        kernels: which of its quantised parts ran on kernels of their own.
        late: how long it takes, beside the first model.
        memory: of a fresh process that serves it; None if not asked for.
        energy: of a request, or why it is not known.
        stored_bytes: of its tensors.
    """

    model: str
    workload: Workload
    kernels: str
    late: Late
    memory: Memory | None
    energy: Energy
    stored_bytes: int


def measure_models(
    sources: Sequence[str],
    workloads: Sequence[Workload],
    *,
    device: str,
    runtime: str,
    effort: Effort,
    with_memory: bool,
    seed: int = 0,
    tell: Callable[[str], object] = lambda what: None,
) -> list[Measured]:
    """Measures models beside each other.

    Args:
        sources: folders of Hugging Face or of paring, or names on the hub; the first is what others are compared with.
        workloads: each is measured apart.
        device: where they run.
        runtime: what runs them.
        effort: of one workload, all models together.
        with_memory: whether to measure peaks.
        seed: of every order.
        tell: hears what is being done.

    Returns:
        Workload by workload, models in their order.

    Raises:
        UserError: if something asked for cannot work, such as a model with fewer positions than a workload has tokens,
            or one that answers with numbers that are not finite.
        MemoryError: if memory runs out; the device is left clean.
    """
    place, runner = devices.find(device), runtimes.find(runtime)
    absence = runner.absence(place)
    if absence is not None:
        raise SettingError(f"the runtime {runtime!r} cannot run on {place.name}: {absence}")
    if len(set(sources)) < len(sources):
        raise SettingError(f"every model is given once, got {', '.join(sources)}.")
    models = {source: load_saved(source) for source in sources}
    for source, model in models.items():
        refusal = runner.refusal(model)
        if refusal is not None:
            raise SettingError(f"the runtime {runtime!r} cannot run {source!r}: {refusal}")
        for workload in workloads:
            workload.inputs(model.config)
    found: list[Measured] = []
    with devices.clean_after_failure(place):
        for workload in workloads:
            tell(f"timing {len(models)} models: {workload}")
            found += _measure_one(models, workload, place, runner, runtime, effort, with_memory=with_memory, seed=seed)
    return found


def load_saved(source: str) -> PreTrainedModel:
    """A model that paring exported, or one as its owner saved it.

    Raises:
        ModelError: if there is no such model, or it is damaged.
    """
    folder = Path(source).expanduser()
    return artefact.load(folder)[0] if (folder / artefact.PLAN_FILE).is_file() else artefact.load_original(source)


def refuse_non_finite(executable: Executable, model: PreTrainedModel, workload: Workload, source: str) -> None:
    """Serves one request and looks at the answer.

    Raises:
        ModelError: if it holds numbers that are not finite.
    """
    answer = request(executable, workload.inputs(model.config), workload)
    if answer.is_floating_point() and not torch.isfinite(answer).all():
        raise ModelError(
            f"{source!r} answers with numbers that are not finite: its weights, or its rounding, are broken."
        )


def _measure_one(
    models: Mapping[str, PreTrainedModel],
    workload: Workload,
    device: Device,
    runtime: Runtime,
    runtime_name: str,
    effort: Effort,
    *,
    with_memory: bool,
    seed: int,
) -> list[Measured]:
    def load(model: PreTrainedModel) -> Executable:
        return runtime.load(copy.deepcopy(model), device, threads=workload.threads)

    kernels, energies, meter = {}, {}, meter_for(device)
    for source, model in models.items():
        executable = load(model)
        refuse_non_finite(executable, model, workload, source)
        kernels[source] = executable.kernels
        entrant = serving(executable, workload, model.config)
        energies[source] = energy_of(entrant, meter, clock=device.clock, synchronise=device.synchronise)
    loads = {source: (partial(load, model), model.config) for source, model in models.items()}
    late = compare(loads, workload, effort=effort, seed=seed, device=device)
    doubts = thread_warnings(workload.threads * workload.streams) if device.torch_device.type == "cpu" else ()
    memory = _memory(models, workload, device, runtime_name) if with_memory else {}
    return [
        Measured(
            source,
            workload,
            kernels[source],
            _doubted(late[source], doubts),
            memory.get(source),
            energies[source],
            artefact.stored_bytes(model),
        )
        for source, model in models.items()
    ]


def _memory(
    models: Mapping[str, PreTrainedModel], workload: Workload, device: Device, runtime: str
) -> dict[str, Memory]:
    """Of folders that hold a plan; a model as its owner saved it is written to one first."""
    found = {}
    with MemoryMeter(device.name, runtime, workload) as meter:
        for source, model in models.items():
            if (Path(source).expanduser() / artefact.PLAN_FILE).is_file():
                found[source] = meter.measure(Path(source).expanduser())
                continue
            with tempfile.TemporaryDirectory(prefix="paring-") as folder:
                artefact.save(model, anatomy_of(model).identity(), Path(folder), original=model.config)
                found[source] = meter.measure(Path(folder))
    return found


def _doubted(late: Late, doubts: tuple[str, ...]) -> Late:
    return Late(replace(late.whole, warnings=(*late.whole.warnings, *doubts)), late.first)

"""Saved models measured beside each other on one device: time, memory and energy of every workload asked for."""

import copy
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from ..errors import ModelError, SettingError
from ..spaces import artefact
from ..spaces.anatomy import anatomy_of
from . import devices, runtimes
from .comparison import Late, compare
from .devices import Device
from .energy import Energy, energy_of, meter_for
from .graphs import recorded
from .memory import Memory, MemoryMeter, count_non_finite
from .runtimes import Executable, Runtime
from .timing import Effort
from .topology import thread_warnings
from .turns import Stopwatch
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


@dataclass(frozen=True, slots=True)
class Setup:
    """By what models are measured, and how.

    Attributes:
        device: where they run, as the user writes it.
        runtime: name of what runs them.
        effort: of one workload, all models together.
        with_memory: whether to measure peaks.
        on_device: times requests by the device's own stopwatch, such as events of CUDA, instead of the wall clock.
        as_graph: records forward passes and launches them as a whole.
        seed: of every order.
    """

    device: str
    runtime: str
    effort: Effort
    with_memory: bool = True
    on_device: bool = False
    as_graph: bool = False
    seed: int = 0

    def opened(self) -> tuple[Device, Runtime, Stopwatch | None]:
        """The device, the runtime, and the stopwatch where it is not the wall clock.

        Raises:
            SettingError: if there is none of these here, or they do not go together.
        """
        place, runner = devices.find(self.device), runtimes.find(self.runtime)
        absence = runner.absence(place)
        if absence is not None:
            raise SettingError(f"the runtime {self.runtime!r} cannot run on {place.name}: {absence}")
        stopwatch = getattr(place, "stopwatch", None) if self.on_device else None
        if self.on_device and stopwatch is None:
            raise SettingError(f"{place.name} has no stopwatch of its own; leave out --timer device.")
        return place, runner, stopwatch


def measure_models(
    sources: Sequence[str],
    workloads: Sequence[Workload],
    setup: Setup,
    *,
    turns: Collection[int] | None = None,
    tell: Callable[[str], object] = lambda what: None,
) -> list[Measured]:
    """Measures models beside each other.

    Args:
        sources: folders of Hugging Face or of paring, or names on the hub; the first is what others are compared with.
        workloads: each is measured apart.
        setup: by what, and how.
        turns: which of the workloads to measure, counted from 0; the others are only looked at, whether the models can
            serve them. None for all.
        tell: hears what is being done.

    Returns:
        Workload by workload, models in their order.

    Raises:
        UserError: if something asked for cannot work, such as a model with fewer positions than a workload has tokens,
            or one that answers with numbers that are not finite.
        MemoryError: if memory runs out; the device is left clean.
    """
    place, runner, stopwatch = setup.opened()
    refuse_repeated(sources)
    models = {source: load_saved(source) for source in sources}
    for source, model in models.items():
        refusal = runner.refusal(model)
        if refusal is not None:
            raise SettingError(f"the runtime {setup.runtime!r} cannot run {source!r}: {refusal}")
        for workload in workloads:
            workload.inputs(model.config)
    found: list[Measured] = []
    stored = {source: artefact.stored_bytes(model) for source, model in models.items()}
    with devices.clean_after_failure(place), _peaks(models, place, setup.runtime) as peaks:
        for number, workload in enumerate(workloads):
            if turns is not None and number not in turns:
                continue
            tell(f"timing {len(models)} models: {workload}")
            load = partial(_load, runner, place, workload.threads, setup.as_graph)
            late, known = _times(models, load, workload, place, setup.effort, stopwatch, setup.seed)
            for source in models:
                memory = peaks(source, workload) if setup.with_memory else None
                found.append(
                    Measured(source, workload, known[source][0], late[source], memory, known[source][1], stored[source])
                )
    return found


def refuse_repeated(sources: Sequence[str]) -> None:
    """Raises `SettingError` if a model is given more than once."""
    if len(set(sources)) < len(sources):
        raise SettingError(f"every model is given once, got {', '.join(sources)}.")


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
    if count_non_finite(answer):
        raise ModelError(
            f"{source!r} answers with numbers that are not finite: its weights, or its rounding, are broken."
        )


def _load(runtime: Runtime, device: Device, threads: int, as_graph: bool, model: PreTrainedModel) -> Executable:
    executable = runtime.load(copy.deepcopy(model), device, threads=threads)
    return recorded(executable, device) if as_graph else executable


def _times(
    models: Mapping[str, PreTrainedModel],
    load: Callable[[PreTrainedModel], Executable],
    workload: Workload,
    device: Device,
    effort: Effort,
    stopwatch: Stopwatch | None,
    seed: int,
) -> tuple[dict[str, Late], dict[str, tuple[str, Energy]]]:
    """Source -> latencies; and -> kernels and energy."""
    known, meter = {}, meter_for(device)
    for source, model in models.items():
        executable = load(model)
        refuse_non_finite(executable, model, workload, source)
        entrant = serving(executable, workload, model.config)
        energy = energy_of(entrant, meter, clock=device.clock, synchronise=device.synchronise)
        known[source] = executable.kernels, energy
    loads = {source: (partial(load, model), model.config) for source, model in models.items()}
    late = compare(loads, workload, effort=effort, seed=seed, device=device, stopwatch=stopwatch)
    doubts = thread_warnings(workload.threads * workload.streams) if device.torch_device.type == "cpu" else ()
    return {source: _doubted(one, doubts) for source, one in late.items()}, known


@contextmanager
def _peaks(
    models: Mapping[str, PreTrainedModel], device: Device, runtime: str
) -> Iterator[Callable[[str, Workload], Memory]]:
    """Measures the peak of a model under a workload; one helper process serves all of them, from the first on."""
    with ExitStack() as held:
        folders: dict[str, Path] = {}
        meter = held.enter_context(MemoryMeter(device.name, runtime, Workload()))

        def peak(source: str, workload: Workload) -> Memory:
            if source not in folders:
                folders[source] = _with_plan(source, models[source], held)
            return meter.measure(folders[source], workload)

        yield peak


def _with_plan(source: str, model: PreTrainedModel, held: ExitStack) -> Path:
    """A folder that holds a plan; a model as its owner saved it is written to one that is gone with `held`."""
    own = Path(source).expanduser()
    if (own / artefact.PLAN_FILE).is_file():
        return own
    folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="paring-")))
    artefact.save(model, anatomy_of(model).identity(), folder, original=model.config)
    return folder


def _doubted(late: Late, doubts: tuple[str, ...]) -> Late:
    return Late(replace(late.whole, warnings=(*late.whole.warnings, *doubts)), late.first)

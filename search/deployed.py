"""Models as they would be deployed: loaded from what was exported, and measured side by side."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel

from ..errors import MeasurementError
from ..profilers.comparison import Late, compare, seconds_per_token
from ..profilers.devices import Device, clean_after_failure
from ..profilers.energy import Energy, energy_of, meter_for
from ..profilers.memory import Memory, MemoryMeter
from ..profilers.profile import Profile
from ..profilers.runtimes import Executable
from ..profilers.timing import Effort
from ..profilers.workload import Workload, serving
from ..spaces import artefact
from ..spaces.plan import Plan

# So many models are held in memory and timed side by side at once, beside the baseline.
SESSION = 8


@dataclass(frozen=True, slots=True)
class Stand:
    """Where deployed models are measured, and how.

    Attributes:
        device: where they run.
        load: makes a model ready to call there; the model itself stays as it is.
        config: of the original.
        workload: what they serve.
        machine: fingerprint of this machine.
        meter: measures memory; None to leave it out.
        effort: of timing one of them; so many models take so many times its seconds.
        seed: of every order.
    """

    device: Device
    load: Callable[[PreTrainedModel], Executable]
    config: PretrainedConfig
    workload: Workload
    machine: str
    meter: MemoryMeter | None
    effort: Effort
    seed: int


@dataclass(frozen=True, slots=True)
class Deployed:
    """One exported model, loaded.

    Attributes:
        plan: what it is.
        model: as loaded, on the CPU.
        executable: the same, ready to call.
        stored_bytes: of its files of tensors.
        memory: of a fresh process that serves it; None where it is not measured.
    """

    plan: Plan
    model: PreTrainedModel
    executable: Executable
    stored_bytes: int
    memory: Memory | None


def sessions(plans: Sequence[Plan]) -> Iterator[list[Plan]]:
    """Plans in groups that are timed side by side, the first of all in each.

    Args:
        plans: each once; the first is the baseline.
    """
    baseline, *rivals = plans
    for start in range(0, max(len(rivals), 1), SESSION):
        yield [baseline, *rivals[start : start + SESSION]]


def reload(plan: Plan, folder: Path, stand: Stand) -> Deployed:
    """Loads an exported model.

    Args:
        plan: what it is.
        folder: where `artefact.save` wrote it.
        stand: where it runs.

    Raises:
        MeasurementError: if memory runs out.
        ModelError: if the folder is damaged.
    """
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        with clean_after_failure(stand.device):
            memory = None if stand.meter is None else stand.meter.measure(folder)
            model, _ = artefact.load(folder)
            executable = stand.load(model)
    except MemoryError as error:
        raise MeasurementError(f"memory ran out while {plan} was measured whole; all trials are kept.") from error
    return Deployed(plan, model, executable, stored, memory)


def latencies_of(members: Sequence[Deployed], stand: Stand) -> list[Late]:
    """Times models side by side, the first being the baseline; copies are made anew every few rounds."""

    def load(model: PreTrainedModel) -> Executable:
        return stand.load(copy.deepcopy(model))

    loads = {member.plan.fingerprint: (partial(load, member.model), stand.config) for member in members}
    effort = replace(stand.effort, seconds=stand.effort.seconds * len(members))
    found = compare(loads, stand.workload, effort=effort, seed=stand.seed, device=stand.device)
    return [found[member.plan.fingerprint] for member in members]


def profile_of(member: Deployed, late: Late, stand: Stand) -> Profile:
    """All that a deployed model costs.

    Args:
        member: the model.
        late: how long it takes.
        stand: where it was measured.
    """
    workload = stand.workload
    return Profile(
        member.stored_bytes,
        member.executable.kernels,
        stand.machine,
        str(workload),
        late.whole,
        member.memory,
        late.first,
        None if late.first is None else seconds_per_token(late.whole, late.first, workload.generated),
        _energy(member, stand),
    )


def _energy(member: Deployed, stand: Stand) -> Energy:
    entrant, device = serving(member.executable, stand.workload, stand.config), stand.device
    return energy_of(entrant, meter_for(device), clock=device.clock, synchronise=device.synchronise)

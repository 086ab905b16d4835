"""Latency of saved models, timed side by side in a process of their own: see `isolation` and `timing`."""

from collections.abc import Mapping
from pathlib import Path

from . import devices
from .isolation import Isolation
from .memory import check_finite, loaded_request
from .supervision import Allowance
from .timing import Effort, Latency, measure
from .workload import Workload


def isolated_latency(
    folders: Mapping[str, Path],
    *,
    baseline: str,
    device: str,
    runtime: str,
    workload: Workload,
    effort: Effort,
    seed: int = 0,
    allowance: Allowance | None = None,
) -> dict[str, Latency]:
    """Loads saved models in one fresh process and times them there, all in every round.

    Args:
        folders: name -> what `artefact.save` wrote; all are held in memory at once.
        baseline: the name that all ratios refer to.
        device: name of the device, as the user writes it.
        runtime: name of the runtime.
        workload: what each model serves.
        effort: when to stop.
        seed: of the order within the rounds.
        allowance: what the process may take; None for no limits.

    Returns:
        As `timing.measure`.

    Raises:
        MemoryError: if it ran out of memory, or took more than it may.
        TimedOutError: if it took too long.
        MeasurementError: if it failed or crashed, or a model answered values that are not finite.
    """
    with Isolation(allowance, forks=False) as isolation:
        found = isolation.run(_of_models, dict(folders), baseline, device, runtime, workload, effort, seed)
    latencies: dict[str, Latency] = found.value("measuring latency")
    return latencies


def _of_models(
    folders: Mapping[str, Path], baseline: str, device: str, runtime: str, workload: Workload, effort: Effort, seed: int
) -> dict[str, Latency]:
    """The job of `isolated_latency`."""
    found = devices.find(device)
    calls = {name: loaded_request(folder, found, runtime, workload) for name, folder in folders.items()}
    for call in calls.values():
        check_finite(call())
    return measure(calls, baseline=baseline, effort=effort, seed=seed)

"""The front measured whole: every member exported, reloaded, judged on the test split and timed beside the others.

The number reported is that of the artefact you deploy.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..errors import MeasurementError
from ..profilers.comparison import Late, compare, seconds_per_token
from ..profilers.devices import clean_after_failure
from ..profilers.energy import Energy, energy_of, meter_for
from ..profilers.memory import Memory, MemoryMeter
from ..profilers.profile import Profile
from ..profilers.runtimes import Executable
from ..profilers.timing import ANEW
from ..profilers.workload import Workload, serving
from ..spaces import artefact
from ..spaces.plan import Plan
from .cache import writing
from .objectives import Measures
from .progress import Progress, Report
from .quality import difference
from .trial import Final
from .workbench import LocalWorkbench

# So many models are held in memory and timed side by side at once.
_SESSION = 8
_SECONDS_PER_MODEL = 4.5
# Fewer loads than elsewhere, because up to nine models are loaded each time.
_EFFORT = replace(ANEW, min_loads=6)
_COMPARED_EXAMPLES = 32


@dataclass(frozen=True, slots=True)
class _Reloaded:
    """One member, exported and loaded again."""

    plan: Plan
    model: PreTrainedModel
    executable: Executable
    stored_bytes: int
    memory: Memory | None
    equal: bool


def measure_whole(
    bench: LocalWorkbench,
    plans: Sequence[Plan],
    workload: Workload,
    *,
    machine: str,
    meter: MemoryMeter | None,
    progress: Progress,
    seed: int,
    exported: Mapping[Plan, Path] | None = None,
) -> list[Final]:
    """Measures plans as they would be deployed.

    Args:
        bench: of the run.
        plans: each once; the first is the baseline.
        workload: what they serve.
        machine: fingerprint of this machine.
        meter: measures memory; None to leave it out.
        progress: where to say how far it is.
        seed: of the order within the rounds.
        exported: folders in which plans are saved already; the quality of those is judged again. Others are saved to
            a temporary folder.

    Returns:
        One per plan, in their order.
    """
    baseline, *rivals = plans
    finals: list[Final] = []
    reference: float | None = None
    with progress.stage("measuring the front", 3 * len(plans)) as report:
        for start in range(0, max(len(rivals), 1), _SESSION):
            session = [baseline, *rivals[start : start + _SESSION]]
            members = [
                _reload(bench, plan, (exported or {}).get(plan), meter, _counted(report, 3 * start + done))
                for done, plan in enumerate(session)
            ]
            report(3 * start + len(session), f"timing {len(session)} models side by side")
            latencies = _time(bench, members, workload, seed)
            reference = reference or latencies[baseline.fingerprint].whole.seconds
            # The baseline is timed in every session, but reported once.
            for member in members if start == 0 else members[1:]:
                report(3 * start + 2 * len(session), f"judging {member.plan} on the test split")
                late, energy = latencies[member.plan.fingerprint], _energy(bench, member, workload)
                profile = _profile(member, late, energy, machine, workload)
                is_again = member.plan in (exported or {})
                finals.append(_final(bench, member, profile, reference, finals[0] if finals else None, again=is_again))
    return finals


def measures_of(quality: float, baseline: float, profile: Profile, reference_seconds: float | None) -> Measures:
    """The numbers that objectives and limits speak of.

    Args:
        quality: of the candidate.
        baseline: quality of the baseline on the same split.
        profile: of the candidate.
        reference_seconds: latency of the baseline that ratios refer to; None where latency was not measured.
    """
    late, memory = profile.latency, profile.memory
    return Measures(
        quality,
        baseline - quality,
        None if late is None or reference_seconds is None else late.ratio * reference_seconds,
        None if memory is None else float(memory.peak_bytes),
        float(profile.stored_bytes),
    )


@contextmanager
def saved(bench: LocalWorkbench, compressed: PreTrainedModel, plan: Plan) -> Iterator[Path]:
    """A folder that holds the exported model of a plan for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="paring-") as place:
        folder = Path(place)
        with writing(folder.parent):
            artefact.save(compressed, plan, folder, original=bench.model.config)
        yield folder


def _time(bench: LocalWorkbench, members: Sequence[_Reloaded], workload: Workload, seed: int) -> dict[str, Late]:
    """Plan fingerprint -> latencies, the first member being the baseline; copies are made anew every few rounds."""

    def load(model: PreTrainedModel) -> Executable:
        return bench.executable(copy.deepcopy(model))

    config = bench.model.config
    loads = {member.plan.fingerprint: (partial(load, member.model), config) for member in members}
    effort = replace(_EFFORT, seconds=_SECONDS_PER_MODEL * len(members))
    return compare(loads, workload, effort=effort, seed=seed, device=bench.device)


def _energy(bench: LocalWorkbench, member: _Reloaded, workload: Workload) -> Energy:
    entrant, device = serving(member.executable, workload, bench.model.config), bench.device
    return energy_of(entrant, meter_for(device), clock=device.clock, synchronise=device.synchronise)


def _profile(member: _Reloaded, late: Late, energy: Energy, machine: str, workload: Workload) -> Profile:
    return Profile(
        member.stored_bytes,
        member.executable.kernels,
        machine,
        str(workload),
        late.whole,
        member.memory,
        late.first,
        None if late.first is None else seconds_per_token(late.whole, late.first, workload.generated),
        energy,
    )


def _counted(report: Report, done: float) -> Callable[[str], None]:
    return lambda what: report(done, what)


def _reload(
    bench: LocalWorkbench, plan: Plan, exported: Path | None, meter: MemoryMeter | None, tell: Callable[[str], None]
) -> _Reloaded:
    """Loads a plan's export, and looks whether it still is the model it was."""
    tell(f"exporting and reloading {plan}")
    compressed = bench.build(plan)
    with saved(bench, compressed, plan) if exported is None else nullcontext(exported) as folder:
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        try:
            with clean_after_failure(bench.device):
                memory = None if meter is None else meter.measure(folder)
                reloaded, _ = artefact.load(folder)
                executable = bench.executable(reloaded)
        except MemoryError as error:
            raise MeasurementError(f"memory ran out while {plan} was measured whole; all trials are kept.") from error
    inputs = bench.search.with_labels(range(min(_COMPARED_EXAMPLES, len(bench.search))))
    equal = torch.equal(executable(inputs), bench.executable(compressed)(inputs))
    return _Reloaded(plan, reloaded, executable, stored, memory, equal)


def _final(
    bench: LocalWorkbench, member: _Reloaded, profile: Profile, reference: float, baseline: Final | None, *, again: bool
) -> Final:
    """Judges a member on the test split, beside the baseline; `baseline` is None for the baseline itself."""
    quality = bench.quality(member.plan, bench.test, member.executable, again=again)
    original = quality if baseline is None else baseline.quality
    gain = difference(bench.score, bench.test.labels, quality.outcomes, original.outcomes)
    measures = measures_of(quality.value, original.value, profile, reference)
    return Final(member.plan, quality, gain, profile, measures, member.equal)

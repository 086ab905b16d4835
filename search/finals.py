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
from statistics import median

import torch
from transformers import PreTrainedModel

from ..errors import MeasurementError
from ..profilers.memory import Memory, MemoryMeter
from ..profilers.profile import Profile
from ..profilers.runtimes import Executable
from ..profilers.timing import Effort, Latency, beside, measure, pooled
from ..profilers.workload import Workload, request
from ..spaces import artefact
from ..spaces.plan import Plan
from ..spaces.workbench import Inputs
from .cache import writing
from .objectives import Measures
from .progress import Progress, Report
from .quality import difference
from .trial import Final
from .workbench import LocalWorkbench

# So many models are held in memory and timed side by side at once.
_SESSION = 8
# Every model is loaded so many times, because where it lies in memory matters; see `timing.pooled`.
_LOADS = 3
_SECONDS_PER_MODEL = 1.5
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


@dataclass(frozen=True, slots=True)
class _Late:
    """Of one member: a whole request, and one that ends after its first token, where tokens are generated."""

    whole: Latency
    first: Latency | None


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
                profile = _profile(member, latencies[member.plan.fingerprint], machine, workload)
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


def seconds_per_token(whole: Latency, first: Latency, generated: int) -> float | None:
    """What every token after the first takes; None where there is none, or it is lost in the noise.

    Args:
        whole: of requests.
        first: of requests that end after their first token, from the same rounds.
        generated: tokens of a whole request.
    """
    if generated < 2:
        return None
    pairs = zip(whole.samples_seconds, first.samples_seconds, strict=True)
    further = median(one - other for one, other in pairs) / (generated - 1)
    return further if further > 0 else None


@contextmanager
def saved(bench: LocalWorkbench, compressed: PreTrainedModel, plan: Plan) -> Iterator[Path]:
    """A folder that holds the exported model of a plan for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="paring-") as place:
        folder = Path(place)
        with writing(folder.parent):
            artefact.save(compressed, plan, folder, original=bench.model.config)
        yield folder


def _time(bench: LocalWorkbench, members: Sequence[_Reloaded], workload: Workload, seed: int) -> dict[str, _Late]:
    """Plan fingerprint -> latencies, the first member being the baseline; every session with copies of their own."""
    effort = Effort(seconds=_SECONDS_PER_MODEL * len(members))
    sessions = []
    for load in range(_LOADS):
        executables = {
            member.plan.fingerprint: bench.executable(copy.deepcopy(member.model)) if load else member.executable
            for member in members
        }
        sessions.append(_session(executables, workload.inputs(bench.model.config), workload, effort, seed + load))
    late: dict[str, _Late] = {}
    for name in sessions[0]:
        firsts = [session[name].first for session in sessions]
        whole = pooled([session[name].whole for session in sessions])
        late[name] = _Late(whole, pooled([first for first in firsts if first]) if firsts[0] else None)
    return late


def _session(
    executables: Mapping[str, Executable], inputs: Inputs, workload: Workload, effort: Effort, seed: int
) -> dict[str, _Late]:
    """Times executables side by side, the first being the baseline."""
    baseline = next(iter(executables))
    # A request that ends after its first token runs in the same rounds, so that the two may be subtracted.
    parts = {"whole": workload} | ({"first": replace(workload, generated=1)} if workload.generated else {})
    calls = {
        f"{part} {name}": partial(request, executable, inputs, served)
        for part, served in parts.items()
        for name, executable in executables.items()
    }
    found = measure(calls, baseline=f"whole {baseline}", effort=effort, seed=seed)
    firsts = {
        name: beside(found[f"first {name}"], found[f"first {baseline}"], seed) if "first" in parts else None
        for name in executables
    }
    return {name: _Late(found[f"whole {name}"], firsts[name]) for name in executables}


def _profile(member: _Reloaded, late: _Late, machine: str, workload: Workload) -> Profile:
    return Profile(
        member.stored_bytes,
        member.executable.kernels,
        machine,
        str(workload),
        late.whole,
        member.memory,
        late.first,
        None if late.first is None else seconds_per_token(late.whole, late.first, workload.generated),
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
            memory = None if meter is None else meter.measure(folder)
            reloaded, _ = artefact.load(folder)
            executable = bench.executable(reloaded)
        except (MemoryError, torch.cuda.OutOfMemoryError) as error:
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

"""The front measured whole: every member exported, reloaded, judged on the test split and timed beside the others.

The number reported is that of the artefact you deploy.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..profilers.memory import MemoryMeter
from ..profilers.profile import Profile
from ..profilers.timing import ANEW
from ..profilers.workload import Workload
from ..spaces import artefact
from ..spaces.plan import Plan
from .cache import writing
from .deployed import SESSION, Deployed, Stand, latencies_of, profile_of, reload, sessions
from .objectives import Measures
from .progress import Progress, Report
from .quality import difference
from .trial import Final
from .workbench import LocalWorkbench

_SECONDS_PER_MODEL = 4.5
# Fewer loads than elsewhere, because up to nine models are loaded each time.
_EFFORT = replace(ANEW, min_loads=6)
_COMPARED_EXAMPLES = 32


@dataclass(frozen=True, slots=True)
class _Reloaded:
    """One member, exported and loaded again."""

    deployed: Deployed
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
    effort = replace(_EFFORT, seconds=_SECONDS_PER_MODEL)
    stand = Stand(bench.device, bench.executable, bench.model.config, workload, machine, meter, effort, seed)
    finals: list[Final] = []
    reference: float | None = None
    with progress.stage("measuring the front", 3 * len(plans)) as report:
        for turn, session in enumerate(sessions(plans)):
            start = turn * SESSION
            members = [
                _reload(bench, plan, (exported or {}).get(plan), stand, _counted(report, 3 * start + done))
                for done, plan in enumerate(session)
            ]
            report(3 * start + len(session), f"timing {len(session)} models side by side")
            latencies = latencies_of([member.deployed for member in members], stand)
            reference = reference or latencies[0].whole.seconds
            for number, (member, late) in enumerate(zip(members, latencies, strict=True)):
                if turn and not number:
                    continue  # the baseline is timed in every session, but reported once
                plan = member.deployed.plan
                report(3 * start + 2 * len(session), f"judging {plan} on the test split")
                profile = profile_of(member.deployed, late, stand)
                is_again = plan in (exported or {})
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


def _counted(report: Report, done: float) -> Callable[[str], None]:
    return lambda what: report(done, what)


def _reload(
    bench: LocalWorkbench, plan: Plan, exported: Path | None, stand: Stand, tell: Callable[[str], None]
) -> _Reloaded:
    """Loads a plan's export, and looks whether it still is the model it was."""
    tell(f"exporting and reloading {plan}")
    compressed = bench.build(plan)
    with saved(bench, compressed, plan) if exported is None else nullcontext(exported) as folder:
        deployed = reload(plan, folder, stand)
    inputs = bench.search.with_labels(range(min(_COMPARED_EXAMPLES, len(bench.search))))
    equal = torch.equal(deployed.executable(inputs), bench.executable(compressed)(inputs))
    return _Reloaded(deployed, equal)


def _final(
    bench: LocalWorkbench, member: _Reloaded, profile: Profile, reference: float, baseline: Final | None, *, again: bool
) -> Final:
    """Judges a member on the test split, beside the baseline; `baseline` is None for the baseline itself."""
    plan = member.deployed.plan
    quality = bench.quality(plan, bench.test, member.deployed.executable, again=again)
    original = quality if baseline is None else baseline.quality
    gain = difference(bench.score, bench.test.labels, quality.outcomes, original.outcomes)
    measures = measures_of(quality.value, original.value, profile, reference)
    return Final(plan, quality, gain, profile, measures, member.equal)

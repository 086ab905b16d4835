"""The front measured whole: every member exported, reloaded, judged on the test split and timed beside the others.

The number reported is that of the artefact you deploy.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..profilers.memory import Memory, MemoryMeter
from ..profilers.profile import Profile
from ..profilers.runtimes import Executable
from ..profilers.timing import Effort, measure
from ..profilers.workload import Workload
from ..spaces import artefact
from ..spaces.plan import Plan
from ..spaces.workbench import Inputs
from .cache import writing
from .objectives import Measures
from .progress import Progress
from .quality import difference
from .study import Final
from .workbench import LocalWorkbench

# So many models are held in memory at once.
_SESSION = 12
_SECONDS_PER_MODEL = 4.0
_COMPARED_EXAMPLES = 32


def measure_whole(
    bench: LocalWorkbench,
    plans: Sequence[Plan],
    workload: Workload,
    *,
    machine: str,
    meter: MemoryMeter | None,
    progress: Progress,
    seed: int,
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

    Returns:
        One per plan, in their order.
    """
    finals: list[Final] = []
    rivals = list(plans[1:])
    sessions = [[plans[0], *rivals[start : start + _SESSION]] for start in range(0, max(len(rivals), 1), _SESSION)]
    with progress.stage("measuring the front", len(plans) + len(sessions)) as report:

        def tell(what: str) -> None:
            report(len(finals), what)

        reference: float | None = None
        for session in sessions:
            loaded = [_reload(bench, plan, meter, tell) for plan in session]
            inputs = workload.inputs(bench.model.config)
            effort = Effort(seconds=_SECONDS_PER_MODEL * len(session))
            calls = {plan.fingerprint: request(found[0], inputs) for plan, found in zip(session, loaded, strict=True)}
            tell(f"timing {len(session)} models side by side")
            latencies = measure(calls, baseline=plans[0].fingerprint, effort=effort, seed=seed)
            reference = reference or latencies[plans[0].fingerprint].seconds
            for plan, (executable, stored, memory, equal) in zip(session, loaded, strict=True):
                if any(final.plan == plan for final in finals):
                    continue
                tell(f"judging {plan} on the test split")
                profile = Profile(
                    stored, executable.kernels, machine, str(workload), latencies[plan.fingerprint], memory
                )
                finals.append(_final(bench, plan, executable, profile, reference, equal, finals))
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


def _reload(
    bench: LocalWorkbench, plan: Plan, meter: MemoryMeter | None, tell: Callable[[str], None]
) -> tuple[Executable, int, Memory | None, bool]:
    """Exports a plan and loads it again: the executable, bytes of its files, its memory, and whether it is the same."""
    tell(f"exporting and reloading {plan}")
    with saved(bench, plan) as folder:
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        memory = None if meter is None else meter.measure(folder)
        reloaded, _ = artefact.load(folder)
    executable = bench.executable(reloaded)
    inputs = bench.search.batch(range(min(_COMPARED_EXAMPLES, len(bench.search))))
    equal = torch.equal(executable(inputs), bench.executable(bench.build(plan))(inputs))
    return executable, stored, memory, equal


def request(executable: Executable, inputs: Inputs) -> Callable[[], object]:
    """One request, as the stopwatch calls it."""
    return lambda: executable(inputs)


@contextmanager
def saved(bench: LocalWorkbench, plan: Plan) -> Iterator[Path]:
    """A folder that holds the exported model of a plan for as long as the context lasts."""
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="paring-") as place:
        folder = Path(place)
        artefact.save(bench.build(plan), plan, folder, original=bench.model.config)
        yield folder


def _final(
    bench: LocalWorkbench,
    plan: Plan,
    executable: Executable,
    profile: Profile,
    reference: float,
    equal: bool,
    before: Sequence[Final],
) -> Final:
    quality = bench.quality(plan, bench.test, executable)
    baseline = before[0].quality if before else quality
    gain = difference(bench.score, bench.test.labels, quality.outcomes, baseline.outcomes)
    measures = measures_of(quality.value, baseline.value, profile, reference)
    return Final(plan, quality, gain, profile, measures, equal)

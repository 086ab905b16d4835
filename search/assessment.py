"""What can be said of a plan on any machine: its quality, its bytes, and which kernels its runtime has for it."""

from dataclasses import dataclass

from ..profilers.runtimes import Executable
from ..spaces import artefact
from ..spaces.plan import Plan
from .quality import Quality
from .workbench import LocalWorkbench


@dataclass(frozen=True, slots=True)
class Assessment:
    """All of a candidate but what it costs on the machine of the search.

    Attributes:
        quality: on the search split.
        stored_bytes: of its tensors.
        kernels: see `Executable`.
    """

    quality: Quality
    stored_bytes: int
    kernels: str


def assess(bench: LocalWorkbench, plan: Plan) -> Assessment:
    """Builds and judges a plan.

    Args:
        bench: where.
        plan: what.

    Raises:
        ParingError: if it cannot be built or judged.
    """
    compressed = bench.build(plan)
    executable: Executable = bench.executable(compressed)
    quality = bench.quality(plan, bench.search, executable, model=compressed)
    return Assessment(quality, artefact.stored_bytes(compressed), executable.kernels)

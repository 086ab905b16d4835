"""As `side_by_side`, each workload in a process of its own, so that one that fails leaves the others their numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import UserError
from .isolation import Isolation
from .side_by_side import Measured, Setup, measure_models, refuse_repeated
from .supervision import Allowance, Ending
from .workload import Workload


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """One model under one workload, whose process gave no numbers; it measures all models, so all have the same cause.

    Attributes:
        model: as it was given.
        workload: what it was to serve.
        ending: how the process ended, never `ANSWERED`.
        cause: in words.
    """

    model: str
    workload: Workload
    ending: Ending
    cause: str


def measure_isolated(
    sources: Sequence[str],
    workloads: Sequence[Workload],
    setup: Setup,
    allowance: Allowance,
    *,
    tell: Callable[[str], object] = lambda what: None,
) -> list[Measured | Unmeasured]:
    """Measures models beside each other, each workload in a fresh interpreter.

    Args:
        sources: as for `measure_models`.
        workloads: each is measured in a process of its own.
        setup: by what, and how.
        allowance: what each process may take, the models of all sources, the import of libraries and the processes
            that measure peaks of memory included.
        tell: hears what is being done.

    Returns:
        Workload by workload, models in their order.

    Raises:
        UserError: as `measure_models`, before the first workload is measured, unless a process ends before it can say.
    """
    setup.opened()
    refuse_repeated(sources)
    found: list[Measured | Unmeasured] = []
    with Isolation(allowance, forks=False) as isolation:
        for number, workload in enumerate(workloads):
            tell(f"timing {len(sources)} models in a process of their own: {workload}")
            one = isolation.run(_measured_or_refused, tuple(sources), tuple(workloads), setup, number)
            if isinstance(one.answer, UserError):
                raise one.answer
            if one.ending == Ending.ANSWERED:
                found.extend(one.answer)
            else:
                found.extend(Unmeasured(source, workload, one.ending, one.cause) for source in sources)
    return found


def _measured_or_refused(
    sources: Sequence[str], workloads: Sequence[Workload], setup: Setup, number: int
) -> list[Measured] | UserError:
    """One workload; what the user must mend is an answer too, so that it is not taken for a failure of the process."""
    try:
        return measure_models(sources, workloads, setup, turns=(number,))
    except UserError as error:
        return error

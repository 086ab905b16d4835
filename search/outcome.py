"""What became of a candidate: its numbers, or why it has none. One bad candidate never ends a run."""

from ..errors import ParingError, StorageError, TimedOutError, UserError
from ..profilers.devices import Device, clean_after_failure
from ..spaces.plan import Plan
from .damage import DATABASE_ERRORS
from .judge import Judge
from .trial import State, Trial

# No fault of a candidate: these end the search.
ENDING = (StorageError, UserError, *DATABASE_ERRORS)


def outcome_of(judge: Judge, number: int, plan: Plan, device: Device) -> Trial:
    """Judges a plan.

    Args:
        judge: of the run.
        number: of the trial.
        plan: not judged before in this run.
        device: where it runs; what a failure for want of memory held there is given back.

    Returns:
        Its trial, whatever it raised; without numbers where it did.

    Raises:
        StorageError, UserError: and errors of the database, which are no fault of the plan.
    """
    try:
        with clean_after_failure(device):
            return judge.judge(number, plan)
    except ENDING:
        raise
    except Exception as error:
        state, cause = failure_of(error)
        return Trial(number, state, plan, cause)


def failure_of(error: Exception) -> tuple[State, str]:
    """The state of a trial that raised, and the cause in words."""
    cause = str(error) if isinstance(error, ParingError) else f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return State.OUT_OF_MEMORY, cause
    if isinstance(error, TimedOutError):
        return State.TIMED_OUT, cause
    return State.FAILED, cause

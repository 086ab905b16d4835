"""Plans that workers score before a proposal can be resolved: the candidates of the steps of a greedy order.

What is not scored yet ends the attempt to resolve the proposal, and is handed out like plans to judge. When all of it
is scored the proposal is resolved anew, as far as the next step that is not.
"""

from collections import deque
from collections.abc import Sequence

from ..spaces.plan import Plan
from .assessment import Brief


class UnscoredError(Exception):
    """Plans must be scored first."""


class Steps:
    """Which plans are to be scored, and which are being scored."""

    def __init__(self) -> None:
        """None."""
        self._waiting: deque[Plan] = deque()
        self._out: set[int] = set()
        self._tried: set[str] = set()
        self._count = 0

    @property
    def n_out(self) -> int:
        """How many plans are being scored."""
        return len(self._out)

    @property
    def are_done(self) -> bool:
        """Whether nothing is to be scored or being scored."""
        return not self._waiting and not self._out

    def demand(self, plans: Sequence[Plan]) -> None:
        """Has plans scored by workers, those excepted that workers could not score: they are left to who asks.

        Raises:
            UnscoredError: if there are any.
        """
        fresh = [plan for plan in plans if plan.fingerprint not in self._tried]
        if fresh:
            self._waiting.extend(fresh)
            self._tried.update(plan.fingerprint for plan in fresh)
            raise UnscoredError(f"{len(fresh)} plans must be scored first.")

    def next(self) -> tuple[int, str] | None:
        """Number, below 0, and brief of the next plan to score; None where none waits."""
        if not self._waiting:
            return None
        self._count -= 1
        self._out.add(self._count)
        return self._count, Brief(self._waiting.popleft(), is_step=True).dumps()

    def scored(self, number: int) -> None:
        """Says that a worker has scored a plan, or failed to."""
        self._out.remove(number)

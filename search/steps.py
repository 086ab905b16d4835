"""Proposing beside the workers: what a proposal must know first, the steps of greedy orders, is scored by them.

A sampler asks for a greedy order in the middle of its work. So it works in a thread of its own, which waits there until
the plans of the step are scored; they are handed out like plans to judge. One proposal is made at a time, and whoever
feeds the workers touches nothing else of the search until it is done.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Condition

from ..spaces.plan import Plan
from .assessment import Brief
from .proposals import Proposal
from .workbench import LocalWorkbench


class Steps:
    """A proposal in the making, and the plans that it waits for."""

    def __init__(self, bench: LocalWorkbench, propose: Callable[[], Proposal | None]) -> None:
        """Proposes nothing yet.

        Args:
            bench: whose greedy orders are scored by workers from now on.
            propose: makes one proposal.
        """
        self._bench, self._propose = bench, propose
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposing")
        self._making: Future[Proposal | None] | None = None
        # Of what follows, and of nothing else, both threads know.
        self._changed = Condition()
        self._waiting: deque[Plan] = deque()
        self._out: set[int] = set()
        self._count, self._is_closed = 0, False
        bench.removal.foresee(self._wait_for)

    @property
    def n_out(self) -> int:
        """How many plans are being scored."""
        return len(self._out)

    @property
    def is_proposing(self) -> bool:
        """Whether a proposal was begun and not fetched yet."""
        return self._making is not None

    @property
    def is_made(self) -> bool:
        """Whether there is one to fetch."""
        return self._making is not None and self._making.done()

    def begin(self) -> None:
        """Begins to make a proposal."""
        self._making = self._thread.submit(self._propose)
        self._making.add_done_callback(lambda _: self._say_changed())

    def next(self) -> tuple[int, str] | None:
        """Number, below 0, and brief of the next plan to score; None where the proposal is made, or all are out."""
        making = self._making
        assert making is not None
        with self._changed:
            self._changed.wait_for(lambda: making.done() or self._waiting or self._out)
            if not self._waiting:
                return None
            self._count -= 1
            self._out.add(self._count)
            return self._count, Brief(self._waiting.popleft(), is_step=True).dumps()

    def fetch(self) -> Proposal | None:
        """The proposal that was made, or None where it led to nothing new; waits for it.

        Raises:
            Exception: whatever making it raised.
        """
        assert self._making is not None
        made, self._making = self._making, None
        return made.result()

    def scored(self, number: int) -> None:
        """Says that a worker has scored a plan, or failed to: then this process tries, and says what is wrong."""
        with self._changed:
            self._out.discard(number)
            self._changed.notify_all()

    def close(self) -> Proposal | None:
        """Ends the proposal in the making, and whatever it waits for; greedy orders are this process's own again.

        Returns:
            What was made and not fetched.
        """
        self._bench.removal.foresee(lambda plans: None)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.shutdown()
        made, self._making = self._making, None
        return None if made is None or made.exception() is not None else made.result()

    def _wait_for(self, plans: Sequence[Plan]) -> None:
        """In the thread that proposes: until all are scored."""
        with self._changed:
            self._waiting.extend(plans)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_closed or not (self._waiting or self._out))
            if self._is_closed:
                # As if the user had stopped it there: the choice is queued for when the search goes on.
                raise KeyboardInterrupt

    def _say_changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

"""Progress of long work, shown on a terminal and nowhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)

Report = Callable[[float, str], None]


class Progress(Protocol):
    """Where long work says how far it is."""

    def stage(self, what: str, total: float) -> AbstractContextManager[Report]:
        """One piece of work of a known size.

        Args:
            what: what is being done.
            total: its size, in any unit.

        Returns:
            A context; call its value with the amount done so far and a few words on what is being done now.
        """


class Silent:
    """Says nothing."""

    @contextmanager
    def stage(self, what: str, total: float) -> Iterator[Report]:
        """Nothing is shown."""
        yield lambda done, now: None


class Terminal:
    """Bars with the time left, on standard error; nothing where that is not a terminal."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)

    @contextmanager
    def stage(self, what: str, total: float) -> Iterator[Report]:
        """A bar that goes away when the work is done."""
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[now]}"),
        )
        shown = self._console.is_terminal
        with Bars(*columns, console=self._console, transient=True, disable=not shown) as bars:
            bar = bars.add_task(what, total=total, now="")
            yield lambda done, now: bars.update(bar, completed=done, now=now)

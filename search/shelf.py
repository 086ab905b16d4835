"""What workers share: what was shipped to them, and everything that one of them learned, in the run folder.

The driver's machine serves the shelf, so what workers learn outlives them and the driver, and machines need no disk in
common. The first to put something there decides: whatever is learned twice at the same time is the same for all.
Imports no torch: who only hands files on starts in a moment, and takes little memory.
"""

from pathlib import Path

from ..profilers.replacing import replacing
from .standstill import Worker

_FOLDERS = ("cache", "weights")


class Shelf:
    """Serves the files of a run folder; one process holds it."""

    def __init__(self, folder: str, shipment: bytes) -> None:
        """Reads nothing yet.

        Args:
            folder: the run folder.
            shipment: what every worker is to begin with.
        """
        self._folder, self._shipment = Path(folder), shipment
        self._jobs: dict[Worker, str | None] = {}
        self._expected = 0

    def shipment(self) -> bytes:
        """What every worker begins with."""
        return self._shipment

    def register(self, worker: Worker, job: str | None) -> None:
        """Says what a process judges from now on; None while it is starting."""
        self._jobs[worker] = job

    def lost(self, job: str) -> None:
        """Says that the process has died that judged this."""
        self._jobs = {worker: own for worker, own in self._jobs.items() if own != job}

    def expect(self, count: int) -> None:
        """Says for how many workers there is work."""
        self._expected = count

    def are_all_here(self) -> bool:
        """Whether as many workers have begun to judge as there is work for."""
        return sum(job is not None for job in self._jobs.values()) >= self._expected

    def workers(self) -> list[Worker]:
        """All that were registered and not lost; some may have ended."""
        return list(self._jobs)

    def get(self, place: str, name: str) -> bytes | None:
        """The content of a file, or None.

        Args:
            place: "cache" or "weights".
            name: of a file there.
        """
        path = self._path(place, name)
        return path.read_bytes() if path.is_file() else None

    def put(self, place: str, name: str, content: bytes) -> bytes:
        """Keeps a file unless it is there already.

        Returns:
            What is kept.
        """
        path = self._path(place, name)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as draft:
                draft.write_bytes(content)
            return content
        return path.read_bytes()

    def _path(self, place: str, name: str) -> Path:
        assert place in _FOLDERS and Path(name).name == name
        return self._folder / place / name

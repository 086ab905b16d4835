"""One turn of one entrant: how its requests are served and timed, one after the other or several at once."""

import statistics
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..errors import MeasurementError

Clock = Callable[[], float]
Call = Callable[[], object]
# Runs a call and says how long it took, in seconds.
Stopwatch = Callable[[Call], float]

_WARM_UP_WINDOW = 3
_WARM_UP_CALLS = 30
_STILL_GETTING_FASTER = 0.95
_LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Requests:
    """An entrant that serves more than one kind of request, or several at once.

    Attributes:
        calls: one request each, which must not return before its result is complete. All count alike: the time of the
            entrant is the mean over them.
        streams: so many are in flight at once, each in a thread of its own.
    """

    calls: tuple[Call, ...]
    streams: int = 1

    def __post_init__(self) -> None:
        if not self.calls or self.streams < 1:
            raise MeasurementError(
                f"an entrant serves at least one request in at least one stream, got {len(self.calls)} requests in "
                f"{self.streams} streams."
            )


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn showed.

    Attributes:
        sample_seconds: of one request: the median of its calls, averaged over the entrant's requests.
        calls_seconds: of every timed request, in the order in which they were asked.
        busy_seconds: during which all of them were served; less than their sum where several were in flight.
    """

    sample_seconds: float
    calls_seconds: tuple[float, ...]
    busy_seconds: float


def requests_of(entrant: Call | Requests) -> Requests:
    """The same, in one form."""
    return entrant if isinstance(entrant, Requests) else Requests((entrant,))


def warm_up(entrant: Requests, stopwatch: Stopwatch, *, seconds: float, is_reload: bool = False) -> None:
    """Serves until it no longer gets faster.

    Args:
        entrant: whose requests are served in turn.
        stopwatch: tells the time of a call.
        seconds: after which it ends in any case, once every request was served twice.
        is_reload: whether another copy ran just now: then single calls are compared instead of medians of three.
    """
    window = 1 if is_reload else _WARM_UP_WINDOW
    times: list[float] = []
    for done in range(1, _WARM_UP_CALLS + 1):
        times.append(sum(map(stopwatch, entrant.calls)))
        before, last = times[-2 * window : -window], times[-window:]
        is_level = len(before) == window and (
            statistics.median(last) > _STILL_GETTING_FASTER * statistics.median(before)
        )
        if is_level or (done > 1 and sum(times) > seconds):
            return


def take_turn(entrant: Requests, calls: int, stopwatch: Stopwatch, clock: Clock) -> Turn:
    """One turn: every request once untimed, because the caches are full of the entrant before, then the timed ones.

    Args:
        entrant: whose turn it is.
        calls: how often each of its requests is timed, in every stream.
        stopwatch: tells the time of a call.
        clock: for what several streams took together.

    Raises:
        MeasurementError: if the streams do not come together.
    """
    if entrant.streams > 1:
        return _at_once(entrant, calls, stopwatch, clock)
    times = []
    for call in entrant.calls:
        call()
        times.append([stopwatch(call) for _ in range(calls)])
    flat = tuple(seconds for each in times for seconds in each)
    return Turn(statistics.fmean(map(statistics.median, times)), flat, sum(flat))


def _at_once(entrant: Requests, calls: int, stopwatch: Stopwatch, clock: Clock) -> Turn:
    """The same in several threads; every stream starts with another request, so that long ones do not meet."""
    spans: list[tuple[float, float]] = []
    ready = threading.Barrier(entrant.streams, timeout=_LONGEST_WAIT_SECONDS)
    count = len(entrant.calls)

    def serve(stream: int) -> list[tuple[int, float]]:
        order = [(stream + step) % count for step in range(count)]
        try:
            for which in order:
                entrant.calls[which]()
            ready.wait()
            started = clock()
            found = [(which, stopwatch(entrant.calls[which])) for _ in range(calls) for which in order]
        except BaseException:
            ready.abort()  # or the other streams would wait for this one
            raise
        spans.append((started, clock()))
        return found

    with ThreadPoolExecutor(entrant.streams) as pool:
        served = [pool.submit(serve, stream) for stream in range(entrant.streams)]
        failures = [error for one in served if (error := one.exception()) is not None]
        if failures:
            raise next((e for e in failures if not isinstance(e, threading.BrokenBarrierError)), failures[0])
        times = [pair for one in served for pair in one.result()]
    medians = [statistics.median(seconds for which, seconds in times if which == one) for one in range(count)]
    busy = max(end for _, end in spans) - min(start for start, _ in spans)
    return Turn(statistics.fmean(medians), tuple(seconds for _, seconds in times), busy)

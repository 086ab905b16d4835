"""Models side by side on one device: each loaded anew every few rounds, whole requests and first tokens together."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median

from transformers import PretrainedConfig

from .conditions import Reading
from .devices import Device
from .runtimes import Executable
from .timing import Effort, Latency, Requests, beside, measure
from .turns import Stopwatch
from .workload import Workload, serving

Load = Callable[[], Executable]


@dataclass(frozen=True, slots=True)
class Late:
    """How long one model takes.

    Attributes:
        whole: of a whole request.
        first: of one that ends after its first token; None where no tokens are generated.
    """

    whole: Latency
    first: Latency | None


def compare(
    loads: Mapping[str, tuple[Load, PretrainedConfig]],
    workload: Workload,
    *,
    effort: Effort,
    seed: int,
    device: Device,
    stopwatch: Stopwatch | None = None,
) -> dict[str, Late]:
    """Times models side by side.

    Args:
        loads: name -> what loads the model, to lie elsewhere in memory every time, and its config; the first is the
            baseline.
        workload: what all of them serve.
        effort: when to stop.
        seed: of every order.
        device: where they run.
        stopwatch: what times a request; None for the device's clock.

    Returns:
        Name -> latencies.

    Raises:
        SettingError: if a model has fewer positions than the workload asks for.
    """
    baseline = next(iter(loads))
    # A request that ends after its first token runs in the same rounds, so that the two may be subtracted.
    parts = {"whole": workload} | ({"first": replace(workload, generated=1)} if workload.generated else {})
    # Who is loaded first lies better or worse every time, so that must be chance, too.
    shuffled = random.Random(seed)

    def load() -> dict[str, Requests]:
        order = shuffled.sample(list(loads), len(loads))
        executables = {name: loads[name][0]() for name in order}
        return {
            f"{part} {name}": serving(executables[name], served, loads[name][1])
            for part, served in parts.items()
            for name in loads
        }

    found = measure(
        load,
        baseline=f"whole {baseline}",
        effort=effort,
        seed=seed,
        clock=device.clock,
        stopwatch=stopwatch,
        read=lambda: Reading.now(device.throttled),
    )
    return {
        name: Late(
            found[f"whole {name}"],
            beside(found[f"first {name}"], found[f"first {baseline}"], seed) if "first" in parts else None,
        )
        for name in loads
    }


def seconds_per_token(whole: Latency, first: Latency, generated: int) -> float | None:
    """What every token after the first takes; None where there is none, or it is lost in the noise.

    Args:
        whole: of requests.
        first: of requests that end after their first token, from the same rounds.
        generated: tokens of a whole request.
    """
    if generated < 2:
        return None
    pairs = zip(whole.samples_seconds, first.samples_seconds, strict=True)
    further = median(one - other for one, other in pairs) / (generated - 1)
    return further if further > 0 else None

"""What can be told apart here: a model against itself, and against one that does 3 % more, by paring and by others.

    python benchmarks/noise_floor.py --model MODEL [--comparisons 40] [--parts quiet,busy,slower] [--tools paring]
                                     [--threads 1] [--seconds 20] [--tokens 128] [--runtime torch]

- *quiet*: comparisons of two loads of the same model. Counted: how many intervals hold 1, and how wide they are.
- *busy*: the same beside a process that keeps one core busy half of the time, 50 ms in 100.
- *slower*: one of the two does 3 % more work (see `Slower`). Counted: how many intervals lie above 1.

Beside paring's `measure`, the same two copies by `torch.utils.benchmark` (`blocked_autorange`, medians; its interval
here is that of the medians' ratio, from their interquartile ranges, as if its blocks were independent) and by a plain
loop of 20 calls each (ratio of means, interval by Welch's t). Those two see one load each: that is how they are used.
"""

import argparse
import copy
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import exp, log, sqrt
from multiprocessing.synchronize import Event
from statistics import NormalDist, fmean, median, stdev
from typing import Any

import torch
from results import keep
from scipy.stats import binomtest, t
from torch import Tensor
from torch.utils.benchmark import Timer
from transformers import PreTrainedModel

from paring.profilers import devices, runtimes
from paring.profilers.runtimes import Executable
from paring.profilers.timing import ANEW, Requests, measure, wall_clock
from paring.profilers.workload import Workload, serving
from paring.spaces import artefact

Loads = dict[str, Callable[[], Executable]]
PARTS = ("quiet", "busy", "slower")
MORE = 0.03
_BUSY_SECONDS, _PERIOD_SECONDS = 0.05, 0.1
_PLAIN_CALLS = 20


class Slower:
    """An executable that does more work after every request: so many products of matrices, and part of one."""

    kernels = "float"

    def __init__(self, executable: Executable, rows: int) -> None:
        self.executable, self.left, self.right = executable, torch.ones(rows, 384), torch.ones(384, 384)

    def __call__(self, inputs: Any) -> Tensor:
        """Logits of the model as it is."""
        logits = self.executable(inputs)
        self.extra()
        return logits

    def extra(self) -> None:
        """What is done beyond the model."""
        with torch.inference_mode():
            torch.mm(self.left, self.right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--comparisons", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="noise_floor")
    given = parser.parse_args()
    tools = given.tools.split(",")
    model = artefact.load_original(given.model)
    workload = Workload(tokens=given.tokens, threads=given.threads)

    def load() -> Executable:
        return runtimes.find(given.runtime).load(copy.deepcopy(model), devices.find("cpu"), threads=workload.threads)

    rows: list[dict[str, Any]] = []
    singles: list[dict[str, Any]] = []
    planted = {}
    for part in given.parts.split(","):
        if part not in PARTS:
            sys.exit(f"unknown part {part!r}; the parts are {', '.join(PARTS)}")
        other: Callable[[], Executable] = load
        if part == "slower":
            extra_rows, planted = calibrated(load(), model, workload)
            other = lambda rows=extra_rows: Slower(load(), rows)  # noqa: E731
        with burner() if part == "busy" else quiet():
            for number in range(given.comparisons):
                for tool in tools:
                    compare = TOOLS[tool]
                    started = wall_clock()
                    found = compare({"one": load, "other": other}, model, workload, given.seconds, number)
                    singles.append({"part": part, "tool": tool, **found, "seconds": wall_clock() - started})
                    print(singles[-1], file=sys.stderr, flush=True)
        rows += [summary(part, tool, singles) for tool in tools]
    facts = {"workload": str(workload), "runtime": given.runtime, "planted": planted}
    keep(given.name, rows, **facts, comparisons=singles)


def by_paring(loads: Loads, model: PreTrainedModel, workload: Workload, seconds: float, seed: int) -> dict[str, Any]:
    """Both loaded anew every few rounds."""

    def load() -> dict[str, Requests]:
        order = ("one", "other") if len(loaded) % 2 else ("other", "one")
        loaded.append(1)
        return {name: serving(loads[name](), workload, model.config) for name in order}

    loaded: list[int] = []
    found = measure(load, baseline="one", effort=replace(ANEW, seconds=seconds), seed=seed)["other"]
    said = {"loads": len(found.loads), "warnings": list(found.warnings)}
    return {"ratio": found.ratio, "low": found.ratio_low, "high": found.ratio_high, **said}


def by_torch(loads: Loads, model: PreTrainedModel, workload: Workload, seconds: float, seed: int) -> dict[str, Any]:
    """One after the other, for half of the time each."""
    inputs = workload.inputs(model.config)
    logs, variances = [], []
    for load in loads.values():
        served = {"serve": load(), "inputs": inputs}
        timer = Timer("serve(inputs)", globals=served, num_threads=workload.threads)
        found = timer.blocked_autorange(min_run_time=seconds / 2 - 1)
        logs.append(log(found.median))
        # The error of a median of so many blocks that scatter by so much, were they normal and independent.
        scatter = found.iqr / (2 * NormalDist().inv_cdf(0.75)) / found.median
        variances.append(1.57 * scatter**2 / len(found.times))
    return _interval(logs[1] - logs[0], NormalDist().inv_cdf(0.975) * sqrt(sum(variances)))


def by_loop(loads: Loads, model: PreTrainedModel, workload: Workload, seconds: float, seed: int) -> dict[str, Any]:
    """What most scripts do: three calls to warm up, then 20, one model after the other."""
    inputs = workload.inputs(model.config)
    logs, variances = [], []
    for load in loads.values():
        served, times = load(), []
        for number in range(3 + _PLAIN_CALLS):
            started = wall_clock()
            served(inputs)
            times += [wall_clock() - started] if number >= 3 else []
        logs.append(log(fmean(times)))
        variances.append((stdev(times) / fmean(times)) ** 2 / _PLAIN_CALLS)
    freedom = sum(variances) ** 2 / sum(variance**2 / (_PLAIN_CALLS - 1) for variance in variances)
    return _interval(logs[1] - logs[0], float(t.ppf(0.975, freedom)) * sqrt(sum(variances)))


TOOLS = {"paring": by_paring, "torch.utils.benchmark": by_torch, "loop of 20": by_loop}


def summary(part: str, tool: str, singles: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table."""
    own = [single for single in singles if (single["part"], single["tool"]) == (part, tool)]
    half_widths = [(single["high"] - single["low"]) / 2 / single["ratio"] for single in own]
    if part == "slower":
        right, what = sum(single["low"] > 1 for single in own), "lies above 1"
    else:
        right, what = sum(single["low"] <= 1 <= single["high"] for single in own), "holds 1"
    sure = binomtest(right, len(own)).proportion_ci()
    return {
        "part": part,
        "tool": tool,
        "the interval": what,
        "of": len(own),
        "times": right,
        "share": right / len(own),
        "share from": sure.low,
        "to": sure.high,
        "median ratio": median(single["ratio"] for single in own),
        "median half-width": median(half_widths),
        "worst half-width": max(half_widths),
        "median s": median(single["seconds"] for single in own),
        "worst s": max(single["seconds"] for single in own),
    }


def calibrated(executable: Executable, model: PreTrainedModel, workload: Workload) -> tuple[int, dict[str, float]]:
    """How many rows of extra products are 3 % of a request, and what they were found to be when asked again.

    Both times are of the same thread, in turn, and the extra work alone; the ratio of the two whole models is what the
    benchmark then has to find.
    """
    inputs, rows = workload.inputs(model.config), 256
    for _ in range(6):
        share = _share(executable, inputs, rows)
        rows = max(1, round(rows * MORE / share))
    again = [_share(executable, inputs, rows) for _ in range(3)]
    return rows, {"rows": rows, "share of a request": median(again)}


def _share(executable: Executable, inputs: Any, rows: int) -> float:
    """The median, over 60 pairs, of what the extra work takes to what the request before it took."""
    slower, shares = Slower(executable, rows), []
    for _ in range(60):
        started = wall_clock()
        executable(inputs)
        between = wall_clock()
        slower.extra()
        shares.append((wall_clock() - between) / (between - started))
    return median(shares)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing beside."""
    yield


@contextmanager
def burner() -> Iterator[None]:
    """A second process that keeps a core busy half of the time, for as long as the context lasts."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=burn, args=(stop,), daemon=True)
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(timeout=10)


def burn(stop: Event) -> None:
    """Until told to stop."""
    while not stop.is_set():
        until = time.monotonic() + _BUSY_SECONDS
        while time.monotonic() < until:
            sum(range(500))
        time.sleep(_PERIOD_SECONDS - _BUSY_SECONDS)


def _interval(middle: float, reach: float) -> dict[str, float]:
    return {"ratio": exp(middle), "low": exp(middle - reach), "high": exp(middle + reach)}


if __name__ == "__main__":
    main()

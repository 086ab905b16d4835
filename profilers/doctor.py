"""Whether this machine is fit to measure on: what disturbs, what to do about it, and what can be told apart here."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from . import runtimes
from .comparison import compare
from .conditions import SYSTEM, Reading, allowed_cores, clock_rate, others_cores, processor_throttled
from .devices import Device
from .energy import POWERCAP, meter_for
from .machine import instruction_sets, library_versions
from .timing import Effort, Latency
from .topology import numa_nodes, physical_cores, thread_warnings
from .workload import Workload

_BUSY_CORES = 0.1
_STOLEN_CORES = 0.02
_BUSIEST = 3
_FREE_MEMORY = 0.1


class State(StrEnum):
    """How a finding bears on measurements."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        state: whether it is as it should be.
        seen: what was found, in words.
        advice: what to do; empty where nothing need be done.
    """

    name: str
    state: State
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings.

    Attributes:
        findings: in the order in which they were looked at.
        noise: the model of the examination against itself.
    """

    findings: tuple[Finding, ...]
    noise: Latency

    @property
    def is_fit(self) -> bool:
        """Whether nothing is bad."""
        return all(finding.state != State.BAD for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "fit": self.is_fit,
            "resolved": self.noise.half_width,
            "findings": [asdict(finding) for finding in self.findings],
            "noise": self.noise.to_json(),
        }


def examine(
    device: Device,
    *,
    threads: int,
    resolve: float,
    effort: Effort,
    wait: Callable[[float], object],
    seed: int = 0,
    system: Path = SYSTEM,
    powercap: Path = POWERCAP,
) -> Examination:
    """Looks at the machine, and measures a model of MiniLM's size against itself.

    Args:
        device: where measurements will run.
        threads: that requests will use.
        resolve: the difference that must be told apart, as a fraction of the time.
        effort: of the measurement of the model against itself.
        wait: sleeps so many seconds, while others are watched.
        seed: of every order.
        system: where the system keeps what it knows of its devices.
        powercap: where it keeps the counters of energy.
    """
    findings = [*_standing(device, threads, system), energy_finding(device, powercap), *_load(wait)]
    noise = noise_floor(device, threads=threads, effort=effort, seed=seed)
    return Examination((*findings, *disturbances(noise), resolution(noise, resolve)), noise)


def noise_floor(
    device: Device, *, threads: int, effort: Effort, seed: int, model: Callable[[], PreTrainedModel] | None = None
) -> Latency:
    """A model beside itself, both loaded anew every few rounds: half its interval is the smallest difference resolved.

    Args:
        device: where it runs.
        threads: of a request.
        effort: when to stop; a half-width of 0 uses all of its time.
        seed: of every order.
        model: makes the model; None for a random one of the size of MiniLM.
    """
    made = (model or _minilm_sized)()
    runtime = runtimes.find("torch")
    tokens = min(128, made.config.max_position_embeddings)

    def load() -> runtimes.Executable:
        return runtime.load(copy.deepcopy(made), device, threads=threads)

    loads = dict.fromkeys(("one", "other"), (load, made.config))
    workload = Workload(tokens=tokens, threads=threads)
    return compare(loads, workload, effort=effort, seed=seed, device=device)["other"].whole


def resolution(noise: Latency, resolve: float) -> Finding:
    """Whether what must be told apart can be."""
    width, within = noise.half_width, f"{noise.ratio_low:.4f} to {noise.ratio_high:.4f}"
    seen = (
        f"differences from {width:.1%} on are told apart (a model against itself: {within}, {len(noise.loads)} loads)"
    )
    if width > resolve:
        advice = f"{resolve:.1%} is wanted; make the machine quieter as said above, or measure for longer"
        return Finding("resolution", State.BAD, seen, advice)
    if not noise.ratio_low <= 1 <= noise.ratio_high:
        advice = "one examination in twenty shows this by chance; examine again"
        return Finding("resolution", State.DOUBTFUL, f"{seen}, which leaves out 1", advice)
    return Finding("resolution", State.GOOD, seen)


def disturbances(noise: Latency) -> Iterator[Finding]:
    """What was noticed during a measurement."""
    for warning in noise.warnings:
        yield Finding("while measuring", State.DOUBTFUL, warning)


def load_finding(before: Reading, after: Reading, busiest: Mapping[str, float]) -> Iterator[Finding]:
    """Who else works on the cores of this process.

    Args:
        before: when it was begun to watch.
        after: a while later.
        busiest: process -> cores it took meanwhile.
    """
    others = others_cores(before, after)
    if others >= _BUSY_CORES:
        names = ", ".join(f"{name} {cores:.2f}" for name, cores in busiest.items() if cores >= _BUSY_CORES / 2)
        seen = f"other processes take {others:.2f} cores" + (f": {names}" if names else "")
        yield Finding("load", State.BAD, seen, "end them, or measure when they have ended")
    else:
        yield Finding("load", State.GOOD, f"other processes take {others:.2f} cores")
    stolen = (after.stolen_seconds - before.stolen_seconds) / max(after.elapsed_seconds - before.elapsed_seconds, 1e-9)
    if stolen >= _STOLEN_CORES:
        seen = f"the hypervisor gives {stolen:.2f} cores to other machines"
        yield Finding("hypervisor", State.BAD, seen, "take a machine of your own, or measure at another hour")


def governor_finding(system: Path) -> Finding:
    """Whether the clock rate follows the load."""
    paths = [system / f"cpu/cpu{core}/cpufreq/scaling_governor" for core in allowed_cores()]
    found = sorted({path.read_text(encoding="ascii").strip() for path in paths if path.exists()})
    rate = clock_rate(system)
    at = "" if rate is None else f", now at {rate:.0f} MHz"
    if not found:
        return Finding("governor", State.GOOD, "the system shows none, as virtual machines do")
    if found == ["performance"]:
        return Finding("governor", State.GOOD, f"performance{at}")
    advice = "as root: cpupower frequency-set -g performance"
    return Finding("governor", State.DOUBTFUL, f"{', '.join(found)}: the clock rate follows the load{at}", advice)


def energy_finding(device: Device, powercap: Path = POWERCAP) -> Finding:
    """Whether energy can be read; measurements of time do not suffer where it cannot."""
    meter = meter_for(device, powercap)
    return Finding("energy", State.GOOD, f"not readable: {meter}" if isinstance(meter, str) else meter.source)


def _standing(device: Device, threads: int, system: Path) -> Iterator[Finding]:
    """What does not change from moment to moment."""
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    facts = ", ".join(f"{value}" if key == "name" else f"{key} {value}" for key, value in device.facts().items())
    sets = ", ".join(instruction_sets()) or "unknown"
    yield Finding("device", State.GOOD, f"{device.name}: {facts}; instruction sets {sets}; {versions}")
    yield _cores(system)
    for warning in thread_warnings(threads, system):
        yield Finding("threads", State.DOUBTFUL, warning)
    yield governor_finding(system)
    throttled = processor_throttled(system)
    if throttled:
        seen = f"the processor slowed down for heat {throttled} times since it was started"
        yield Finding("heat", State.DOUBTFUL, seen, "mind its cooling; whether it happens while measuring is watched")
    memory = psutil.virtual_memory()
    if memory.available < _FREE_MEMORY * memory.total:
        seen = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB are free"
        yield Finding("memory", State.DOUBTFUL, seen, "end what holds it: a machine that swaps measures its disk")


def _cores(system: Path) -> Finding:
    allowed, nodes = allowed_cores(), numa_nodes(system)
    cores = f"{len(allowed)} of {os.cpu_count()} cores ({physical_cores(system)} physical, {len(nodes)} NUMA nodes)"
    if len(nodes) > 1:
        names = ", ".join(f"cpu:{node}" for node in nodes)
        return Finding("cores", State.DOUBTFUL, cores, f"memory of another node is slower; take a device of {names}")
    return Finding("cores", State.GOOD, cores)


def _load(wait: Callable[[float], object]) -> Iterator[Finding]:
    """Watches for a second."""
    watched = {process.pid: process for process in psutil.process_iter(["name"]) if process.pid != os.getpid()}
    for process in watched.values():
        _cores_of(process)  # psutil counts from the first question on
    before = Reading.now()
    wait(1.0)
    after = Reading.now()
    taken = {f"{process.info['name']} ({pid})": _cores_of(process) for pid, process in watched.items()}
    yield from load_finding(before, after, dict(sorted(taken.items(), key=lambda pair: -pair[1])[:_BUSIEST]))


def _cores_of(process: psutil.Process) -> float:
    try:
        return float(process.cpu_percent()) / 100
    except psutil.Error:
        return 0.0


def _minilm_sized() -> PreTrainedModel:
    """A random model of the size of MiniLM."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=4096, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        model = BertForSequenceClassification(config)
    model.eval()
    assert isinstance(model, PreTrainedModel)
    return model

"""The commands that measure without searching: what this machine has, whether it is fit, and what models cost here."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from . import cli_options as given

if TYPE_CHECKING:
    from .profilers.side_by_side import Measured, Setup
    from .profilers.side_by_side_isolated import Unmeasured
    from .profilers.supervision import Allowance
    from .profilers.workload import Workload


def devices(
    kernels: Annotated[bool, typer.Option(help="Try which kernels each runtime has; takes some seconds.")] = True,
    form: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """List the devices of this machine, the runtimes that can use them, and the kernels those have there."""
    from .profilers.machine import available_cores, instruction_sets
    from .profilers.topology import numa_nodes

    given.check_format(form)
    found = {name: _described(name, kernels=kernels) for name in _kinds()}
    if form == "json":
        typer.echo(json.dumps({"cores": available_cores(), "instruction_sets": instruction_sets(), **found}, indent=1))
        return
    nodes = len(numa_nodes())
    cores = f"{available_cores()} cores" + (f" in {nodes} NUMA nodes" if nodes > 1 else "")
    typer.echo(f"{cores}; instruction sets: {', '.join(instruction_sets()) or 'unknown'}")
    for kind, described in found.items():
        if isinstance(described, str):
            typer.echo(f"{kind}: none ({described})")
            continue
        for name, device in described.items():
            typer.echo(f"{name}: {device['facts']}")
            for runtime, can in device["runtimes"].items():
                typer.echo(f"  {runtime}: {can}")


def doctor(
    device: given.Device = "cpu",
    threads: given.Threads = None,
    resolve: Annotated[float, typer.Option(help="The difference, in per cent, that must be told apart.")] = 2.0,
    seconds: Annotated[float, typer.Option(help="For which a model is measured against itself.")] = 20.0,
    seed: given.Seed = 0,
    form: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Examine whether this machine is fit to measure on. Ends with 0 where it is, 1 where it is not."""
    from .profilers import devices as known
    from .profilers.doctor import examine
    from .profilers.timing import ANEW

    given.check_format(form)
    given.positive("--resolve", resolve)
    given.positive("--seconds", seconds)
    with given.interruptible():
        found = examine(
            known.find(device),
            threads=given.cores(threads),
            resolve=resolve / 100,
            effort=replace(ANEW, seconds=seconds, half_width=min(resolve / 100, 0.01)),
            wait=time.sleep,
            seed=seed,
        )
    if form == "json":
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        for finding in found.findings:
            typer.echo(f"{finding.state:8}  {finding.name}: {finding.seen}")
            if finding.advice:
                typer.echo(f"{'':8}  -> {finding.advice}")
        typer.echo(f"This machine is {'fit' if found.is_fit else 'NOT fit'} to measure on now.")
    if not found.is_fit:
        raise typer.Exit(1)


def profile(
    models: Annotated[
        list[str], typer.Argument(help="Hugging Face folders, exports of paring, or names on the hub; the first is 1.")
    ],
    device: given.Device = "cpu",
    runtime: given.Runtime = "torch",
    batch: Annotated[str, typer.Option(help="Examples per request, such as 1,8.")] = "1",
    tokens: Annotated[str, typer.Option(help="Tokens per example, such as 32,128.")] = "128",
    generated_tokens: given.GeneratedTokens = None,
    beams: given.Beams = 1,
    threads: given.Threads = None,
    streams: Annotated[str, typer.Option(help="Requests in flight at once, such as 1,4.")] = "1",
    seconds: Annotated[float, typer.Option(help="At most, for each of the workloads and all models.")] = 20.0,
    half_width: Annotated[float, typer.Option(help="Stop when ratios are known to so many per cent.")] = 1.0,
    timer: Annotated[str, typer.Option(help="wall, or device: events of a GPU around each request.")] = "wall",
    cuda_graph: Annotated[bool, typer.Option(help="Record forward passes and launch them as a whole.")] = False,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, each model in a process of its own.")] = True,
    isolate_seconds: given.IsolateWorkloadSeconds = None,
    isolate_memory_mb: given.IsolateWorkloadMemory = None,
    seed: given.Seed = 0,
    form: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """Measure saved models side by side: time, throughput, memory and energy on a grid of workloads.

    Ends with 1 where an isolated workload gave no numbers.
    """
    from .errors import SettingError
    from .profilers.side_by_side import Setup
    from .profilers.side_by_side_isolated import Unmeasured
    from .profilers.supervision import Allowance
    from .profilers.timing import ANEW
    from .profilers.workload import Workload
    from .reports.profiled import render_profiles
    from .reports.tables import FORMATS

    if form not in FORMATS:
        raise SettingError.unknown("format", form, FORMATS)
    if timer not in ("wall", "device"):
        raise SettingError.unknown("timer", timer, ("wall", "device"))
    given.positive("--seconds", seconds)
    given.positive("--half-width", half_width)
    grid = product(
        given.whole_numbers("--batch", batch),
        given.whole_numbers("--tokens", tokens),
        given.whole_numbers("--streams", streams),
    )
    generated = given.at_least_one(generated_tokens)
    workloads = [
        Workload(examples, length, given.cores(threads), generated, beams, at_once)
        for examples, length, at_once in grid
    ]
    effort = replace(ANEW, seconds=seconds, half_width=half_width / 100)
    setup = Setup(device, runtime, effort, memory, timer == "device", cuda_graph, seed)
    allowance = given.allowance(isolate_seconds, isolate_memory_mb)
    found = _side_by_side(models, workloads, setup, None if allowance == Allowance() else allowance)
    console = Console()
    wide = console if console.is_terminal else Console(width=160)
    typer.echo(render_profiles(found, form, console=wide), nl=form == "json")
    if any(isinstance(one, Unmeasured) for one in found):
        raise typer.Exit(1)


def _side_by_side(
    models: list[str], workloads: list["Workload"], setup: "Setup", allowance: "Allowance | None"
) -> Sequence["Measured | Unmeasured"]:
    """Measures in this process, or where something is allowed, in others."""
    from .errors import MeasurementError
    from .profilers.side_by_side import measure_models
    from .profilers.side_by_side_isolated import measure_isolated

    def tell(what: str) -> None:
        typer.echo(what, err=True)

    with given.interruptible():
        if allowance is not None:
            return measure_isolated(models, workloads, setup, allowance, tell=tell)
        try:
            return measure_models(models, workloads, setup, tell=tell)
        except MemoryError as error:
            raise MeasurementError(str(error)) from error


def _kinds() -> tuple[str, ...]:
    from .profilers import devices as known

    return known.kinds()


def _described(kind: str, *, kernels: bool) -> str | dict[str, dict[str, Any]]:
    """Every device of a kind that is here: its facts and what each runtime can; or why there is none."""
    from .profilers import devices as known
    from .profilers import runtimes
    from .profilers.kernels import kernels_here

    family = known.kind(kind)
    if not family.present():
        return family.absence()
    found: dict[str, dict[str, Any]] = {}
    for name in family.present():
        device = known.find(name)
        facts = ", ".join(f"{key} {value}" for key, value in device.facts().items() if key != "name")
        can = {}
        for runtime in runtimes.names():
            absence = runtimes.find(runtime).absence(device)
            has = kernels_here(runtimes.find(runtime), device) if kernels and absence is None else ()
            can[runtime] = absence or ("ready" + (f"; kernels {', '.join(has)}" if has else ""))
        found[name] = {"facts": device.facts()["name"] + (f" ({facts})" if facts else ""), "runtimes": can}
    return found

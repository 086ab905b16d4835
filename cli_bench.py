"""The commands that take a finished study to other machines: bundle, bench, history and fleet."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from . import cli_options as given

if TYPE_CHECKING:
    from .profilers.history import History

_BENCH_FORMATS = ("table", "json", "junit")
_HISTORY_FORMATS = ("table", "csv", "json")

HistoryFile = Annotated[
    Path | None, typer.Option("--history", help="The history; one in this user's data folder if not given.")
]


def bundle(
    run: given.Run,
    out: Annotated[Path | None, typer.Option(help="The file to write; RUN/bundle.zip if not given.")] = None,
    near: Annotated[int, typer.Option(help="At most so many plans that are nearly on the front go along.")] = 4,
) -> None:
    """Pack plans, weights and qualities of a finished study into one file to carry to another machine."""
    from .errors import SettingError
    from .reports.bench import BUNDLE
    from .reports.bundling import make_bundle
    from .search.progress import Terminal
    from .search.study import Record

    if near < 0:
        raise SettingError(f"--near must be at least 0, got {near}.")
    path = out or run / BUNDLE
    with given.interruptible():
        made = make_bundle(Record.open(run), path, near=near, progress=Terminal())
    typer.echo(
        f"{made.path}: {made.plans} models ({made.near} nearly on the front) in {made.stored_bytes / 1e6:.1f} MB; "
        f"their files take {made.apart_bytes / 1e6:.1f} MB."
    )


def bench(
    source: Annotated[Path, typer.Argument(help="A run folder, or a bundle.", show_default=False)],
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; the search's if not given.")] = None,
    runtime: Annotated[str | None, typer.Option(help="What runs the models; the search's if not given.")] = None,
    workload: Annotated[
        str, typer.Option(help="What differs from the search's, such as batch=8,tokens=64,threads=1,streams=2.")
    ] = "",
    data: Annotated[
        str | None, typer.Option(help="The study's data on this machine, to judge again where answers differ.")
    ] = None,
    at_most: Annotated[list[str] | None, typer.Option("--max", help="For the pick: latency_ms=, memory_mb=.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="For the pick: quality so far below the original's.")] = None,
    plans: Annotated[
        int | None, typer.Option(help="At most so many beside the original, spread over the front; all if not given.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="At most, of timing one model.")] = 4.0,
    tolerance: Annotated[
        float, typer.Option(help="Answers that differ by no more than this part of their spread are the same.")
    ] = 0.05,
    against: Annotated[
        str | None, typer.Option(help="Id of the session to compare with; the last if not given.")
    ] = None,
    skip_if_busy: Annotated[bool, typer.Option(help="Measure nothing while others work on this machine.")] = False,
    only_new_hardware: Annotated[bool, typer.Option(help="Measure only where the history has not seen it.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds for another benchmark on this machine to end.")] = 0.0,
    seed: given.Seed = 0,
    history: HistoryFile = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the new front; beside the source if not given.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write verdicts here as JUnit XML.")] = None,
    form: Annotated[str, typer.Option("--format", help="table, json or junit.")] = "table",
) -> None:
    """Measure a finished study on this machine, judging no quality again. Ends with 3 if a plan became slower."""
    from .errors import SettingError
    from .profilers.occupancy import occupied
    from .reports.bench import Asked, carried_from, is_known
    from .reports.bench import bench as run_bench
    from .reports.bench_texts import junit as junit_of
    from .reports.bench_texts import render_bench
    from .search.cache import replace_file, writing
    from .search.objectives import Limits
    from .search.progress import Terminal

    if form not in _BENCH_FORMATS:
        raise SettingError.unknown("format", form, _BENCH_FORMATS)
    drop = [] if max_drop is None else [f"drop={max_drop}"]
    limits = Limits.parse([*(at_most or []), *drop]) if at_most or drop else None
    asked = Asked(
        device,
        runtime,
        given.whole_fields(workload),
        limits,
        seconds,
        tolerance,
        data,
        seed,
        wait,
        against,
        plans=plans,
    )
    kept = _history(history)
    with given.interruptible():
        if only_new_hardware and is_known(carried_from(source), asked, kept):
            typer.echo("nothing was measured: the history knows this study on this hardware.", err=True)
            return
        busy = occupied(time.sleep) if skip_if_busy else None
        if busy:
            typer.echo(f"nothing was measured: {busy}.", err=True)
            return
        benched = run_bench(source, asked, kept, now=time.time, out=out, progress=Terminal())
    if junit is not None:
        with writing(junit.parent):
            replace_file(junit, junit_of(benched))
    if form == "table":
        typer.echo(render_bench(benched, _wide()), nl=False)
    else:
        typer.echo(json.dumps(benched.to_json(), indent=1) if form == "json" else junit_of(benched))
    if benched.exit_code:
        raise typer.Exit(benched.exit_code)


def history(
    study: Annotated[str, typer.Option(help="Only of this study: the model's name, or a hash.")] = "",
    plan: Annotated[str, typer.Option(help="Only plans of this id, or with these words.")] = "",
    hardware: Annotated[str, typer.Option(help="Only on this one: a hash, or part of a device's name.")] = "",
    runtime: Annotated[str, typer.Option(help="Only by this one.")] = "",
    since: Annotated[str, typer.Option(help="Only from this day on, such as 2026-11-21.")] = "",
    export: Annotated[Path | None, typer.Option(help="Write them here as Parquet.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw latency over time and machines into this HTML file.")] = None,
    merge: Annotated[Path | None, typer.Option(help="First take over the sessions of another history.")] = None,
    history: HistoryFile = None,
    form: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """List, filter, draw and export what was measured on all machines."""
    from .errors import HistoryError, SettingError
    from .profilers.history import History
    from .reports.history_table import Filter, render_history, table_of, write_figure
    from .reports.history_table import export as write_parquet

    if form not in _HISTORY_FORMATS:
        raise SettingError.unknown("format", form, _HISTORY_FORMATS)
    wanted = Filter(study, plan, hardware, runtime, given.day("--since", since))
    kept = _history(history)
    if merge is not None:
        if not merge.is_file():
            raise HistoryError(f"there is no history {merge}.")
        typer.echo(f"Took over {kept.merge(History(merge))} sessions of {merge}.", err=True)
    sessions = kept.sessions()
    table = table_of(sessions, wanted)
    if export is not None:
        typer.echo(f"{export}: {write_parquet(sessions, export, wanted)} measurements.")
    if plot is not None:
        write_figure(table, plot)
        typer.echo(f"{plot}: {len(table)} measurements.")
    if export is None and plot is None:
        typer.echo(render_history(table, form, _wide()), nl=False)


def fleet(
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("fleet.html"),
    stale_days: Annotated[float, typer.Option(help="A machine not measured for longer is stale.")] = 30.0,
    history: HistoryFile = None,
) -> None:
    """Write one page over all machines: fronts, picks, regressions, and what is out of date."""
    from .reports.fleet import write_fleet

    given.positive("--stale-days", stale_days)
    machines = write_fleet(_history(history).sessions(), out, now=time.time(), stale_seconds=stale_days * 86400)
    typer.echo(f"{out}: {machines} machines.")


def _history(path: Path | None) -> "History":
    from .profilers.history import History, default_path

    return History(path or default_path())


def _wide() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=200)

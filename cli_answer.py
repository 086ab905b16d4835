"""The commands that answer from a run: its front, one pick, and what is said when a search ends."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from . import cli_options as given
from .errors import SettingError

if TYPE_CHECKING:
    from .reports.export import Exported
    from .reports.front import Front
    from .reports.pick import Pick


def front(
    run: given.Run,
    form: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """Print the Pareto front of a run, on a terminal with a small plot."""
    from .api import Study
    from .reports.tables import FORMATS, render

    if form not in FORMATS:
        raise SettingError.unknown("format", form, FORMATS)
    whole = Study(run).whole_front
    if form == "table":
        _show_front(whole, _pick_or_why(whole)[0])
    else:
        typer.echo(render(whole, form), nl=form == "json")


def pick(
    run: given.Run,
    at_most: Annotated[list[str] | None, typer.Option("--max", help="latency_ms=, memory_mb= or size_mb=.")] = None,
    at_least: Annotated[list[str] | None, typer.Option("--min", help="quality=.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Quality may be so far below the original's.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="fastest within quality, best within the limits, or knee, from which on speed becomes dear; "
            "fastest where quality is bounded or nothing is, else best."
        ),
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Write the picked model here, and measure it.")] = None,
    form: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Choose one member of the front, with its reason and what lies next to it; export it if asked."""
    from .api import Study
    from .reports.relaxing import NothingFitsError
    from .search.objectives import Limits
    from .search.progress import Terminal

    given.check_format(form)
    _check_side("--max", at_most, ("latency_ms", "memory_mb", "size_mb"))
    _check_side("--min", at_least, ("quality",))
    drop = [] if max_drop is None else [f"drop={max_drop}"]
    study = Study(run)
    try:
        chosen = study.pick(Limits.parse([*(at_most or []), *(at_least or []), *drop]), policy=policy)
    except NothingFitsError as error:
        if form == "json":
            from .reports.answer import refusal_to_json

            typer.echo(json.dumps(refusal_to_json(error, study.whole_front), indent=1))
        raise
    exported = None if export is None else given.interruptible()(study.export)(chosen, export, Terminal())
    _tell(chosen, study.whole_front, exported, form)


def show_answer(run: Path) -> None:
    """The front, the recommended pick, and where the report is."""
    from .api import Study
    from .reports.answer import lines_of

    study = Study(run)
    whole = study.whole_front
    chosen, refusal = _pick_or_why(whole)
    _show_front(whole, chosen)
    _tell_prediction(study.record.prediction)
    _tell_dropped([trial.state.value for trial in study.record.trials()])
    if chosen is None:
        typer.echo(refusal)
    else:
        first, *rest = lines_of(chosen, whole)
        typer.echo("\n".join([f"Deploy: {first}", *rest]))
    typer.echo(f"Report: {run / 'report.html'}")


def _tell(chosen: "Pick", whole: "Front", exported: "Exported | None", form: str) -> None:
    from .reports.answer import lines_of, to_json

    if form == "json":
        done = {} if exported is None else exported.to_json()
        typer.echo(json.dumps({**to_json(chosen, whole), **done}, indent=1))
        return
    for line in lines_of(chosen, whole):
        typer.echo(line)
    if exported is not None:
        typer.echo(f"Exported to {exported.folder}: it is {exported.verdict}.")


def _pick_or_why(whole: "Front") -> "tuple[Pick | None, str]":
    """The recommended member of a front, or why there is none."""
    from .errors import BudgetError
    from .reports.pick import pick_from

    try:
        return pick_from(whole), ""
    except BudgetError as error:
        return None, str(error)


def _show_front(whole: "Front", chosen: "Pick | None") -> None:
    """A table, and on a terminal a plot under it."""
    from .reports.tables import render
    from .reports.terminal import plot

    console = Console()
    # Wide enough for a table where there is no terminal, so that what reads it finds whole lines.
    typer.echo(render(whole, "table", console=console if console.is_terminal else Console(width=160)), nl=False)
    if console.is_terminal:
        console.print(plot(whole, None if chosen is None else chosen.point, console.width))


def _tell_prediction(facts: dict[str, Any] | None) -> None:
    """How candidates were predicted, or why they were not though that was wanted."""
    if facts is not None and "refused" in facts:
        typer.echo(f"Every candidate was measured: {facts['refused']}")
    elif facts is not None:
        learned = f"{facts['plans']} models measured in {facts['seconds']:.0f} s"
        typer.echo(f"Candidates were predicted from {learned}, with a mean error of {facts['latency_error']:.1%}.")


def _tell_dropped(states: list[str]) -> None:
    """How many candidates left the race before all examples were asked."""
    if "dropped" in states:
        typer.echo(
            f"{states.count('dropped')} of {len(states)} candidates were dropped early: another one cost no more and "
            "was surely better."
        )


def _check_side(option: str, texts: list[str] | None, legal: tuple[str, ...]) -> None:
    """Keeps a limit from being given with the option of the other direction."""
    for part in (part.strip() for text in texts or [] for part in text.split(",")):
        if part.partition("=")[0] not in legal:
            raise SettingError.unknown(f"limit for {option}", part.partition("=")[0], legal)

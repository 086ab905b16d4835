"""The `paring` command: results on standard output, progress and errors on standard error.

Exit codes: 0 done, 1 it could not be done, 2 something given cannot work, 130 interrupted.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from . import __version__
from .errors import ParingError, SettingError

app = typer.Typer(
    help="What should I deploy? Hardware-aware compression search for Transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Run = Annotated[Path, typer.Argument(help="A run folder, as `paring search --out` made it.", show_default=False)]


def main() -> None:
    """Runs the command; errors of paring become one message and an exit code."""
    try:
        app()
    except ParingError as error:
        _complain(str(error))
        sys.exit(error.exit_code)


class _InterruptedError(ParingError):
    """The user stopped the command."""

    exit_code = 130


@contextmanager
def _interruptible() -> Iterator[None]:
    """Says what an interrupt leaves behind; the command-line library would end in silence."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise _InterruptedError("interrupted; what was judged is kept. Run the same command again to go on.") from error


@app.command()
def search(
    model: Annotated[str, typer.Argument(help="A Hugging Face model folder, or the name of a model on the hub.")],
    data: Annotated[str, typer.Option(help="Folder with train/validation/test files, one file, or a hub data set.")],
    out: Annotated[Path, typer.Option(help="The run folder; give it again to go on with a run.")],
    task: Annotated[str, typer.Option(help="What the model is for: classification or seq2seq.")] = "classification",
    metric: Annotated[
        str | None,
        typer.Option(
            help="Classification: accuracy, f1, f1_macro, matthews; spearman, pearson. "
            "Seq2seq: bleu, chrf, rouge1, rouge2, rougeL, log_likelihood."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1; see `paring devices`.")] = "cpu",
    runtime: Annotated[str, typer.Option(help="What runs the model; see `paring devices`.")] = "torch",
    axes: Annotated[str, typer.Option(help="What may change, separated by commas.")] = "depth,bits",
    objectives: Annotated[str, typer.Option(help="Of quality, latency, memory, size.")] = "quality,latency,memory",
    budget: Annotated[
        list[str] | None, typer.Option(help="A limit to keep: latency_ms=10, memory_mb=, size_mb=, quality=, drop=.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Stop after so many plans; 60 if --minutes is not given.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop proposing after so many minutes.")] = None,
    batch: Annotated[int, typer.Option(help="Examples per request.")] = 1,
    tokens: Annotated[int, typer.Option(help="Tokens per example of a request.")] = 128,
    generated_tokens: Annotated[
        int | None, typer.Option(help="Tokens that a request generates; for seq2seq 32 if not given.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads per request; all cores if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    sampler: Annotated[str, typer.Option(help="tpe, nsga2 or random.")] = "tpe",
    limit: Annotated[int | None, typer.Option(help="At most so many examples to search on and to test on.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longer evaluation texts are cut.")] = 128,
    beams: Annotated[int, typer.Option(help="Beams of a generating task, judged and served.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens generated at most per evaluation text.")] = 64,
    text_column: Annotated[
        str, typer.Option("--text-column", "--source-column", help="Column of the text; text, or source for seq2seq.")
    ] = "",
    text2_column: Annotated[
        str, typer.Option(help="Column of the second text of a pair, where there is one.")
    ] = "text2",
    label_column: Annotated[
        str,
        typer.Option("--label-column", "--target-column", help="Column of the label; label, or target for seq2seq."),
    ] = "",
    depth_scorer: Annotated[
        str, typer.Option(help="training_free, or fine_tune each candidate of the greedy order, as the paper does.")
    ] = "training_free",
    depth_metric: Annotated[
        str | None,
        typer.Option(help="Scores the steps of the greedy order; the task's if not given, for seq2seq log_likelihood."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="For --depth-scorer fine_tune.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="For --depth-scorer fine_tune.")] = 2e-5,
) -> None:
    """Search what to deploy, measure the front whole, and write the report. Run it again to go on where it was."""
    from .api import pare
    from .profilers.machine import available_cores
    from .profilers.workload import Workload
    from .search.objectives import Limits
    from .search.progress import Terminal
    from .search.tasks import Task
    from .search.training import Training
    from .search.workbench import Greedy

    study = _interruptible()(pare)(
        model,
        Task(
            task,
            data,
            metric,
            text_column,
            text2_column,
            label_column,
            max_tokens,
            limit,
            beams,
            max_new_tokens,
        ),
        out=out,
        device=device,
        runtime=runtime,
        axes=_names(axes),
        objectives=_names(objectives),
        workload=Workload(
            batch, tokens, threads if threads is not None else available_cores(), _at_least_one(generated_tokens), beams
        ),
        budget=Limits.parse(budget or []),
        trials=60 if trials is None and minutes is None else trials,
        minutes=minutes,
        seed=seed,
        sampler=sampler,
        greedy=Greedy(depth_scorer, training=Training(epochs=epochs, learning_rate=learning_rate), metric=depth_metric),
        progress=Terminal(),
    )
    _show_answer(study.record.folder)


@app.command()
def report(run: Run) -> None:
    """Write report.html, front.csv and front.json of a run."""
    from .api import Study

    typer.echo(Study(run).report())


@app.command()
def front(
    run: Run,
    form: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """Print the Pareto front of a run."""
    from .api import Study
    from .reports.tables import render

    typer.echo(render(Study(run).whole_front, form, console=_wide_console()), nl=form == "json")


@app.command()
def pick(
    run: Run,
    at_most: Annotated[list[str] | None, typer.Option("--max", help="latency_ms=, memory_mb= or size_mb=.")] = None,
    at_least: Annotated[list[str] | None, typer.Option("--min", help="quality=.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Quality may be so far below the original's.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write the picked model here, and measure it.")] = None,
    form: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Choose one member of the front, and export it if asked."""
    from .api import Study
    from .reports.front import row_of
    from .reports.tables import one_line
    from .search.objectives import Limits
    from .search.progress import Terminal

    if form not in ("table", "json"):
        raise SettingError.unknown("format", form, ("table", "json"))
    _check_side("--max", at_most, ("latency_ms", "memory_mb", "size_mb"))
    _check_side("--min", at_least, ("quality",))
    drop = [] if max_drop is None else [f"drop={max_drop}"]
    study = Study(run)
    chosen = study.pick(Limits.parse([*(at_most or []), *(at_least or []), *drop]))
    base = study.whole_front.baseline
    exported = None if export is None else _interruptible()(study.export)(chosen, export, Terminal())
    if form == "json":
        answer = {**row_of(chosen.point, base), "plan_json": chosen.point.plan.to_json(), "reason": chosen.reason}
        answer["runners_up"] = [row_of(point, base) for point in chosen.runners_up]
        if exported is not None:
            answer |= {"exported": str(exported.folder), "verdict": exported.verdict}
        typer.echo(json.dumps(answer, indent=1))
        return
    typer.echo(one_line(chosen.point, base))
    typer.echo(f"It is {chosen.reason}.")
    for point in chosen.runners_up:
        typer.echo(f"Next: {one_line(point, base)}")
    if exported is not None:
        typer.echo(f"Exported to {exported.folder}: it is {exported.verdict}.")


@app.command()
def devices() -> None:
    """List the devices of this machine and the runtimes that can use them."""
    from .profilers import devices as known_devices
    from .profilers import runtimes
    from .profilers.machine import available_cores, instruction_sets

    typer.echo(f"{available_cores()} cores; instruction sets: {', '.join(instruction_sets()) or 'unknown'}")
    for name in known_devices.kinds():
        kind = known_devices.kind(name)
        if not kind.present():
            typer.echo(f"{name}: none ({kind.absence()})")
        for present in kind.present():
            device = known_devices.find(present)
            facts = ", ".join(f"{key} {value}" for key, value in device.facts().items() if key != "name")
            typer.echo(f"{present}: {device.facts()['name']}" + (f" ({facts})" if facts else ""))
            for runtime in runtimes.names():
                typer.echo(f"  {runtime}: {runtimes.find(runtime).absence(device) or 'ready'}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where data, model and run are put.")] = Path("demo-run"),
    trials: Annotated[int, typer.Option(help="Plans to judge.")] = 32,
) -> None:
    """Train a small BERT here, search what to deploy, and export it: no network, under five minutes."""
    with _interruptible():
        _demo(out, trials)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _demo(out: Path, trials: int) -> None:
    from .api import Study, pare
    from .demo import BATCH, TOKENS, make_data, make_model
    from .profilers.workload import Workload
    from .search.progress import Terminal

    progress = Terminal()
    task = make_data(out / "data")
    if not (out / "model" / "config.json").is_file():
        make_model(task, out / "model", progress)
    workload = Workload.on_all_cores(batch=BATCH, tokens=TOKENS)
    study = pare(out / "model", task, out=out / "run", workload=workload, trials=trials, progress=progress)
    _show_answer(out / "run")
    if not (out / "deploy").exists():
        exported = Study(out / "run").export(study.pick(drop=0.02), out / "deploy", progress)
        typer.echo(f"Exported to {exported.folder}: it is {exported.verdict}.")


def _show_answer(run: Path) -> None:
    """The front, the recommended pick, and where the report is."""
    from .api import Study
    from .errors import BudgetError
    from .reports.tables import one_line, render

    study = Study(run)
    front = study.whole_front
    typer.echo(render(front, "table", console=_wide_console()), nl=False)
    try:
        chosen = study.pick()
        typer.echo(f"Deploy: {one_line(chosen.point, front.baseline)}")
        typer.echo(f"It is {chosen.reason}.")
    except BudgetError as error:
        typer.echo(str(error))
    typer.echo(f"Report: {run / 'report.html'}")


def _wide_console() -> Console:
    """As wide as the terminal; wide enough for a table where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _at_least_one(generated_tokens: int | None) -> int:
    """Tokens to generate, 0 for what fits the task; who says a number means that one, and 0 would mean ours."""
    if generated_tokens is not None and generated_tokens < 1:
        raise SettingError(f"--generated-tokens must be at least 1, got {generated_tokens}.")
    return generated_tokens or 0


def _check_side(option: str, texts: list[str] | None, legal: tuple[str, ...]) -> None:
    """Keeps a limit from being given with the option of the other direction."""
    for part in (part.strip() for text in texts or [] for part in text.split(",")):
        if part.partition("=")[0] not in legal:
            raise SettingError.unknown(f"limit for {option}", part.partition("=")[0], legal)


def _complain(message: str) -> None:
    typer.echo(f"paring: {message}", err=True)

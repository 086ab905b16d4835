"""The `paring` command: results on standard output, progress and errors on standard error.

Exit codes: 0 done, 1 it could not be done, 2 something given cannot work, 130 interrupted.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__, cli_cluster, cli_forecast
from . import cli_options as given
from .cli_answer import front, pick, show_answer
from .cli_assembly import assemble, prepare
from .cli_bench import bench, bundle, fleet, history
from .cli_bits import allocate
from .cli_profilers import devices, doctor, profile
from .cli_schedule import schedule
from .errors import ParingError, SettingError

app = typer.Typer(
    help="What should I deploy? Hardware-aware compression search for Transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(prepare)
app.command()(assemble)
app.command()(allocate)
app.command()(devices)
app.command()(doctor)
app.command()(profile)
app.command()(front)
app.command()(pick)
app.command()(bundle)
app.command()(bench)
app.command()(history)
app.command()(fleet)
app.add_typer(schedule, name="schedule")


def main() -> None:
    """Runs the command; errors of paring become one message and an exit code."""
    try:
        app()
    except ParingError as error:
        _complain(str(error))
        sys.exit(error.exit_code)


@app.command()
def search(
    model: given.Model,
    data: given.Data,
    out: Annotated[Path, typer.Option(help="The run folder; give it again to go on with a run.")],
    task: given.TaskName = "classification",
    metric: given.Metric = None,
    device: given.Device = "cpu",
    runtime: given.Runtime = "torch",
    axes: Annotated[str, typer.Option(help="What may change, of assembly, depth, factors, bits.")] = "depth,bits",
    objectives: Annotated[str, typer.Option(help="Of quality, latency, memory, size.")] = "quality,latency,memory",
    budget: Annotated[
        list[str] | None, typer.Option(help="A limit to keep: latency_ms=10, memory_mb=, size_mb=, quality=, drop=.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Stop after so many plans; 60 if --minutes is not given.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop proposing after so many minutes.")] = None,
    batch: given.Batch = 1,
    tokens: Annotated[
        str, typer.Option(help="Tokens per example of a request; `task` serves the lengths of the task's own texts.")
    ] = "128",
    streams: Annotated[int, typer.Option(help="Requests in flight at once, each on --threads threads.")] = 1,
    generated_tokens: given.GeneratedTokens = None,
    threads: given.Threads = None,
    seed: given.Seed = 0,
    sampler: Annotated[str, typer.Option(help="guided, tpe, nsga2, gp or random.")] = "guided",
    limit: given.Limit = None,
    max_tokens: given.MaxTokens = 128,
    beams: given.Beams = 1,
    max_new_tokens: given.MaxNewTokens = 64,
    text_column: given.TextColumn = "",
    text2_column: given.Text2Column = "text2",
    label_column: given.LabelColumn = "",
    prepared: Annotated[
        Path | None, typer.Option(help="For the axis assembly: layers of `paring prepare`; else they are trained now.")
    ] = None,
    granularities: given.Granularities = "2,3,6",
    modular_steps: Annotated[int, typer.Option(help="For the axis assembly without --prepared.")] = 3000,
    precisions: given.Precisions = given.PRECISIONS,
    table_precisions: given.TablePrecisions = given.TABLE_PRECISIONS,
    intermediates: given.Intermediates = "",
    intermediate_kinds: given.IntermediateKinds = "",
    calibration: given.Calibration = "least_error",
    factors: given.Factors = given.FACTORS,
    table_factors: given.TableFactors = given.TABLE_FACTORS,
    factor_group: given.FactorGroup = None,
    autoencoder_epochs: given.AutoencoderEpochs = 30,
    isolate_seconds: given.IsolateSeconds = 300.0,
    isolate_memory_mb: given.IsolateMemory = None,
    latency: Annotated[
        str | None,
        typer.Option(
            help="Of candidates: measured, or predicted from a table that is learned first; from 100 trials on."
        ),
    ] = None,
    prefix_reuse: Annotated[
        bool, typer.Option("--prefix-reuse/--no-prefix-reuse", help="Compute layers that candidates share once.")
    ] = True,
    racing: Annotated[
        bool, typer.Option("--racing/--no-racing", help="Drop candidates as soon as they are surely dominated.")
    ] = True,
    judge_in: Annotated[
        str, typer.Option(help="float32, or bf16 where the device is quicker with it; the front is judged as deployed.")
    ] = "float32",
    depth_scorer: Annotated[
        str, typer.Option(help="training_free, or fine_tune each candidate of the greedy order, as the paper does.")
    ] = "training_free",
    depth_metric: Annotated[
        str | None,
        typer.Option(help="Scores the steps of the greedy order; the task's if not given, for seq2seq log_likelihood."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="For --depth-scorer fine_tune.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="For --depth-scorer fine_tune.")] = 2e-5,
    cluster: cli_cluster.Where = None,
    workers: cli_cluster.Workers = None,
    cpus_per_trial: cli_cluster.CpusPerTrial = None,
    gpus_per_trial: cli_cluster.GpusPerTrial = None,
    relearn_costs: Annotated[
        bool, typer.Option("--relearn-costs", help="Do not predict from what an earlier search learned here.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what it would take, and whether the budget can be kept; ends with 2 if not."
        ),
    ] = False,
    form: Annotated[str, typer.Option("--format", help="With --dry-run: table or json.")] = "table",
) -> None:
    """Search what to deploy, measure the front whole, and write the report. Run it again to go on where it was."""
    from .api import searched
    from .profilers.workload import Workload
    from .search.distilling import Schedule
    from .search.modular import Modular
    from .search.objectives import Limits
    from .search.progress import Terminal
    from .search.settings import Settings
    from .search.tasks import Task
    from .search.training import Training
    from .search.workbench import Greedy

    given.check_format(form)
    columns = (text_column, text2_column, label_column)
    sizes = given.whole_numbers("--granularities", granularities)
    asked = Task(task, data, metric, *columns, max_tokens, limit, beams, max_new_tokens)
    length, lengths = given.lengths(tokens, model, asked)
    generated = given.at_least_one(generated_tokens)
    settings = Settings(
        model,
        asked,
        out,
        device=device,
        runtime=runtime,
        axes=given.names(axes),
        objectives=given.names(objectives),
        workload=Workload(batch, length, given.cores(threads), generated, beams, streams, lengths),
        budget=Limits.parse(budget or []),
        trials=60 if trials is None and minutes is None else trials,
        minutes=minutes,
        seed=seed,
        sampler=sampler,
        greedy=Greedy(depth_scorer, training=Training(epochs=epochs, learning_rate=learning_rate), metric=depth_metric),
        modular=Modular(sizes, schedule=Schedule(modular_steps, seed=seed)),
        prepared=prepared,
        palette=given.palette(precisions, table_precisions, intermediates, calibration, intermediate_kinds),
        factoring=given.factoring(factors, table_factors, factor_group, autoencoder_epochs),
        isolation=given.allowance(isolate_seconds, isolate_memory_mb),
        latency=latency,
        cluster=cli_cluster.cluster(cluster, workers, cpus_per_trial, gpus_per_trial),
        relearn_costs=relearn_costs,
        reuses_prefixes=prefix_reuse,
        races=racing,
        judge_in=judge_in,
    )
    with given.interruptible():
        if dry_run:
            cli_forecast.show(settings, form, Terminal())
            return
        study = searched(settings, Terminal())
    show_answer(study.record.folder)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="A run folder, or several to put side by side.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page of several runs; comparison.html here if not given.")
    ] = None,
) -> None:
    """Write report.html, front.csv and front.json of a run; of several, one page that compares them."""
    from .api import Study, compare_runs

    if len(runs) == 1 and out is not None:
        raise SettingError("--out is for several runs; the report of one run is written into its folder.")
    typer.echo(Study(runs[0]).report() if len(runs) == 1 else compare_runs(runs, out or Path("comparison.html")))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where data, model and run are put.")] = Path("demo-run"),
    trials: Annotated[int, typer.Option(help="Plans to judge.")] = 28,
) -> None:
    """Train a small BERT here, search what to deploy, and export it: no network, under five minutes."""
    with given.interruptible():
        _demo(out, trials)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _demo(out: Path, trials: int) -> None:
    from .api import Study, pare
    from .demo import BATCH, MAX_DROP, TOKENS, make_data, make_model
    from .profilers.workload import Workload
    from .search.objectives import Limits
    from .search.progress import Terminal

    progress = Terminal()
    task = make_data(out / "data")
    if not (out / "model" / "config.json").is_file():
        make_model(task, out / "model", progress)
    workload = Workload.on_all_cores(batch=BATCH, tokens=TOKENS)
    budget = Limits(max_drop=MAX_DROP)
    study = pare(
        out / "model", task, out=out / "run", workload=workload, budget=budget, trials=trials, progress=progress
    )
    show_answer(out / "run")
    if not (out / "deploy").exists():
        exported = Study(out / "run").export(study.pick(drop=0.02), out / "deploy", progress)
        typer.echo(f"Exported to {exported.folder}: it is {exported.verdict}.")


def _complain(message: str) -> None:
    typer.echo(f"paring: {message}", err=True)

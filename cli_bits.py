"""The command for bits alone: one target, no search."""

import json
from pathlib import Path
from typing import Annotated

import typer

from . import cli_options as given


def allocate(
    model: given.Model,
    data: given.Data,
    out: Annotated[Path, typer.Option(help="New folder for the compressed model.")],
    ratio: Annotated[float | None, typer.Option(help="How many times smaller the whole model shall be.")] = None,
    effective_bits: Annotated[
        float | None, typer.Option(help="Instead of a ratio: bits stored per number, 32 over the ratio.")
    ] = None,
    speed_up: Annotated[
        float | None, typer.Option(help="Instead of a ratio: how many times faster a request shall be.")
    ] = None,
    precisions: given.Precisions = given.PRECISIONS,
    table_precisions: given.TablePrecisions = given.TABLE_PRECISIONS,
    calibration: given.Calibration = "least_error",
    task: given.TaskName = "classification",
    metric: given.Metric = None,
    device: given.Device = "cpu",
    runtime: given.Runtime = "torch",
    batch: given.Batch = 1,
    tokens: given.Tokens = 128,
    generated_tokens: given.GeneratedTokens = None,
    threads: given.Threads = None,
    seed: given.Seed = 0,
    limit: given.Limit = None,
    max_tokens: given.MaxTokens = 128,
    beams: given.Beams = 1,
    max_new_tokens: given.MaxNewTokens = 64,
    text_column: given.TextColumn = "",
    text2_column: given.Text2Column = "text2",
    label_column: given.LabelColumn = "",
    form: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Give every part its bits by sensitivity, for one size or speed; export the model and measure it."""
    from .api import allocate as allocate_bits
    from .profilers.workload import Workload
    from .search.progress import Terminal
    from .search.tasks import Task

    given.check_format(form)
    columns = (text_column, text2_column, label_column)
    found = given.interruptible()(allocate_bits)(
        model,
        Task(task, data, metric, *columns, max_tokens, limit, beams, max_new_tokens),
        out=out,
        ratio=ratio,
        effective_bits=effective_bits,
        speed_up=speed_up,
        palette=given.palette(precisions, table_precisions, "", calibration),
        device=device,
        runtime=runtime,
        workload=Workload(batch, tokens, given.cores(threads), given.at_least_one(generated_tokens), beams),
        seed=seed,
        progress=Terminal(),
    )
    typer.echo(json.dumps(found.to_json(), indent=1) if form == "json" else "\n".join(found.lines()))

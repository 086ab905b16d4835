"""The commands for modular layers: train them once, assemble any size."""

import json
from pathlib import Path
from typing import Annotated

import typer

from . import cli_options as given

_LOSSES = "task=1,logits=1,hidden=1,attention=0.1"


def prepare(
    model: given.Model,
    data: given.Data,
    out: Annotated[Path, typer.Option(help="Where the layers are kept; give it again to go on.")],
    task: given.TaskName = "classification",
    granularities: given.Granularities = "2,3,6",
    steps: Annotated[int, typer.Option(help="Of the optimiser.")] = 3000,
    learning_rate: Annotated[float, typer.Option(help="After warming up.")] = 5e-4,
    tokens: Annotated[int, typer.Option(help="Per batch, padding included.")] = 1600,
    accumulate: Annotated[int, typer.Option(help="Batches per step.")] = 1,
    start: Annotated[
        str, typer.Option(help="What a modular layer starts as: first or last of its group, nearest, or lowest.")
    ] = "first",
    losses: Annotated[str, typer.Option(help="Weights of what is learned from.")] = _LOSSES,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    device: given.Device = "cpu",
    seed: given.Seed = 0,
    max_tokens: given.MaxTokens = 128,
    text_column: given.TextColumn = "",
    text2_column: given.Text2Column = "text2",
    label_column: given.LabelColumn = "",
) -> None:
    """Train the modular layers of a model, once for every size. Run it again to go on where it was."""
    from .api import prepare as prepare_model
    from .search.distillation import Losses
    from .search.distilling import Schedule
    from .search.modular import Modular
    from .search.progress import Terminal
    from .search.tasks import Task

    settings = Modular(
        granularities=given.whole_numbers("--granularities", granularities),
        start=start,  # type: ignore[arg-type]
        losses=Losses(**given.weights("--losses", losses, tuple(Losses.__dataclass_fields__))),
        schedule=Schedule(
            steps,
            learning_rate,
            tokens=tokens,
            accumulate=accumulate,
            precision=precision,  # type: ignore[arg-type]
            seed=seed,
        ),
    )
    found = given.interruptible()(prepare_model)(
        model,
        Task(task, data, None, text_column, text2_column, label_column, max_tokens),
        out=out,
        modular=settings,
        device=device,
        progress=Terminal(),
    )
    typer.echo(f"{len(found.layers)} modular layers in {out}, trained in {found.facts['seconds'] / 60:.1f} minutes.")
    typer.echo("What merging one block does to the answers (divergence from the original's, least first):")
    for block, by_tiling in found.facts["harm"].items():
        for tiling, value in sorted(by_tiling.items(), key=lambda entry: entry[1]):
            typer.echo(f"  {block}  {tiling:<12} {value:.4f}")


def assemble(
    model: given.Model,
    data: given.Data,
    prepared: Annotated[Path, typer.Option(help="Modular layers, as `paring prepare --out` made them.")],
    out: Annotated[Path, typer.Option(help="New folder for the assembled model.")],
    ratio: Annotated[
        float | None, typer.Option(help="How many times smaller or faster all layers together shall be.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="size counts the parameters of layers, speed their measured latency.")
    ] = "size",
    tiling: Annotated[
        str | None, typer.Option(help="Instead of a ratio, the pieces: 'encoder=1,1,2,2 decoder=6'.")
    ] = None,
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
    """Assemble one size of a prepared model, export it, and measure it beside the original."""
    from .api import assemble as assemble_model
    from .profilers.workload import Workload
    from .search.progress import Terminal
    from .search.tasks import Task

    given.check_format(form)
    columns = (text_column, text2_column, label_column)
    found = given.interruptible()(assemble_model)(
        model,
        Task(task, data, metric, *columns, max_tokens, limit, beams, max_new_tokens),
        prepared=prepared,
        out=out,
        ratio=ratio,
        strategy=strategy,
        tiling=tiling,
        device=device,
        runtime=runtime,
        workload=Workload(batch, tokens, given.cores(threads), given.at_least_one(generated_tokens), beams),
        seed=seed,
        progress=Terminal(),
    )
    typer.echo(json.dumps(found.to_json(), indent=1) if form == "json" else "\n".join(found.lines()))

"""What several commands of the command line share: options, and how their texts are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import ParingError, PlanError, SettingError

if TYPE_CHECKING:
    from .profilers.supervision import Allowance
    from .search.tasks import Task
    from .spaces.factoring import Factoring
    from .spaces.palette import Palette

Model = Annotated[str, typer.Argument(help="A Hugging Face model folder, or the name of a model on the hub.")]
Run = Annotated[Path, typer.Argument(help="A run folder, as `paring search --out` made it.", show_default=False)]
Data = Annotated[str, typer.Option(help="Folder with train/validation/test files, one file, or a hub data set.")]
TaskName = Annotated[str, typer.Option("--task", help="What the model is for: classification or seq2seq.")]
Metric = Annotated[
    str | None,
    typer.Option(
        help="Classification: accuracy, f1, f1_macro, matthews; spearman, pearson. "
        "Seq2seq: bleu, chrf, rouge1, rouge2, rougeL, log_likelihood."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1; see `paring devices`.")]
Runtime = Annotated[str, typer.Option(help="What runs the model; see `paring devices`.")]
Batch = Annotated[int, typer.Option(help="Examples per request.")]
Tokens = Annotated[int, typer.Option(help="Tokens per example of a request.")]
GeneratedTokens = Annotated[
    int | None, typer.Option(help="Tokens that a request generates; for seq2seq 32 if not given.")
]
Threads = Annotated[int | None, typer.Option(help="Threads per request; all cores if not given.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Limit = Annotated[int | None, typer.Option(help="At most so many examples to search on and to test on.")]
MaxTokens = Annotated[int, typer.Option(help="Longer texts are cut.")]
Beams = Annotated[int, typer.Option(help="Beams of a generating task, judged and served.")]
MaxNewTokens = Annotated[int, typer.Option(help="Tokens generated at most per evaluation text.")]
TextColumn = Annotated[
    str, typer.Option("--text-column", "--source-column", help="Column of the text; text, or source for seq2seq.")
]
Text2Column = Annotated[str, typer.Option(help="Column of the second text of a pair, where there is one.")]
LabelColumn = Annotated[
    str, typer.Option("--label-column", "--target-column", help="Column of the label; label, or target for seq2seq.")
]
Granularities = Annotated[
    str, typer.Option(help="For how many layers one modular layer may stand; those that divide a stack are taken.")
]
Precisions = Annotated[
    str,
    typer.Option(help="For the axis bits: what Linears may be given beside float, for instance w8a8,w4a8-64x64-pow2."),
]
TablePrecisions = Annotated[
    str, typer.Option(help="For the axis bits: what tables of words and positions and the pooler may be given.")
]
Factors = Annotated[
    str,
    typer.Option(
        help="For the axis factors: how weights of Linears may be factorised, as method-ratio; "
        "method-concatenated-ratio where layers share a factor; method-allocated-ratio where layers have own ranks. "
        "Methods: sensitivity, activation, svd, fisher, unit_svd, linear_autoencoder, autoencoder, latents."
    ),
]
TableFactors = Annotated[str, typer.Option(help="For the axis factors: the same for large tables of words.")]
FactorGroup = Annotated[
    int | None,
    typer.Option(help="How many layers are factorised alike, and share a factor if concatenated; else all of a stack."),
]
AutoencoderEpochs = Annotated[int, typer.Option(help="For the axis factors: how long each autoencoder is trained.")]
Intermediates = Annotated[
    str, typer.Option(help="For the axis bits: what results between Linears may be given, for instance a8.")
]
IntermediateKinds = Annotated[
    str,
    typer.Option(
        help="Which results those are for: scores, softmax, context, activation, norms, embedding_norm, final_norm; "
        "all if not given. On OpenVINO scores (query times key) saves time."
    ),
]
Calibration = Annotated[
    str, typer.Option(help="How ranges of activations are found: least_error, percentile or min_max.")
]
IsolateSeconds = Annotated[
    float,
    typer.Option(help="The process that measures a candidate's memory is ended after so long: the trial timed out."),
]
IsolateMemory = Annotated[
    float | None,
    typer.Option("--isolate-memory-mb", help="It is ended when it holds more main memory: the trial is out of memory."),
]
IsolateWorkloadSeconds = Annotated[
    float | None,
    typer.Option(
        "--isolate-seconds",
        help="Measure each workload in a process of its own, which is ended after so long, its start included; "
        "the others are measured all the same.",
    ),
]
IsolateWorkloadMemory = Annotated[
    float | None,
    typer.Option(
        "--isolate-memory-mb",
        help="The same, ended when it and the processes it starts hold more main memory than that.",
    ),
]
# As `Palette` has them; written here too so that asking for help need not load it.
PRECISIONS, TABLE_PRECISIONS = "w8a8,w4a8-64x64-pow2", "w8,w4-1x64,w3-1x64"
# As `Factoring` has them.
FACTORS = "sensitivity-allocated-1.5,sensitivity-allocated-2,sensitivity-allocated-3,sensitivity-allocated-5"
TABLE_FACTORS = "sensitivity-1.5,sensitivity-2,sensitivity-3"


class InterruptedByUserError(ParingError):
    """The user stopped the command."""

    exit_code = 130


@contextmanager
def interruptible() -> Iterator[None]:
    """Says what an interrupt leaves behind; the command-line library would end in silence."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedByUserError(
            "interrupted; what was judged or trained is kept. Run the same command again to go on."
        ) from error


def check_format(form: str) -> None:
    """For commands that answer in words or in JSON.

    Raises:
        SettingError: if the format is neither.
    """
    if form not in ("table", "json"):
        raise SettingError.unknown("format", form, ("table", "json"))


def names(text: str) -> tuple[str, ...]:
    """Reads "depth, bits"."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def palette(linears: str, tables: str, intermediates: str, calibration: str, kinds: str = "") -> "Palette":
    """Reads lists of precisions, and of the kinds of intermediate results.

    Raises:
        SettingError: if one is not a precision, or not one for its place.
    """
    from .spaces.palette import Palette
    from .spaces.precision import Precision

    try:
        return Palette(
            tuple(map(Precision.parse, names(linears))),
            tuple(map(Precision.parse, names(tables))),
            tuple(map(Precision.parse, names(intermediates))),
            calibration,
            names(kinds),
        )
    except PlanError as error:
        raise SettingError(str(error)) from error


def factoring(linears: str, tables: str, group: int | None, epochs: int) -> "Factoring":
    """Reads lists of ways to factorise.

    Raises:
        SettingError: if one is not a way, or not one for its place.
    """
    from .spaces.autoencoder_training import AutoencoderTraining
    from .spaces.factoring import Factoring, Way

    ways = tuple(map(Way.parse, names(linears))), tuple(map(Way.parse, names(tables)))
    return Factoring(*ways, group, AutoencoderTraining(epochs=epochs))


def at_least_one(generated_tokens: int | None) -> int:
    """Tokens to generate, 0 for what fits the task; who says a number means that one, and 0 would mean ours."""
    if generated_tokens is not None and generated_tokens < 1:
        raise SettingError(f"--generated-tokens must be at least 1, got {generated_tokens}.")
    return generated_tokens or 0


def cores(threads: int | None) -> int:
    """As many threads as asked for; where nothing is, as there are cores."""
    from .profilers.machine import available_cores

    return available_cores() if threads is None else threads


def allowance(isolate_seconds: float | None, isolate_memory_mb: float | None) -> "Allowance":
    """What an isolated process may take; None for no limit.

    Raises:
        SettingError: if a limit is not above 0, or that of memory is no finite number.
    """
    from .profilers.supervision import Allowance

    if isolate_memory_mb is None:
        return Allowance(isolate_seconds)
    if not isfinite(isolate_memory_mb):
        raise SettingError(f"--isolate-memory-mb must be a finite number above 0, got {isolate_memory_mb}.")
    return Allowance(isolate_seconds, round(isolate_memory_mb * 1e6))


def positive(option: str, value: float) -> None:
    """For sizes of any kind.

    Raises:
        SettingError: if the value is not above 0.
    """
    if not value > 0:
        raise SettingError(f"{option} must be above 0, got {value}.")


def lengths(tokens: str, model: str, task: "Task") -> tuple[int, tuple[int, ...]]:
    """Reads --tokens: a number, or "task" for the lengths of the task's own texts.

    Returns:
        Tokens of a request, and the lengths of several; empty where all are the same.
    """
    if tokens.strip() != "task":
        found = whole_numbers("--tokens", tokens)
        if len(found) > 1:
            raise SettingError(f"--tokens takes one number or the word task, got {tokens!r}.")
        return found[0], ()
    from .search.lengths import task_lengths

    served = task_lengths(model, task)
    return max(served), served


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Reads "2,3,6".

    Raises:
        SettingError: if a part is no whole number, or there is none.
    """
    parts = names(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise SettingError(f"{option} takes whole numbers separated by commas, such as 2,3,6; got {text!r}.")
    return tuple(map(int, parts))


def whole_fields(text: str) -> dict[str, int]:
    """Reads what differs of a workload: "batch=8,threads=1".

    Raises:
        SettingError: if a name is none of a workload's, or its value no whole number.
    """
    legal = ("batch", "tokens", "threads", "generated", "streams")
    found = {}
    for part in names(text):
        name, _, value = part.partition("=")
        if name not in legal:
            raise SettingError.unknown("field for --workload", name, legal)
        found[name] = whole_numbers(f"{name} of --workload", value)[0]
    return found


def day(option: str, text: str) -> float | None:
    """Reads "2026-11-21", or a day with a time.

    Returns:
        Seconds since 1970, of the local time zone where none is said; None where nothing is given.

    Raises:
        SettingError: if it is no day.
    """
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise SettingError(f"{option} takes a day such as 2026-11-21, got {text!r}.") from None


def weights(option: str, text: str, legal: tuple[str, ...]) -> dict[str, float]:
    """Reads "task=1,logits=0.5".

    Raises:
        SettingError: if a name is not legal, or its weight no number.
    """
    found = {}
    for part in names(text):
        name, _, value = part.partition("=")
        if name not in legal:
            raise SettingError.unknown(f"name for {option}", name, legal)
        try:
            found[name] = float(value)
        except ValueError:
            raise SettingError(f"{option} takes a number for {name}, such as {name}=1; got {part!r}.") from None
    return found

"""How long the requests of a task are."""

from ..profilers.workload import quantiles_of
from ..spaces import artefact
from .data import read_tables
from .tasks import Task
from .tasks import load as load_kind
from .workbench import load_tokenizer


def task_lengths(model: str, task: Task) -> tuple[int, ...]:
    """Tokens of requests that stand for the texts of a task's search split; for `Workload(lengths=...)`.

    Args:
        model: whose tokenizer counts: a local folder, or the name of a model on the hub.
        task: whose texts are counted, cut as the task says.

    Raises:
        UserError: if model or data cannot be read.
    """
    kind, loaded = load_kind(task.name), artefact.load_original(model)
    tables = read_tables(task.data, task.required_columns, task.label, limit=task.limit, label_is_text=kind.generates)
    examples = kind.encode(tables.search, "search", task, loaded, load_tokenizer(model))
    return quantiles_of([len(encoded["input_ids"]) for encoded in examples.encoded])

"""Judging again, on another machine, a model that answers differently there."""

from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from ..errors import DataError
from ..profilers.runtimes import Executable
from .data import Tables, read_tables
from .quality import Difference, Quality, difference, judge
from .tasks import Task, load
from .workbench import load_tokenizer


class Rejudge:
    """The test split of a study, found again."""

    def __init__(self, task: Task, tokenizer: Path, model: PreTrainedModel, *, data_hash: str) -> None:
        """Reads and encodes the data.

        Args:
            task: what is judged on, with the place of the data here.
            tokenizer: folder of the study's.
            model: the original.
            data_hash: of the data of the study.

        Raises:
            DataError: if the data are missing, or others than the study's.
        """
        kind, tables = load(task.name), _tables(task)
        if tables.content_hash != data_hash:
            raise DataError(
                f"{task.data!r} does not hold the data of the study: their hash is {tables.content_hash}, that of the "
                f"study {data_hash}. Give the same files, or leave --data out: then quality stays unverified where "
                "answers differ."
            )
        self._kind, self._metric = kind, kind.metric(task, model)
        self._examples = kind.encode(tables.test, "test", task, model, load_tokenizer(str(tokenizer)))

    def quality(self, executable: Executable) -> Quality:
        """Of a model that runs here, on the test split."""
        outcomes = self._kind.answer(executable, self._examples, self._metric)
        score = partial(self._kind.score, self._metric)
        return judge(self._metric, score, self._examples.labels, outcomes, self._examples.split)

    def gain(self, quality: Quality, baseline: Quality) -> Difference:
        """By how much one is better than the other, both judged on the test split."""
        score = partial(self._kind.score, self._metric)
        return difference(score, self._examples.labels, quality.outcomes, baseline.outcomes)


def holds(task: Task, data_hash: str) -> bool:
    """Whether the data of a task are there, and are those of the study."""
    try:
        return _tables(task).content_hash == data_hash
    except DataError:
        return False


def _tables(task: Task) -> Tables:
    is_text = load(task.name).generates
    return read_tables(task.data, task.required_columns, task.label, limit=task.limit, label_is_text=is_text)

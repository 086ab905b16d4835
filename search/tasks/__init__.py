"""What a model is for: one file is one kind of task, and its file name is its name."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...errors import SettingError
from ...profilers.runtimes import Executable
from ...spaces import plugins
from ..data import Examples

_DEFAULT_TEXT2 = "text2"


@dataclass(frozen=True, slots=True)
class Task:
    """What the model is judged on, as the user says it.

    Attributes:
        name: the kind of task, for instance "classification".
        data: a folder, a file or the name of a hub data set; see `search/data.py`.
        metric: the name of the metric; None for the task's default.
        text: the column of the text.
        text2: the column of the second text of a pair; used where the data have it.
        label: the column of the label.
        max_tokens: longer inputs are cut.
        limit: at most so many examples to search on and to test on; None for all.
    """

    name: str
    data: str
    metric: str | None = None
    text: str = "text"
    text2: str = _DEFAULT_TEXT2
    label: str = "label"
    max_tokens: int = 128
    limit: int | None = None

    def __post_init__(self) -> None:
        load(self.name)
        for setting, value in (("max_tokens", self.max_tokens), ("limit", self.limit)):
            if value is not None and value < 1:
                raise SettingError(f"{setting} of a task must be at least 1, got {value}.")

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Text columns the data must have: a second one only where the user named it."""
        return (self.text,) if self.text2 == _DEFAULT_TEXT2 else (self.text, self.text2)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class TaskKind(Protocol):
    """The contract of a kind of task."""

    def metric(self, task: Task, model: PreTrainedModel) -> str:
        """The name of the metric to judge by; checks that task and model fit together."""

    def encode(
        self, table: pd.DataFrame, split: str, task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Examples:
        """Examples from rows; refuses labels that the model does not know."""

    def answer(self, executable: Executable, examples: Examples) -> np.ndarray:
        """The model's answer to every example, in their order."""

    def score(self, metric: str, labels: np.ndarray, outcomes: np.ndarray) -> float:
        """The metric, larger is better, finite."""


def names() -> tuple[str, ...]:
    """The kinds of task there are files for."""
    return plugins.names(__name__)


def load(name: str) -> TaskKind:
    """The kind of task of this name.

    Raises:
        SettingError: if there is none.
    """
    return cast(TaskKind, plugins.load(__name__, name, "task"))

"""What a model is for: one file is one kind of task, and its file name is its name."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...errors import SettingError
from ...profilers.runtimes import Executable
from ...spaces import plugins
from ..examples import BATCH_TOKENS, Examples

_DEFAULT_TEXT2 = "text2"
_WRITING = ("beams", "max_new_tokens")


@dataclass(frozen=True, slots=True)
class Task:
    """What the model is judged on, as the user says it.

    Attributes:
        name: the kind of task, for instance "classification".
        data: a folder, a file or the name of a hub data set; see `search/data.py`.
        metric: the name of the metric; None for the task's default.
        text: the column of the text; "" for the kind's own name of it, "text" or "source".
        text2: the column of the second text of a pair; used where the data have it.
        label: the column of the label; "" for the kind's own name of it, "label" or "target".
        max_tokens: longer texts are cut.
        limit: at most so many examples to search on and to test on; None for all.
        beams: hypotheses that are followed while a text is written; classification ignores it.
        max_new_tokens: at most so many tokens are written, as far as the model has positions; classification ignores
            it.
    """

    name: str
    data: str
    metric: str | None = None
    text: str = ""
    text2: str = _DEFAULT_TEXT2
    label: str = ""
    max_tokens: int = 128
    limit: int | None = None
    beams: int = 1
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        text, label = load(self.name).columns
        object.__setattr__(self, "text", self.text or text)
        object.__setattr__(self, "label", self.label or label)
        for setting in ("max_tokens", "limit", "beams", "max_new_tokens"):
            value = getattr(self, setting)
            if value is not None and value < 1:
                raise SettingError(f"{setting} of a task must be at least 1, got {value}.")

    @property
    def has_second_text(self) -> bool:
        """Whether the user named a column of second texts."""
        return self.text2 != _DEFAULT_TEXT2

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Text columns the data must have: a second one only where the user named it."""
        return (self.text, self.text2) if self.has_second_text else (self.text,)

    def to_json(self) -> dict[str, Any]:
        """Plain data, without what this kind of task ignores: so a run from before there was that goes on."""
        ignored = () if load(self.name).generates else _WRITING
        return {name: value for name, value in asdict(self).items() if name not in ignored}


class TaskKind(Protocol):
    """The contract of a kind of task.

    Attributes:
        columns: what it calls the columns of the text and of the label.
        generates: whether the model answers with a text that it writes; then labels are texts too.
        greedy_metric: a cheaper metric than its own for scoring the steps of a greedy order; None for its own.
    """

    columns: tuple[str, str]
    generates: bool
    greedy_metric: str | None

    def metric(self, task: Task, model: PreTrainedModel) -> str:
        """The name of the metric to judge by; checks that task and model fit together."""

    def encode(
        self, table: pd.DataFrame, split: str, task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Examples:
        """Examples from rows; refuses labels that the model does not know."""

    def answer(
        self, executable: Executable, examples: Examples, metric: str, *, batch_tokens: int = BATCH_TOKENS
    ) -> np.ndarray:
        """The model's answer to every example, or the statistics of it that the metric needs; n or n x k.

        It is asked in batches of so many tokens; see `Examples.bucketed`.
        """

    def score(self, metric: str, labels: np.ndarray, outcomes: np.ndarray) -> float:
        """The metric of the corpus of these examples, larger is better, finite."""


def names() -> tuple[str, ...]:
    """The kinds of task there are files for."""
    return plugins.names(__name__)


def load(name: str) -> TaskKind:
    """The kind of task of this name.

    Raises:
        SettingError: if there is none.
    """
    return cast(TaskKind, plugins.load(__name__, name, "task"))

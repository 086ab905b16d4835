"""Classification and regression of a text or a pair of texts."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import ConstantInputWarning, pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...errors import DataError, ModelError, SettingError
from ...profilers.runtimes import Executable
from ...profilers.workload import longest_input
from ..examples import BATCH_TOKENS, Examples
from . import Task

CLASS_METRICS = ("accuracy", "f1", "f1_macro", "matthews")
SCORE_METRICS = ("spearman", "pearson")


class Classification:
    """Models with a sequence-classification head: classes, or one score where the head has one output."""

    columns = ("text", "label")
    generates = False
    greedy_metric = None

    def metric(self, task: Task, model: PreTrainedModel) -> str:
        """Accuracy for classes and Spearman's correlation for scores, unless the task names another.

        F1 is that of class 1 where there are two classes, and the mean over the classes (macro) where there are more.
        """
        if not type(model).__name__.endswith("ForSequenceClassification"):
            raise ModelError(f"classification needs a ...ForSequenceClassification model, got {type(model).__name__}.")
        if model.config.is_encoder_decoder:
            raise ModelError(f"classification judges encoders, and {type(model).__name__} has a decoder.")
        if model.config.problem_type == "multi_label_classification":
            raise ModelError("the model gives several labels per text; paring judges one label or one score.")
        legal = SCORE_METRICS if _gives_scores(model) else CLASS_METRICS
        if task.metric is not None and task.metric not in legal:
            raise SettingError.unknown("metric", task.metric, legal)
        if task.metric == "f1" and model.config.num_labels != 2:
            return "f1_macro"
        return task.metric or legal[0]

    def encode(
        self, table: pd.DataFrame, split: str, task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Examples:
        """Tokenises the texts, pairs where the data have a second text column; cut to what the model can take."""
        texts = table[task.text].astype(str).tolist()
        seconds = table[task.text2].astype(str).tolist() if task.text2 in table.columns else None
        longest = min(task.max_tokens, longest_input(model.config))
        encoded = tokenizer(texts, seconds, truncation=True, max_length=longest)
        padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
        names = [name for name in encoded if name in padding]
        rows = tuple({name: encoded[name][row] for name in names} for row in range(len(texts)))
        labels = _labels(table[task.label], split, model)
        return Examples(split, rows, labels, {name: padding[name] for name in names})

    def answer(
        self, executable: Executable, examples: Examples, metric: str, *, batch_tokens: int = BATCH_TOKENS
    ) -> np.ndarray:
        """The likeliest class, or the score, of every example, whatever the metric."""
        answers = np.empty(len(examples))
        for rows, inputs in examples.bucketed(batch_tokens):
            logits = executable(inputs).float()
            if logits.shape[-1] > 1 and not torch.isfinite(logits).all():
                answers[rows] = np.nan
                continue
            answers[rows] = (logits[:, 0] if logits.shape[-1] == 1 else logits.argmax(-1)).numpy()
        return answers

    def score(self, metric: str, labels: np.ndarray, outcomes: np.ndarray) -> float:
        """The metric; a correlation with answers that are all the same is undefined and counts as 0."""
        if metric == "accuracy":
            # As scikit-learn counts it, without its checks of what is given: a bootstrap asks a thousand times.
            return float(np.mean(labels == outcomes))
        if metric in ("f1", "f1_macro"):
            average = "binary" if metric == "f1" else "macro"
            return float(f1_score(labels, outcomes, average=average, zero_division=0.0))
        if metric == "matthews":
            return float(matthews_corrcoef(labels, outcomes))
        correlation = {"pearson": pearsonr, "spearman": spearmanr}[metric]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)
            return float(np.nan_to_num(correlation(labels, outcomes).statistic, nan=0.0))


def _gives_scores(model: PreTrainedModel) -> bool:
    return bool(model.config.num_labels == 1)


def _labels(column: "pd.Series[Any]", split: str, model: PreTrainedModel) -> np.ndarray:
    """Class numbers as integers, or scores as floats; names of classes are looked up in the model's config."""
    if _gives_scores(model):
        try:
            return column.astype(float).to_numpy()
        except (ValueError, TypeError) as error:
            raise DataError(
                f"the model gives a score, so labels must be numbers; the {split} split has: {error}."
            ) from error
    names = {str(name): int(number) for name, number in (model.config.label2id or {}).items()}
    numbers = {str(number): number for number in range(int(model.config.num_labels or 0))}
    texts = [_plainly(label) for label in column]
    # A name may look like a number and then means the class it names, so the two are mixed only where they agree.
    agree = all(numbers.get(name, number) == number for name, number in names.items())
    readings: list[dict[str, int]] = [names, numbers, {**numbers, **names} if agree else names]
    known = next((reading for reading in readings if set(texts) <= set(reading)), None)
    if known is None:
        unknown = sorted(set(texts) - set(names) - set(numbers)) or sorted(set(texts))
        raise DataError(
            f"the {split} split has labels the model does not know: {', '.join(unknown[:5])}; "
            f"it knows: {', '.join(sorted({*names, *numbers})[:20])}."
        )
    return np.array([known[text] for text in texts], dtype=int)


def _plainly(label: object) -> str:
    """A label as text; whole numbers without a point, however the file wrote them."""
    text = str(label).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").lstrip("-").isdigit() else text


plugin = Classification()

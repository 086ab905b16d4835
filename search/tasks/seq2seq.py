"""Texts from texts: translation, summaries and the like, by encoder-decoder models."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...errors import DataError, ModelError, SettingError
from ...profilers.runtimes import Executable
from ...profilers.workload import longest_input, longest_output
from .. import generation_metrics as texts
from ..examples import BATCH_TOKENS, Examples, Writing
from . import Task

LIKELIHOOD = "log_likelihood"
METRICS = (*texts.SUMMED, *texts.AVERAGED, LIKELIHOOD)
REFERENCES = "references"
# Logits of a whole vocabulary for every token of a target take memory.
_MOST_LOGITS = 2048
# While it writes, a model is given one token of every text at a time, so it takes more texts to keep it busy.
_LEAST_WHILE_WRITING = 4096


class Seq2Seq:
    """Encoder-decoders with a language-modelling head, judged by what they write or by how likely the target is."""

    columns = ("source", "target")
    generates = True
    greedy_metric = LIKELIHOOD

    def metric(self, task: Task, model: PreTrainedModel) -> str:
        """BLEU, unless the task names another; `log_likelihood` is cheap, for nothing is written."""
        name = type(model).__name__
        if not (name.endswith("ForConditionalGeneration") or name.endswith("MTModel")) or not (
            model.config.is_encoder_decoder
        ):
            raise ModelError(f"seq2seq needs an encoder-decoder ...ForConditionalGeneration model, got {name}.")
        if task.has_second_text:
            raise SettingError(f"seq2seq reads one source text, got a second column {task.text2!r}; leave it out.")
        if task.metric is not None and task.metric not in METRICS:
            raise SettingError.unknown("metric", task.metric, METRICS)
        return task.metric or METRICS[0]

    def encode(
        self, table: pd.DataFrame, split: str, task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Examples:
        """Tokenises sources and targets, cut to what the model can take; a target ends with the end-of-text token.

        Where the data have a column `references`, a list of texts per row, those are what a generated text is compared
        with, else the target is.
        """
        sources, targets = (table[name].astype(str).tolist() for name in (task.text, task.label))
        longest = min(task.max_tokens, longest_input(model.config))
        encoded = tokenizer(sources, truncation=True, max_length=longest)
        rows = tuple(
            {name: encoded[name][row] for name in ("input_ids", "attention_mask")} for row in range(len(sources))
        )
        written = tokenizer(text_target=targets, truncation=True, max_length=longest)["input_ids"]
        labels = np.fromiter((_ended(ids, longest, tokenizer) for ids in written), dtype=object, count=len(written))
        writing = Writing(
            tuple(_references(table, targets, split)),
            partial(tokenizer.batch_decode, skip_special_tokens=True),
            min(task.max_new_tokens, longest_output(model.config)),
            task.beams,
        )
        return Examples(split, rows, labels, {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0}, writing)

    def answer(
        self, executable: Executable, examples: Examples, metric: str, *, batch_tokens: int = BATCH_TOKENS
    ) -> np.ndarray:
        """Of every example the statistics that the metric is computed from, n x k."""
        if metric == LIKELIHOOD:
            return _likelihoods(executable, examples, batch_tokens)
        writing = examples.writing
        assert writing is not None
        found = [""] * len(examples)
        for rows, inputs in examples.bucketed(max(batch_tokens, _LEAST_WHILE_WRITING)):
            ids = executable.generate(inputs, new_tokens=writing.new_tokens, beams=writing.beams)
            for row, text in zip(rows, writing.decode(ids.tolist()), strict=True):
                found[row] = text
        return texts.statistics(metric, found, writing.references)

    def score(self, metric: str, labels: np.ndarray, outcomes: np.ndarray) -> float:
        """The score of the corpus, from the statistics alone; fractions, but for the log-likelihood of a token."""
        if metric == LIKELIHOOD:
            total, tokens = outcomes.sum(axis=0)
            return float(total / tokens)
        return texts.score(metric, outcomes)


def _likelihoods(executable: Executable, examples: Examples, batch_tokens: int) -> np.ndarray:
    """Log-likelihood of every target given its source, and its tokens; n x 2."""
    found = np.empty((len(examples), 2))
    for rows, _ in examples.bucketed(min(batch_tokens, _MOST_LOGITS)):
        inputs = examples.with_labels(rows.tolist())
        for row, logits, labels in zip(rows, executable(inputs), inputs["labels"], strict=True):
            # One example at a time: a second copy of all logits would double the memory.
            losses = functional.cross_entropy(logits.float(), labels, reduction="none", ignore_index=-100)
            found[row] = -losses.double().sum().item(), (labels != -100).sum().item()
    return found


def _ended(ids: Sequence[int], longest: int, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The target with an end-of-text token; some tokenizers set it themselves, MBart's a language after it."""
    end = tokenizer.eos_token_id
    return tuple(ids) if end is None or end in ids else (*ids[: longest - 1], int(end))


def _references(table: pd.DataFrame, targets: Sequence[str], split: str) -> list[tuple[str, ...]]:
    if REFERENCES not in table.columns:
        return [(target,) for target in targets]
    return [_texts(cell, split) or (target,) for cell, target in zip(table[REFERENCES], targets, strict=True)]


def _texts(cell: Any, split: str) -> tuple[str, ...]:
    """The references of one row; none where the cell is empty. CSV has but text, so there a list is written as JSON."""
    found = cell
    if isinstance(cell, str):
        try:
            found = json.loads(cell or "[]")
        except ValueError:
            found = cell
    if found is None or (isinstance(found, float) and np.isnan(found)):
        return ()
    if not (isinstance(found, list | tuple | np.ndarray) and all(isinstance(text, str) for text in found)):
        raise DataError(
            f"{REFERENCES} must be a list of texts per row (in CSV written as JSON); the {split} split has {cell!r}."
        )
    return tuple(found)


plugin = Seq2Seq()

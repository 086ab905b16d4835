"""Encoded examples of one split, and the batches in which a model is asked for its answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from ..spaces.workbench import Inputs

# What a batch is given at a time where nobody asks for another number: little enough that examples of like length meet,
# and enough to keep a processor busy.
BATCH_TOKENS = 512
_NO_TOKEN = -100


@dataclass(frozen=True, slots=True)
class Writing:
    """How texts are generated from examples, and what they are compared with.

    Attributes:
        references: one or more right texts per example.
        decode: token ids, rows of possibly padded tokens -> texts.
        new_tokens: at most so many are written.
        beams: hypotheses that are followed.
    """

    references: tuple[tuple[str, ...], ...]
    decode: Callable[[Sequence[Sequence[int]]], list[str]]
    new_tokens: int
    beams: int


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded examples of one split.

    Attributes:
        split: what they are for: "search", "test", "calibration" or "train".
        encoded: one mapping per example, name of a model input -> its values, not padded.
        labels: one per example: class numbers (integers), scores (floats), or the target's token ids, not padded
            (objects, each a tuple).
        padding: name of a model input -> the value it is padded with.
        writing: where the model's answer is a text.
    """

    split: str
    encoded: tuple[Mapping[str, Sequence[int]], ...]
    labels: np.ndarray
    padding: Mapping[str, int]
    writing: Writing | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def batch(self, rows: Sequence[int]) -> Inputs:
        """These examples, every input padded to the longest of them; rows x tokens."""
        return {name: _padded([self.encoded[row][name] for row in rows], pad) for name, pad in self.padding.items()}

    def with_labels(self, rows: Sequence[int]) -> Inputs:
        """The same with `labels`, as a transformers model takes them to compute its loss.

        Class numbers are int64, scores are float32, and targets are int64, rows x tokens, padded with -100.
        """
        chosen = self.labels[list(rows)]
        if self.labels.dtype == object:
            return {**self.batch(rows), "labels": _padded(chosen.tolist(), _NO_TOKEN)}
        kind = torch.long if np.issubdtype(self.labels.dtype, np.integer) else torch.float32
        return {**self.batch(rows), "labels": torch.tensor(chosen, dtype=kind)}

    def lengths(self) -> list[int]:
        """Tokens of every example: of its text or its target, whichever is longer."""
        has_targets = self.labels.dtype == object
        return [
            max(len(own["input_ids"]), len(label) if has_targets else 0)
            for own, label in zip(self.encoded, self.labels, strict=True)
        ]

    def at(self, rows: Sequence[int] | np.ndarray) -> Self:
        """Some of the examples, in the order of these row numbers."""
        writing = self.writing
        if writing is not None:
            writing = replace(writing, references=tuple(writing.references[row] for row in rows))
        encoded = tuple(self.encoded[row] for row in rows)
        return replace(self, encoded=encoded, labels=self.labels[list(rows)], writing=writing)

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, Inputs]]:
        """All examples, those of like length together so that little is padding: row numbers and inputs."""
        order = self._longest_first()
        for start in range(0, len(order), size):
            yield self._with_inputs(order[start : start + size])

    def bucketed(self, tokens: int) -> Iterator[tuple[np.ndarray, Inputs]]:
        """The same in batches of about as many tokens each: many short examples together, and few long ones.

        Args:
            tokens: that a batch may have at most, padding counted; one example may have more by itself.
        """
        lengths, longest = self.lengths(), 0
        rows: list[int] = []
        for row in self._longest_first().tolist():
            longest = max(longest, lengths[row])
            if rows and (len(rows) + 1) * longest > tokens:
                yield self._with_inputs(np.array(rows))
                rows, longest = [], lengths[row]
            rows.append(row)
        if rows:
            yield self._with_inputs(np.array(rows))

    def _longest_first(self) -> np.ndarray:
        has_targets = self.labels.dtype == object

        def lengths(row: int) -> tuple[int, int]:
            return len(self.encoded[row]["input_ids"]), len(self.labels[row]) if has_targets else 0

        return np.array(sorted(range(len(self)), key=lengths, reverse=True))

    def _with_inputs(self, rows: np.ndarray) -> tuple[np.ndarray, Inputs]:
        return rows, self.batch(rows.tolist())


def _padded(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*own, *[pad] * (longest - len(own))] for own in rows], dtype=torch.long)

"""What a model answers to a few examples, kept to see on another machine whether it still answers the same."""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor

# Of each answer with more numbers than this, such as one per word of a vocabulary, only the largest are kept.
_MOST = 16
_PLACES, _VALUES = "places", "values"
# Up to such a difference, as a part of the answers' own spread, kernels may differ and quality is not doubted.
TOLERANCE = 0.05


def kept_of(answers: Tensor) -> dict[str, Tensor]:
    """What is kept of answers.

    Args:
        answers: of any shape, the numbers of one answer last.

    Returns:
        The answers, float32; or, where one has many numbers, its largest and their places.
    """
    answers = answers.detach().float()
    if answers.shape[-1] <= _MOST:
        return {_VALUES: answers.contiguous()}
    values, places = answers.topk(_MOST, dim=-1)
    return {_VALUES: values.contiguous(), _PLACES: places.contiguous()}


def difference_of(answers: Tensor, kept: Mapping[str, Tensor]) -> float:
    """How far answers are from those that were kept.

    Args:
        answers: to the same examples.
        kept: what `kept_of` gave.

    Returns:
        The largest difference of two numbers over the standard deviation of those kept; infinite where an answer is not
        finite or of another shape.
    """
    values, places = kept[_VALUES], kept.get(_PLACES)
    answers = answers.detach().float()
    if places is not None and answers.shape[:-1] == places.shape[:-1] and int(places.max()) < answers.shape[-1]:
        answers = answers.gather(-1, places)
    if answers.shape != values.shape or not torch.isfinite(answers).all():
        return inf
    spread = float(values.std(correction=0))
    largest = float((answers - values).abs().max())
    return largest / spread if spread > 0 else (inf if largest > 0 else 0.0)

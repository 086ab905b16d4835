from math import inf

import pytest
import torch

from paring.search.answers import difference_of, kept_of


def test_the_same_answers_differ_by_nothing() -> None:
    answers = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert difference_of(answers, kept_of(answers)) == 0.0


def test_a_difference_is_told_as_a_part_of_the_spread() -> None:
    answers = torch.tensor([[-2.0, 2.0], [2.0, -2.0]])  # a spread of 2
    assert difference_of(answers + torch.tensor([[0.0, 0.1], [0.0, 0.0]]), kept_of(answers)) == pytest.approx(0.05)


def test_of_a_vocabulary_only_the_likeliest_words_are_kept() -> None:
    answers = torch.randn(2, 4, 1000, generator=torch.Generator().manual_seed(0))
    kept = kept_of(answers)
    assert sum(tensor.numel() for tensor in kept.values()) == 2 * 2 * 4 * 16
    assert difference_of(answers, kept) == 0.0
    unlikely = answers.clone()
    unlikely[answers < -2] -= 1.0
    assert difference_of(unlikely, kept) == 0.0
    likely = torch.where(answers == answers.amax(-1, keepdim=True), answers - 3, answers)
    assert difference_of(likely, kept) > 0.5


@pytest.mark.parametrize(
    "answers", [torch.full((2, 3), torch.nan), torch.full((2, 3), torch.inf), torch.ones(2, 4), torch.ones(3, 3)]
)
def test_what_cannot_be_compared_differs_without_bound(answers: torch.Tensor) -> None:
    assert difference_of(answers, kept_of(torch.eye(2, 3))) == inf


def test_answers_of_a_smaller_vocabulary_differ_without_bound() -> None:
    kept = kept_of(torch.eye(4, 100) + torch.arange(100.0))
    assert difference_of(torch.ones(4, 50), kept) == inf


def test_answers_that_are_all_one_number() -> None:
    kept = kept_of(torch.zeros(3, 1))
    assert difference_of(torch.zeros(3, 1), kept) == 0.0
    assert difference_of(torch.ones(3, 1), kept) == inf

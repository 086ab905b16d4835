"""Fine-tuning, where a scorer asks for it.

[Peer2022]: "Greedy-layer pruning", arXiv 2105.14839; settings from the authors' published scripts.
"""

from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from ..errors import SettingError
from .examples import Examples
from .progress import Progress

_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is fine-tuned; the defaults are those of the search of [Peer2022].

    Attributes:
        epochs: passes over the training examples.
        learning_rate: of AdamW at the start; it falls linearly to 0.
        batch: examples per step.
        seed: of dropout and of the order of the examples.
    """

    epochs: int = 3
    learning_rate: float = 2e-5
    batch: int = 32
    seed: int = 41

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or not self.learning_rate > 0:
            raise SettingError(f"training needs epochs >= 1, batch >= 1 and learning_rate > 0, got {self}.")


def fine_tune(
    model: PreTrainedModel,
    examples: Examples,
    training: Training,
    progress: Progress,
    *,
    what: str = "fine-tuning",
    by_length: bool = False,
    warmup: float = 0.0,
) -> float:
    """Trains a model in place with its own loss; the same arguments on the same machine give the same weights.

    Args:
        model: any transformers model whose inputs and labels `examples` hold; left in evaluation mode.
        examples: what to learn from.
        training: how.
        progress: where to say how far it is.
        what: what the progress is called.
        by_length: whether examples of like length share a batch, so that little is padded; the paper's do not.
        warmup: share of the steps over which the learning rate rises from 0, from 0 to 1; the paper's does not.

    Returns:
        Mean loss of the last epoch.
    """
    torch.manual_seed(training.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=0.0)
    steps_per_epoch = -(-len(examples) // training.batch)
    steps = training.epochs * steps_per_epoch
    schedule = get_linear_schedule_with_warmup(optimizer, round(warmup * steps), steps)
    losses: list[float] = []
    model.train().requires_grad_(True)
    with progress.stage(what, steps) as report:
        for _ in range(training.epochs):
            for rows in _batches(examples, training.batch, by_length=by_length):
                loss = model(**examples.with_labels(rows)).loss
                loss.backward()
                clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                losses.append(loss.item())
                report(len(losses), f"loss {loss.item():.3f}")
    model.eval().requires_grad_(False)
    return sum(losses[-steps_per_epoch:]) / steps_per_epoch


def _batches(examples: Examples, batch: int, *, by_length: bool) -> list[list[int]]:
    """The rows of every batch of one epoch, in random order."""
    order = torch.randperm(len(examples)).tolist()
    if by_length:
        lengths = examples.lengths()
        order.sort(key=lambda row: int(lengths[row]))  # what is equally long stays in random order
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    return [batches[number] for number in torch.randperm(len(batches)).tolist()] if by_length else batches

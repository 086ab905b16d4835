"""Latents and a decoder fitted directly to what errors cost: an autoencoder without the encoder, which nobody keeps.

What is stored is what a non-linear autoencoder stores. Three things differ from how the paper trains it. The loss is
that of the metrics of `factorising`: what an error of a row does to outputs, or to answers, instead of its angle. The
start is the best product of the same size, which hidden layers of leaky rectifiers hold exactly, so training can only
improve on it. And every row has its latents to itself: they are parameters, and no encoder must learn to find them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import PlanError, SettingError
from .autoencoders import Decoded, Report
from .factor_sizes import check_size
from .factorising import Metric, stack, truncated

# What a leaky rectifier lets through of what is below nought: torch's own.
_LEAK = 0.01
_WARM_UP = 100
_LOOKS = 10


@dataclass(frozen=True, slots=True)
class LatentTraining:
    """How latents and decoder are fitted.

    Attributes:
        steps: of Adam; both rates fall to nought along a cosine.
        batch_rows: rows per step, of all weights together.
        decoder_rate: learning rate of the decoder.
        latent_rate: of the latents, each of which is seen once per pass over the rows.
        seed: of the order of the rows and of the spare hidden units.
        device: what it is fitted on, as torch names it.
    """

    steps: int = 3000
    batch_rows: int = 256
    decoder_rate: float = 2e-3
    latent_rate: float = 2e-2
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_rows"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} of the latents must be at least 1, got {getattr(self, name)}.")
        for name in ("decoder_rate", "latent_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise SettingError(f"{name} of the latents must be above 0 and at most 1, got {getattr(self, name)}.")

"""Autoencoders over the rows of a stack of weights: what is kept is a short latent per row and one shared decoder.

After *Revisiting Offline Compression* (Banaei, Balazy, Kasymov, Lebret, Tabor, Aberer; Findings of EACL 2023), in the
form of its published code: a row is a sample, the encoder is thrown away, and every decoded row is given the length of
the row it stands for, so that the decoder need only learn directions. The defaults of `AutoencoderTraining` are theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import PlanError, SettingError
from .autoencoder_training import AutoencoderTraining
from .factor_sizes import DECODER_WIDTHS, ENCODER_WIDTHS, check_size
from .factorising import TwoFactors, stack

AUTOENCODER_METHODS = ("linear_autoencoder", "autoencoder")
# The shares of direction and of root mean squared error in the loss: 10 to 1.
_DIRECTION, _DISTANCE = 10 / 11, 1 / 11
# Rows that are encoded or decoded at once where nothing is learned.
_ROWS = 4096

Decoder = tuple[tuple[Tensor, Tensor], ...]
Report = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Weights of one kind as latents that one decoder makes rows of.

    Attributes:
        latents: out x size each, float32.
        norms: the lengths of the rows, out each.
        decoder: weight (out x in) and bias of each of its layers.
        bounded: whether a hyperbolic tangent ends the decoder; where there is but one layer, there is none.
        bias_changes: what is added to the bias of each Linear, out; None where nothing is.
    """

    latents: tuple[Tensor, ...]
    norms: tuple[Tensor, ...]
    decoder: Decoder
    bounded: bool
    bias_changes: tuple[Tensor | None, ...]

    def dense(self) -> tuple[Tensor, ...]:
        """The rows of every weight: out x in each."""
        return tuple(
            decode(latents, norms, self.decoder, bounded=self.bounded)
            for latents, norms in zip(self.latents, self.norms, strict=True)
        )


def decode(latents: Tensor, norms: Tensor, decoder: Decoder, *, bounded: bool) -> Tensor:
    """The rows that latents stand for.

    Args:
        latents: rows x size.
        norms: the length of every row.
        decoder: weight and bias of each layer; leaky rectifiers are between them.
        bounded: whether a hyperbolic tangent ends it.

    Returns:
        rows x columns; a row whose decoded direction is nought stays nought.
    """
    return functional.normalize(_directions(latents, decoder, bounded=bounded), dim=1) * norms.unsqueeze(1)


def train_autoencoder(
    method: str,
    weights: Sequence[Tensor],
    size: int,
    training: AutoencoderTraining | None = None,
    *,
    report: Report | None = None,
    choose: Callable[[Decoded], float] | None = None,
) -> Decoded:
    """Trains an autoencoder on the rows of all weights together.

    Args:
        method: one of `AUTOENCODER_METHODS`.
        weights: of Linears of one kind, each out x in; or a table of words.
        size: of the latents.
        training: how; None for the paper's way.
        report: told after every epoch how many are done, of how many, and the loss.
        choose: of what the best epoch is decided by, lower is better; None for the loss over all rows.

    Returns:
        That of the best epoch, on the CPU. The same seed gives the same on the same device.

    Raises:
        SettingError: if the method is unknown, or the size is not from 1 to the smaller side of the stack.
        PlanError: if the weights do not stack or are not finite, or training diverges.
    """
    if method not in AUTOENCODER_METHODS:
        raise SettingError.unknown("autoencoder", method, AUTOENCODER_METHODS)
    training = training or AutoencoderTraining()
    stacked = stack(weights).float()
    check_size(method, len(stacked), stacked.shape[1], size)
    heights, rows = [len(weight) for weight in weights], stacked.to(training.device)
    bounded = method == "autoencoder"
    best, least = None, float("inf")
    for done, total, encoder, decoder in _epochs(rows, size, training, bounded=bounded):
        with torch.no_grad():
            latents = torch.cat([_encoded(encoder, part, bounded=bounded) for part in rows.split(_ROWS)])
            found = _kept(latents, stacked, heights, decoder, bounded=bounded)
            loss = float(_loss(stacked, torch.cat(found.dense())))
        score = loss if choose is None else choose(found)
        if score < least:
            best, least = found, score
        if report is not None:
            report(done, total, f"loss {loss:.4f}")
    if best is None:
        raise PlanError(
            f"training the autoencoder diverged: no epoch has a finite score; lower the learning rate below "
            f"{training.learning_rate:g}."
        )
    return best


def folded(decoded: Decoded) -> TwoFactors:
    """A linear autoencoder as two factors of rank size + 1, which are as many numbers: bias and lengths folded in.

    Raises:
        PlanError: if the decoder has hidden layers.
    """
    if len(decoded.decoder) != 1 or decoded.bounded:
        raise PlanError(
            f"only a linear decoder, of one layer, folds into two factors; this one has {len(decoded.decoder)} layers: "
            "decode it into dense weights instead."
        )
    ((weight, bias),) = decoded.decoder
    lefts = []
    for latents, norms in zip(decoded.latents, decoded.norms, strict=True):
        lengths = functional.linear(latents, weight, bias).norm(dim=1).clamp_min(1e-12)
        lefts.append(torch.cat([latents, torch.ones(len(latents), 1)], dim=1) * (norms / lengths).unsqueeze(1))
    return TwoFactors(tuple(lefts), torch.cat([weight.t(), bias.unsqueeze(0)]), (None,) * len(lefts))


def _epochs(
    rows: Tensor, size: int, training: AutoencoderTraining, *, bounded: bool
) -> Iterator[tuple[int, int, nn.ModuleList, nn.ModuleList]]:
    """After every epoch: its number, how many there are, encoder and decoder; both go on being trained."""
    columns, device = rows.shape[1], rows.device
    hidden = [[width * size for width in widths] if bounded else [] for widths in (ENCODER_WIDTHS, DECODER_WIDTHS)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        encoder, decoder = _layers(columns, *hidden[0], size), _layers(size, *hidden[1], columns)
    encoder, decoder = encoder.to(device), decoder.to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=training.learning_rate, fused=True)
    order = torch.Generator().manual_seed(training.seed)
    in_epoch = -(-len(rows) // training.batch_rows)
    steps = training.steps or training.epochs * in_epoch
    wait = training.decay_epochs * in_epoch if training.steps is None else -(-steps // 3)
    total = -(-steps // in_epoch)
    for epoch in range(total):
        batches = torch.randperm(len(rows), generator=order).to(device).split(training.batch_rows)
        for step, chosen in enumerate(batches[: steps - epoch * in_epoch], start=epoch * in_epoch):
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * training.decay ** (step // wait)
            with torch.enable_grad():
                latents = _encoded(encoder, rows[chosen], bounded=bounded)
                directions = _directions(latents, _tensors(decoder), bounded=bounded)
                wanted = rows[chosen]
                got = functional.normalize(directions, dim=1) * wanted.norm(dim=1, keepdim=True)
                loss = _loss(wanted, got)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        yield epoch + 1, total, encoder, decoder


def _loss(wanted: Tensor, got: Tensor) -> Tensor:
    """The paper's: of the angle between rows, and of their distance."""
    direction = 1 - functional.cosine_similarity(wanted, got, dim=1)
    # The root of nought has no gradient.
    distance = (functional.mse_loss(got, wanted) + 1e-20).sqrt()
    return _DIRECTION * direction.mean() + _DISTANCE * distance


def _layers(*widths: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))


def _encoded(encoder: nn.ModuleList, rows: Tensor, *, bounded: bool) -> Tensor:
    """Latents; the non-linear encoder ends in a rectifier too."""
    for layer in encoder:
        rows = layer(rows)
        rows = functional.leaky_relu(rows) if bounded else rows
    return rows


def _directions(latents: Tensor, decoder: Decoder, *, bounded: bool) -> Tensor:
    """What the decoder gives, of whatever length."""
    for number, (weight, bias) in enumerate(decoder):
        latents = functional.linear(latents if number == 0 else functional.leaky_relu(latents), weight, bias)
    return latents.tanh() if bounded else latents


def _tensors(decoder: nn.ModuleList) -> Decoder:
    """Weight and bias of every layer."""
    return tuple((layer.weight, layer.bias) for layer in decoder if isinstance(layer, nn.Linear))


def _kept(
    latents: Tensor, stacked: Tensor, heights: Sequence[int], decoder: nn.ModuleList, *, bounded: bool
) -> Decoded:
    """A copy on the CPU, cut into the weights it stands for."""
    copied = partial(torch.Tensor.clone, memory_format=torch.contiguous_format)
    return Decoded(
        tuple(copied(part) for part in latents.cpu().split(list(heights))),
        tuple(copied(part) for part in stacked.norm(dim=1).split(list(heights))),
        tuple((copied(weight.detach().cpu()), copied(bias.detach().cpu())) for weight, bias in _tensors(decoder)),
        bounded,
        (None,) * len(heights),
    )

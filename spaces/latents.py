"""Latents and a decoder fitted directly to what errors cost: an autoencoder without the encoder, which nobody keeps.

What is stored is what a non-linear autoencoder stores. Three things differ from how the paper trains it. The loss is
that of `error_metrics`: what an error of a row does to outputs, or to answers, instead of its angle. The start is the
best product of the same size, which hidden layers of leaky rectifiers hold exactly, so training can only improve on it.
And every row has its latents to itself: they are parameters, and no encoder must learn to find them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import PlanError, SettingError
from .autoencoder_training import LatentTraining
from .autoencoders import Decoded, Report
from .error_metrics import Metric
from .factor_sizes import check_size
from .factorising import stack, truncated

# What a leaky rectifier lets through of what is below nought: torch's own.
_LEAK = 0.01
_WARM_UP = 100
_LOOKS = 10


def fit_latents(
    weights: Sequence[Tensor],
    size: int,
    metrics: Sequence[Metric],
    training: LatentTraining | None = None,
    *,
    means: Sequence[Tensor | None] = (),
    report: Report | None = None,
    choose: Callable[[Decoded], float] | None = None,
) -> Decoded:
    """Fits one latent per row of all weights, and the decoder that makes rows of them.

    Args:
        weights: of Linears of one kind, each out x in.
        size: of the latents.
        metrics: what an error of each weight costs; of the outputs' metric, the diagonal counts.
        training: how.
        means: the mean input of each Linear whose bias shall take up what the mean loses.
        report: told at the start and ten times after it how many steps are done, of how many, and the share of the
            error that is left.
        choose: of what the best of these states is decided by, lower is better; None for the error.

    Returns:
        The best state, on the CPU. The same seed gives the same on the same device.

    Raises:
        SettingError: if the size is not from 1 to the smaller side of the stack, or metrics are missing.
        PlanError: if the weights do not stack or are not finite, or no state has a finite score.
    """
    training = training or LatentTraining()
    stacked = stack(weights)
    check_size("autoencoder", len(stacked), stacked.shape[1], size)
    if len(metrics) != len(weights) or len({len(weight) for weight in weights}) > 1:
        raise SettingError(
            f"latents need weights of one height and a metric of each; got {len(metrics)} metrics for the heights "
            f"{[len(weight) for weight in weights]}."
        )
    problem = _Problem(weights, metrics, training.device)
    best, least = None, float("inf")
    for done, latents, decoder in _states(problem, size, training):
        error = problem.error(latents, decoder)
        found = problem.kept(latents, decoder, means)
        score = error if choose is None else choose(found)
        if score < least:
            best, least = found, score
        if report is not None:
            report(done, training.steps, f"error {error:.4f}")
    if best is None:
        raise PlanError(
            f"fitting latents diverged: no state has a finite score; lower the rates below {training.latent_rate:g} "
            f"and {training.decoder_rate:g}."
        )
    return best


class _Problem:
    """Rows in coordinates in which their squared error is what it costs.

    All are turned alike by a root of the mean metric, and the decoder learns to give rows so turned: what turns them
    back is folded into its last layer. Each weight's own metric is a further turn, after the decoder.
    """

    def __init__(self, weights: Sequence[Tensor], metrics: Sequence[Metric], device: str) -> None:
        self.weights, self.metrics = [weight.detach().double() for weight in weights], metrics
        importances = torch.stack(
            [
                torch.ones(len(weight), dtype=torch.float64) if metric.outputs is None else _diagonal(metric.outputs)
                for weight, metric in zip(self.weights, metrics, strict=True)
            ]
        )
        shares = importances.sum(1) / importances.sum()
        inputs = torch.stack([metric.inputs for metric in metrics])
        self.root = torch.linalg.cholesky((shares.view(-1, 1, 1) * inputs).sum(0))
        turned = torch.stack(self.weights) @ self.root
        turns = torch.linalg.solve_triangular(self.root.expand_as(inputs), torch.linalg.cholesky(inputs), upper=False)
        own = turned @ turns
        costs = own.square().sum(2) * importances
        lengths = turned.norm(dim=2, keepdim=True).clamp_min(1e-30)
        # Rows of length 1, so that all latents are of one size; what a row's error costs is a weight of the loss.
        self.rows, self.wanted, self.costs, self.turns = (
            tensor.float().to(device)
            for tensor in (turned / lengths, functional.normalize(own, dim=2), costs / costs.mean(), turns)
        )

    def start(self, size: int, seed: int) -> tuple[Tensor, nn.ModuleList]:
        """Latents, weights x out x size, and a decoder that together are the best product of that rank."""
        weighted = self.rows * self.costs.sqrt().unsqueeze(2)
        _, basis = truncated(weighted.flatten(0, 1).double(), size)
        basis = basis.float()
        latents = self.rows @ basis.t()
        deviation = latents.flatten(0, 1).std(0, correction=0).clamp_min(1e-6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Linear(size, 2 * size), nn.Linear(2 * size, 4 * size), nn.Linear(4 * size, len(self.root))]
        _pass_through(layers, size, (basis * deviation.unsqueeze(1)).cpu())
        return latents / deviation, nn.ModuleList(layers).to(self.rows.device)

    def misses(self, latents: Tensor, decoder: nn.ModuleList, chosen: Tensor | slice) -> Tensor:
        """The share of each chosen row that no length of its decoded direction makes up for; weights x rows."""
        own = _decoded(latents, decoder) @ self.turns
        return 1 - functional.cosine_similarity(own, self.wanted[:, chosen], dim=2).square()

    def error(self, latents: Tensor, decoder: nn.ModuleList) -> float:
        """The share of the whole cost that is left."""
        with torch.no_grad():
            return float((self.costs * self.misses(latents, decoder, slice(None))).mean())

    def kept(self, latents: Tensor, decoder: nn.ModuleList, means: Sequence[Tensor | None]) -> Decoded:
        """A copy on the CPU, in the coordinates of the weights, every row as long as errs least."""
        linears = (layer for layer in decoder if isinstance(layer, nn.Linear))
        layers = [(layer.weight.detach().cpu(), layer.bias.detach().cpu()) for layer in linears]
        weight, bias = layers[-1]
        back = torch.linalg.solve_triangular(
            self.root.t(), torch.cat([weight, bias.unsqueeze(1)], 1).double(), upper=True
        )
        layers[-1] = back[:, :-1].float(), back[:, -1].float()
        own = tuple(part.detach().cpu().clone() for part in latents)
        ones = torch.ones(own[0].shape[0])
        found = Decoded(
            own, (ones,) * len(own), tuple((w.clone(), b.clone()) for w, b in layers), False, (None,) * len(own)
        )
        lengths, changes = [], []
        for weight, metric, unit, mean in zip(
            self.weights, self.metrics, found.dense(), means or (None,) * len(own), strict=True
        ):
            seen = unit.double() @ metric.inputs
            length = (seen * weight).sum(1) / (seen * unit).sum(1).clamp_min(1e-300)
            lengths.append(length.float())
            changes.append(None if mean is None else ((weight - length.unsqueeze(1) * unit) @ mean).float())
        return replace(found, norms=tuple(lengths), bias_changes=tuple(changes))


def _states(problem: _Problem, size: int, training: LatentTraining) -> Iterator[tuple[int, Tensor, nn.ModuleList]]:
    """The start and ten states after it: the steps done, latents and decoder; both go on being fitted."""
    latents, decoder = problem.start(size, training.seed)
    yield 0, latents, decoder
    count, height = latents.shape[:2]
    rows = nn.Parameter(latents.clone())
    slow = torch.optim.Adam(decoder.parameters(), lr=training.decoder_rate)
    moments = torch.zeros(2, *rows.shape, device=rows.device), torch.zeros(height, device=rows.device)
    order = torch.Generator().manual_seed(training.seed)
    batch = max(1, training.batch_rows // count)
    chunks: list[Tensor] = []
    for step in range(training.steps):
        if not chunks:
            chunks = list(torch.randperm(height, generator=order).to(rows.device).split(batch))
        chosen = chunks.pop()
        fall = 0.5 * (1 + math.cos(math.pi * step / training.steps)) * min(1.0, (step + 1) / _WARM_UP)
        with torch.enable_grad():
            own = rows.detach()[:, chosen].requires_grad_()
            loss = (problem.costs[:, chosen] * problem.misses(own, decoder, chosen)).mean()
            slow.zero_grad()
            loss.backward()
        for group in slow.param_groups:
            group["lr"] = training.decoder_rate * fall
        slow.step()
        assert own.grad is not None
        _step_rows(rows, own.grad, chosen, moments, training.latent_rate * fall)
        if (step + 1) * _LOOKS // training.steps > step * _LOOKS // training.steps:
            yield step + 1, rows.detach(), decoder


def _step_rows(rows: Tensor, gradient: Tensor, chosen: Tensor, kept: tuple[Tensor, Tensor], rate: float) -> None:
    """A step of Adam for those rows alone that a batch holds; each counts its own steps."""
    (first, second), steps = kept
    with torch.no_grad():
        steps[chosen] += 1
        first[:, chosen] = first[:, chosen].lerp(gradient, 0.1)
        second[:, chosen] = second[:, chosen].lerp(gradient.square(), 0.001)
        done = steps[chosen].view(1, -1, 1)
        mean, square = first[:, chosen] / (1 - 0.9**done), second[:, chosen] / (1 - 0.999**done)
        rows[:, chosen] -= rate * mean / (square.sqrt() + 1e-8)


def _diagonal(outputs: Tensor) -> Tensor:
    return outputs if outputs.dim() == 1 else outputs.diagonal()


def _decoded(latents: Tensor, decoder: nn.ModuleList) -> Tensor:
    for number, layer in enumerate(decoder):
        latents = layer(latents if number == 0 else functional.leaky_relu(latents, _LEAK))
    return latents


def _pass_through(layers: Sequence[nn.Linear], size: int, product: Tensor) -> None:
    """Makes a decoder the product latents @ product; hidden units that it does not need are random, and unread.

    A pair of rectifiers of z and -z lets z through: what they give differs by (1 + leak) z.
    """
    first, second, last = layers
    identity, gain = torch.eye(size), 1 / (1 + _LEAK)
    with torch.no_grad():
        for layer in layers:
            layer.bias.zero_()
        first.weight.copy_(torch.cat([identity, -identity]))
        pair = gain * torch.cat([identity, -identity], dim=1)
        second.weight[: 2 * size] = torch.cat([pair, -pair])
        last.weight[:, : 2 * size] = gain * torch.cat([product.t(), -product.t()], dim=1)
        last.weight[:, 2 * size :] = 0

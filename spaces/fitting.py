"""Fits a factorisation to weights, by whichever method it names, and writes it as modules take it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .autoencoders import Decoded, Report, folded, train_autoencoder
from .error_metrics import metric_of, metric_of_words
from .factoring import Factoring
from .factorisation import Factorisation
from .factorising import SEEING_METHODS as _SEEING_FACTORS
from .factorising import TwoFactors, factorise, factorise_words
from .heldout import HeldOut
from .latents import fit_latents
from .seen import Seen, WordsSeen
from .workbench import Material

# What parts that were stacked have in common is written under this name.
SHARED = "shared"
# Methods that need to know what calibration shows.
SEEING_METHODS = (*_SEEING_FACTORS, "latents")


@dataclass(frozen=True, slots=True)
class Fitting:
    """Weights that are factorised, alone or stacked.

    Attributes:
        parts: Linears of one kind by name; or one table of words.
        seen: what calibration shows of each of them; nothing where the method does not ask for it.
        factoring: how autoencoders are trained.
        held_out: what the best state of a training is chosen by; None for its loss.
        words: in place of `seen`, what calibration shows of a table.
    """

    parts: Mapping[str, nn.Linear | nn.Embedding]
    seen: Sequence[Seen]
    factoring: Factoring
    held_out: HeldOut | None
    words: WordsSeen | None = None

    def fit(self, factors: Factorisation, report: Report) -> Material:
        """Finds the factors.

        Args:
            factors: the method, and how large.
            report: told how far it is.

        Returns:
            The factorisation as it is written, a space, and the name of a part -> its tensors, as in
            `learned_factors`; and in place of a name `SHARED` -> those that stacked parts share.
        """
        report(0, 1, "")
        if factors.form == "two_factors":
            return self._of_two_factors(factors, self._solved(factors))
        decoded = self._latents(factors, report) if factors.method == "latents" else self._trained(factors, report)
        return (
            self._of_decoder(factors, decoded) if factors.is_decoded else self._of_two_factors(factors, folded(decoded))
        )

    @property
    def _weights(self) -> list[Tensor]:
        return [part.weight for part in self.parts.values()]

    @property
    def _biased(self) -> bool:
        return all(getattr(part, "bias", None) is not None for part in self.parts.values())

    def _solved(self, factors: Factorisation) -> TwoFactors:
        if self.words is not None:
            return factorise_words(self._weights[0], factors.rank, metric_of_words(self.words))
        return factorise(factors.method, self._weights, factors.rank, self.seen, move_bias=self._biased)

    def _trained(self, factors: Factorisation, report: Report) -> Decoded:
        training = self.factoring.training
        return train_autoencoder(
            factors.method, self._weights, factors.rank, training, report=report, choose=self._choose()
        )

    def _latents(self, factors: Factorisation, report: Report) -> Decoded:
        metrics = [metric_of("sensitivity", own, centred=self._biased) for own in self.seen]
        means = [own.mean if self._biased else None for own in self.seen]
        how = self.factoring.latents
        return fit_latents(self._weights, factors.rank, metrics, how, means=means, report=report, choose=self._choose())

    def _choose(self) -> Callable[[Decoded], float] | None:
        held_out = self.held_out
        return None if held_out is None else lambda found: held_out.error(found.dense(), found.bias_changes)

    def _of_two_factors(self, factors: Factorisation, fitted: TwoFactors) -> Material:
        shared = {"right": fitted.right.contiguous()}
        own = [
            {"left": left.contiguous(), **({} if change is None else {"bias": change})}
            for left, change in zip(fitted.lefts, fitted.bias_changes, strict=True)
        ]
        return self._written(factors, own, shared)

    def _of_decoder(self, factors: Factorisation, fitted: Decoded) -> Material:
        decoder = {
            f"decoder.{number}.{name}": tensor
            for number, layer in enumerate(fitted.decoder)
            for name, tensor in zip(("weight", "bias"), layer, strict=True)
        }
        own = [
            {"rows": rows, "norms": norms, **({} if change is None else {"bias": change})}
            for rows, norms, change in zip(fitted.latents, fitted.norms, fitted.bias_changes, strict=True)
        ]
        return self._written(factors, own, decoder)

    def _written(
        self, factors: Factorisation, own: Sequence[Mapping[str, Tensor]], shared: Mapping[str, Tensor]
    ) -> Material:
        alone = {} if factors.group is not None else shared
        found = {f"{factors} {name}": {**tensors, **alone} for name, tensors in zip(self.parts, own, strict=True)}
        return found if factors.group is None else {**found, f"{factors} {SHARED}": shared}

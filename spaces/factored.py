"""The modules that carry factorised weights, and compute what they mean on any device.

Two factors are two Linears, one after the other, so all that is done to Linears (bits, kernels) is done to them as
well. A decoder that is not linear gives the dense weight when it is asked for: runtimes expand it once, when they load
the model. Layers that were stacked hold the same second factor, or the same decoder, under all their names.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from .factor_sizes import DECODER_WIDTHS
from .factorisation import Factorisation
from .quantised import QuantEmbedding, QuantLinear


class FactoredLinear(nn.Module):
    """A Linear whose weight is a product of two: `narrow`, in -> rank, then `wide`, rank -> out, with the bias."""

    weight: None = None  # see `QuantLinear`

    def __init__(self, linear: nn.Linear, found: Mapping[str, Tensor]) -> None:
        """Stands in for a Linear; that is not changed.

        Args:
            linear: what to stand in for.
            found: "left", out x rank, "right", rank x in, and perhaps "bias", out: what is added to the bias. They are
                not copied, so parts that are given the same hold the same.
        """
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.inner_size = len(found["right"])
        self.narrow: nn.Module = _linear(found["right"], None)
        self.wide: nn.Module = _linear(found["left"], _bias(linear, found))

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out."""
        outputs: Tensor = self.wide(self.narrow(inputs))
        return outputs

    @property
    def is_foldable(self) -> bool:
        """Whether no factor is quantised, so that their product would not be either."""
        return isinstance(self.narrow, nn.Linear) and isinstance(self.wide, nn.Linear)

    def folded(self) -> nn.Linear | None:
        """One Linear of the same meaning; None where it is not foldable."""
        if not (isinstance(self.narrow, nn.Linear) and isinstance(self.wide, nn.Linear)):
            return None
        bias = self.wide.bias
        return _linear((self.wide.weight @ self.narrow.weight).detach(), None if bias is None else bias.detach())


class FactoredEmbedding(nn.Module):
    """A table of words as a product of two: the words' own short `rows`, and `wide`, which all of them share.

    Only the rows looked up are multiplied. `embed_scale` is as in `QuantEmbedding`.
    """

    def __init__(self, embedding: nn.Embedding, found: Mapping[str, Tensor]) -> None:
        """Stands in for a table; that is not changed.

        Args:
            embedding: what to stand in for.
            found: as for `FactoredLinear`, without a bias.
        """
        super().__init__()
        _take_table(self, embedding)
        self.rows: nn.Module = _embedding(found["left"])
        self.wide: nn.Module = _linear(found["right"].detach().t().contiguous(), None)
        self.embed_scale = float(getattr(embedding, "embed_scale", 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """... integer ids -> ... x width, float32."""
        words: Tensor = self.wide(self.rows(ids))
        return words if self.embed_scale == 1 else words * self.embed_scale


def decoder_shapes(size: int, width: int) -> tuple[tuple[int, int], ...]:
    """Rows and columns of the Linears of a decoder, from latent vectors of a size to rows of a width."""
    sizes = (size, *(times * size for times in DECODER_WIDTHS), width)
    return tuple((after, before) for before, after in pairwise(sizes))


class Decoder(nn.Module):
    """Latent vectors -> directions: three Linears, LeakyReLU between them, tanh at the end where it is bounded.

    After *Revisiting Offline Compression* (Banaei et al.; Findings of EACL 2023): d -> 2d -> 4d -> width.
    """

    def __init__(self, found: Mapping[str, Tensor], *, bounded: bool) -> None:
        """Takes "decoder.<n>.weight" and "decoder.<n>.bias"."""
        super().__init__()
        self._bounded = bounded
        self.layers = nn.ModuleList(
            _linear(found[f"decoder.{number}.weight"], found[f"decoder.{number}.bias"])
            for number in range(len(DECODER_WIDTHS) + 1)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """... x size -> ... x width, of length 1."""
        *first, last = self.layers
        for layer in first:
            latents = functional.leaky_relu(layer(latents))
        directions = last(latents)
        return functional.normalize(torch.tanh(directions) if self._bounded else directions, dim=-1)


class _Decoded(nn.Module):
    """Latent `rows`, their `norms` and a `decoder`."""

    norms: Tensor

    def __init__(self, found: Mapping[str, Tensor], *, bounded: bool) -> None:
        super().__init__()
        self.rows: nn.Module = _embedding(found["rows"])
        self.register_buffer("norms", found["norms"])
        self.decoder = Decoder(found, bounded=bounded)

    def decoded(self, ids: Tensor) -> Tensor:
        """The rows of these numbers, ... x width."""
        directions: Tensor = self.decoder(self.rows(ids))
        return directions * self.norms[ids].unsqueeze(-1)

    def dense_weight(self) -> Tensor:
        """All rows, out x in, float32."""
        with torch.no_grad():
            return self.decoded(torch.arange(len(self.norms), device=self.norms.device))


class DecodedLinear(_Decoded):
    """A Linear whose rows a decoder gives; the bias is its own."""

    weight: None = None  # see `QuantLinear`
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, found: Mapping[str, Tensor], *, bounded: bool) -> None:
        """Stands in for a Linear; that is not changed.

        Args:
            linear: what to stand in for.
            found: "rows", out x size of the latent vectors, "norms", out, the decoder's tensors, and perhaps "bias",
                out: what is added to the bias.
            bounded: whether a hyperbolic tangent ends the decoder.
        """
        super().__init__(found, bounded=bounded)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", _bias(linear, found))

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out."""
        return functional.linear(inputs, self.dense_weight(), self.bias)

    def expanded(self) -> nn.Linear:
        """The Linear it stands for."""
        return _linear(self.dense_weight(), self.bias)


class DecodedEmbedding(_Decoded):
    """A table of words that a decoder gives; only the rows looked up are decoded."""

    def __init__(self, embedding: nn.Embedding, found: Mapping[str, Tensor], *, bounded: bool) -> None:
        """Stands in for a table; that is not changed. Arguments are those of `DecodedLinear`."""
        super().__init__(found, bounded=bounded)
        _take_table(self, embedding)
        self.embed_scale = float(getattr(embedding, "embed_scale", 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """... integer ids -> ... x width, float32."""
        words = self.decoded(ids)
        return words if self.embed_scale == 1 else words * self.embed_scale


TABLES = (FactoredEmbedding, DecodedEmbedding)
Factored = FactoredLinear | FactoredEmbedding | DecodedLinear | DecodedEmbedding


def pieces(name: str, part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The Linears and tables that a part consists of: itself, or those inside a factorised part, by name.

    Args:
        name: of the part, such as "encoder.3.query"; that of a piece is longer, as "encoder.3.query.narrow".
        part: a Linear, a table, or a factorised one.
    """
    if not isinstance(part, Factored):
        yield name, part
        return
    for inner, piece in part.named_modules():
        if isinstance(piece, nn.Linear | nn.Embedding | QuantLinear | QuantEmbedding):
            yield f"{name}.{inner}", piece


def share_factors(model: nn.Module) -> None:
    """Lets equal quantised factors be one tensor again; those of layers that were stacked are rounded alike.

    Args:
        model: changed in place; nothing is done where it has no data.
    """
    known: dict[tuple[bytes, bytes], QuantLinear] = {}
    for part in model.modules():
        shared = [part.narrow] if isinstance(part, FactoredLinear) else []
        shared += list(part.decoder.layers) if isinstance(part, _Decoded) else []
        for piece in shared:
            if isinstance(piece, QuantLinear) and not piece.codes.is_meta:
                content = piece.codes.numpy().tobytes(), piece.scale.view(torch.uint8).numpy().tobytes()
                first = known.setdefault(content, piece)
                piece.codes, piece.scale = first.codes, first.scale


def without_data(shape: tuple[int, int], factors: Factorisation) -> dict[str, Tensor]:
    """The tensors of a factorised weight as shapes only, on the meta device: for a skeleton that is filled later.

    Args:
        shape: rows and columns of the weight.
        factors: what is done to it.
    """
    rows, columns = shape
    size = factors.inner_size
    shapes: dict[str, tuple[int, ...]] = {"left": (rows, size), "right": (size, columns)}
    if factors.is_decoded:
        shapes = {"rows": (rows, size), "norms": (rows,)}
        for number, layer in enumerate(decoder_shapes(size, columns)):
            shapes |= {f"decoder.{number}.weight": layer, f"decoder.{number}.bias": layer[:1]}
    return {name: torch.empty(one, device="meta") for name, one in shapes.items()}


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear around these tensors, which are not copied."""
    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    linear.weight = _parameter(weight)
    if bias is not None:
        linear.bias = _parameter(bias)
    return linear


def _bias(linear: nn.Linear, found: Mapping[str, Tensor]) -> Tensor | None:
    """The bias of a Linear, and what is to be added to it."""
    bias: Tensor | None = linear.bias
    if bias is None:
        return None
    return bias.detach() + found["bias"] if "bias" in found else bias.detach()


def _embedding(weight: Tensor) -> nn.Embedding:
    """A table around this tensor, which is not copied."""
    count, width = weight.shape
    table = nn.Embedding(count, width, device="meta")
    table.weight = _parameter(weight)
    return table


def _parameter(tensor: Tensor) -> nn.Parameter:
    """The tensor itself, where it is a parameter already: then others hold it, too."""
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)


def _take_table(part: nn.Module, embedding: nn.Embedding) -> None:
    """What a stand-in tells of the table it stands in for."""
    part.num_embeddings = embedding.num_embeddings  # type: ignore[assignment]
    part.embedding_dim = embedding.embedding_dim  # type: ignore[assignment]
    part.padding_idx = embedding.padding_idx  # type: ignore[assignment]

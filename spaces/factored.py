"""The modules that carry factorised weights, and compute what they mean on any device.

Two factors are two Linears, one after the other, so all that is done to Linears (bits, kernels) is done to them as
well. A decoder that is not linear gives the dense weight when it is asked for: runtimes expand it once, when they load
the model. Layers that were stacked hold the same second factor, or the same decoder, under all their names.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from .quantised import QuantEmbedding, QuantLinear

# The widths of a decoder's layers, in latent sizes, before the last.
_DECODER_WIDTHS = (2, 4)


class FactoredLinear(nn.Module):
    """A Linear whose weight is a product of two: `narrow`, in -> rank, then `wide`, rank -> out, with the bias."""

    weight: None = None  # see `QuantLinear`

    def __init__(self, linear: nn.Linear, inner_size: int, found: Mapping[str, Tensor]) -> None:
        """Stands in for a Linear; that is not changed.

        Args:
            linear: what to stand in for.
            inner_size: rows of the second factor.
            found: "left", out x rank, "right", rank x in, and perhaps "bias", out: what is added to the bias; empty to
                take the shapes only.
        """
        super().__init__()
        self.in_features, self.out_features, self.inner_size = linear.in_features, linear.out_features, inner_size
        right = _given(found, "right", (inner_size, linear.in_features))
        left = _given(found, "left", (linear.out_features, inner_size))
        bias = None if linear.bias is None else linear.bias.detach()
        if bias is not None and "bias" in found:
            bias = bias + found["bias"]
        self.narrow: nn.Module = _linear(right, None)
        self.wide: nn.Module = _linear(left, bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out."""
        outputs: Tensor = self.wide(self.narrow(inputs))
        return outputs

    def folded(self) -> nn.Linear | None:
        """One Linear of the same meaning; None where a factor is quantised, so that the product would not be."""
        if not (isinstance(self.narrow, nn.Linear) and isinstance(self.wide, nn.Linear)):
            return None
        bias = self.wide.bias
        return _linear((self.wide.weight @ self.narrow.weight).detach(), None if bias is None else bias.detach())


class FactoredEmbedding(nn.Module):
    """A table of words as a product of two: the words' own short `rows`, and `wide`, which all of them share.

    Only the rows looked up are multiplied. `embed_scale` is as in `QuantEmbedding`.
    """

    def __init__(self, embedding: nn.Embedding, inner_size: int, found: Mapping[str, Tensor]) -> None:
        """Stands in for a table; that is not changed.

        Args:
            embedding: what to stand in for.
            inner_size: rows of the second factor.
            found: as for `FactoredLinear`, without a bias.
        """
        super().__init__()
        _take_table(self, embedding)
        left = _given(found, "left", (embedding.num_embeddings, inner_size))
        right = _given(found, "right", (inner_size, embedding.embedding_dim))
        self.rows: nn.Module = _embedding(left)
        self.wide: nn.Module = _linear(right.t().contiguous(), None)
        self.embed_scale = float(getattr(embedding, "embed_scale", 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """... integer ids -> ... x width, float32."""
        words: Tensor = self.wide(self.rows(ids))
        return words if self.embed_scale == 1 else words * self.embed_scale


def decoder_shapes(size: int, width: int) -> tuple[tuple[int, int], ...]:
    """Rows and columns of the Linears of a decoder, from latent vectors of a size to rows of a width."""
    sizes = (size, *(times * size for times in _DECODER_WIDTHS), width)
    return tuple((after, before) for before, after in pairwise(sizes))


class Decoder(nn.Module):
    """Latent vectors -> directions: three Linears, LeakyReLU between them, tanh at the end.

    After *Revisiting Offline Compression* (Banaei et al.; Findings of EACL 2023): d -> 2d -> 4d -> width.
    """

    def __init__(self, size: int, width: int, found: Mapping[str, Tensor]) -> None:
        """Takes "decoder.<n>.weight" and "decoder.<n>.bias", or the shapes only."""
        super().__init__()
        self.layers = nn.ModuleList(
            _linear(
                _given(found, f"decoder.{number}.weight", shape), _given(found, f"decoder.{number}.bias", shape[:1])
            )
            for number, shape in enumerate(decoder_shapes(size, width))
        )

    def forward(self, latents: Tensor) -> Tensor:
        """... x size -> ... x width, of length 1."""
        *first, last = self.layers
        for layer in first:
            latents = functional.leaky_relu(layer(latents))
        return functional.normalize(torch.tanh(last(latents)), dim=-1)


class _Decoded(nn.Module):
    """Latent `rows`, their `norms` and a `decoder`."""

    norms: Tensor

    def __init__(self, shape: Sequence[int], size: int, found: Mapping[str, Tensor]) -> None:
        super().__init__()
        count, width = shape
        self.rows: nn.Module = _embedding(_given(found, "rows", (count, size)))
        self.register_buffer("norms", _given(found, "norms", (count,)))
        self.decoder = Decoder(size, width, found)

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

    def __init__(self, linear: nn.Linear, size: int, found: Mapping[str, Tensor]) -> None:
        """Stands in for a Linear; that is not changed.

        Args:
            linear: what to stand in for.
            size: of the latent vectors.
            found: "rows", out x size, "norms", out, and the decoder's tensors; empty to take the shapes only.
        """
        super().__init__((linear.out_features, linear.in_features), size, found)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out."""
        return functional.linear(inputs, self.dense_weight(), self.bias)

    def expanded(self) -> nn.Linear:
        """The Linear it stands for."""
        return _linear(self.dense_weight(), self.bias)


class DecodedEmbedding(_Decoded):
    """A table of words that a decoder gives; only the rows looked up are decoded."""

    def __init__(self, embedding: nn.Embedding, size: int, found: Mapping[str, Tensor]) -> None:
        """Stands in for a table; that is not changed. Arguments are those of `DecodedLinear`."""
        super().__init__((embedding.num_embeddings, embedding.embedding_dim), size, found)
        _take_table(self, embedding)
        self.embed_scale = float(getattr(embedding, "embed_scale", 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        """... integer ids -> ... x width, float32."""
        words = self.decoded(ids)
        return words if self.embed_scale == 1 else words * self.embed_scale


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


def _given(found: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of this shape, uncopied, so that parts that share it hold one; of no data where nothing was found."""
    if not found:
        return torch.empty(shape, device="meta")
    tensor = found[name]
    assert tuple(tensor.shape) == shape, f"{name} should be {shape}, got {tuple(tensor.shape)}"
    return tensor


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear around these tensors, which are not copied."""
    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _embedding(weight: Tensor) -> nn.Embedding:
    """A table around this tensor, which is not copied."""
    table = nn.Embedding(*weight.shape, device="meta")
    table.weight = nn.Parameter(weight, requires_grad=False)
    return table


def _take_table(part: nn.Module, embedding: nn.Embedding) -> None:
    """What a stand-in tells of the table it stands in for."""
    part.num_embeddings = embedding.num_embeddings  # type: ignore[assignment]
    part.embedding_dim = embedding.embedding_dim  # type: ignore[assignment]
    part.padding_idx = embedding.padding_idx  # type: ignore[assignment]

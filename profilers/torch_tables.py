"""Quantised tables of words in torch, on the processor: looked up, and multiplied with where an output is tied."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..spaces.blocks import Quantised, codes_of, integers_of, real_scale, spread
from ..spaces.packing import pack, unpack
from ..spaces.quantised import QuantEmbedding, QuantLinear

# Weights made float at once: 2 MiB, about what a second-level cache holds.
_BLOCK = 2**19


class LookupTable(nn.Module):
    """The meaning of a `QuantEmbedding` in fewer and smaller steps.

    Codes stay as small as is cheap to unpack: those of 3 bits take 4, and those of 5 to 7 take 8. Buffers: `integers`
    (words x width, int8) where they take 8 bits, else `codes` (packed); `scale` (row blocks x column blocks, bfloat16,
    which powers of two are, too).
    """

    integers: Tensor
    codes: Tensor
    scale: Tensor

    def __init__(self, meaning: QuantEmbedding, found: Quantised, *, as_integers: bool) -> None:
        """Takes over a table.

        Args:
            meaning: what it stands for.
            found: its numbers, unpacked; kept uncopied where they are not packed.
            as_integers: leaves them unpacked, for another part holds them like that.
        """
        super().__init__()
        bits = meaning.precision.weight_bits
        assert bits is not None
        self.num_embeddings, self.embedding_dim = meaning.num_embeddings, meaning.embedding_dim
        self.padding_idx, self.precision = meaning.padding_idx, meaning.precision
        self._embed_scale = meaning.embed_scale
        self._held_bits = 8 if as_integers or bits > 4 else 2 if bits == 2 else 4
        if self._held_bits == 8:
            self.register_buffer("integers", found.integers)
        else:
            packed = meaning.codes if bits == self._held_bits else pack(codes_of(found.integers, 4), 4)
            self.register_buffer("codes", packed)
        self.register_buffer("scale", real_scale(found.scale).to(torch.bfloat16))

    def forward(self, ids: Tensor) -> Tensor:
        """... integer ids -> ... x width, float32."""
        if self._held_bits == 8:
            integers = functional.embedding(ids, self.integers)
        else:
            codes = unpack(functional.embedding(ids, self.codes), self._held_bits, self.embedding_dim)
            integers = integers_of(codes, self._held_bits)
        tall, wide = self.precision.block
        scale = functional.embedding(ids if tall == 1 else ids // tall, self.scale).float()
        if self._embed_scale != 1:
            scale.mul_(self._embed_scale)
        return _scaled(integers, scale, wide)


class CodesLinear(nn.Module):
    """The meaning of a `QuantLinear` with float inputs from int8 integers, which may be those of a table.

    Some rows are made float in the processor's cache, and used there: less memory moves than with a dense weight. For
    8000 x 512 and one token 0.6 of float32, with one scale per row; in blocks of columns 1 to 2.
    """

    integers: Tensor
    scale: Tensor
    bias: Tensor | None
    weight: None = None  # see `QuantLinear`

    def __init__(self, meaning: QuantLinear, found: Quantised) -> None:
        """Takes over a weight.

        Args:
            meaning: with float inputs.
            found: its numbers, unpacked; kept uncopied.
        """
        super().__init__()
        self.in_features, self.out_features = meaning.in_features, meaning.out_features
        tall, self._wide = meaning.precision.block
        # For every row by itself, since so it is cut.
        scale = spread(real_scale(found.scale), (tall, 1), self.out_features, found.scale.shape[1])
        self.register_buffer("integers", found.integers)
        self.register_buffer("scale", scale.flatten() if scale.shape[1] == 1 else scale.to(torch.bfloat16))
        self.register_buffer("bias", meaning.bias)
        self._rows = max(1, _BLOCK // self.in_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out, float32."""
        by_row = self.scale.dim() == 1
        blocks = [
            functional.linear(inputs, integers.float() if by_row else _scaled(integers, scale.float(), self._wide))
            for integers, scale in zip(self.integers.split(self._rows), self.scale.split(self._rows), strict=True)
        ]
        product = torch.cat(blocks, dim=-1)
        if by_row:
            product.mul_(self.scale)
        return product if self.bias is None else product.add_(self.bias)


def _scaled(integers: Tensor, scale: Tensor, wide: int | None) -> Tensor:
    """Integers times the scale of their block of columns.

    Args:
        integers: ... x columns, int8.
        scale: ... x column blocks, float32.
        wide: columns of a block, or None for all.
    """
    columns = integers.shape[-1]
    if scale.shape[-1] == 1:
        return integers * scale
    assert wide is not None
    if columns % wide:
        return integers * scale.repeat_interleave(wide, dim=-1)[..., :columns]
    blocks: Tensor = integers.unflatten(-1, (-1, wide))
    return (blocks * scale.unsqueeze(-1)).flatten(-2)

"""The one meaning of a quantised number, and the modules that carry it.

Weights: symmetric, one float scale per output channel, codes -q..q with q = 2^(bits-1) - 1.
Inputs: affine, one calibrated scale and zero point per tensor, codes 0..2^bits - 1.
The modules compute this meaning in float on any device; a runtime may lower them to integer kernels that give the
same numbers up to the order of summation, and up to inputs so close to the middle of two codes that they round apart.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import PlanError
from .plan import Precision

# Candidate clipping ranges, as fractions of the observed range, tried for the least squared error.
_CLIP_FRACTIONS = tuple(1 - 0.02 * step for step in range(40))


def quantise_rows(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Symmetric codes with one scale per row, by the largest magnitude.

    Args:
        weight: rows x columns, float.
        bits: 2 to 8.

    Returns:
        Codes, rows x columns, int8; and scales, one per row, float32, positive. |weight - codes * scale| is at most
        half a scale everywhere; an all-zero row gives zero codes.

    Raises:
        PlanError: if a weight is not finite.
    """
    if not weight.is_meta and not torch.isfinite(weight).all():
        raise PlanError("weights to quantise must be finite, got NaN or infinity: the model is damaged.")
    largest = 2 ** (bits - 1) - 1
    scale = weight.detach().float().abs().amax(dim=1) / largest
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = torch.round(weight.detach() / scale[:, None]).clamp(-largest, largest)
    return codes.to(torch.int8), scale


def affine_range(values: Tensor, bits: int) -> tuple[float, int]:
    """The scale and zero point that quantise these values with the least squared error.

    Args:
        values: a sample of what will be quantised, any shape, not empty.
        bits: 2 to 8.

    Returns:
        Scale, positive; and zero point, 0 to 2^bits - 1. Zero is always represented exactly.

    Raises:
        PlanError: if a value is not finite.
    """
    if not torch.isfinite(values).all():
        raise PlanError("inputs to quantise must be finite, got NaN or infinity: the model is damaged.")
    steps = 2**bits - 1
    unit = values.abs().max().item()
    if unit / steps < torch.finfo(torch.float32).tiny:
        return 1.0, 0
    # In units of the largest magnitude, so that squares neither overflow nor vanish.
    values = values / unit
    low, high = min(values.min().item(), 0.0), max(values.max().item(), 0.0)
    best = (float("inf"), 1.0, 0)
    for fraction in _CLIP_FRACTIONS:
        scale = (high - low) * fraction / steps
        zero_point = max(0, min(steps, round(-low * fraction / scale)))
        rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero_point, 0, steps)
        best = min(best, ((rounded - values).square().mean().item(), scale, zero_point))
    return best[1] * unit, best[2]


def rounded_inputs(inputs: Tensor, scale: Tensor | None, zero_point: Tensor | None, bits: int | None) -> Tensor:
    """The values that the codes of these inputs stand for; the inputs themselves where `bits` is None.

    Args:
        inputs: any shape, float.
        scale: scalar, calibrated.
        zero_point: scalar, calibrated.
        bits: 2 to 8, or None for inputs that stay float.
    """
    if bits is None:
        return inputs
    assert scale is not None and zero_point is not None
    return torch.fake_quantize_per_tensor_affine(inputs, scale, zero_point, 0, 2**bits - 1)


class QuantLinear(nn.Module):
    """A Linear with quantised weights and, where calibrated, quantised inputs.

    Buffers: `codes` (out x in, int8), `scale` (out), `bias` (out) or None, and for quantised inputs `input_scale`
    (float32) and `input_zero_point` (int32), both scalars.
    """

    weight: None = None  # T5 asks its Linears for the type of their weight, to cast to it where there is one
    codes: Tensor
    scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        precision: Precision,
        *,
        input_range: tuple[float, int] | None,
        rows: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Quantises a Linear.

        Args:
            linear: what to stand in for; it is not changed.
            precision: bits of weights and inputs.
            input_range: scale and zero point of the inputs; may be None where inputs stay float, or where `linear`
                has no data (the meta device) because saved buffers will be loaded.
            rows: what `quantise_rows` made of this weight, where another part holds it too; kept, not copied.
        """
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.precision = precision
        codes, scale = rows or quantise_rows(linear.weight, precision.weight_bits)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        if precision.activation_bits is None:
            self.register_buffer("input_scale", None)
            self.register_buffer("input_zero_point", None)
            return
        if input_range is None and not linear.weight.is_meta:
            raise PlanError(f"inputs of {precision.activation_bits} bits need a calibrated range.")
        input_scale, zero_point = input_range or (1.0, 0)
        device = linear.weight.device
        self.register_buffer("input_scale", torch.tensor(input_scale, dtype=torch.float32, device=device))
        self.register_buffer("input_zero_point", torch.tensor(zero_point, dtype=torch.int32, device=device))

    def dense_weight(self) -> Tensor:
        """The weight these codes stand for, out x in, float32."""
        return self.codes.float() * self.scale[:, None]

    def forward(self, inputs: Tensor) -> Tensor:
        """... x in -> ... x out."""
        inputs = rounded_inputs(inputs, self.input_scale, self.input_zero_point, self.precision.activation_bits)
        return functional.linear(inputs, self.dense_weight(), self.bias)

    def extra_repr(self) -> str:
        """Shape and bits."""
        return f"{self.in_features}, {self.out_features}, {self.precision}"


class QuantEmbedding(nn.Module):
    """An embedding table with quantised rows; only the rows looked up are made float.

    Buffers: `codes` (rows x width, int8) and `scale` (rows). `embed_scale` multiplies what was looked up, as the scaled
    word embeddings of BART-like models do.
    """

    codes: Tensor
    scale: Tensor

    def __init__(
        self, embedding: nn.Embedding, precision: Precision, *, rows: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Quantises a table; the original is not changed.

        Args:
            embedding: what to stand in for.
            precision: bits of the table.
            rows: what `quantise_rows` made of this table, where another part holds it too; kept, not copied.

        Raises:
            PlanError: if input bits are asked for: an embedding has no inputs to quantise.
        """
        super().__init__()
        if precision.activation_bits is not None:
            raise PlanError(f"an embedding has weights only, got {precision}; use w{precision.weight_bits}.")
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx = embedding.padding_idx
        self.precision = precision
        self.embed_scale = float(getattr(embedding, "embed_scale", 1.0))
        codes, scale = rows or quantise_rows(embedding.weight, precision.weight_bits)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        """... integer ids -> ... x width, float32."""
        found = functional.embedding(ids, self.codes).float() * self.scale[ids].unsqueeze(-1)
        return found if self.embed_scale == 1 else found * self.embed_scale

    def extra_repr(self) -> str:
        """Shape and bits."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.precision}"

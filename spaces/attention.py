"""Attention that may be rounded at every point: what of transformers a layer needs for that.

Modules of transformers 5 look the function that attends up by a name in their config. A treated one gets a config of
its own, so that masks are made as for all others, and layers that are not treated attend as before, bit for bit.
"""

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

# The two products of attention, and the points that are rounded around each by a calibrated range.
PRODUCTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"scores": ("query", "key"), "context": ("value", "context")}
)
# How an attention module holds its points, and how its own config names `_attend`.
POINTS = "points"
_ATTENTION = "paring_points"


class FloatSoftmax(nn.Module):
    """The softmax over keys, as it is."""

    def forward(self, scores: Tensor, allowed: Tensor | None) -> Tensor:
        """Scores, ... x keys, and where they count, of a shape that broadcasts -> probabilities."""
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        return scores.softmax(-1)


class AttentionPoints(nn.Module):
    """What rounds at each point of an attention: nothing, until a part is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.query: nn.Module = nn.Identity()
        self.key: nn.Module = nn.Identity()
        self.value: nn.Module = nn.Identity()
        self.probabilities: nn.Module = nn.Identity()
        self.context: nn.Module = nn.Identity()
        self.softmax: nn.Module = FloatSoftmax()


def points_of(attention: nn.Module) -> AttentionPoints:
    """The points of an attention module; it gets them, and attends through them, from the first call on.

    Only its own copy of the config says so: masks are made as for all others.
    """
    own: Any = attention
    if not hasattr(attention, POINTS):
        own.config = copy.deepcopy(own.config)
        own.config._attn_implementation = _ATTENTION
        own.add_module(POINTS, AttentionPoints())
    points = getattr(attention, POINTS)
    assert isinstance(points, AttentionPoints)
    return points


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as transformers asks for it, through the points of the module.

    Args:
        module: that attends.
        query: batch x heads x queries x width.
        key: batch x heads x keys x width.
        value: alike.
        attention_mask: boolean, true where a key counts; or a number to add; None where all count.
        scaling: of the scores.
        is_causal: whether queries see no later keys, where there is no mask; None asks the module.
        position_bias: what is added to the scores.

    Returns:
        Context, batch x queries x heads x width, and probabilities, batch x heads x queries x keys.
    """
    points: Any = getattr(module, POINTS)
    query, key, value = points.query(query), points.key(key), points.value(value)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + position_bias
    scores, allowed = _masked(module, scores, attention_mask, is_causal)
    probabilities = points.probabilities(points.softmax(scores, allowed))
    return points.context(probabilities @ value).transpose(1, 2).contiguous(), probabilities


def _masked(
    module: nn.Module, scores: Tensor, mask: Tensor | None, is_causal: bool | None
) -> tuple[Tensor, Tensor | None]:
    """The scores with what a mask adds to them, and where they count; see `_attend`."""
    if mask is None:
        if not (getattr(module, "is_causal", True) if is_causal is None else is_causal) or scores.shape[-2] == 1:
            return scores, None
        return scores, torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask.dtype == torch.bool:
        return scores, mask
    allowed = mask > torch.finfo(mask.dtype).min / 2
    return scores + mask.masked_fill(~allowed, 0), allowed


AttentionInterface.register(_ATTENTION, _attend)

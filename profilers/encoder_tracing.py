"""What the runtimes that trace an encoder share: its inputs, an example of them, and that it has no decoder."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..spaces.workbench import Inputs

# In the order in which a traced model takes them; the last only where the model does.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NO_DECODERS = "it runs encoders only, and this model has a decoder; use --runtime torch."


def refusal(model: nn.Module) -> str | None:
    """Why a model cannot be traced: encoder-decoders need a decoder with a cache, which paring does not convert."""
    return NO_DECODERS if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else None


def input_names(model: nn.Module) -> tuple[str, ...]:
    """The inputs that a model takes, in the order in which it is traced with them."""
    return tuple(name for name in _INPUTS if name in inspect.signature(model.forward).parameters)


def example_inputs(names: Sequence[str]) -> tuple[Tensor, ...]:
    """Inputs of these names to trace with, batch x tokens."""
    # Token types of ones would be out of range for models that have but one type.
    ones = torch.ones(2, 8, dtype=torch.long)
    return tuple(ones if name != "token_type_ids" else 0 * ones for name in names)


def as_arrays(inputs: Inputs, names: Sequence[str]) -> dict[str, Any]:
    """The inputs of these names as numpy arrays; token types that are not given are zero."""
    filled = {"token_type_ids": torch.zeros_like(inputs["input_ids"]), **inputs}
    return {name: filled[name].numpy() for name in names}


class Logits(nn.Module):
    """A transformers model with positional inputs and nothing but logits."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        """Takes the model and the names of its inputs in their order."""
        super().__init__()
        self.model, self._names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs in the order of the names -> batch x outputs."""
        logits: Tensor = self.model(**self.named(inputs)).logits
        return logits

    def named(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the model is called with."""
        return dict(zip(self._names, inputs, strict=True))

"""What the user will serve. Every latency names its workload."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from transformers import PretrainedConfig

from ..errors import SettingError
from ..spaces.workbench import Inputs
from .machine import available_cores


@dataclass(frozen=True, slots=True)
class Workload:
    """One request as it will be served.

    Attributes:
        batch: examples per request.
        tokens: tokens per example, all of them real (no padding).
        threads: processor threads that one request may use.
    """

    batch: int = 1
    tokens: int = 128
    threads: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise SettingError(f"{name} of a workload must be at least 1, got {value}.")

    @classmethod
    def on_all_cores(cls, batch: int = 1, tokens: int = 128) -> Self:
        """With as many threads as this process may use cores."""
        return cls(batch, tokens, available_cores())

    def inputs(self, config: PretrainedConfig) -> Inputs:
        """One request of random ordinary tokens; the same every time.

        Args:
            config: of the model that will be served.

        Returns:
            `input_ids` and `attention_mask`, batch x tokens.

        Raises:
            SettingError: if the model has fewer positions than the workload has tokens.
        """
        positions = longest_input(config)
        if self.tokens > positions:
            raise SettingError(f"the model has {positions} positions; the workload asks for {self.tokens} tokens.")
        generator = torch.Generator().manual_seed(0)
        first = min(1000, config.vocab_size // 2)
        ids = torch.randint(first, config.vocab_size, (self.batch, self.tokens), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def to_json(self) -> dict[str, int]:
        """Plain numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**data)

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.tokens} tokens, {self.threads} threads"


def longest_input(config: PretrainedConfig) -> int:
    """Tokens a model can take at once; RoBERTa numbers its positions from the padding index + 1 on."""
    positions = int(config.max_position_embeddings)
    return positions - config.pad_token_id - 1 if config.model_type == "roberta" else positions

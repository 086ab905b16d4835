"""What the user will serve, and what one request is. Every latency names its workload."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PretrainedConfig

from ..errors import SettingError
from ..spaces.workbench import Inputs
from .machine import available_cores
from .runtimes import Executable

# Of families that number no positions, such as T5.
_NO_LIMIT = 1_000_000
# Left out of the JSON where they say nothing, so that a run folder from before they existed goes on.
_GENERATION = {"generated": 0, "beams": 1}


@dataclass(frozen=True, slots=True)
class Workload:
    """One request as it will be served.

    Attributes:
        batch: examples per request.
        tokens: tokens per example, all of them real (no padding).
        threads: processor threads that one request may use.
        generated: tokens that are written per example; 0 for one forward pass.
        beams: hypotheses that are followed while writing.
    """

    batch: int = 1
    tokens: int = 128
    threads: int = 1
    generated: int = 0
    beams: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "generated" else 1
            if value < least:
                raise SettingError(f"{name} of a workload must be at least {least}, got {value}.")

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
            SettingError: if the model has fewer positions than the workload has tokens, or writes.
        """
        positions = longest_input(config)
        if self.tokens > positions:
            raise SettingError(f"the model has {positions} positions; the workload asks for {self.tokens} tokens.")
        if self.generated > longest_output(config):
            raise SettingError(
                f"the model has {positions} positions, one of them for the start token; the workload asks for "
                f"{self.generated} generated tokens, so give at most {longest_output(config)}."
            )
        generator = torch.Generator().manual_seed(0)
        first = min(1000, config.vocab_size // 2)
        ids = torch.randint(first, config.vocab_size, (self.batch, self.tokens), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def to_json(self) -> dict[str, int]:
        """Plain numbers."""
        return {name: value for name, value in asdict(self).items() if value != _GENERATION.get(name)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**data)

    def __str__(self) -> str:
        beams = f" with {self.beams} beams" if self.beams > 1 else ""
        written = f", {self.generated} tokens generated{beams}" if self.generated else ""
        return f"batch {self.batch}, {self.tokens} tokens{written}, {self.threads} threads"


def request(executable: Executable, inputs: Inputs, workload: Workload) -> Tensor:
    """Serves one request: a forward pass, or as many tokens written as the workload says.

    Args:
        executable: who serves.
        inputs: what `Workload.inputs` made.
        workload: what is served.
    """
    if workload.generated == 0:
        return executable(inputs)
    return executable.generate(inputs, new_tokens=workload.generated, beams=workload.beams, exactly=True)


def longest_input(config: PretrainedConfig) -> int:
    """Tokens a model can take at once; RoBERTa numbers its positions from the padding index + 1 on."""
    positions = int(getattr(config, "max_position_embeddings", None) or _NO_LIMIT)
    return positions - config.pad_token_id - 1 if config.model_type == "roberta" else positions


def longest_output(config: PretrainedConfig) -> int:
    """Tokens a model can write; one of its positions is for the token it starts from."""
    return longest_input(config) - 1

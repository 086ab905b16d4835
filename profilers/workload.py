"""What the user will serve, and what one request is. Every latency names its workload."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PretrainedConfig

from ..errors import SettingError
from ..spaces.workbench import Inputs
from .machine import available_cores
from .runtimes import Executable
from .turns import Requests

# Of families that number no positions, such as T5.
_NO_LIMIT = 1_000_000
# Left out of the JSON where they say nothing, so that a run folder from before they existed goes on.
_PLAIN = {"generated": 0, "beams": 1, "streams": 1, "lengths": ()}
# A task's lengths are told by so many of its examples: the shortest and longest sixteenth, and between.
_QUANTILES = 8


@dataclass(frozen=True, slots=True)
class Workload:
    """One request as it will be served.

    Attributes:
        batch: examples per request.
        tokens: tokens per example, all of them real (no padding); where there are `lengths`, the longest of them.
        threads: processor threads that one request may use.
        generated: tokens that are written per example; 0 for one forward pass.
        beams: hypotheses that are followed while writing.
        streams: requests in flight at once, each in a thread of its own.
        lengths: tokens of requests that are all served and count alike, such as quantiles of a task's own; empty where
            all requests have `tokens`.
    """

    batch: int = 1
    tokens: int = 128
    threads: int = 1
    generated: int = 0
    beams: int = 1
    streams: int = 1
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.lengths:
            object.__setattr__(self, "lengths", tuple(sorted(self.lengths)))
            object.__setattr__(self, "tokens", max(self.lengths))
        sizes = [(name, value) for name, value in asdict(self).items() if name != "lengths"]
        for name, value in [*sizes, *(("lengths", length) for length in self.lengths)]:
            least = 0 if name == "generated" else 1
            if not isinstance(value, int):
                raise SettingError(f"{name} of a workload must be a whole number, got {value!r}.")
            if value < least:
                raise SettingError(f"{name} of a workload must be at least {least}, got {value}.")

    @classmethod
    def on_all_cores(cls, batch: int = 1, tokens: int = 128) -> Self:
        """With as many threads as this process may use cores."""
        return cls(batch, tokens, available_cores())

    def inputs(self, config: PretrainedConfig) -> Inputs:
        """One request of random ordinary tokens, the longest where there are several; the same every time.

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

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        plain = {**asdict(self), "lengths": self.lengths}
        return {
            name: list(value) if name == "lengths" else value
            for name, value in plain.items()
            if value != _PLAIN.get(name)
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**data, "lengths": tuple(data.get("lengths", ()))})

    def __str__(self) -> str:
        beams = f" with {self.beams} beams" if self.beams > 1 else ""
        written = f", {self.generated} tokens generated{beams}" if self.generated else ""
        streams = f", {self.streams} streams" if self.streams > 1 else ""
        tokens = f"{self.lengths[0]} to {self.tokens}" if self.lengths else f"{self.tokens}"
        return f"batch {self.batch}, {tokens} tokens{written}, {self.threads} threads{streams}"


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


def serving(executable: Executable, workload: Workload, config: PretrainedConfig) -> Requests:
    """What the stopwatch calls: one request of every length the workload has, in as many streams.

    Args:
        executable: who serves.
        workload: what is served.
        config: of the model.

    Raises:
        SettingError: if the model has fewer positions than the workload asks for.
    """
    lengths = workload.lengths or (workload.tokens,)
    requests = (replace(workload, tokens=length, lengths=()) for length in lengths)
    calls = [partial(request, executable, one.inputs(config), one) for one in requests]
    return Requests(tuple(calls), workload.streams)


def quantiles_of(lengths: Sequence[int]) -> tuple[int, ...]:
    """Lengths that stand for many: the middles of as many equal parts of them, shortest first.

    Args:
        lengths: tokens of each example, at least one.
    """
    ordered = sorted(lengths)
    return tuple(ordered[int((part + 0.5) / _QUANTILES * len(ordered))] for part in range(_QUANTILES))


def longest_input(config: PretrainedConfig) -> int:
    """Tokens a model can take at once; RoBERTa numbers its positions from the padding index + 1 on."""
    positions = int(getattr(config, "max_position_embeddings", None) or _NO_LIMIT)
    return positions - config.pad_token_id - 1 if config.model_type == "roberta" else positions


def longest_output(config: PretrainedConfig) -> int:
    """Tokens a model can write; one of its positions is for the token it starts from."""
    return longest_input(config) - 1

"""What layers gave out, kept for models that begin with the same layers, within so many bytes of memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import log2

import psutil
import torch
from torch import Tensor

# What a layer returns: hidden states, in some families in a tuple with what it hands on to the next.
Outputs = Tensor | tuple[Tensor | None, ...]

_LARGEST_BUDGET = 1_000_000_000
_SHARE_OF_FREE_MEMORY = 0.1
# A prefix that was met so many models ago counts half as much as one met now; after so many half-lives without outputs
# it is forgotten.
_HALF_LIFE_MODELS, _FORGOTTEN = 32, 4


@dataclass(slots=True)
class _Prefix:
    """What is kept of one prefix.

    Attributes:
        depth: layers of it.
        weight: logarithm to base 2 of how often models began with it, later ones counting more; see `PrefixStore`.
        outputs: batch -> what the last of its layers gave out.
    """

    depth: int
    weight: float
    outputs: dict[str, Outputs] = field(default_factory=dict)


class PrefixStore:
    """Outputs by prefix and batch.

    Where memory is short, what goes first belongs to the prefix that fewest models shared lately ([Lee2001], with
    frequency and recency combined), of equal ones to the deepest: a shallow one serves more models. So what is near
    the original stays, and a candidate that is like no other pushes out nothing but its own kind.

    [Lee2001]: Lee et al., "LRFU: a spectrum of policies that subsumes the least recently used and least frequently
    used policies", IEEE Transactions on Computers 50(12), 2001.

    Attributes:
        held_bytes: what is kept now.
        layers_run: layers, times batches, that were computed.
        layers_saved: the same that were not, since what they give was known.
    """

    def __init__(self, budget_bytes: int) -> None:
        """Empty; keeps at most so many bytes."""
        self._budget = budget_bytes
        self._prefixes: dict[str, _Prefix] = {}
        self._models = 0
        self.held_bytes = self.layers_run = self.layers_saved = 0

    def meet(self, prefixes: Sequence[str]) -> None:
        """Says that a model will run which begins with these, from one layer deep to all that are known."""
        self._models += 1
        now = self._models / _HALF_LIFE_MODELS
        kept = self._prefixes.items()
        self._prefixes = {name: one for name, one in kept if one.outputs or one.weight > now - _FORGOTTEN}
        for depth, name in enumerate(prefixes, start=1):
            known = self._prefixes.setdefault(name, _Prefix(depth, float("-inf")))
            # Powers of two of how late a model came add up to one number that need not be aged by itself.
            known.weight = now + log2(1 + 2 ** (known.weight - now))

    def deepest(self, prefixes: Sequence[str], batch: str) -> tuple[int, Outputs | None]:
        """The longest of these prefixes whose outputs are kept for a batch.

        Returns:
            How many layers it has, and what the last of them gave out; 0 and None where none is kept.
        """
        for depth in range(len(prefixes), 0, -1):
            prefix = self._prefixes.get(prefixes[depth - 1])
            found = None if prefix is None else prefix.outputs.get(batch)
            if found is not None:
                return depth, found
        return 0, None

    def put(self, prefix: str, batch: str, outputs: Outputs) -> None:
        """Keeps outputs, unless all that is kept is worth more.

        Args:
            prefix: met before.
            batch: digest of what the first layer was given.
            outputs: which nobody changes.
        """
        own, size = self._prefixes[prefix], _bytes_of(outputs)
        while self.held_bytes + size > self._budget:
            held = [one for one in self._prefixes.values() if one.outputs]
            least = min(held, key=_worth, default=own)
            if _worth(own) <= _worth(least):
                return
            _, dropped = least.outputs.popitem()  # the batch that came last, which fewer models got to
            self.held_bytes -= _bytes_of(dropped)
        own.outputs[batch] = outputs
        self.held_bytes += size


def budget_bytes(device: torch.device) -> int:
    """How much memory a store may take on a device: a tenth of what is free, at most 1 GB."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return min(_LARGEST_BUDGET, int(_SHARE_OF_FREE_MEMORY * free))


def tensors_in(outputs: object) -> Iterator[Tensor]:
    """The tensors of what a layer returns."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, tuple):
        yield from (part for part in outputs if isinstance(part, Tensor))


def _worth(prefix: _Prefix) -> tuple[float, int]:
    return prefix.weight, -prefix.depth


def _bytes_of(outputs: Outputs) -> int:
    """What keeping them keeps: a view holds all that it is a view of."""
    storages = [one.untyped_storage() for one in tensors_in(outputs)]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())

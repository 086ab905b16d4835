"""Which kernels a runtime has on a device: found by running a tiny model on it, and reading what ran."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from ..spaces import axes
from ..spaces.anatomy import anatomy_of
from ..spaces.build import build
from ..spaces.plan import ORIGINAL_WEIGHTS, Plan, Treatment, Treatments
from ..spaces.precision import Precision
from ..spaces.workbench import Inputs, Material, RemovalOrder
from .devices import Device
from .runtimes import Runtime, kernel_for

# One for every kernel that `kernel_for` can ask for and a runtime may have.
_TRIED = ("w8a8", "w16a16", "w8", "w4-1x64")


def kernels_here(runtime: Runtime, device: Device) -> tuple[str, ...]:
    """The kernels for Linears that a runtime has beside float, of int8, bf16, w8 and w4.

    Args:
        runtime: one that can run on the device.
        device: of this machine.
    """
    bench = _TinyBench(_tiny_model())
    executable = runtime.load(bench.build(_one_of_each(bench)), device, threads=1)
    kernels = (kernel_for(Precision.parse(text)) for text in _TRIED)
    return tuple(kernel for kernel in kernels if re.search(rf"\b{kernel} 1/1\b", executable.kernels))


class _TinyBench:
    """A workbench for one random model, without data or disk."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.anatomy = model, anatomy_of(model)

    @property
    def is_taught(self) -> bool:
        """Its models are only looked at."""
        return False

    def build(self, plan: Plan) -> PreTrainedModel:
        """The compressed model of a plan."""
        materials = {name: axes.load(name).prepare(plan, self) for name in axes.names()}
        return build(self.model, plan, materials=materials)

    def calibration(self) -> Sequence[Inputs]:
        """One batch of random tokens."""
        ids = torch.randint(4, 64, (4, 16), generator=torch.Generator().manual_seed(0))
        return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]

    def removal_order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        """From the last layer on; nothing asks for it here."""
        positions = tuple(reversed(range(len(plan.stack(stack).slots))))
        return RemovalOrder(positions, (ORIGINAL_WEIGHTS,) * len(positions))

    def modular_layers(self) -> Material:
        """None."""
        return {}

    def remember(self, key: str, learn: Callable[[], Material]) -> Material:
        """Learns anew."""
        return learn()

    def report(self, share: float, now: str) -> None:
        """Nobody watches."""


def _tiny_model() -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=64,
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=128,
            max_position_embeddings=32,
        )
        model = BertForSequenceClassification(config)
    model.eval().requires_grad_(False)
    assert isinstance(model, PreTrainedModel)
    return model


def _one_of_each(bench: _TinyBench) -> Plan:
    """The only layer with a Linear of every precision tried."""
    plan = bench.anatomy.identity()
    (stack,) = plan.stacks
    kinds = bench.anatomy.stack(stack.name).linears
    tried = zip(kinds, _TRIED, strict=False)
    treatments = Treatments.of({kind: Treatment(precision=Precision.parse(text)) for kind, text in tried})
    return plan.with_stack(replace(stack, slots=tuple(replace(slot, treatments=treatments) for slot in stack.slots)))

"""One assembly of a prepared model, by a target or piece by piece: exported, reloaded, judged and measured."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import SettingError
from ..search.opening import open_workbench
from ..search.progress import Progress, Silent
from ..search.settings import Settings
from ..search.slot_latency import slot_seconds
from ..search.workbench import LocalWorkbench
from ..spaces.assembling import STRATEGIES, StackCosts, assemble, layer_ratio
from ..spaces.plan import Plan, Slot, Stack
from ..spaces.tilings import Tiling, layers_of, parse, written
from .drafting import refuse_full
from .export import Exported, export_plan


@dataclass(frozen=True, slots=True)
class Assembled:
    """An assembly, and what it costs beside the original.

    Attributes:
        tilings: stack -> sizes of its pieces.
        layer_ratio: layers of the original over layers that stand.
        parameters: that it holds.
        original_parameters: that the original holds.
        exported: where it is, with quality, bytes and latency.
    """

    tilings: Mapping[str, Tiling]
    layer_ratio: float
    parameters: int
    original_parameters: int
    exported: Exported

    def to_json(self) -> dict[str, object]:
        """Plain data, SI units said in the names; all samples are in the exported folder."""
        return {
            "tilings": {name: list(sizes) for name, sizes in self.tilings.items()},
            "layer_ratio": self.layer_ratio,
            "parameters": self.parameters,
            "original_parameters": self.original_parameters,
            **self.exported.to_json(),
        }

    def lines(self) -> tuple[str, ...]:
        """What was assembled and what it is worth, for a person."""
        pieces = " ".join(f"{name}={written(sizes)}" for name, sizes in self.tilings.items())
        return (
            f"{pieces}: {self.layer_ratio:.2f} times fewer layers; "
            f"parameters {self.parameters / 1e6:.2f} M of {self.original_parameters / 1e6:.2f} M.",
            *self.exported.lines(),
        )


def assemble_model(
    settings: Settings,
    folder: Path,
    *,
    ratio: float | None = None,
    strategy: str = "size",
    tiling: str | None = None,
    progress: Progress | None = None,
) -> Assembled:
    """Chooses a tiling, and exports the model it makes.

    Args:
        settings: with `prepared` set; of its search only model, task, device, runtime, workload and seed are used.
        folder: new or empty.
        ratio: how many times smaller ("size") or faster ("speed") all layers together shall be.
        strategy: one of `STRATEGIES`: what a slot costs is its parameters, or its measured share of the latency.
        tiling: instead of a ratio, the pieces: "encoder=1,1,2,2 decoder=6".
        progress: where to say how far it is.

    Raises:
        SettingError: if not one of ratio and tiling is given, or what is asked cannot be met.
        UserError: if model, data and modular layers do not fit together.
    """
    if (ratio is None) == (tiling is None):
        raise SettingError("say what to assemble by exactly one of a ratio and a tiling.")
    if strategy not in STRATEGIES:
        raise SettingError.unknown("strategy", strategy, STRATEGIES)
    refuse_full(folder)
    with tempfile.TemporaryDirectory(prefix="paring-") as scratch:
        bench, described = open_workbench(settings, progress or Silent(), folder=Path(scratch))
        lengths = {stack.name: stack.n_layers for stack in bench.anatomy.stacks}
        sizes = {stack.name: stack.granularities for stack in bench.anatomy.stacks}
        if tiling is not None:
            tilings: Mapping[str, Tiling] = parse(tiling, lengths, sizes)
        else:
            assert ratio is not None
            tilings = assemble(_costs(bench, settings, strategy), ratio)
        plan = Plan(tuple(Stack(name, tuple(map(Slot, layers_of(tiling)))) for name, tiling in tilings.items()))
        standing = parameters_of(bench.build(plan))
        exported = export_plan(settings, bench, described, plan, folder, progress or Silent())
    return Assembled(tilings, layer_ratio(tilings), standing, parameters_of(bench.model), exported)


def parameters_of(model: nn.Module) -> int:
    """How many there are, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _costs(bench: LocalWorkbench, settings: Settings, strategy: str) -> list[StackCosts]:
    if strategy == "size":
        slots = {
            stack.name: float(parameters_of(bench.model.get_submodule(f"{stack.path}.{stack.n_layers - 1}")))
            for stack in bench.anatomy.stacks
        }
    else:
        slots = slot_seconds(bench, settings.workload, seed=settings.seed)
    return [
        StackCosts(
            stack.name, stack.n_layers, stack.granularities, slots[stack.name], bench.prepared().harm(stack.name)
        )
        for stack in bench.anatomy.stacks
    ]

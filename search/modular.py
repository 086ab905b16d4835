"""Training modular layers: once, for every size a stack may be assembled to.

What [Zhou2023] states: modular layers of several granularities are trained together by multi-grained module replacing
and distillation from the original, and assembled without further training. Its schedule and weights are unpublished;
those here are ours. Replacing with a rising probability is that of [Xu2020] (BERT-of-Theseus).

[Zhou2023]: Zhou, Le Bras, Choi, "Modular Transformers", Findings of ACL 2023, arXiv 2306.02379.
[Xu2020]: Xu, Zhou, Ge, Wei, Zhou, "BERT-of-Theseus", EMNLP 2020, arXiv 2002.02925.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import SettingError
from ..spaces.anatomy import Anatomy
from ..spaces.build import copy_sharing_parameters, settle_layers
from ..spaces.families import StackAnatomy
from ..spaces.plan import Layer
from ..spaces.tilings import GRANULARITIES, Tiling, block_length, draw, draw_uniform, fitting, layers_of, tilings
from .distillation import Losses, Pair, Standing
from .distilling import Schedule
from .progress import Progress

Start = Literal["nearest", "first", "last", "lowest"]
STARTS = ("nearest", "first", "last", "lowest")


@dataclass(frozen=True, slots=True)
class Curriculum:
    """How much is replaced, and how coarsely, as training goes on.

    Attributes:
        first: probability of replacing at the first step.
        last: probability once the ramp is over.
        ramp: share of the steps over which it rises linearly.
        unlocked: share of the steps after which the coarsest granularity is drawn, too; finer ones come earlier, at
            equal distances, the finest at once.
        uniform: share of draws in which a stack gets pieces of one size; in the others all sizes mix, and originals
            stay with a probability that is drawn each time.
        draws: assemblies that learn from every batch. They share the original's pass, and sizes take turns, so with
            as many draws as granularities each of them learns in every step.
    """

    first: float = 0.5
    last: float = 1.0
    ramp: float = 0.3
    unlocked: float = 0.2
    uniform: float = 0.75
    draws: int = 3

    def __post_init__(self) -> None:
        shares = asdict(self)
        if shares.pop("draws") < 1:
            raise SettingError(f"every batch needs at least one draw, got {self.draws}.")
        if not all(0 <= value <= 1 for value in shares.values()):
            raise SettingError(f"the probabilities and shares of a curriculum are 0 to 1, got {shares}.")

    def probability(self, progress: float) -> float:
        """Of replacing, at a share of the steps."""
        return min(self.last, self.first + (self.last - self.first) * progress / self.ramp) if self.ramp else self.last

    def granularities(self, fit: tuple[int, ...], progress: float) -> tuple[int, ...]:
        """Those drawn at a share of the steps."""
        steps = max(1, len(fit) - 1)
        return tuple(size for rank, size in enumerate(fit) if progress >= self.unlocked * rank / steps)

    def draw(
        self, n_layers: int, fit: tuple[int, ...], progress: float, turn: int, random: Random
    ) -> tuple[Layer, ...]:
        """What stands in a stack in one draw.

        Args:
            n_layers: of the stack.
            fit: its granularities.
            progress: share of the batches that are done.
            turn: which of the sizes it is, where pieces are of one size.
            random: of the draw.
        """
        sizes, probability = self.granularities(fit, progress), self.probability(progress)
        if random.random() < self.uniform:
            one = (sizes[turn % len(sizes)],) if sizes else ()
            return layers_of(draw_uniform(n_layers, one, probability, random))
        return layers_of(draw(n_layers, sizes, probability * random.random(), random))


@dataclass(frozen=True, slots=True)
class Modular:
    """How modular layers are made.

    Attributes:
        granularities: how many layers one may stand for; those that do not divide a stack are left out for it.
        start: what a modular layer starts as: "first" and "last" are layers of its group, "nearest" is the one of them
            that alone comes nearest to what the whole group gives out, "lowest" are the first layers of the stack, as
            in BERT-of-Theseus. `benchmarks/modular_layers.py` compares them.
        losses: weights of what it learns from.
        curriculum: what is replaced as training goes on.
        schedule: how long and how fast.
    """

    granularities: tuple[int, ...] = GRANULARITIES
    start: Start = "first"
    losses: Losses = field(default_factory=Losses)
    curriculum: Curriculum = field(default_factory=Curriculum)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if not self.granularities:
            raise SettingError("at least one granularity is needed, for instance 2.")
        object.__setattr__(self, "granularities", fitting(math.prod(self.granularities), self.granularities))
        if self.start not in STARTS:
            raise SettingError.unknown("start", self.start, STARTS)

    def standing(self, anatomy: Anatomy, batch: int, of: int) -> list[Standing]:
        """What stands in each draw of a batch; batches have random numbers of their own, so a resumed training agrees.

        Args:
            anatomy: of the original, with modular layers.
            batch: its number.
            of: how many there will be.
        """
        random = Random(f"{self.schedule.seed} batch {batch}")
        # Where the sizes begin differs from stack to stack, so that all pairs of sizes come.
        first = [random.randrange(len(self.granularities)) for _ in anatomy.stacks]
        return [
            {
                stack.name: self.curriculum.draw(stack.n_layers, stack.granularities, batch / of, turn + begin, random)
                for stack, begin in zip(anatomy.stacks, first, strict=True)
            }
            for turn in range(self.curriculum.draws)
        ]

    def guess(self, layer: Layer) -> int:
        """Index of the original a modular layer starts as, before anything is measured."""
        if self.start == "lowest":
            return layer.index
        return layer.originals[-1 if self.start == "last" else 0]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        return cls(
            tuple(data["granularities"]),
            data["start"],
            Losses(**data["losses"]),
            Curriculum(**data["curriculum"]),
            Schedule(**data["schedule"]),
        )


def modular_layers(stack: StackAnatomy) -> tuple[Layer, ...]:
    """All modular layers of a stack, fine to coarse."""
    return tuple(Layer(index, size) for size in stack.granularities for index in range(stack.n_layers // size))


def one_block_merged(anatomy: Anatomy) -> dict[str, dict[Tiling, Standing]]:
    """Stack and block, such as "encoder.0" -> tiling of that block -> what stands while all else is original."""
    originals = _originals(anatomy)
    found: dict[str, dict[Tiling, Standing]] = {}
    for stack in (stack for stack in anatomy.stacks if stack.granularities):
        length = block_length(stack.granularities)
        for start in range(0, stack.n_layers, length):
            rest = stack.n_layers - start - length
            merged = [tiling for tiling in tilings(length, stack.granularities) if len(tiling) < length]
            found[f"{stack.name}.{start // length}"] = {
                tiling: {**originals, stack.name: layers_of((*(1,) * start, *tiling, *(1,) * rest))}
                for tiling in merged
            }
    return found


def make_pair(model: PreTrainedModel, anatomy: Anatomy, settings: Modular, device: torch.device) -> Pair:
    """The original beside an assembly of it in which modular layers learn.

    The modular layers start as the settings say, but for "nearest", where they start as their group's first: see
    `start_from_nearest`. Of the model nothing changes but that its parameters ask for no gradients from now on.

    Args:
        model: the original, on the CPU.
        anatomy: of the original, with modular layers.
        settings: how they are trained.
        device: where.
    """
    here = model if device.type == "cpu" else _on_device(model, device)
    # Two sets of modules around the same parameters.
    teacher, student = (_frozen(copy_sharing_parameters(here)) for _ in range(2))
    layers: dict[str, dict[Layer, nn.Module]] = {}
    for stack in anatomy.stacks:
        originals = student.get_submodule(stack.path)
        assert isinstance(originals, nn.ModuleList)
        own: dict[Layer, nn.Module] = {Layer(index): module for index, module in enumerate(originals)}
        for layer in modular_layers(stack):
            own[layer] = copy.deepcopy(originals[settings.guess(layer)]).requires_grad_(True)
            # A position bias belongs to the stack: it is the original's, wherever it stands, and does not learn.
            settle_layers([own[layer]], first=None)
        layers[stack.name] = own
    return Pair(teacher, student, anatomy, layers, settings.losses)


def learning_of(pair: Pair) -> dict[str, nn.Parameter]:
    """Name -> parameter of every modular layer: "encoder.m2.1/fc1.weight"."""
    return {
        f"{stack}.{layer}/{name}": parameter
        for stack, layers in pair.layers.items()
        for layer, module in layers.items()
        if layer.granularity > 1
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def start_from_nearest(pair: Pair, anatomy: Anatomy, batch: Mapping[str, Tensor], progress: Progress) -> dict[str, int]:
    """Starts every modular layer as the original of its group that alone comes nearest to what the group gives out.

    Args:
        pair: from `make_pair`.
        anatomy: of the original.
        batch: inputs and labels to measure on.
        progress: where to say how far it is.

    Returns:
        "encoder.m2.1" -> index of the original chosen.
    """
    chosen: dict[str, int] = {}
    originals = _originals(anatomy)
    modular = [(stack, layer) for stack, layers in pair.layers.items() for layer in layers if layer.granularity > 1]
    pair.show(batch)
    with progress.stage("choosing where modular layers start", len(modular)) as report:
        for done, (stack, layer) in enumerate(modular):
            before, after = originals[stack][: layer.originals.start], originals[stack][layer.originals.stop :]
            alone = {Layer(index): {**originals, stack: (*before, Layer(index), *after)} for index in layer.originals}
            nearest = pair.nearest(batch, stack, alone, until=Layer(layer.originals[-1]))
            copied = pair.layers[stack][nearest]
            settle_layers([copied], first=None)
            pair.layers[stack][layer].load_state_dict(copied.state_dict())
            chosen[f"{stack}.{layer}"] = nearest.index
            report(done + 1, f"{stack}.{layer} as {nearest}")
    return chosen


def _originals(anatomy: Anatomy) -> dict[str, tuple[Layer, ...]]:
    """What stands in the original."""
    return {stack.name: tuple(map(Layer, range(stack.n_layers))) for stack in anatomy.stacks}


def _on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    own = copy.deepcopy(model)
    nn.Module.to(own, device)
    return own


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    # Attention must be computed openly to be compared; on the CPU its backward pass is also the faster one.
    model.set_attn_implementation("eager")
    model.eval().requires_grad_(False)
    return model

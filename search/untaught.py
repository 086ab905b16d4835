"""A workbench for models that are only timed: shapes and kernels are right, the numbers in them are not learned.

What a model costs does not depend on the values of its weights, so nothing is trained, no layer is scored, and inputs
are calibrated on a handful of rows. A model that is judged comes from the bench of the run.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from ..spaces import axes
from ..spaces.anatomy import Anatomy
from ..spaces.axes import Value
from ..spaces.build import build
from ..spaces.plan import ORIGINAL_WEIGHTS, Plan
from ..spaces.space import Space
from ..spaces.workbench import Inputs, Material, RemovalOrder
from .modular import modular_layers

_ROWS = 4
# How often an axis is left alone in a model drawn at random.
_UNTOUCHED = 0.35


class UntaughtBench:
    """Implements `spaces.workbench.Workbench` without learning what only quality depends on.

    Attributes:
        anatomy: of the original.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, calibration: Sequence[Inputs], *, seed: int) -> None:
        """Keeps nothing on the disk.

        Args:
            model: the original; not touched.
            anatomy: of the original, with the granularities and the palette that are searched.
            calibration: batches of inputs, of which a few rows are used.
            seed: of which layers go.
        """
        self.anatomy = anatomy
        self._model, self._seed = model, seed
        self._rows = [{name: tensor[:_ROWS] for name, tensor in calibration[0].items()}]
        self._known: dict[str, Material] = {}

    @property
    def is_taught(self) -> bool:
        """Its models are only timed."""
        return False

    def build(self, plan: Plan) -> PreTrainedModel:
        """A model that costs what that of the plan costs; its weights are the original's, whatever the plan says."""
        materials = {name: axes.load(name).prepare(plan, self) for name in axes.names()}
        return build(self._model, replace(plan, weights=ORIGINAL_WEIGHTS), materials=materials)

    def calibration(self) -> Sequence[Inputs]:
        """A few rows."""
        return self._rows

    def removal_order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        """Any order, the same for the same plan."""
        order = list(plan.stack(stack).standing)
        random.Random(f"{self._seed} {plan.fingerprint} {stack}").shuffle(order)
        return RemovalOrder(tuple(order), (ORIGINAL_WEIGHTS,) * len(order))

    def modular_layers(self) -> Material:
        """Copies of originals: of the right shapes, and each with numbers of its own, as shared ones stay in caches."""
        return self.remember("modular layers", self._copies)

    def _copies(self) -> Material:
        found: dict[str, Mapping[str, Tensor]] = {}
        for stack in self.anatomy.stacks:
            # The last, since the first layer of T5 holds what belongs to its place.
            layer = self._model.get_submodule(f"{stack.path}.{stack.n_layers - 1}").state_dict()
            for modular in modular_layers(stack):
                found[f"{stack.name}.{modular}"] = {name: tensor.detach().clone() for name, tensor in layer.items()}
        return found

    def remember(self, key: str, learn: Callable[[], Material]) -> Material:
        """What `learn` returns, kept in memory."""
        if key not in self._known:
            self._known[key] = learn()
        return self._known[key]

    def report(self, share: float, now: str) -> None:
        """Nobody watches."""


def drawn_choice(space: Space, draw: random.Random) -> dict[str, Value]:
    """A choice at random, so that deep and shallow models, uniform ones and mixtures all come up.

    Were every parameter drawn alike, all models would have about as many parts of each kind: each would say the same.

    Args:
        space: what is searched.
        draw: random numbers.
    """
    choice: dict[str, Value] = {}
    for axis in space.axes:
        parameters = space.parameters[axis]
        leaning = [draw.random() ** 2 + 0.02 for _ in range(max(len(one.choices) for one in parameters))]
        untouched, by_kind = draw.random() < _UNTOUCHED, draw.random() < 0.5
        alike: dict[str, Value] = {}
        for one in parameters:
            drawn = draw.choices(one.choices, weights=leaning[: len(one.choices)])[0]
            if by_kind:
                drawn = alike.setdefault(one.name.rpartition(".")[2], drawn)
            choice[one.name] = one.choices[0] if untouched or drawn not in one.choices else drawn
    return choice

"""In which order the layers of a stack go: greedily, each step by what it does to the answers."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import ModelError
from ..spaces.build import build
from ..spaces.plan import ORIGINAL_WEIGHTS, Plan, Slot
from ..spaces.ties import distinct_tensors
from ..spaces.workbench import RemovalOrder
from .cache import Cache, writing
from .examples import Examples
from .greedy import Ties, best_layer, greedy_order
from .progress import Progress
from .training import Training, fine_tune

SCORERS = ("training_free", "fine_tune")


@dataclass(frozen=True, slots=True)
class Greedy:
    """How the removal order of layers is found.

    Attributes:
        scorer: "training_free" scores every candidate as it is; "fine_tune" trains each on the training split first,
            as the paper does, and a plan of that depth then starts from the weights so trained.
        decimals: digits of a score that count; None for all. The paper has 3.
        ties: which of equally good layers goes first; the paper has "high".
        training: how "fine_tune" trains.
        metric: what scores a step; None for the metric of the task, or a cheaper one where the kind of task has it:
            seq2seq takes "log_likelihood", for which nothing need be written.
    """

    scorer: str = "training_free"
    decimals: int | None = 3
    ties: Ties = "high"
    training: Training = field(default_factory=Training)
    metric: str | None = None


@dataclass(frozen=True, slots=True)
class Scorers:
    """What scores the steps of a greedy order on the search split.

    Attributes:
        score: a plan of the original's weights.
        score_tuned: a model that was trained.
        metric: by which both score; "" for that of the run.
    """

    score: Callable[[Plan], float]
    score_tuned: Callable[[PreTrainedModel], float]
    metric: str


class Removal:
    """Finds removal orders for one run, and keeps the weights that were trained on the way.

    Attributes:
        foreseen: told before every step of the training-free scorer which plans are scored next.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        train: Examples | None,
        greedy: Greedy,
        scorers: Scorers,
        cache: Cache,
        folder: Path,
        progress: Progress,
    ) -> None:
        """Finds nothing yet.

        Args:
            model: the original.
            train: what candidates are trained on, where they are.
            greedy: how orders are found.
            scorers: of its steps.
            cache: where scores are kept.
            folder: where trained weights are kept.
            progress: where to say how far it is.
        """
        self._model, self._train, self._greedy, self._scorers = model, train, greedy, scorers
        self._cache, self._folder, self._progress = cache, folder, progress
        self.foreseen: Callable[[Sequence[Plan]], None] = lambda plans: None

    def order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        """The greedy order of a stack as it stands in a plan, as far as a depth."""
        standing = [position for position, slot in enumerate(plan.stack(stack).slots) if slot.layer is not None]
        total, tuned = sum(len(standing) - step for step in range(depth)), self._greedy.scorer == "fine_tune"
        with self._progress.stage(f"greedy order of {stack}", total) as report:
            seen = 0

            def slots(removed: tuple[int, ...]) -> tuple[int, ...]:
                return tuple(standing[index] for index in removed)

            def score(removed: tuple[int, ...]) -> float:
                nonlocal seen
                value = self._score_without(plan, stack, slots(removed))
                seen += 1
                report(seen, f"without {' '.join(map(str, slots(removed)))}: {value:.4f}")
                return value

            found = greedy_order(
                len(standing),
                score,
                depth,
                decimals=self._greedy.decimals,
                ties=self._greedy.ties,
                foreseen=None
                if tuned
                else lambda tried: self.foreseen([_without(plan, stack, slots(removed)) for removed in tried]),
            )
        order = slots(found.order)
        names = [_tuned_name(_without(plan, stack, order[: step + 1])) for step in range(depth)]
        return RemovalOrder(order, tuple(names) if tuned else (ORIGINAL_WEIGHTS,) * depth)

    def _score_without(self, plan: Plan, stack: str, removed: tuple[int, ...]) -> float:
        """The quality on the search split of the plan in float without these slots, by the run's scorer."""
        candidate = _without(plan, stack, removed)
        if self._greedy.scorer == "training_free":
            return self._scorers.score(candidate)
        name = _tuned_name(candidate)
        key = "-".join(filter(None, ("score", self._scorers.metric, name)))
        known = self._cache.get(key)
        if known is None:
            known = self._fine_tune(candidate, name)
            self._cache.put(key, known)
        self._keep_leader(plan, stack, removed, known)
        return float(known)

    def _fine_tune(self, candidate: Plan, name: str) -> float:
        """Trains the candidate from the original's weights and keeps what was trained."""
        assert self._train is not None
        whole = copy.deepcopy(self._model)
        # `build` shares parameters, so training the shorter model trains these layers of the whole one.
        shorter = build(whole, candidate, materials={})
        fine_tune(shorter, self._train, self._greedy.training, self._progress, what=f"fine-tuning {candidate}")
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file(distinct_tensors(whole), self._weights_file(name))
        return self._scorers.score_tuned(shorter)

    def _keep_leader(self, plan: Plan, stack: str, removed: tuple[int, ...], value: float) -> None:
        """Of the candidates of one greedy step, only the weights of the best so far stay on the disk."""
        *before, layer = removed
        key = f"leader-{_without(plan, stack, tuple(before)).fingerprint}"
        leader = self._cache.get(key)
        scores = {layer: value} if leader is None else {int(leader["layer"]): leader["value"], layer: value}
        best = best_layer(scores, decimals=self._greedy.decimals, ties=self._greedy.ties)
        self._cache.put(key, {"layer": best, "value": scores[best]})
        for loser in set(scores) - {best}:
            self._weights_file(_tuned_name(_without(plan, stack, (*before, loser)))).unlink(missing_ok=True)

    def weights(self, name: str) -> dict[str, Tensor] | None:
        """A set of weights that this run trained; None for those of the original."""
        if name == ORIGINAL_WEIGHTS:
            return None
        path = self._weights_file(name)
        if not path.is_file():
            raise ModelError(f"the weights {name!r} are not in {path.parent}: the run folder is incomplete.")
        return load_file(path)

    def _weights_file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def _without(plan: Plan, stack: str, removed: tuple[int, ...]) -> Plan:
    """The plan with more slots of a stack emptied."""
    old = plan.stack(stack)
    slots = tuple(Slot(None) if position in removed else slot for position, slot in enumerate(old.slots))
    return plan.with_stack(replace(old, slots=slots))


def _tuned_name(candidate: Plan) -> str:
    return f"tuned-{candidate.fingerprint}"

"""In which order the layers of a stack go: greedily, each step by what it does to the answers."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        known: the same where it was scored before, else None.
        score_tuned: a model that was trained.
        metric: by which both score; "" for that of the run.
    """

    score: Callable[[Plan], float]
    known: Callable[[Plan], float | None]
    score_tuned: Callable[[PreTrainedModel], float]
    metric: str


class Removal:
    """Finds removal orders for one run, and keeps the weights that were trained on the way."""

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
        self._foreseen: Callable[[Sequence[Plan]], None] = lambda plans: None
        self._known: dict[str, float] = {}
        # Plan and stack -> the order as far as it was known when last asked for, and the scores of its last step.
        self._orders: dict[tuple[str, str], tuple[RemovalOrder, Mapping[int, float]]] = {}

    @property
    def trains(self) -> bool:
        """Whether candidates are trained before they are scored."""
        return self._greedy.scorer == "fine_tune"

    def foresee(self, foreseen: Callable[[Sequence[Plan]], None]) -> None:
        """Has somebody told before every step which plans `score` is asked for next, those not known yet.

        Args:
            foreseen: may have them scored before it returns. Not told of candidates that are trained.
        """
        self._foreseen = foreseen

    def score(self, plan: Plan) -> float:
        """What a plan of the original's weights scores as a candidate, or looks it up; what is scored is kept."""
        return self._scorers.score(plan)

    def order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        """The greedy order of a stack as it stands in a plan, at least so deep; known scores are not asked for."""
        found, _ = self.known(plan, stack, depth)
        if len(found.order) < depth:
            self._find(plan, stack, depth)
            found, _ = self.known(plan, stack, depth)
        return found

    def _find(self, plan: Plan, stack: str, depth: int) -> None:
        """Scores what is not known of an order."""
        standing = plan.stack(stack).standing
        total = sum(len(standing) - step for step in range(depth))
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

            greedy_order(
                len(standing),
                score,
                depth,
                decimals=self._greedy.decimals,
                ties=self._greedy.ties,
                foreseen=lambda tried: self._foresee(_without(plan, stack, slots(removed)) for removed in tried),
            )

    def known(self, plan: Plan, stack: str, depth: int) -> tuple[RemovalOrder, Mapping[int, float]]:
        """As much of the same order as is known without scoring anything.

        Args:
            plan: see `order`.
            stack: likewise.
            depth: at which to stop.

        Returns:
            The order, shorter than asked where a step is not known; and the scores of its last step, by slot. It has
            none where no step is known.
        """
        key = plan.fingerprint, stack
        found, last = self._orders.get(key, (RemovalOrder((), ()), {}))
        gone = found.order
        while len(gone) < depth and (scores := self._known_step(plan, stack, gone)):
            gone, last = (*gone, best_layer(scores, decimals=self._greedy.decimals, ties=self._greedy.ties)), scores
        if len(gone) > len(found.order):
            found = self.weighed(plan, stack, gone)
            self._orders[key] = found, last
        return found, last

    def weighed(self, plan: Plan, stack: str, order: tuple[int, ...]) -> RemovalOrder:
        """An order with the weights that belong to every prefix of it."""
        if not self.trains:
            return RemovalOrder(order, (ORIGINAL_WEIGHTS,) * len(order))
        prefixes = (order[: step + 1] for step in range(len(order)))
        return RemovalOrder(order, tuple(_tuned_name(_without(plan, stack, prefix)) for prefix in prefixes))

    def _known_step(self, plan: Plan, stack: str, gone: tuple[int, ...]) -> dict[int, float]:
        """The scores of every slot that could go next; none where one is missing."""
        found: dict[int, float] = {}
        for position in _without(plan, stack, gone).stack(stack).standing:
            score = self._known_score(_without(plan, stack, (*gone, position)))
            if score is None:
                return {}
            found[position] = score
        return found

    def _known_score(self, candidate: Plan) -> float | None:
        """What was scored before; read once, since samplers ask again and again."""
        if candidate.fingerprint not in self._known:
            found = self._cache.get(self._tuned_key(candidate)) if self.trains else self._scorers.known(candidate)
            if found is None:
                return None
            self._known[candidate.fingerprint] = float(found)
        return self._known[candidate.fingerprint]

    def _foresee(self, candidates: Iterable[Plan]) -> None:
        unknown = [] if self.trains else [one for one in candidates if self._known_score(one) is None]
        if unknown:
            self._foreseen(unknown)

    def _tuned_key(self, candidate: Plan) -> str:
        return "-".join(filter(None, ("score", self._scorers.metric, _tuned_name(candidate))))

    def _score_without(self, plan: Plan, stack: str, removed: tuple[int, ...]) -> float:
        """The quality on the search split of the plan in float without these slots, by the run's scorer."""
        candidate = _without(plan, stack, removed)
        known = self._known_score(candidate)
        if not self.trains:
            return self._scorers.score(candidate) if known is None else known
        if known is None:
            known = self._fine_tune(candidate, _tuned_name(candidate))
            self._cache.put(self._tuned_key(candidate), known)
        self._keep_leader(plan, stack, removed, known)
        return known

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

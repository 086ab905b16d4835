"""The sampler made for this: it proposes what is expected to grow the front most, by what is known of plans.

What a plan costs is known before it is judged, or nearly (`costs.py`); what it loses is guessed with an interval from
all plans told of so far (`surrogate.py`). So how much a plan is expected to grow the hypervolume has a closed form
(`improvement.py`). It is computed for a few hundred choices around the front and far from it (`moves.py`), and around
the best of those again.

Nothing is kept but what can be computed again from the study: the same seed and the same trials give the same proposal,
also in another process.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from threadpoolctl import threadpool_limits

from ...spaces.axes import Choice, Value
from .distributions import distribution_of
from .guide import Guide, Sketch
from .moves import Moves
from .scores import Scores
from .told import Told

# Choices made in a first round, and in each of the rounds around the best of those before.
_LOCAL, _CROSSED, _FAR = 90, 30, 60
_ROUNDS, _BEST, _AROUND_EACH = 2, 8, 8


class GuidedSampler(BaseSampler):
    """Proposes choices of one space, for any study whose trials tell the objectives' values of its plans."""

    def __init__(self, guide: Guide, *, seed: int) -> None:
        """Learns nothing yet.

        Args:
            guide: what is known of plans without judging them.
            seed: of its random numbers.
        """
        self._guide, self._seed = guide, seed
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters of the space that have anything to choose."""
        found = {one.name: distribution_of(one) for one in self._guide.space}
        return {name: one for name, one in found.items() if not one.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The choice that is expected to grow the front most; the identity until the original was told of."""
        told = Told.of(study, self._guide)
        choice: Choice = self._guide.space.identity()
        if told is not None:
            # Matrices of some hundred rows: several threads only wait for each other, four times as long.
            with threadpool_limits(limits=1, user_api="blas"):
                choice = self._best(told, random.Random(f"{self._seed} {told.n_known}"))
        return {name: choice[name] for name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random: only of parameters that are not of this space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Nothing: random numbers depend on how many plans were proposed."""

    def _best(self, told: Told, draw: random.Random) -> Choice:
        """The best of a pool of choices that lead to plans not proposed before."""
        guide = self._guide
        moves, scores = Moves(guide.space, draw, guide.allocated), Scores(guide, told)
        parents = [told.choices[plan] for plan in told.front(guide.costs, has_quality=guide.has_quality)]
        pool: dict[Sketch, _Candidate] = {}
        fresh = _first_round(moves, parents, draw)
        for _ in range(_ROUNDS + 1):
            self._add(pool, fresh, told, scores)
            best = sorted(pool.values(), key=lambda one: one.score, reverse=True)[:_BEST]
            fresh = [moves.near(one.choice) for one in best for _ in range(_AROUND_EACH)]
        if not pool:
            return moves.far()
        return max(pool.values(), key=lambda one: one.score).choice

    def _add(self, pool: dict[Sketch, "_Candidate"], choices: Sequence[Choice], told: Told, scores: Scores) -> None:
        """Puts those of the choices into the pool that lead to new plans."""
        plans: dict[Sketch, Choice] = {}
        for choice in choices:
            plan = self._guide.sketch(choice)
            if plan not in pool and not told.is_known(plan):
                plans.setdefault(plan, choice)
        if plans:
            found = scores.of(list(plans))
            pool.update(
                (plan, _Candidate(choice, score)) for (plan, choice), score in zip(plans.items(), found, strict=True)
            )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A choice and how good it is expected to be; larger is better."""

    choice: Choice
    score: tuple[float, float]


def _first_round(moves: Moves, parents: Sequence[Choice], draw: random.Random) -> list[dict[str, Value]]:
    """Around the front, between its members, and anywhere."""
    near = [moves.near(parents[number % len(parents)]) for number in range(_LOCAL)]
    crossed = [moves.cross(draw.choice(parents), draw.choice(parents)) for _ in range(_CROSSED)]
    return [*near, *crossed, *(moves.far() for _ in range(_FAR))]

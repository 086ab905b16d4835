"""What to judge next: choices of a sampler, resolved to plans, each plan once; and what the sampler is told of them.

One process proposes and tells, so the study has one writer. Who judges what is proposed may be anywhere.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import optuna

from ..errors import SearchError
from ..profilers.counting import Shapes
from ..profilers.devices import clean_after_failure
from ..spaces.axes import Choice, Value
from ..spaces.plan import Plan
from ..spaces.plan_bytes import PlanBytes
from ..spaces.space import Space
from .considered import ConsideringBench
from .first_choices import n_starts, starting_choices
from .hints import Hints, hints_of
from .objectives import Limits
from .outcome import ENDING, failure_of
from .predictor import Predictor
from .samplers import sampler
from .samplers.costs import Costs
from .samplers.distributions import distribution_of
from .samplers.features import Features
from .samplers.guide import Guide
from .settings import Settings
from .steps import UnscoredError
from .study import Record
from .trial import State, Trial
from .workbench import LocalWorkbench

# So many proposals in a row that all lead to known plans mean that the space holds no others worth waiting for.
_REPEATS_BEFORE_EXHAUSTED = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """What a sampler was asked for.

    Attributes:
        trial: as Optuna proposed it.
        choice: parameter -> value.
    """

    trial: optuna.Trial
    choice: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan to judge.

    Attributes:
        trial: as Optuna proposed it; its number is the trial's.
        choice: parameter -> value.
        plan: what the choice resolves to; neither judged nor proposed before in this run.
    """

    trial: optuna.Trial
    choice: Mapping[str, Value]
    plan: Plan


class Proposals:
    """Proposes plans for one run and records what became of them."""

    def __init__(
        self,
        settings: Settings,
        space: Space,
        bench: LocalWorkbench,
        record: Record,
        *,
        predictor: Predictor | None = None,
    ) -> None:
        """Goes on where the record stands; queues the starting points of a run that begins.

        Args:
            settings: what is asked.
            space: what is searched.
            bench: resolves choices.
            record: where everything is recorded.
            predictor: of what candidates cost; None where they are measured.
        """
        self._settings, self._space, self._bench, self._record = settings, space, bench, record
        self._known = {
            trial.plan.fingerprint: trial
            for trial in record.trials()
            if trial.plan is not None and trial.state != State.INTERRUPTED
        }
        # Plans proposed and not told of yet, with the trials that led to the same plan meanwhile.
        self._open: dict[str, list[optuna.Trial]] = {}
        self._repeats = 0
        identity = bench.anatomy.identity().fingerprint
        if identity in self._known and self._known[identity].measures is None:
            # Without its baseline a search cannot go on, so that one is tried again whatever it failed of.
            del self._known[identity]
            record.study.enqueue_trial(space.identity())
        begun = record.begun
        hints = hints_of(space, bench)
        guide = guide_of(space, bench, hints, predictor, objectives=settings.objectives, limits=settings.budget)
        # The random numbers of a search that goes on must not be those it began with; ours go by what is known.
        fresh = 0 if settings.sampler == "guided" else begun
        record.study.sampler = sampler(settings.sampler, seed=settings.seed + fresh, guide=guide)
        self._random = random.Random(settings.seed + begun)
        if begun == 0:
            for choice in starting_choices(space, hints)[: n_starts(settings.sampler, settings.trials)]:
                record.study.enqueue_trial(choice)

    @property
    def n_known(self) -> int:
        """How many plans were judged or failed, in the whole run."""
        return len(self._known)

    @property
    def n_open(self) -> int:
        """How many plans were proposed and not told of yet."""
        return len(self._open)

    @property
    def are_exhausted(self) -> bool:
        """Whether the space holds no other plan, or none that is found."""
        proposed = len(self._known) + len(self._open)
        return proposed >= self._space.size or self._repeats >= _REPEATS_BEFORE_EXHAUSTED

    @property
    def news(self) -> str:
        """How many trials of each state there are, in words."""
        states = [trial.state for trial in self._known.values()]
        counts = {state: states.count(state) for state in State if state in states}
        return ", ".join(f"{count} {state.value.replace('_', ' ')}" for state, count in counts.items())

    def ask(self) -> Asked:
        """Asks the sampler once."""
        trial = self._record.study.ask({one.name: distribution_of(one) for one in self._space})
        return Asked(trial, dict(trial.params))

    def resolve(self, asked: Asked) -> Proposal | None:
        """Finds the plan of a choice.

        Returns:
            None if it was proposed before; the sampler is told what is known of it, or will be when it is.

        Raises:
            UnscoredError: if others are to score plans first; then it may be tried again.
            SearchError: if the choice leads to no plan at all.
        """
        trial, choice = asked.trial, asked.choice
        try:
            with clean_after_failure(self._bench.device):
                plan = self._space.resolve(choice, self._bench)
        except KeyboardInterrupt:
            self.interrupt(asked)
            raise
        except (UnscoredError, *ENDING):
            raise
        except Exception as error:
            state, cause = failure_of(error)
            self._record.tell_failed(trial, state, cause, None)
            raise SearchError(f"the search cannot go on: {cause}") from error
        if plan.fingerprint in self._known:
            self._tell_repeat(trial, self._known[plan.fingerprint])
        elif plan.fingerprint in self._open:
            self._open[plan.fingerprint].append(trial)
        else:
            self._repeats = 0
            self._open[plan.fingerprint] = []
            return Proposal(trial, choice, plan)
        self._repeats += 1
        self._queue_neighbour(choice)
        return None

    def tell(self, proposal: Proposal, judged: Trial) -> None:
        """Records what became of a proposal.

        Args:
            proposal: one of `propose`, not told of before.
            judged: with numbers, or with a state that has none and its cause.

        Raises:
            SearchError: if it is the baseline and has no numbers.
        """
        if judged.told is None:
            self._record.tell_failed(proposal.trial, judged.state, judged.cause, proposal.plan)
            if proposal.plan == self._bench.anatomy.identity():
                raise SearchError(f"the search cannot go on: {judged.cause}")
        else:
            self._tell_judged(proposal.trial, judged)
        self._known[proposal.plan.fingerprint] = judged
        for trial in self._open.pop(proposal.plan.fingerprint):
            self._tell_repeat(trial, judged)

    def interrupt(self, one: Proposal | Asked) -> None:
        """Records that the user stopped the search before this was judged, and queues it once more."""
        plan = one.plan if isinstance(one, Proposal) else None
        self._record.tell_failed(one.trial, State.INTERRUPTED, "interrupted by the user", plan)
        self._record.study.enqueue_trial(dict(one.choice))

    def _tell_judged(self, trial: optuna.Trial, judged: Trial, repeats: int | None = None) -> None:
        settings = self._settings
        self._record.tell_judged(trial, judged, settings.budget, settings.objectives, repeats=repeats)

    def _tell_repeat(self, trial: optuna.Trial, first: Trial) -> None:
        """Tells the sampler what is known already."""
        if first.told is None:
            self._record.tell_failed(trial, first.state, first.cause, first.plan, repeats=first.number)
        else:
            self._tell_judged(trial, first, repeats=first.number)

    def _queue_neighbour(self, choice: Mapping[str, Value]) -> None:
        """Gets away from a choice that led to nothing new."""
        parameter = self._random.choice(list(self._space))
        other = [value for value in parameter.choices if value != choice[parameter.name]]
        if other:
            self._record.study.enqueue_trial({**choice, parameter.name: self._random.choice(other)})


def guide_of(
    space: Space,
    bench: LocalWorkbench,
    hints: Hints,
    predictor: Predictor | None,
    *,
    objectives: tuple[str, ...],
    limits: Limits,
) -> Guide:
    """What the sampler of a run knows of plans before they are judged.

    Args:
        space: what is searched.
        bench: resolves choices.
        hints: of the parts of its model.
        predictor: of what candidates cost; None where they are measured.
        objectives: what is optimised.
        limits: what must be kept.
    """
    shapes, considering = Shapes.of(bench.anatomy), ConsideringBench(bench)

    def resolve(choice: Choice) -> tuple[Plan, bool]:
        guessed = considering.n_guesses
        plan = space.resolve(choice, considering)
        return plan, considering.n_guesses == guessed

    return Guide(
        space,
        resolve,
        Features(shapes, hints.harms),
        Costs(PlanBytes(bench.model, bench.anatomy), shapes, predictor),
        objectives=objectives,
        limits=limits,
        options=(hints.assemblies, hints.factors, hints.bits),
    )

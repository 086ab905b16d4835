"""One candidate's way through a search, timed on a few examples and on plans whose numbers are not learned."""

import random
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from statistics import mean
from typing import TypeVar

from ..profilers.runtimes import Executable
from ..spaces.artefact import stored_bytes
from ..spaces.axes import Value
from ..spaces.plan import Plan
from ..spaces.space import Space
from .examples import Examples
from .quality import Quality
from .settings import Settings
from .untaught import UntaughtBench, drawn_choice
from .workbench import LocalWorkbench

Found = TypeVar("Found")

# Examples that are judged, and plans.
_EXAMPLES, _PLANS = 128, 3
# Choices of which it is looked how many others lead to the same plan.
_DRAWN = 16


class Rehearsal:
    """What one candidate takes.

    Attributes:
        bench: of the search that would be.
        untaught: builds plans of the right shapes, whose numbers are not learned.
        space: what would be searched.
        strongest: the plan in which every choice is the last, which is the strongest.
        pass_seconds: of judging the original on the search split.
        building_seconds: of building a plan and loading it, once what it needs is learned.
        trial_seconds: of judging a plan on the search split, building included.
        held_bytes: of a plan's model.
    """

    def __init__(self, settings: Settings, bench: LocalWorkbench, space: Space) -> None:
        """Times.

        Args:
            settings: what would be asked.
            bench: opened for it.
            space: what would be searched.
        """
        self.bench, self.space, self._draw = bench, space, random.Random(settings.seed)
        self.untaught = UntaughtBench(bench.model, bench.anatomy, bench.calibration(), seed=settings.seed)
        self._some = _some_of(bench.search)
        self._share = len(bench.search) / len(self._some)
        identity = bench.anatomy.identity()
        original = bench.executable(bench.build(identity))
        self._judged(identity, original)  # the first call of a process does what the others need not
        self.pass_seconds = self._share * timed(lambda: self._judged(identity, original))[0]
        self.strongest = space.resolve({one.name: one.choices[-1] for one in space}, self.untaught)
        self.strongest_model = self.untaught.build(self.strongest)
        found = [self._rehearsed(drawn_choice(space, self._draw)) for _ in range(_PLANS)]
        self.building_seconds = mean(building for building, _, _ in found)
        self.trial_seconds = mean(building + judging for building, judging, _ in found)
        self.held_bytes = round(mean(held for _, _, held in found))

    @cached_property
    def test_seconds(self) -> float:
        """Of judging a plan on the test split."""
        return (self.trial_seconds - self.building_seconds) * len(self.bench.test) / len(self.bench.search)

    def distinct_share(self) -> float:
        """Different plans over choices, from the parameters that make no difference to plans drawn at random.

        Where a layer is gone, what was chosen for it changes nothing: so many choices lead to one plan. A plan that
        many lead to is drawn as often, so each drawn one counts as one over their number.
        """
        drawn = [{one.name: self._draw.choice(one.choices) for one in self.space} for _ in range(_DRAWN)]
        return mean(1 / self._alike(choice) for choice in drawn)

    def _alike(self, choice: Mapping[str, Value]) -> int:
        """How many choices lead to the plan of this one, if a parameter makes a difference with every value or none."""
        plan, alike = self.space.resolve(choice, self.untaught), 1
        for one in self.space:
            others = [value for value in one.choices if value != choice[one.name]]
            if others and self.space.resolve({**choice, one.name: others[-1]}, self.untaught) == plan:
                alike *= len(one.choices)
        return alike

    def _rehearsed(self, choice: Mapping[str, Value]) -> tuple[float, float, int]:
        """Seconds of building and of judging a plan, and the bytes of its model."""
        plan = self.space.resolve(choice, self.untaught)
        self.untaught.build(plan)  # what it needs is learned once in a search, and is not this plan's alone
        building, model = timed(lambda: self.untaught.build(plan))
        loading, executable = timed(lambda: self.bench.executable(model))
        judging, _ = timed(lambda: self._judged(plan, executable))
        return building + loading, judging * self._share, stored_bytes(model)

    def _judged(self, plan: Plan, executable: Executable) -> Quality:
        return self.bench.quality(plan, self._some, executable, again=True)


def timed(work: Callable[[], Found]) -> tuple[float, Found]:
    """Seconds that something took, and what it gave; for estimates, not for results."""
    started = time.monotonic()
    found = work()
    return time.monotonic() - started, found


def _some_of(examples: Examples) -> Examples:
    """At most so many examples, of all lengths."""
    by_length = sorted(range(len(examples)), key=lambda row: len(examples.encoded[row]["input_ids"]))
    count = min(_EXAMPLES, len(by_length))
    return examples.at([by_length[place * len(by_length) // count] for place in range(count)])

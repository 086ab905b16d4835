"""What is said of a plan on any machine: what its judge must know, and what that one finds."""

import json
from dataclasses import dataclass
from typing import Self

from transformers import PreTrainedModel

from ..profilers.runtimes import Executable
from ..spaces import artefact
from ..spaces.plan import Plan
from .heats import Heat, Loss, Rival, Rules
from .objectives import Limits
from .quality import Quality
from .workbench import LocalWorkbench


@dataclass(frozen=True, slots=True)
class Brief:
    """A plan to judge.

    Attributes:
        plan: what is judged.
        races: whether it may leave before all examples are asked.
        rival: number and plan of the trial that it must beat then; None where there is none.
        is_step: whether it is only scored, as a candidate of a greedy order.
    """

    plan: Plan
    races: bool = False
    rival: tuple[int, Plan] | None = None
    is_step: bool = False

    def dumps(self) -> str:
        """As JSON."""
        rival = None if self.rival is None else [self.rival[0], self.rival[1].to_json()]
        own = {"plan": self.plan.to_json(), "races": self.races, "rival": rival, "is_step": self.is_step}
        return json.dumps(own)

    @classmethod
    def loads(cls, text: str) -> Self:
        """The inverse of `dumps`."""
        data = json.loads(text)
        rival = None if data["rival"] is None else (data["rival"][0], Plan.from_json(data["rival"][1]))
        return cls(Plan.from_json(data["plan"]), data["races"], rival, data["is_step"])


@dataclass(frozen=True, slots=True)
class Assessment:
    """All of a candidate but what it costs on the machine of the search.

    Attributes:
        verdict: its quality on the search split, or why it left the race.
        stored_bytes: of its tensors.
        kernels: see `Executable`.
    """

    verdict: Quality | Loss
    stored_bytes: int
    kernels: str


def assess(bench: LocalWorkbench, brief: Brief, budget: Limits) -> Assessment:
    """Builds a plan and judges it.

    Args:
        bench: where; knows the judgements of the original and of the rival.
        brief: what.
        budget: whose limits on quality count.

    Raises:
        ParingError: if it cannot be built or judged.
    """
    compressed = bench.build(brief.plan)
    executable: Executable = bench.executable(compressed)
    verdict = verdict_of(bench, brief.plan, compressed, executable, _heat(bench, brief, budget))
    return Assessment(verdict, artefact.stored_bytes(compressed), executable.kernels)


def verdict_of(
    bench: LocalWorkbench, plan: Plan, compressed: PreTrainedModel, executable: Executable, heat: Heat | None
) -> Quality | Loss:
    """The quality of a plan on the search split, or why it left its race.

    Args:
        bench: where.
        plan: what is judged.
        compressed: its model.
        executable: what that was loaded into.
        heat: its race; None asks all examples.
    """
    if heat is None:
        return bench.quality(plan, bench.search, executable, model=compressed)
    verdict = bench.raced(plan, executable, compressed, heat) or heat.loss
    assert verdict is not None
    return verdict


def _heat(bench: LocalWorkbench, brief: Brief, budget: Limits) -> Heat | None:
    """None where all examples are asked: nobody races, or what is compared with is not known here."""
    baseline = bench.examiner.known(bench.anatomy.identity(), bench.search) if brief.races else None
    if baseline is None:
        return None
    known = None if brief.rival is None else bench.examiner.known(brief.rival[1], bench.search)
    rival = None if brief.rival is None or known is None else Rival(brief.rival[0], known)
    return Heat(Rules(budget, baseline, bench.search.labels, bench.score), rival)

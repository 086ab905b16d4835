"""What a search records: candidates and what became of them, and members of the front measured whole."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from ..profilers.profile import Profile
from ..spaces.plan import Plan
from .objectives import Measures
from .quality import Difference, Quality


class State(StrEnum):
    """What became of a trial."""

    JUDGED = "judged"
    INFEASIBLE = "infeasible"
    DROPPED = "dropped"
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Dropped:
    """Where a candidate left the race, and what its numbers are guessed to be.

    Attributes:
        examples: it was asked so many of the search split.
        rival: number of the trial that beats it; None where it is surely below the quality that the budget asks for.
        measures: costs as they were found, and a quality below the rival's or the limit.
    """

    examples: int
    rival: int | None
    measures: Measures

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(data["examples"], data["rival"], Measures(**data["measures"]))


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate and what became of it.

    Attributes:
        number: counts all proposals of the study, so repeats of a known plan leave gaps.
        state: INFEASIBLE was judged but breaks a limit, or surely would; DROPPED is surely worse than another trial
            that costs no more; those after it have a cause and no numbers.
        plan: the candidate; None where it failed before there was one.
        cause: why it failed or was dropped, in words; empty where it was judged in full.
        quality: on the search split.
        profile: beside the baseline, in the process of the search.
        measures: the numbers that objectives and limits speak of.
        dropped: where it was not judged in full: then it has a profile, and no quality and measures of its own.
    """

    number: int
    state: State
    plan: Plan | None
    cause: str = ""
    quality: Quality | None = None
    profile: Profile | None = None
    measures: Measures | None = None
    dropped: Dropped | None = None

    @property
    def told(self) -> Measures | None:
        """The numbers that samplers are told: found, or guessed where it was dropped; None where there are none."""
        return self.measures if self.dropped is None else self.dropped.measures


@dataclass(frozen=True, slots=True)
class Final:
    """A member of the front, measured whole: exported, reloaded, run on its runtime.

    Attributes:
        plan: the candidate.
        quality: on the test split.
        gain: of quality over the baseline's on the test split; negative is a drop.
        profile: all members and the baseline side by side.
        measures: the numbers that objectives and limits speak of, from quality and profile.
        reloads_equal: whether the reloaded model gave the same logits as the one in memory.
    """

    plan: Plan
    quality: Quality
    gain: Difference
    profile: Profile
    measures: Measures
    reloads_equal: bool

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "plan": self.plan.to_json(),
            "quality": self.quality.to_json(),
            "gain": asdict(self.gain),
            "profile": self.profile.to_json(),
            "measures": asdict(self.measures),
            "reloads_equal": self.reloads_equal,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            Plan.from_json(data["plan"]),
            Quality.from_json(data["quality"]),
            Difference(**data["gain"]),
            Profile.from_json(data["profile"]),
            Measures(**data["measures"]),
            data["reloads_equal"],
        )

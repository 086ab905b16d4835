"""A study as a bundle carries it: what was asked, and the plans with their qualities."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file
from torch import Tensor

from ..errors import BundleError, ParingError
from ..profilers.machine import Machine
from ..profilers.workload import Workload
from ..search.objectives import Limits
from ..search.tasks import Task
from ..search.trial import Final
from ..spaces.plan import Plan
from .bundle import Bundle
from .bundling import FRONT


@dataclass(frozen=True, slots=True)
class Member:
    """One plan of a bundle.

    Attributes:
        final: its quality on the test split, and what it cost on the machine of the search.
        place: what it was there: "front", "beaten" or "near".
    """

    final: Final
    place: str

    @property
    def plan(self) -> Plan:
        """What it is."""
        return self.final.plan

    @property
    def was_on_front(self) -> bool:
        """Whether it was on the front of the search."""
        return self.place == FRONT


@dataclass(frozen=True, slots=True)
class Carried:
    """The study in a bundle.

    Attributes:
        bundle: the file.
        study: hash of model, data and task.
        name: of the model, for people.
        identity: what the search was asked, see `Settings.describe`.
        machine: of the search.
        members: the plans, the baseline first.
        state: of the front that was bundled.
        taken: when the search ended, in seconds since 1970.
    """

    bundle: Bundle
    study: str
    name: str
    identity: Mapping[str, Any]
    machine: Machine
    members: tuple[Member, ...]
    state: str
    taken: float

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads a bundle.

        Raises:
            BundleError: if it is missing, damaged, foreign or of a newer paring.
        """
        bundle = Bundle(path)
        content = bundle.content
        try:
            members = tuple(Member(Final.from_json(one["final"]), str(one["place"])) for one in content["members"])
            found = cls(
                bundle,
                str(content["study"]),
                str(content["name"]),
                dict(content["identity"]),
                Machine.from_json(content["facts"]["machine"]),
                members,
                str(content["state"]),
                float(content["taken"]),
            )
            found.workload, found.objectives, found.budget  # noqa: B018  whether they can be read
        except (LookupError, TypeError, ValueError, AttributeError, ParingError) as error:
            raise BundleError(f"{path} is damaged: what it says of its study cannot be read ({error!r}).") from error
        if not members or not members[0].plan.is_identity:
            raise BundleError(f"{path} is damaged: the original is not among its plans.")
        return found

    @property
    def workload(self) -> Workload:
        """What the search served."""
        return Workload.from_json(self.identity["workload"])

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the search optimised."""
        return tuple(self.identity["objectives"])

    @property
    def budget(self) -> Limits:
        """Limits of the search."""
        return Limits(**self.identity["budget"])

    def thinned(self, most: int, *, keep: Plan | None) -> Self:
        """The same study with fewer plans: the original, and of the others as many as wanted.

        Plans that were on the front come first. Where even these are too many, some are left out so that the others
        are spread evenly over its latencies, the fastest and the slowest among them.

        Args:
            most: plans beside the original, at least 1.
            keep: a plan of the front that stays in any case, in the place of the one nearest to it in latency.
        """
        original, *others = self.members
        front = sorted((one for one in others if one.was_on_front), key=_ratio)
        rest = [one for one in others if not one.was_on_front]
        if len(front) > most:
            chosen = [front[round(step * (len(front) - 1) / max(most - 1, 1))] for step in range(most)]
            for kept in (one for one in front if one.plan == keep and one not in chosen):
                chosen[min(range(most), key=lambda place: abs(_ratio(chosen[place]) - _ratio(kept)))] = kept
            front, rest = chosen, []
        return replace(self, members=(original, *front, *rest[: most - len(front)]))

    def task(self, data: str) -> Task:
        """What the models are judged on.

        Args:
            data: where the data are on this machine.
        """
        return Task(data=data, **self.identity["task"])

    def model(self, plan: Plan) -> AbstractContextManager[Path]:
        """The exported model of a plan, in a temporary folder."""
        return self.bundle.unpacked(f"models/{plan.fingerprint}")

    def tokenizer(self) -> AbstractContextManager[Path]:
        """The tokenizer, in a temporary folder."""
        return self.bundle.unpacked("tokenizer")

    def examples(self) -> dict[str, Tensor]:
        """Inputs of the examples whose answers are known."""
        with self.bundle.unpacked("examples") as folder:
            return load_file(folder / "inputs.safetensors")

    def answers(self, plan: Plan) -> dict[str, Tensor]:
        """What a plan's model answered to the examples on the machine of the search, see `answers.kept_of`."""
        with self.bundle.unpacked(f"answers/{plan.fingerprint}") as folder:
            return load_file(folder / "answers.safetensors")


def _ratio(member: Member) -> float:
    late = member.final.profile.latency
    return member.final.profile.stored_bytes if late is None else late.ratio

"""The plans of a bundle measured on this machine: costs anew, quality only where answers differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite

from transformers import PreTrainedModel

from ..errors import MeasurementError, ParingError, SettingError, UserError
from ..profilers import devices, runtimes
from ..profilers.machine import Machine
from ..profilers.memory import MemoryMeter
from ..profilers.profile import Profile
from ..profilers.runtimes import Runtime
from ..profilers.timing import ANEW
from ..profilers.workload import Workload
from ..search.answers import TOLERANCE, difference_of
from ..search.deployed import SESSION, Deployed, Stand, latencies_of, profile_of, reload, sessions
from ..search.progress import Progress, Report
from ..search.quality import Difference, Quality
from ..search.rejudging import Rejudge
from ..spaces import artefact
from ..spaces.plan import Plan
from .carried import Carried, Member

_EFFORT = replace(ANEW, min_loads=6)
SECONDS_PER_MODEL = 4.0


@dataclass(frozen=True, slots=True)
class Setup:
    """Where and how a bundle is measured.

    Attributes:
        device: as the user writes it.
        runtime: name of what runs the models.
        workload: what they serve.
        seconds: at most, of timing one model.
        tolerance: answers that differ by no more than this part of their spread count as the same.
        data: where the study's data are on this machine, to judge again where answers differ; None where they are not.
        seed: of every order.
    """

    device: str
    runtime: str
    workload: Workload
    seconds: float = SECONDS_PER_MODEL
    tolerance: float = TOLERANCE
    data: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("seconds", "tolerance"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise SettingError(f"{name} of a benchmark must be a finite number above 0, got {value}.")

    def opened(self) -> tuple[devices.Device, Runtime]:
        """The device and the runtime.

        Raises:
            SettingError: if there is none of these here, or they do not go together.
        """
        device, runtime = devices.find(self.device), runtimes.find(self.runtime)
        absence = runtime.absence(device)
        if absence is not None:
            raise SettingError(f"the runtime {self.runtime!r} cannot run on {device.name}: {absence}")
        return device, runtime

    def machine(self) -> Machine:
        """This machine, as these measurements see it."""
        device, runtime = self.opened()
        return Machine.here(device.name, device.facts(), runtime.versions())


@dataclass(frozen=True, slots=True)
class Remeasured:
    """One plan on this machine.

    Attributes:
        member: as it was carried here.
        profile: what it costs here, beside the others.
        quality: on the test split: as carried, or as judged again here.
        gain: of quality over the baseline's.
        difference: of its answers to the examples from those it was judged by, see `answers.difference_of`.
        is_verified: whether its quality holds here: answers are the same, or it was judged again.
        was_judged: whether it was judged again.
    """

    member: Member
    profile: Profile
    quality: Quality
    gain: Difference
    difference: float
    is_verified: bool
    was_judged: bool

    @property
    def plan(self) -> Plan:
        """What it is."""
        return self.member.plan


@dataclass(frozen=True, slots=True)
class Failed:
    """One plan that cannot be measured on this machine.

    Attributes:
        member: as it was carried here.
        cause: in words.
    """

    member: Member
    cause: str


def remeasure(carried: Carried, setup: Setup, progress: Progress) -> tuple[list[Remeasured], list[Failed]]:
    """Measures the plans of a bundle side by side, and looks whether they answer as they did.

    Args:
        carried: the bundle.
        setup: where and how.
        progress: where to say how far it is.

    Returns:
        What was measured, the baseline first; and what could not be, such as for want of memory.

    Raises:
        UserError: if device, runtime, workload or data cannot do it.
        MeasurementError: if the baseline cannot be measured, or not so many models side by side.
    """
    with MemoryMeter(setup.device, setup.runtime, setup.workload) as meter:
        here = _Here(carried, setup, meter)
        plans = [member.plan for member in carried.members]
        with progress.stage("measuring here", 2 * len(plans)) as report:
            for turn, session in enumerate(sessions(plans)):
                here.measure(session, partial(_counted, report, 2 * turn * SESSION))
    return here.found, here.failed


def _counted(report: Report, start: int, done: int, what: str) -> None:
    report(start + done, what)


class _Here:
    """A bundle on this machine, and what was found so far."""

    def __init__(self, carried: Carried, setup: Setup, meter: MemoryMeter) -> None:
        device, runtime = setup.opened()
        with carried.model(carried.members[0].plan) as folder:
            self._original, _ = artefact.load(folder)
        refusal = runtime.refusal(self._original)
        if refusal is not None:
            raise SettingError(f"the runtime {setup.runtime!r} cannot run {type(self._original).__name__}: {refusal}")
        setup.workload.inputs(self._original.config)
        self._carried, self._setup = carried, setup
        self._members = {member.plan: member for member in carried.members}
        self._examples = carried.examples()
        self._judge = _judge_of(carried, setup.data, self._original)
        asked = {*carried.objectives, *carried.budget.needed()}
        self._stand = Stand(
            device,
            lambda model: runtime.load(model, device, threads=setup.workload.threads),
            self._original.config,
            setup.workload,
            setup.machine().fingerprint,
            meter if "memory" in asked else None,
            replace(_EFFORT, seconds=setup.seconds),
            setup.seed,
        )
        self.found: list[Remeasured] = []
        self.failed: list[Failed] = []

    def measure(self, plans: Sequence[Plan], tell: Callable[[int, str], None]) -> None:
        """Plans that are timed side by side, the first being the baseline."""
        deployed = []
        for done, plan in enumerate(plans):
            tell(done, f"loading {plan}")
            try:
                with self._carried.model(plan) as folder:
                    deployed.append(reload(plan, folder, self._stand))
            except UserError:
                raise
            except Exception as error:  # what one plan cannot do here must not keep the others from being measured
                if plan.is_identity:
                    raise
                self.failed.append(Failed(self._members[plan], _cause(error)))
        tell(len(plans), f"timing {len(deployed)} models side by side")
        try:
            with devices.clean_after_failure(self._stand.device):
                lates = latencies_of(deployed, self._stand)
        except MemoryError as error:
            raise MeasurementError(
                f"memory ran out while {len(deployed)} models were timed side by side: {error}; measure fewer of them."
            ) from error
        # The baseline is timed in every session, but reported once.
        for one, late in list(zip(deployed, lates, strict=True))[1 if self.found else 0 :]:
            self.found.append(self._remeasured(one, profile_of(one, late, self._stand)))

    def _remeasured(self, one: Deployed, profile: Profile) -> Remeasured:
        final = self._members[one.plan].final
        apart = difference_of(one.executable(self._examples), self._carried.answers(one.plan))
        if apart <= self._setup.tolerance or self._judge is None:
            is_verified = apart <= self._setup.tolerance
            return Remeasured(self._members[one.plan], profile, final.quality, final.gain, apart, is_verified, False)
        quality = self._judge.quality(one.executable)
        gain = self._judge.gain(quality, self.found[0].quality if self.found else quality)
        return Remeasured(self._members[one.plan], profile, quality, gain, apart, True, True)


def _cause(error: Exception) -> str:
    return str(error) if isinstance(error, ParingError) else f"{type(error).__name__}: {error}"


def _judge_of(carried: Carried, data: str | None, original: PreTrainedModel) -> Rejudge | None:
    """Who judges again; None where the data are not here. Data of another study are refused before measuring."""
    if data is None:
        return None
    with carried.tokenizer() as folder:
        return Rejudge(carried.task(data), folder, original, data_hash=carried.identity["data"])

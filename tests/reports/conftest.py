"""Hand-made candidates and records, for what needs no model."""

import copy
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler

from paring.profilers.memory import Memory
from paring.profilers.profile import Profile
from paring.profilers.timing import Latency
from paring.reports.front import Front, Point, hypervolume_of
from paring.search.objectives import Limits, Measures
from paring.search.quality import Difference, Quality
from paring.search.study import Record
from paring.search.trial import Final, State, Trial
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision

BASELINE_QUALITY, BASELINE_SECONDS = 0.9, 0.02


def make_plan(*dropped: int, bits: bool = False, layers: int = 6) -> Plan:
    treated = Treatments.of({"query": Treatment(precision=Precision(8, 8))} if bits else {})
    slots = tuple(Slot(None) if i in dropped else Slot(Layer(i), treated) for i in range(layers))
    return Plan((Stack("encoder", slots),))


def make_final(
    *dropped: int,
    bits: bool = False,
    quality: float = BASELINE_QUALITY,
    ratio: float | None = 1.0,
    noise: float = 0.01,
    memory: int | None = 200_000_000,
    size: int = 100_000_000,
    split: str = "test",
    kernels: str = "float",
) -> Final:
    """A candidate beside a baseline of quality 0.9 and 20 ms; `noise` is half the width of the ratio's interval."""
    late = None if ratio is None else Latency((ratio * BASELINE_SECONDS,) * 3, ratio, ratio - noise, ratio + noise)
    held = None if memory is None else Memory(memory, 50_000_000, 100_000_000)
    drop = BASELINE_QUALITY - quality
    return Final(
        make_plan(*dropped, bits=bits),
        Quality("accuracy", quality, quality - 0.03, quality + 0.02, split, (0.0, 1.0)),
        Difference(-drop, -drop - 0.02, -drop + 0.01),
        Profile(size, kernels, "a machine", "batch 1", late, held),
        Measures(quality, drop, None if ratio is None else ratio * BASELINE_SECONDS, memory, float(size)),
        True,
    )


def make_point(*dropped: int, searched: float | None = None, **numbers: Any) -> Point:
    final = make_final(*dropped, **numbers)
    known = None
    if searched is not None:
        known = replace(final.quality, value=searched, low=searched - 0.03, high=searched + 0.02, split="search")
    is_baseline = final.plan == make_plan()
    return Point(final.plan, final.quality, final.profile, final.measures, final.gain, known, is_baseline)


def make_front(baseline: Point, *members: Point, objectives: tuple[str, ...] = ("quality", "latency")) -> Front:
    """A front of these members, each tied with no other."""
    volume = hypervolume_of(members, baseline, objectives)
    ties = tuple(range(1, len(members) + 1))
    return Front("test", "accuracy", objectives, baseline, members, (), volume, ties)


@pytest.fixture(scope="session", name="make_plan")
def make_plan_fixture() -> Callable[..., Plan]:
    return make_plan


@pytest.fixture(scope="session", name="make_final")
def make_final_fixture() -> Callable[..., Final]:
    return make_final


@pytest.fixture(scope="session", name="make_point")
def make_point_fixture() -> Callable[..., Point]:
    return make_point


@pytest.fixture(scope="session", name="make_front")
def make_front_fixture() -> Callable[..., Front]:
    return make_front


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as if the disk were full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    known = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, known)


@pytest.fixture(scope="session", name="files_up_to")
def files_up_to_fixture() -> Callable[[int], AbstractContextManager[None]]:
    return files_up_to


@pytest.fixture
def make_record(finished_run: Path, tmp_path: Path) -> Callable[..., Record]:
    """A run whose search judged these candidates, or failed on them for the causes given, without a model."""

    def make(
        *searched: Final | tuple[Plan, State, str],
        finals: tuple[Final, ...] = (),
        settings: dict[str, Any] | None = None,
        objectives: tuple[str, ...] = ("quality", "latency"),
        limits: Limits | None = None,
    ) -> Record:
        settings = copy.deepcopy(settings or Record.open(finished_run).settings)
        limits = limits or Limits()
        settings["identity"] |= {"objectives": list(objectives), "budget": limits.to_json()}
        record = Record.create(tmp_path / "made", settings, len(objectives), RandomSampler(seed=0))
        for one in searched:
            asked = record.study.ask()
            if isinstance(one, tuple):
                record.tell_failed(asked, one[1], one[2], one[0])
                continue
            state = State.JUDGED if limits.are_kept(one.measures) else State.INFEASIBLE
            quality = replace(one.quality, split="search")
            trial = Trial(asked.number, state, one.plan, "", quality, one.profile, one.measures)
            record.tell_judged(asked, trial, limits, objectives)
        record.set_finals(list(finals))
        return Record.open(tmp_path / "made")

    return make

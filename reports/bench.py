"""`paring bench`: a study measured on this machine, its new front, and verdicts against what was measured before."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import BundleError, DataError, HistoryError, ModelError, SettingError
from ..profilers.hardware import hardware_of
from ..profilers.history import Context, History, Session
from ..profilers.occupancy import alone
from ..profilers.verdicts import verdicts_on
from ..profilers.workload import Workload
from ..search.answers import TOLERANCE
from ..search.cache import replace_file, writing
from ..search.objectives import Limits
from ..search.progress import Progress, Silent
from ..search.rejudging import holds
from ..search.study import Record
from .bench_front import new_front, picked_where_searched
from .bench_session import BENCH, doubts, measured_session, searched_session
from .benched import Benched
from .bundling import NEAR, make_bundle, state_of
from .carried import Carried
from .remeasure import SECONDS_PER_MODEL, Setup, remeasure
from .tables import render

BUNDLE = "bundle.zip"


@dataclass(frozen=True, slots=True)
class Asked:
    """How a study is to be measured here.

    Attributes:
        device: as the user writes it; None for the kind of the search.
        runtime: what runs the models; None for that of the search.
        workload: fields of the workload that differ from that of the search.
        limits: what the pick must keep; None as `pick_from`.
        seconds: at most, of timing one model.
        tolerance: answers that differ by no more than this part of their spread count as the same.
        data: where the study's data are on this machine; None for where they were, if they are there.
        seed: of every order.
        wait_seconds: for another benchmark on this machine to end.
        against: id, or the beginning of one, of the session to compare with; None for the last comparable.
        near: at most so many plans beside the front, where a bundle has to be made first.
        plans: at most so many beside the original, see `Carried.thinned`; None for all.
    """

    device: str | None = None
    runtime: str | None = None
    workload: Mapping[str, int] = field(default_factory=dict)
    limits: Limits | None = None
    seconds: float = SECONDS_PER_MODEL
    tolerance: float = TOLERANCE
    data: str | None = None
    seed: int = 0
    wait_seconds: float = 0.0
    against: str | None = None
    near: int = NEAR
    plans: int | None = None

    def __post_init__(self) -> None:
        if self.plans is not None and self.plans < 1:
            raise SettingError(f"a benchmark needs at least one plan beside the original, got {self.plans}.")


def bench(
    source: Path,
    asked: Asked,
    history: History,
    *,
    now: Callable[[], float],
    out: Path | None = None,
    progress: Progress | None = None,
) -> Benched:
    """Measures the front of a study, and what nearly belongs to it, on this machine.

    Args:
        source: a run folder, or a bundle.
        asked: how.
        history: where it is kept.
        now: seconds since 1970.
        out: folder for the new front; None for one beside the source.
        progress: where to say how far it is.

    Raises:
        UserError: if the source, or something asked for, cannot work.
        BusyError: if another benchmark runs on this machine.
        MeasurementError: if memory runs out.
        StorageError: if the disk refuses.
    """
    progress = progress or Silent()
    with alone(asked.wait_seconds):
        carried = carried_from(source, asked.near, progress)
        searched = searched_session(carried)
        if asked.plans is not None:
            carried = carried.thinned(asked.plans, keep=picked_where_searched(carried, asked.limits).plan)
        setup = _setup(carried, asked, source)
        context = Context(carried.study, hardware_of(setup.machine()), setup.runtime, setup.workload)
        past = [one for one in history.sessions(context=context) if one.source == BENCH]
        against = _earlier(past, asked.against)
        found, failed = remeasure(carried, setup, progress)
        fresh = new_front(carried, found, failed, asked.limits)
        session = measured_session(carried, setup, found, fresh, now())
        verdicts = verdicts_on(session, past, against)
        notes = [f"{one.member.plan} was not measured: {one.cause}" for one in failed]
        notes += doubts(session, past, found)
        session = replace(session, notes=tuple(notes))
        elsewhere = _elsewhere(history, session)
        folder = out or _beside(source, context)
        benched = Benched(carried, tuple(found), fresh, session, verdicts, elsewhere, tuple(notes), folder)
        _write(benched)
        history.add(searched)
        history.add(session)
    return benched


def carried_from(source: Path, near: int = NEAR, progress: Progress | None = None) -> Carried:
    """A study from a bundle, or from a run folder, which is bundled first unless it was since its front changed.

    Raises:
        UserError: if the source is neither, or cannot be bundled here.
    """
    if not source.is_dir():
        if source.suffix == "" and not source.exists():
            raise BundleError(f"there is neither a run folder nor a bundle {source}.")
        return Carried.open(source)
    record = Record.open(source)
    path = source / BUNDLE
    try:
        known = Carried.open(path)
        if known.state == state_of(record):
            return known
    except BundleError:
        pass  # none was made yet, or by another paring
    try:
        make_bundle(record, path, near=near, progress=progress)
    except (ModelError, DataError) as error:
        raise type(error)(
            f"{error} To measure a study where its model and data are not, carry a bundle there: paring bundle RUN."
        ) from error
    return Carried.open(path)


def is_known(carried: Carried, asked: Asked, history: History) -> bool:
    """Whether a study was measured on this hardware before, here or by its search."""
    setup = Setup(asked.device or carried.identity["device"], asked.runtime or carried.identity["runtime"], Workload())
    here = hardware_of(setup.machine())
    return here == hardware_of(carried.machine) or bool(history.sessions(study=carried.study, hardware=here))


def _setup(carried: Carried, asked: Asked, source: Path) -> Setup:
    """How to measure."""
    workload = Workload.from_json({**carried.workload.to_json(), **asked.workload})
    data = asked.data
    if data is None and source.is_dir():
        known = str(Record.open(source).settings["sources"]["data"])
        data = known if holds(carried.task(known), carried.identity["data"]) else None
    setup = Setup(
        asked.device or carried.identity["device"],
        asked.runtime or carried.identity["runtime"],
        workload,
        asked.seconds,
        asked.tolerance,
        data,
        asked.seed,
    )
    setup.opened()
    return setup


def _earlier(past: Sequence[Session], wanted: str | None) -> Session | None:
    """The session that was asked for."""
    if wanted is None:
        return None
    found = [session for session in past if session.id.startswith(wanted)]
    if len(found) != 1:
        known = ", ".join(session.id[:8] for session in past[-5:]) or "none"
        raise HistoryError(
            f"--against {wanted!r} names {len(found)} sessions of this study on this hardware with this runtime and "
            f"workload; the latest are: {known}. Sessions on other hardware are no regressions: see `paring history`."
        )
    return found[0]


def _elsewhere(history: History, session: Session) -> tuple[Session, ...]:
    """The last session of every other hardware, by the same runtime under the same workload."""
    own = session.context
    latest = {
        one.context.hardware: one
        for one in history.sessions(study=session.study)
        if one.context.hardware != own.hardware and (one.runtime, one.workload) == (own.runtime, own.workload)
    }
    return tuple(latest.values())


def _beside(source: Path, own: Context) -> Path:
    """Where the new front goes if nothing is said: one folder per context."""
    place = source / "bench" if source.is_dir() else source.with_name(f"{source.stem}-bench")
    return place / f"{own.hardware}-{own.runtime}-{own.workload.threads}-threads"


def _write(benched: Benched) -> None:
    """The new front as CSV and JSON, and everything about it."""
    with writing(benched.folder):
        benched.folder.mkdir(parents=True, exist_ok=True)
        replace_file(benched.folder / "front.csv", render(benched.fresh.front, "csv"))
        replace_file(benched.folder / "front.json", render(benched.fresh.front, "json"))
        replace_file(benched.folder / "bench.json", json.dumps(benched.to_json(), indent=1))

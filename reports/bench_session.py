"""What the history is told: a study as measured here, and as the search measured it."""

from collections.abc import Sequence

from ..profilers.hardware import settings_here, software_of
from ..profilers.history import Entry, Session
from ..profilers.latency import Latency
from ..search.trial import Final
from .bench_front import NewFront
from .carried import Carried
from .remeasure import Remeasured, Setup

# What sessions are called by where they come from.
BENCH, SEARCH = "bench", "search"


def measured_session(
    carried: Carried, setup: Setup, found: Sequence[Remeasured], fresh: NewFront, taken: float
) -> Session:
    """What was measured here, as a session.

    Args:
        carried: the study.
        setup: how it was measured.
        found: its plans, the baseline first.
        fresh: the front they make.
        taken: seconds since 1970.
    """
    machine = setup.machine()
    on_front = {point.plan for point in fresh.front.members}
    baseline = found[0].quality.value
    entries = tuple(
        Entry(
            one.plan.fingerprint,
            str(one.plan),
            _measured(one),
            one.profile.stored_bytes,
            one.plan.is_identity,
            one.quality.value,
            baseline - one.quality.value,
            one.is_verified,
            one.plan in on_front,
            one.plan == fresh.answer.plan,
            None if one.profile.memory is None else float(one.profile.memory.peak_bytes),
        )
        for one in found
    )
    software = {**software_of(machine), **settings_here()}
    name, metric = carried.name, found[0].quality.metric
    return Session(carried.study, name, setup.runtime, setup.workload, machine, software, entries, taken, BENCH, metric)


def searched_session(carried: Carried) -> Session:
    """What the search itself measured, as a session; the same however often it is asked for."""
    finals = [member.final for member in carried.members if isinstance(member.final.profile.latency, Latency)]
    front = {member.plan for member in carried.members if member.was_on_front}
    entries = tuple(_entry(final, on_front=final.plan in front) for final in finals)
    return Session(
        carried.study,
        carried.name,
        carried.identity["runtime"],
        carried.workload,
        carried.machine,
        software_of(carried.machine),
        entries,
        carried.taken,
        SEARCH,
        carried.members[0].final.quality.metric,
        id=f"search-{carried.study}-{carried.state}",
    )


def doubts(session: Session, past: Sequence[Session], found: Sequence[Remeasured]) -> list[str]:
    """What should be known of a session.

    Args:
        session: the one.
        past: those before it in the same context.
        found: its plans.
    """
    notes = list(dict.fromkeys(warning for entry in session.entries for warning in entry.latency.warnings))
    judged, unsure = sum(one.was_judged for one in found), sum(not one.is_verified for one in found)
    if judged:
        notes.append(f"{judged} of {len(found)} plans answer differently here and were judged again on the test split")
    if unsure:
        fix = "give --data to judge them again"
        notes.append(f"{unsure} of {len(found)} plans answer differently here, so their quality is unverified; {fix}")
    if past and session.taken < past[-1].taken:
        back = past[-1].taken - session.taken
        notes.append(f"the clock is {back:.0f} s behind the last session's: sessions count in the order they were kept")
    return notes


def _measured(one: Remeasured) -> Latency:
    late = one.profile.latency
    assert isinstance(late, Latency)
    return late


def _entry(final: Final, *, on_front: bool) -> Entry:
    late, memory = final.profile.latency, final.profile.memory
    assert isinstance(late, Latency)
    return Entry(
        final.plan.fingerprint,
        str(final.plan),
        late,
        final.profile.stored_bytes,
        final.plan.is_identity,
        final.quality.value,
        final.measures.drop,
        True,
        on_front,
        False,
        None if memory is None else float(memory.peak_bytes),
    )

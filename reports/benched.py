"""A study on one machine: everything that `paring bench` found."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from ..profilers.history import Session
from ..profilers.verdicts import Judgement, Verdicts
from .bench_front import Answer, NewFront
from .carried import Carried
from .front_table import row_of
from .remeasure import Remeasured


@dataclass(frozen=True, slots=True)
class Benched:
    """A study on this machine.

    Attributes:
        carried: the study.
        found: its plans as measured here, the baseline first.
        fresh: the new front, and what is new about it.
        session: as it was kept in the history.
        verdicts: against what was measured here before.
        elsewhere: the last session of the same study, runtime and workload on every other hardware.
        notes: what should be known of it.
        folder: where the new front was written.
    """

    carried: Carried
    found: tuple[Remeasured, ...]
    fresh: NewFront
    session: Session
    verdicts: Verdicts
    elsewhere: tuple[Session, ...]
    notes: tuple[str, ...]
    folder: Path

    @property
    def exit_code(self) -> int:
        """0 fine, 3 regression."""
        return 3 if self.verdicts.regressions else 0

    def to_json(self) -> dict[str, Any]:
        """Plain data, in the units people read; all samples are in the history."""
        fresh = self.fresh
        return {
            "study": self.session.study,
            "model": self.session.name,
            "session": self.session.id,
            "machine": self.session.machine.to_json(),
            "hardware": self.session.context.hardware,
            "software": dict(self.session.software),
            "runtime": self.session.runtime,
            "workload": self.session.workload.to_json(),
            "metric": self.session.metric,
            "plans": [self._row(one) for one in self.found],
            "left": [{"plan": move.plan.fingerprint, "reason": move.reason} for move in fresh.left],
            "came": [{"plan": move.plan.fingerprint, "reason": move.reason} for move in fresh.came],
            "pick": _fingerprint(fresh.answer),
            "pick_where_searched": _fingerprint(fresh.earlier),
            "pick_changes": fresh.pick_changes,
            "reason": fresh.reason,
            "against": [session.id for session in self.verdicts.against],
            "changed": list(self.verdicts.changed),
            "scatter": self.verdicts.scatter,
            "verdicts": [verdict_row(one) for one in (self.verdicts.machine, *self.verdicts.plans)],
            "regressions": len(self.verdicts.regressions),
            "elsewhere": [_hardware(self.session, one) for one in self.elsewhere],
            "notes": list(self.notes),
        }

    def _row(self, one: Remeasured) -> dict[str, Any]:
        """One plan, here and where it was searched."""
        point = next(point for point in (*self.fresh.front.members, *self.fresh.front.beaten) if point.plan == one.plan)
        row, there = row_of(point, self.fresh.front.baseline), one.member.final.profile.latency
        names = ("plan", "fingerprint", "quality", "drop", "latency_ms", "speedup", "memory_mb", "size_mb", "kernels")
        late = point.profile.latency
        assert late is not None
        return {
            **{name: row[name] for name in names},
            "ratio": late.ratio,
            "ratio_low": late.ratio_low,
            "ratio_high": late.ratio_high,
            "ratio_where_searched": None if there is None else there.ratio,
            "place_where_searched": one.member.place,
            "on_front": point in self.fresh.front.members,
            "is_pick": one.plan == self.fresh.answer.plan,
            "answers_differ_by": one.difference if isfinite(one.difference) else None,
            "is_verified": one.is_verified,
            "was_judged": one.was_judged,
        }


def _fingerprint(answer: Answer) -> str | None:
    return None if answer.plan is None else answer.plan.fingerprint


def verdict_row(one: Judgement) -> dict[str, Any]:
    """A judgement as plain data."""
    change = one.change
    return {
        "plan": one.plan,
        "label": one.label,
        "verdict": one.verdict.value,
        "change": None if change is None else change.value,
        "change_low": None if change is None or not isfinite(change.high) else change.low,
        "change_high": None if change is None or not isfinite(change.high) else change.high,
        "own_time_change": one.own,
        "chance": one.chance,
        "reason": one.reason,
    }


def _hardware(here: Session, there: Session) -> dict[str, Any]:
    """Two machines side by side, which is no verdict: nothing about them need be alike."""
    known = {entry.plan: entry for entry in there.entries}
    return {
        "device": there.machine.device,
        "facts": dict(there.machine.facts),
        "cores": there.machine.cores,
        "hardware": there.context.hardware,
        "session": there.id,
        "original_takes": here.baseline.latency.seconds / there.baseline.latency.seconds,
        "plans": [
            {"plan": entry.plan, "ratio": entry.latency.ratio, "ratio_there": known[entry.plan].latency.ratio}
            for entry in here.entries
            if entry.plan in known and not entry.is_baseline
        ],
    }

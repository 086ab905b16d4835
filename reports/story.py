"""Everything the page tells of one run, as plain data: its script draws it, its template says it in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import BudgetError, RunError
from ..profilers.timing import Latency
from ..search.naive import ALL_INT8, all_int8
from ..search.study import Record
from ..search.trial import Final, Trial
from ..spaces.plan import Plan
from .ablation import ablation
from .figures import Row, ablation_rows, front_rows, guess_rows, plain, trial_rows
from .front import Front, Point, front_of, trial_point
from .over_time import growth, reference_in_words, when
from .pick import pick_from
from .plan_picture import Pictures


@dataclass(frozen=True, slots=True)
class Answer:
    """What the page recommends, or why it recommends nothing.

    Attributes:
        fingerprint: of the plan to deploy; None where there is none.
        reason: why this one, or why none, in words.
        runners_up: fingerprints of the next best.
        remarks: what else should be known before it is deployed, a sentence each.
    """

    fingerprint: str | None
    reason: str
    runners_up: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Story:
    """One run as the page shows it.

    Attributes:
        label: a short name, unlike those of the other runs on the page.
        settings: what the search was asked, and facts.
        record: of the run.
        front: None where no trial has numbers.
        finals: all that was measured whole.
        why_no_front: in words; empty where there is one.
        answer: the recommendation.
        data: rows of every table and figure, and what they share.
    """

    label: str
    settings: Mapping[str, Any]
    record: Record
    front: Front | None
    finals: list[Final]
    why_no_front: str
    answer: Answer
    data: Mapping[str, Any]

    def row(self, fingerprint: str | None) -> Row | None:
        """The row of the front's session with this fingerprint."""
        rows: list[Row] = self.data["front"]
        return next((row for row in rows if row["fingerprint"] == fingerprint), None)


def answer_of(front: Front) -> Answer:
    """The recommendation of a front; the one place where the page meets `pick`."""
    try:
        pick = pick_from(front)
    except BudgetError as error:
        return Answer(None, str(error))
    return Answer(pick.point.plan.fingerprint, pick.reason, tuple(point.plan.fingerprint for point in pick.runners_up))


def story_of(record: Record, label: str) -> Story:
    """Reads a run.

    Args:
        record: of the run, finished or not.
        label: how the page calls it.

    Raises:
        RunError: if the run is damaged.
    """
    trials, finals = record.trials(), record.finals()
    known = _judged(trials)
    try:
        front, why_no_front = front_of(record, judged=known, finals=finals), ""
    except RunError as error:
        if any(trial.plan is not None and trial.plan.is_identity for trial in known.values()):
            raise
        front, why_no_front = None, str(error)
    answer = Answer(None, why_no_front) if front is None else answer_of(front)
    plans = [*(trial.plan for trial in trials if trial.plan is not None), *(final.plan for final in finals)]
    pictures = Pictures(plans)
    data = _data(record, trials, front, answer, pictures)
    return Story(label, record.settings, record, front, finals, why_no_front, answer, data)


def _judged(trials: Sequence[Trial]) -> dict[str, Trial]:
    """Fingerprint -> trial, for all that have numbers."""
    return {trial.plan.fingerprint: trial for trial in trials if trial.plan is not None and trial.measures}


def _data(
    record: Record, trials: Sequence[Trial], front: Front | None, answer: Answer, pictures: Pictures
) -> dict[str, Any]:
    identity, known = record.settings["identity"], _judged(trials)
    base = next(
        (trial_point(trial) for trial in known.values() if trial.plan is not None and trial.plan.is_identity), None
    )
    data: dict[str, Any] = {
        "axes": identity["axes"],
        "budget": identity["budget"],
        "objectives": identity["objectives"],
        "metric": identity["task"]["metric"],
        "split": None if front is None else front.split,
        "pick": answer.fingerprint,
        "runners_up": list(answer.runners_up),
        "reference": reference_in_words(identity["objectives"]),
        "front": [],
        "guesses": [],
        "ablation": [],
        "growth": [],
        "trials": trial_rows(trials, base, pictures),
    }
    if front is not None:
        data["front"] = front_rows(front, naive_of(record, trials), known, pictures)
        data["guesses"] = guess_rows(front, known)
    if front is not None and base is not None:
        data["ablation"] = ablation_rows(ablation(trials, base, identity["axes"], front), base)
        data["growth"] = [plain(row) for row in growth(trials, base, record)]
    return data | pictures.shared()


def naive_of(record: Record, trials: Sequence[Trial]) -> dict[str, str]:
    """Name of a naive plan -> fingerprint: as it was measured whole, else as the search judged it."""
    found = all_int8(trials)
    return record.naive or ({} if found is None else {ALL_INT8: found.fingerprint})


def unbeaten(story: Story) -> list[Point]:
    """Naive plans, and the original, that no other member of the front beats in all objectives of the search."""
    front = story.front
    if front is None:
        return []
    naive = {row["fingerprint"] for row in story.data["front"] if row["naive"] is not None}
    others = [point for point in front.members if point.plan.fingerprint not in naive and not point.is_baseline]
    compared = [point for point in (*front.members, *front.beaten) if point.plan.fingerprint in naive]
    return [one for one in compared if not any(_beats(other, one, front.objectives) for other in others)]


def _beats(one: Point, other: Point, objectives: tuple[str, ...]) -> bool:
    pairs = [(one.measures.minimised(name), other.measures.minimised(name)) for name in objectives]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def mean_error(story: Story) -> float | None:
    """Mean relative error of the predicted latencies of all points that were measured whole; None without any."""
    errors = [abs(row["error"]) for row in story.data["guesses"] if row["predicted"]]
    return sum(errors) / len(errors) if errors else None


def doubts(finals: Sequence[Final]) -> list[str]:
    """What made the measurement of the front doubtful, each once."""
    latencies = [final.profile.latency for final in finals]
    return list(dict.fromkeys(doubt for late in latencies if isinstance(late, Latency) for doubt in late.warnings))


def gap(front: Front | None) -> float | None:
    """By how much the members look better on the split that chose them, relative to the baseline, on average."""
    if front is None or front.split == "search":
        return None
    pairs = [
        (point.search_quality, point.quality.value)
        for point in front.members
        if point.search_quality is not None and not point.is_baseline
    ]
    base = front.baseline.search_quality
    if not pairs or base is None:
        return None
    shift = base - front.baseline.quality.value
    return sum(searched - tested - shift for searched, tested in pairs) / len(pairs)


def dates(record: Record) -> str:
    """When the trials ran, for instance "2026-11-21 18:12 to 18:40"; empty before there are any."""
    begun, done = when(record)
    if begun is None:
        return ""
    return _minute(begun) if done is None else f"{_minute(begun)} to {_until(begun, done)}"


def _until(begun: datetime, done: datetime) -> str:
    return f"{done:%H:%M}" if begun.date() == done.date() else _minute(done)


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def brief(source: str) -> str:
    """A local path by its last two parts: a report that is passed on need not tell whose machine it was made on."""
    path = Path(source)
    return "/".join(path.parts[-2:]) if path.is_absolute() else source


def plan_in_words(plan: Plan) -> str:
    """A plan by its own words, the original by name."""
    return "the original" if plan.is_identity else str(plan)

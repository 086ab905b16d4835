"""The report: one HTML page that needs nothing beside it."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..errors import BudgetError
from ..profilers.timing import Latency
from ..search.cache import replace_file, writing
from ..search.study import Record
from ..search.trial import Trial
from ..spaces.families import FAMILIES
from ..spaces.plan import Plan, Slot
from .figures import front_figure
from .front import Front, Point, front_of, row_of, trial_point
from .pick import Pick, pick_from
from .tables import render

REPORT, FRONT_CSV, FRONT_JSON = "report.html", "front.csv", "front.json"
# Of the family with the fewest: a plan does not say which family it is for.
_FEWEST_LINEARS = {
    name: min(len(s.linears) for forms in FAMILIES.values() for form in forms for s in form.stacks if s.name == name)
    for name in ("encoder", "decoder")
}


@dataclass(frozen=True, slots=True)
class Block:
    """One slot of a plan's picture.

    Attributes:
        label: the layer that stands there; "-" where none does.
        share: 0 to 1, of its parts that are quantised.
        title: in words.
    """

    label: str
    share: float
    title: str


def write_report(record: Record) -> Path:
    """Writes the page, and the front as CSV and JSON, into the run folder.

    Returns:
        The path of the page.

    Raises:
        RunError: if no trial was judged yet.
        StorageError: if the disk refuses.
    """
    front = front_of(record)
    page = render_page(record, front)
    with writing(record.folder):
        replace_file(record.folder / FRONT_CSV, render(front, "csv"))
        replace_file(record.folder / FRONT_JSON, render(front, "json"))
        replace_file(record.folder / REPORT, page)
    return record.folder / REPORT


def render_page(record: Record, front: Front) -> str:
    """The page as text; everything that is not ours is escaped."""
    try:
        pick: Pick | None = pick_from(front)
        refusal = ""
    except BudgetError as error:
        pick, refusal = None, str(error)
    shown = {point.plan.fingerprint for point in (*front.members, *front.beaten, front.baseline)}
    searched = [] if front.split == "search" else _searched_only(record, shown)
    figure = front_figure(front, None if pick is None else pick.point, searched)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(shown=format, brief=_brief)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf8"))
    return template.render(
        front=front,
        rows=[(row, blocks_of(point.plan)) for row, point in _rows(front)],
        pick=pick,
        pick_row=None if pick is None else row_of(pick.point, front.baseline),
        pick_blocks=None if pick is None else blocks_of(pick.point.plan),
        refusal=refusal,
        figure=Markup(figure.to_html(full_html=False, include_plotlyjs="inline", config={"displaylogo": False})),
        trials=[_trial_row(trial) for trial in record.trials()],
        settings=record.settings,
        noise=record.noise,
        prediction=record.prediction,
        guesses=_guesses(front),
        gap=_gap(front),
        doubts=_doubts(record),
        unequal=[str(final.plan) for final in record.finals() if not final.reloads_equal],
    )


def blocks_of(plan: Plan) -> list[tuple[str, list[Block]]]:
    """A plan as pictures, one row of blocks per stack."""
    return [(stack.name, [_block(slot, _FEWEST_LINEARS[stack.name]) for slot in stack.slots]) for stack in plan.stacks]


def _brief(source: str) -> str:
    """A local path by its last two parts: a report that is passed on need not tell whose machine it was made on."""
    path = Path(source)
    return "/".join(path.parts[-2:]) if path.is_absolute() else source


def _block(slot: Slot, linears: int) -> Block:
    if slot.layer is None:
        return Block("-", 0.0, "dropped")
    merged = slot.layer.originals
    done = [f"stands for layers {merged.start} to {merged.stop - 1}"] if slot.layer.granularity > 1 else []
    done += [f"{kind}: {' '.join(map(str, t.to_json().values()))}" for kind, t in slot.treatments.items]
    quantised = sum(t.precision is not None and t.precision.weight_bits is not None for _, t in slot.treatments.items)
    return Block(str(slot.layer), min(1.0, quantised / linears), "; ".join(done) or "as it was")


def _rows(front: Front) -> list[tuple[dict[str, object], Point]]:
    points = [*front.members, *([] if front.baseline in front.members else [front.baseline])]
    return [(row_of(point, front.baseline), point) for point in points]


def _searched_only(record: Record, shown: set[str]) -> list[Point]:
    """Points of the search that were not measured whole; on another split, so only a rough picture."""
    return [trial_point(trial) for name, trial in record.judged().items() if name not in shown]


def _trial_row(trial: Trial) -> dict[str, object]:
    measures, late = trial.measures, None if trial.profile is None else trial.profile.latency
    return {
        "number": trial.number,
        "state": trial.state.value.replace("_", " "),
        "plan": "" if trial.plan is None else str(trial.plan),
        "cause": trial.cause,
        "quality": None if measures is None else measures.quality,
        "latency_ms": None if measures is None or measures.latency_seconds is None else measures.latency_seconds * 1e3,
        "speedup": None if late is None else 1 / late.ratio,
        "memory_mb": None if measures is None or measures.memory_bytes is None else measures.memory_bytes / 1e6,
        "size_mb": None if measures is None else measures.size_bytes / 1e6,
        "mark": "~" if trial.profile is not None and trial.profile.is_predicted else "",
    }


def _guesses(front: Front) -> float | None:
    """Mean relative error of the predicted latencies of all points that were measured whole; None without any."""
    errors = [
        abs(point.predicted_seconds / point.measures.latency_seconds - 1)
        for point in (*front.members, *front.beaten)
        if point.predicted_seconds is not None and point.measures.latency_seconds and not point.is_predicted
    ]
    return sum(errors) / len(errors) if errors else None


def _doubts(record: Record) -> list[str]:
    """What made the measurement of the front doubtful, each once."""
    latencies = [final.profile.latency for final in record.finals()]
    return list(dict.fromkeys(doubt for late in latencies if isinstance(late, Latency) for doubt in late.warnings))


def _gap(front: Front) -> float | None:
    """By how much the members look better on the split that chose them, relative to the baseline, on average."""
    pairs = [
        (point.search_quality, point.quality.value)
        for point in front.members
        if point.search_quality is not None and not point.is_baseline
    ]
    base = front.baseline.search_quality
    if front.split == "search" or not pairs or base is None:
        return None
    shift = base - front.baseline.quality.value
    return sum(searched - tested - shift for searched, tested in pairs) / len(pairs)

"""One page over all machines: what to deploy on each, what became slower, and what is out of date."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..errors import HistoryError
from ..profilers.history import Context, Entry, Session
from ..profilers.verdicts import Verdicts, verdicts_on
from ..search.cache import replace_file, writing
from .bench_session import BENCH

_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
_LARGEST_AGE_SHOWN = 86400.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one study stands on one machine, by one runtime under one workload.

    Attributes:
        session: the last one.
        sessions: how many there were.
        verdicts: on the last one, against those before.
        age_seconds: since it was taken; below 0 where a clock was moved back.
        is_stale: whether that is too long.
    """

    session: Session
    sessions: int
    verdicts: Verdicts
    age_seconds: float
    is_stale: bool

    @property
    def pick(self) -> Entry | None:
        """What to deploy there."""
        return next((entry for entry in self.session.entries if entry.is_pick), None)

    @property
    def front(self) -> tuple[Entry, ...]:
        """The plans that no other one beats, the slowest first."""
        members = (entry for entry in self.session.entries if entry.on_front)
        return tuple(sorted(members, key=lambda entry: -entry.latency.ratio))

    @property
    def age(self) -> str:
        """In words."""
        if self.age_seconds < 0:
            return "in the future: a clock was moved back"
        days = self.age_seconds / 86400
        return f"{days:.0f} days" if self.age_seconds >= _LARGEST_AGE_SHOWN else f"{self.age_seconds / 3600:.0f} hours"


def standings_of(sessions: Sequence[Session], *, now: float, stale_seconds: float) -> list[Standing]:
    """The last session of every context that was benchmarked, the study's name first, then the machine.

    Args:
        sessions: in the order in which they were kept.
        now: seconds since 1970.
        stale_seconds: a session older than this is out of date.
    """
    groups: dict[Context, list[Session]] = {}
    for session in sessions:
        if session.source == BENCH:
            groups.setdefault(session.context, []).append(session)
    found = []
    for group in groups.values():
        *past, last = group
        age = now - last.taken
        found.append(Standing(last, len(group), verdicts_on(last, past), age, age > stale_seconds))
    return sorted(found, key=lambda one: (one.session.name, one.session.context.hardware, one.session.runtime))


def write_fleet(sessions: Sequence[Session], path: Path, *, now: float, stale_seconds: float) -> int:
    """Writes the page; it needs nothing beside it.

    Returns:
        How many machines are on it.

    Raises:
        HistoryError: if nothing was benchmarked yet.
        StorageError: if the disk refuses.
    """
    standings = standings_of(sessions, now=now, stale_seconds=stale_seconds)
    if not standings:
        raise HistoryError("the history holds no benchmark yet; make one with: paring bench RUN.")
    page = render_fleet(standings, now=now)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, page)
    return len({one.session.context.hardware for one in standings})


def render_fleet(standings: Sequence[Standing], *, now: float) -> str:
    """The page as text; everything that is not ours is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files(__package__) / "web" / "fleet.html").read_text(encoding="utf8"))
    studies: dict[str, list[Standing]] = {}
    for one in standings:
        studies.setdefault(one.session.study, []).append(one)
    pages = []
    for number, group in enumerate(studies.values()):
        plotly = "inline" if number == 0 else False
        figure = _figure(group).to_html(full_html=False, include_plotlyjs=plotly, config={"displaylogo": False})
        picks = {one.pick.plan for one in group if one.pick is not None}
        pages.append({"standings": group, "figure": Markup(figure), "picks": len(picks)})
    return template.render(
        studies=pages,
        machines=len({one.session.context.hardware for one in standings}),
        regressions=sum(len(one.verdicts.regressions) for one in standings),
        stale=sum(one.is_stale for one in standings),
        written=datetime.fromtimestamp(now, UTC),
        utc=lambda moment: datetime.fromtimestamp(moment, UTC),
        where=where,
    )


def where(session: Session) -> str:
    """A machine, and how it serves, in words."""
    machine = session.machine
    return f"{machine.facts.get('name', machine.device)}, {machine.cores} cores, {session.runtime}, {session.workload}"


def _figure(standings: Sequence[Standing]) -> go.Figure:
    """Fronts of one study on every machine: quality against milliseconds, picks ringed."""
    figure = go.Figure()
    for number, one in enumerate(standings):
        colour, seconds = _COLOURS[number % len(_COLOURS)], one.session.baseline.latency.seconds
        known = [entry for entry in one.front if entry.quality is not None]
        title = f"{where(one.session)} ({one.session.context.hardware[:6]})"
        figure.add_trace(
            go.Scatter(
                x=[entry.latency.ratio * seconds * 1e3 for entry in known],
                y=[entry.quality for entry in known],
                text=["the original" if entry.is_baseline else entry.label for entry in known],
                mode="lines+markers",
                line={"color": colour, "shape": "vh"},
                marker={
                    "size": [16 if entry.is_pick else 8 for entry in known],
                    "symbol": ["star" if entry.is_pick else "circle" for entry in known],
                },
                name=title,
                hovertemplate="%{text}<br>%{x:.2f} ms, %{y:.4f}<extra></extra>",
            )
        )
    metric = standings[0].session.metric
    figure.update_layout(
        template="plotly_white",
        height=480,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title="latency of one request, ms",
        yaxis_title=f"{metric}, test split",
        legend={"orientation": "h", "y": -0.2},
        xaxis_rangemode="tozero",
    )
    return figure

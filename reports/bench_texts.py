"""What `paring bench` prints: for people, and as JUnit XML for machines that run tests."""

from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from ..profilers.history import Session
from ..profilers.verdicts import Judgement, Verdict
from .bench_front import called
from .benched import Benched
from .remeasure import Remeasured


def render_bench(benched: Benched, console: Console) -> str:
    """The new front, what is new about it, and the verdicts.

    Args:
        benched: the study on this machine.
        console: whose width and colours a table is drawn for.
    """
    with console.capture() as captured:
        console.print(_table(benched))
        for line in _lines(benched):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return captured.get()


def junit(benched: Benched) -> str:
    """One test case per plan and one for the machine: slower fails, what cannot be told is skipped."""
    judged = (benched.verdicts.machine, *benched.verdicts.plans)
    suite = ElementTree.Element(
        "testsuite",
        name=f"paring bench {benched.session.name}",
        tests=str(len(judged)),
        failures=str(len(benched.verdicts.regressions)),
        errors="0",
        skipped=str(sum(one.verdict == Verdict.CANNOT_TELL for one in judged)),
    )
    for one in judged:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"paring.{benched.session.study}", name=f"{one.label} {one.plan}".strip()
        )
        if one.verdict == Verdict.SLOWER:
            ElementTree.SubElement(case, "failure", message=_change(one)).text = one.reason
        elif one.verdict == Verdict.CANNOT_TELL:
            ElementTree.SubElement(case, "skipped", message=one.reason)
        else:
            ElementTree.SubElement(case, "system-out").text = f"{one.verdict}: {_change(one)}; {one.reason}"
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def where(session: Session) -> str:
    """A machine in words."""
    machine = session.machine
    name = machine.facts.get("name", machine.device)
    return f"{machine.device} {name}, {machine.cores} cores ({session.context.hardware})"


def _table(benched: Benched) -> Table:
    title = f"{benched.session.name} on {where(benched.session)}, {benched.session.runtime}, {benched.session.workload}"
    table = Table(title=title, title_justify="left")
    columns = ("", benched.session.metric, "drop", "ms", "ratio (95 %)", "searched", "verdict", "plan", "id")
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "verdict", "plan", "id") else "right", overflow="fold")
    verdicts = {one.plan: one.verdict.value for one in benched.verdicts.plans}
    on_front = {point.plan for point in benched.fresh.front.members}
    for one in sorted(benched.found, key=_ratio, reverse=True):
        mark = "->" if one.plan == benched.fresh.answer.plan else "*" if one.plan in on_front else ""
        table.add_row(mark, *_cells(one, benched), verdicts.get(one.plan.fingerprint, ""), *_named(one))
    return table


def _ratio(one: Remeasured) -> float:
    late = one.profile.latency
    assert late is not None
    return late.ratio


def _cells(one: Remeasured, benched: Benched) -> tuple[str, ...]:
    late, there = one.profile.latency, one.member.final.profile.latency
    assert late is not None
    unsure = "" if one.is_verified else "?"
    drop = benched.found[0].quality.value - one.quality.value
    milliseconds = late.ratio * benched.session.baseline.latency.seconds * 1e3
    return (
        f"{one.quality.value:.4f}{unsure}",
        f"{drop:+z.4f}",
        f"{milliseconds:.2f}",
        f"{late.ratio:.3f} ({late.ratio_low:.3f} to {late.ratio_high:.3f})",
        "-" if there is None else f"{there.ratio:.3f}",
    )


def _named(one: Remeasured) -> tuple[str, str]:
    return called(one.plan), one.plan.fingerprint[:8]


def _lines(benched: Benched) -> list[str]:
    fresh, verdicts = benched.fresh, benched.verdicts
    members = len(fresh.front.members)
    lines = [f"Front here (*): {members} plans; {len(fresh.left)} left, {len(fresh.came)} came."]
    lines += [f"  left: {called(move.plan)} [{move.plan.fingerprint[:8]}]: {move.reason}" for move in fresh.left]
    lines += [f"  came: {called(move.plan)} [{move.plan.fingerprint[:8]}]: {move.reason}" for move in fresh.came]
    lines.append(f"Deploy (->): {fresh.reason}.")
    if not verdicts.against:
        lines.append("Verdict: none, it was never measured in this context before.")
    else:
        changed = f"; changed since: {', '.join(verdicts.changed)}" if verdicts.changed else ""
        named = ", ".join(session.id[:8] for session in verdicts.against)
        lines.append(f"Verdict against the middle of {len(verdicts.against)} sessions ({named}){changed}:")
        lines += [f"  {one.verdict}: {one.label}: {_change(one)}; {one.reason}" for one in _telling(benched)]
        lines.append(f"  {len(verdicts.regressions)} regressions.")
    for there in benched.elsewhere:
        times = benched.session.baseline.latency.seconds / there.baseline.latency.seconds
        lines.append(f"Beside {where(there)}: the original takes x {times:.3f} here (a comparison, no regression).")
    return [*lines, *(f"Note: {note}." for note in benched.notes), f"Written to {benched.folder}."]


def _telling(benched: Benched) -> list[Judgement]:
    """The verdicts that say more than the table: the machine's, and all but same."""
    return [benched.verdicts.machine, *(one for one in benched.verdicts.plans if one.verdict != Verdict.SAME)]


def _change(one: Judgement) -> str:
    if one.change is None:
        return "nothing to compare with"
    interval = f" ({one.change.low:.3f} to {one.change.high:.3f})" if one.change.high != float("inf") else ""
    own = "" if one.own is None or not one.plan else f", its own time x {one.own:.3f}"
    return f"x {one.change.value:.3f}{interval}{own}"

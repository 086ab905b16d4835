"""`paring schedule`: measure studies again and again."""

import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import cli_options as given
from .cli_bench import HistoryFile

if TYPE_CHECKING:
    from .reports.schedule import Schedule, Schedules

schedule = typer.Typer(help="Measure studies again and again, and on new hardware.", no_args_is_help=True)

_LONGEST_SECONDS = 7200.0
_CALL_PARING = "from paring.cli import main; main()"


@schedule.command()
def add(
    source: Annotated[Path, typer.Argument(help="A run folder, or a bundle.", show_default=False)],
    cron: Annotated[str, typer.Option(help="When, such as '0 3 * * 1': Mondays at three, local time.")],
    on_new_hardware: Annotated[bool, typer.Option(help="Also at once on hardware the history has not seen.")] = False,
    device: Annotated[str | None, typer.Option(help="As for `paring bench`.")] = None,
    runtime: Annotated[str | None, typer.Option(help="As for `paring bench`.")] = None,
    workload: Annotated[str, typer.Option(help="As for `paring bench`.")] = "",
    data: Annotated[str | None, typer.Option(help="As for `paring bench`.")] = None,
    history: HistoryFile = None,
) -> None:
    """Keep a schedule; `paring schedule run` follows it, and `emit` writes it for other schedulers."""
    from .profilers import devices, runtimes
    from .reports.bench import carried_from
    from .reports.cron import Cron

    when = Cron.parse(cron)
    given.whole_fields(workload)
    if device is not None:
        devices.kind(device.partition(":")[0])
    if runtime is not None:
        runtimes.find(runtime)
    carried_from(source)
    asked = {"--device": device, "--runtime": runtime, "--workload": workload or None, "--data": data}
    arguments = [word for name, value in asked.items() if value is not None for word in (name, value)]
    now = time.time()
    made = _schedules(history).add(
        source.resolve(), when, on_new_hardware=on_new_hardware, arguments=arguments, now=now
    )
    typer.echo(f"{made.id}: {source}, next {_date(when.next(now))}.")


@schedule.command("list")
def show(history: HistoryFile = None) -> None:
    """List schedules: when they are next, and what became of them last."""
    kept, now = _schedules(history), time.time()
    for one in kept.all():
        events = kept.events(one)
        last = f"{_date(events[-1].at)} {events[-1].outcome}: {events[-1].reason}" if events else "never"
        new = ", on new hardware" if one.on_new_hardware else ""
        typer.echo(f"{one.id}  {one.cron.text}{new}  next {_date(one.cron.next(now))}  {one.source}  last: {last}")


@schedule.command()
def remove(name: Annotated[str, typer.Argument(help="Its id.")], history: HistoryFile = None) -> None:
    """Forget a schedule."""
    kept = _schedules(history)
    found = kept.named(name)
    kept.remove(found)
    typer.echo(f"{found.id} is removed.")


@schedule.command()
def run(
    once: Annotated[bool, typer.Option(help="Do what is due now, and end.")] = False, history: HistoryFile = None
) -> None:
    """Follow the schedules until interrupted: one benchmark at a time, none while the machine is busy."""
    from .profilers.history import History, default_path
    from .reports.bench import Asked, carried_from, is_known
    from .reports.scheduler import Scheduler, Surroundings

    path = history or default_path()

    def known(one: "Schedule") -> bool:
        asked = dict(zip(one.arguments[::2], one.arguments[1::2], strict=True))
        return is_known(carried_from(one.source), Asked(asked.get("--device"), asked.get("--runtime")), History(path))

    around = Surroundings(
        time.time,
        time.sleep,
        lambda one: _benchmark(one, path),
        _occupied,
        known,
        lambda what: typer.echo(f"{_date(time.time())} {what}", err=True),
    )
    # Whoever ends a service asks for it so; it is then ended like by a key, with what it started.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with given.interruptible():
            Scheduler(_schedules(history), around).run(once=once)
    finally:
        signal.signal(signal.SIGTERM, before)


@schedule.command()
def emit(
    form: Annotated[str, typer.Argument(help="systemd, cron, github or kubernetes.")],
    name: Annotated[str, typer.Option("--id", help="Of the schedule; all if not given.")] = "",
    image: Annotated[str | None, typer.Option(help="For kubernetes: a container image that has paring.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write files into this folder; else they are printed.")] = None,
    history: HistoryFile = None,
) -> None:
    """Write schedules for systemd timers, cron, GitHub Actions or Kubernetes."""
    from .profilers.history import default_path
    from .reports.schedule_emit import emit as files_of
    from .search.cache import replace_file, writing

    kept = _schedules(history)
    path = (history or default_path()).resolve()
    for one in [kept.named(name)] if name else kept.all():
        for file, text in files_of(one, form, program=_program(), history=path, image=image).items():
            if out is None:
                typer.echo(f"# {file}\n{text}")
                continue
            with writing(out):
                out.mkdir(parents=True, exist_ok=True)
                target = out / (f"{one.id}.{file}" if file == "crontab" else file)
                replace_file(target, text)
            typer.echo(target)


def _benchmark(one: "Schedule", history: Path) -> tuple[int, str]:
    """Runs `paring bench` in a process of its own, so that whatever becomes of it the scheduler goes on."""
    words = ["bench", str(one.source), "--history", str(history.resolve()), *one.arguments]
    with subprocess.Popen(
        [sys.executable, "-c", _CALL_PARING, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=_LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            _end(process)
            return 1, f"it took longer than {_LONGEST_SECONDS:.0f} s and was ended"
        except BaseException:
            _end(process)
            raise
    lines = [line for line in said.strip().splitlines() if line.strip()] or ["it said nothing"]
    told = [line for line in lines if line.startswith(("Deploy", "paring:"))] or lines
    return process.returncode, told[-1].strip()


def _end(process: "subprocess.Popen[str]") -> None:
    """Ends a benchmark and all it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _occupied() -> str | None:
    """Another benchmark, or other work."""
    from .errors import BusyError
    from .profilers.occupancy import alone, occupied

    try:
        with alone():
            return occupied(time.sleep)
    except BusyError:
        return "another benchmark is running on this machine"


def _schedules(history: Path | None) -> "Schedules":
    from .profilers.history import default_path
    from .reports.schedule import Schedules

    return Schedules(history or default_path())


def _program() -> str:
    """How paring is called here, wherever the caller's search path leads."""
    beside = Path(sys.executable).with_name("paring")
    return str(beside) if beside.exists() else "paring"


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from paring import cli, cli_schedule
from paring.profilers import occupancy
from paring.profilers.history import History
from paring.profilers.memory import Memory, MemoryMeter
from paring.profilers.occupancy import alone
from paring.profilers.timing import Effort
from paring.reports import remeasure
from paring.reports.cron import Cron
from paring.reports.schedule import Schedule
from paring.search.tasks.classification import Classification

Answer = tuple[int, str, str]
Command = Callable[..., Answer]


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    """What is measured is real, but means little."""
    effort = Effort(seconds=0.0, min_rounds=3, max_rounds=3, calls=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remeasure, "_EFFORT", replace(effort, min_loads=3, load_rounds=3))
        # A helper that measures memory takes seconds to start, and has tests of its own.
        patch.setattr(MemoryMeter, "measure", lambda *_: Memory(200_000_000, 100_000_000, 150_000_000))
        yield


@pytest.fixture(autouse=True)
def own_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(occupancy, "lock_file", lambda: tmp_path / "lock")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """The `paring` command in this process, with a history of its own."""

    def run(name: str, *arguments: object) -> Answer:
        own = [] if name == "bundle" else ["--history", tmp_path / "history.db"]
        monkeypatch.setattr(sys, "argv", ["paring", *map(str, (*name.split(), *arguments, *own))])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code is None or isinstance(ended.value.code, int)
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="module", name="carried")
def carried_fixture(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as the command makes it; not to be changed."""
    path = tmp_path_factory.mktemp("carried") / "study.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["paring", "bundle", str(finished_run), "--out", str(path), "--near", "1"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return path


def bench(command: Command, source: Path, tmp_path: Path, *options: object) -> Answer:
    return command("bench", source, "--plans", 2, "--seconds", 0.01, "--out", tmp_path / "out", *options)


def test_a_bundle_is_benchmarked_kept_and_shown(
    command: Command, carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("quality was judged")

    monkeypatch.setattr(Classification, "answer", never)
    verdicts = tmp_path / "verdicts.xml"
    code, out, err = bench(command, carried, tmp_path, "--junit", verdicts)
    assert (code, err) == (0, "")
    assert "Deploy (->)" in out
    assert ElementTree.parse(verdicts).getroot().get("failures") == "0"
    code, out, _ = bench(command, carried, tmp_path, "--format", "json", "--workload", "batch=2")
    assert code == 0
    found = json.loads(out)
    assert found["workload"]["batch"] == 2
    assert len(found["plans"]) == 3
    shown = {"csv": pd.read_csv, "json": pd.read_json}
    for form, read in shown.items():
        code, out, _ = command("history", "--format", form)
        assert code == 0
        (tmp_path / form).write_text(out, encoding="utf8")
        table = read(tmp_path / form)
        assert (table["source"] == "bench").sum() == 6
    code, out, _ = command("history", "--export", tmp_path / "all.parquet", "--plot", tmp_path / "all.html")
    assert code == 0
    assert len(pd.read_parquet(tmp_path / "all.parquet")) == len(table)
    assert "plotly" in (tmp_path / "all.html").read_text(encoding="utf8")
    assert "the original" in command("history")[1]
    assert len(command("history", "--plan", "nothing of the kind", "--format", "csv")[1].splitlines()) == 1
    code, out, _ = command("fleet", "--out", tmp_path / "fleet.html")
    assert (code, out) == (0, f"{tmp_path / 'fleet.html'}: 1 machines.\n")


def test_a_benchmark_on_a_machine_that_benchmarks_already_is_refused(
    command: Command, carried: Path, tmp_path: Path
) -> None:
    with alone():
        code, out, err = bench(command, carried, tmp_path)
    assert (code, out) == (2, "")
    assert "another benchmark is running" in err
    assert History(tmp_path / "history.db").sessions() == []


def test_a_busy_machine_is_skipped_if_asked(
    command: Command, carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occupancy, "occupied", lambda wait: "other processes take 1.50 cores")
    code, out, err = bench(command, carried, tmp_path, "--skip-if-busy")
    assert (code, out) == (0, "")
    assert "nothing was measured: other processes take 1.50 cores" in err


def test_known_hardware_is_left_alone_if_asked(command: Command, carried: Path, tmp_path: Path) -> None:
    code, out, err = bench(command, carried, tmp_path, "--only-new-hardware")
    assert (code, out) == (0, "")
    assert "knows this study on this hardware" in err


def test_a_history_that_is_none_is_refused_before_anything_is_measured(
    command: Command, carried: Path, tmp_path: Path
) -> None:
    (tmp_path / "history.db").write_text("a diary of many words " * 100, encoding="utf8")
    code, out, err = bench(command, carried, tmp_path)
    assert (code, out) == (2, "")
    assert "no history of paring" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "nowhere.zip"], "there is no bundle"),
        (["bench", "x.zip", "--format", "xml"], "unknown format 'xml'"),
        (["bench", "x.zip", "--workload", "tokns=3"], "Did you mean 'tokens'?"),
        (["bench", "x.zip", "--workload", "tokens=many"], "whole numbers"),
        (["history", "--since", "yesterday"], "takes a day"),
        (["history", "--format", "xml"], "unknown format 'xml'"),
        (["history", "--merge", "nowhere.db"], "there is no history"),
        (["fleet"], "holds no benchmark yet"),
        (["fleet", "--stale-days", "0"], "--stale-days must be above 0"),
        (["schedule add", "nowhere.zip", "--cron", "0 3 * *"], "4 fields"),
        (["schedule add", "nowhere.zip", "--cron", "0 3 * * 1"], "there is no bundle"),
        (["schedule add", "nowhere.zip", "--cron", "0 3 * * 1", "--runtime", "tensorrt"], "unknown runtime"),
        (["schedule remove", "abc"], "names 0 schedules"),
        (["schedule emit", "launchd"], "unknown scheduler"),
    ],
)
def test_bad_input_is_one_message(command: Command, carried: Path, arguments: list[str], words: str) -> None:
    if arguments == ["schedule emit", "launchd"]:
        command("schedule add", carried, "--cron", "0 3 * * 1")
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("paring: ")
    assert len(err.splitlines()) == 1


def test_schedules_are_added_listed_emitted_run_and_removed(command: Command, carried: Path, tmp_path: Path) -> None:
    code, out, _ = command("schedule add", carried, "--cron", "0 0 1 1 *", "--on-new-hardware", "--workload", "batch=2")
    assert code == 0
    name = out.partition(":")[0]
    assert "0 0 1 1 *, on new hardware" in command("schedule list")[1]
    code, out, err = command("schedule run", "--once")
    assert (code, out, err) == (0, "", "")  # nothing is due, and the search knew this hardware
    code, out, _ = command("schedule emit", "systemd", "--out", tmp_path / "units")
    assert sorted(path.name for path in (tmp_path / "units").iterdir()) == [
        f"paring-{name}-new-hardware.service",
        f"paring-{name}.service",
        f"paring-{name}.timer",
    ]
    assert "--workload batch=2" in command("schedule emit", "cron")[1]
    assert command("schedule remove", name[:5])[1] == f"{name} is removed.\n"
    assert command("schedule list")[1] == ""


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], tuple[int, str]]:
    """What the scheduler hears of a benchmark whose process does this instead."""

    def run(script: str) -> tuple[int, str]:
        monkeypatch.setattr(cli_schedule, "_CALL_PARING", script)
        one = Schedule("0123abcd", tmp_path / "study.zip", Cron("0 3 * * 1"), False, ("--device", "cpu"), 0.0)
        return cli_schedule._benchmark(one, tmp_path / "history.db")

    return run


@pytest.mark.parametrize(
    ("script", "heard"),
    [
        (
            "print('noise'); print('Deploy (->): the pick stays.'); print('Written.')",
            (0, "Deploy (->): the pick stays."),
        ),
        ("import sys; print('Deploy (->): it changes.'); sys.exit(3)", (3, "Deploy (->): it changes.")),
        ("import sys; print('paring: no bundle', file=sys.stderr); sys.exit(2)", (2, "paring: no bundle")),
        ("import os; os.kill(os.getpid(), 9)", (-9, "it said nothing")),
        ("import sys; print(' '.join(sys.argv[1:3]))", (0, "bench {study}")),
    ],
)
def test_how_a_benchmark_ended_and_what_it_said_last(
    child: Callable[[str], tuple[int, str]], tmp_path: Path, script: str, heard: tuple[int, str]
) -> None:
    assert child(script) == (heard[0], heard[1].format(study=tmp_path / "study.zip"))


def test_a_benchmark_that_hangs_is_ended_with_all_it_started(
    child: Callable[[str], tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_gone: Callable[..., None],
) -> None:
    monkeypatch.setattr(cli_schedule, "_LONGEST_SECONDS", 2.0)
    told = tmp_path / "pid"
    script = (
        "import subprocess; one = subprocess.Popen(['sleep', '60']); open({0!r}, 'w').write(str(one.pid)); one.wait()"
    )
    assert child(script.format(str(told))) == (1, "it took longer than 2 s and was ended")
    assert_gone(int(told.read_text(encoding="utf8")), seconds=2.0)

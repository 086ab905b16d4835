"""`paring front` and `paring pick`: what is printed, for persons and for programs, and what is said of bad runs."""

import csv
import io
import json
import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from paring import cli
from paring.api import Study
from paring.reports.pick import pick_from
from paring.search.objectives import Limits
from paring.search.study import DATABASE, Record

Answer = tuple[int, str, str]
Command = Callable[..., Answer]
EVERY_QUESTION = [("front",), ("front", "--format", "csv"), ("front", "--format", "json")]
EVERY_QUESTION += [("pick",), ("pick", "--format", "json"), ("pick", "--policy", "knee", "--max", "size_mb=1")]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The `paring` command in this process: exit code, and all that anything here wrote on the two outputs."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["paring", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code is None or isinstance(ended.value.code, int)
        return ended.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `rich` takes for a terminal of 80 columns."""
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)


def assert_refused(answer: Answer, message: str) -> None:
    code, out, err = answer
    assert (code, out) == (2, ""), err
    assert err.startswith("paring: ") and err.count("\n") == 1 and "Traceback" not in err
    assert message in err


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_plot_that_fits(command: Command, finished_run: Path) -> None:
    code, out, err = command("front", finished_run)
    assert (code, err) == (0, "")
    seen = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert "o front  x original  @ pick" in seen and "latency of one request, ms" in seen
    assert max(map(len, seen.splitlines())) <= 80


def test_elsewhere_there_is_no_plot(command: Command, finished_run: Path) -> None:
    code, out, err = command("front", finished_run)
    assert (code, err) == (0, "")
    assert "original  @ pick" not in out and "\x1b" not in out


@pytest.mark.usefixtures("terminal")
def test_programs_get_nothing_but_what_they_asked_for(command: Command, finished_run: Path) -> None:
    front = Study(finished_run).whole_front
    code, out, err = command("front", finished_run, "--format", "json")
    assert (code, err, len(json.loads(out)["members"])) == (0, "", len(front.members))
    code, out, err = command("front", finished_run, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, err) == (0, "")
    assert [row["fingerprint"] for row in rows] == [point.plan.fingerprint for point in front.members]
    code, out, err = command("pick", finished_run, "--format", "json", "--max-drop", 0.5)
    assert (code, err, json.loads(out)["policy"]) == (0, "", "fastest")


def test_a_pick_tells_everything_to_programs(command: Command, finished_run: Path) -> None:
    front = Study(finished_run).whole_front
    pick = pick_from(front, Limits(max_drop=0.5), "best")
    code, out, err = command("pick", finished_run, "--max-drop", 0.5, "--policy", "best", "--format", "json")
    answer = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (code, err) == (0, "")
    assert (answer["policy"], answer["limits"], answer["is_final"]) == ("best", {"max_drop": 0.5}, True)
    assert answer["fingerprint"] == pick.point.plan.fingerprint
    assert [one["fingerprint"] for one in answer["runners_up"]] == [p.plan.fingerprint for p in pick.runners_up]
    assert answer["verdict"].startswith(("faster than", "NOT faster than", "the original"))
    assert (answer["next_step"] is None) is (pick.step is None)
    assert pick.splits is not None
    assert answer["splits"]["search"]["examples"] == 80 and answer["splits"]["test"]["examples"] == 60
    assert answer["splits"]["flattery"] == pick.splits.flattery
    assert (answer["splits"]["searched_among"], answer["splits"]["picked_among"]) == (8, len(front.points))


def test_a_pick_tells_everything_to_persons(command: Command, finished_run: Path) -> None:
    front = Study(finished_run).whole_front
    code, out, err = command("pick", finished_run, "--max-drop", 0.5)
    pick = pick_from(front, Limits(max_drop=0.5))
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[1] == f"It is {pick.reason}." and lines[2].startswith(
        ("It is faster", "It is NOT faster", "It is the")
    )
    assert sum(line.startswith("Next: ") for line in lines) == len(pick.runners_up)
    assert any(line.startswith(("The next 5 % of speed ", "Nothing on the front is 5 % faster")) for line in lines)
    if not pick.point.is_baseline:
        assert lines[-1].startswith("Searched among 8 candidates, accuracy was ")


def test_where_nothing_fits_programs_are_told_what_would(command: Command, finished_run: Path) -> None:
    code, out, err = command("pick", finished_run, "--max", "size_mb=0.000001", "--format", "json")
    answer = json.loads(out)
    assert (code, answer["plan"], answer["limits"]) == (2, None, {"size_bytes": pytest.approx(1.0)})
    smallest = min(point.measures.size_bytes for point in Study(finished_run).whole_front.points)
    assert answer["nearest"] == {"size_bytes": pytest.approx(smallest)}
    assert answer["relaxations"][0]["relaxed"] == ["size_bytes"]
    assert answer["relaxations"][0]["limits"] == {"size_bytes": smallest}
    assert err.count("\n") == 1 and "Relax size_mb from 1e-06 to " in err


def test_a_policy_that_is_none(command: Command, finished_run: Path) -> None:
    assert_refused(command("pick", finished_run, "--policy", "quickest"), "unknown policy 'quickest'; the legal values")


@pytest.mark.parametrize("question", EVERY_QUESTION, ids=" ".join)
def test_a_run_that_never_began(
    command: Command, finished_run: Path, tmp_path: Path, question: tuple[str, ...]
) -> None:
    verb, *options = question
    known = Record.open(finished_run)
    Record.create(tmp_path / "begun", known.settings, 4, known.study.sampler)
    assert_refused(command(verb, tmp_path / "begun", *options), "has numbers yet (trials: none was finished); go on")
    with sqlite3.connect(tmp_path / "begun" / DATABASE) as database:
        database.execute("delete from study_user_attributes")
    assert_refused(command(verb, tmp_path / "begun", *options), "was stopped before it began; start the same")


def test_every_place_of_damage_is_survived(command: Command, run_folder: Path) -> None:
    """Bytes anywhere in the database are noise: there is an answer, or one clear refusal."""
    whole = (run_folder / DATABASE).read_bytes()
    refused = 0
    for place in range(0, len(whole), max(1, len(whole) // 24)):
        (run_folder / DATABASE).write_bytes(whole[:place] + b"\xa5" * 512 + whole[place + 512 :])
        code, out, err = command("pick", run_folder, "--format", "json")
        if code == 0:
            json.loads(out)
        else:
            assert (code, out) == (2, ""), err
            assert err.startswith("paring: ") and err.count("\n") == 1, err
            assert "damaged" in err or "has numbers yet" in err, err
            refused += 1
    assert refused


@pytest.mark.parametrize("left", [0, 10, 0.3, 0.9])
def test_a_database_that_was_cut_off(command: Command, run_folder: Path, left: float) -> None:
    whole = (run_folder / DATABASE).read_bytes()
    (run_folder / DATABASE).write_bytes(whole[: int(left if left > 1 else left * len(whole))])
    for question in ("front", "pick", "report"):
        code, out, err = command(question, run_folder)
        assert (code, out) == (2, ""), err
        assert err.startswith("paring: ") and err.count("\n") == 1 and "damaged" in err


DAMAGES = {
    "a number that is none": ('"quality": 0.', '"quality": NaN, "was": 0.'),
    "quality that is no number": ('"value": 0.', '"value": NaN, "was": 0.'),
    "no latency": ('"ratio": ', '"no": '),
    "another schema": ('"schema": 2', '"schema": 99'),
    "no JSON": ("{", "<"),
    "another kind of thing": ('"measures": {', '"measures": 7, "was": {'),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("table", ["study_user_attributes", "trial_user_attributes"])
def test_numbers_that_are_none(command: Command, run_folder: Path, damage: str, table: str) -> None:
    old, new = DAMAGES[damage]
    with sqlite3.connect(run_folder / DATABASE) as database:
        changed = database.execute(
            f"update {table} set value_json = replace(value_json, ?, ?) where key <> 'settings' and value_json like ?",
            (old, new, f"%{old}%"),
        ).rowcount
    for question in EVERY_QUESTION[:-1]:
        code, out, err = command(question[0], run_folder, *question[1:])
        if changed:
            assert (code, out) == (2, ""), (question, err)
            assert err.startswith("paring: ") and err.count("\n") == 1 and "damaged" in err
        else:
            assert code == 0

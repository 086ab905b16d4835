import shlex
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from cronsim import CronSim

from paring.errors import SettingError
from paring.reports.cron import Cron
from paring.reports.schedule import Schedule
from paring.reports.schedule_emit import FORMS, command_of, emit

HISTORY = Path("/srv/paring/history.db")
PROGRAM = "/usr/bin/true"  # whatever it is, systemd wants it to be there


def schedule(text: str = "0 12 13 * 5", source: str = "/srv/studies/minilm.zip", *arguments: str) -> Schedule:
    return Schedule("0123abcd", Path(source), Cron.parse(text), True, arguments, 0.0)


def emitted(form: str, one: Schedule | None = None) -> dict[str, str]:
    return dict(emit(one or schedule(), form, program=PROGRAM, history=HISTORY, image="registry/paring:1"))


def words_of(line: str) -> list[str]:
    return shlex.split(line)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_measures_the_study_and_skips_a_busy_machine(form: str) -> None:
    text = "".join(emitted(form).values())
    assert "bench" in text
    assert "minilm.zip" in text
    assert "--skip-if-busy" in text
    assert "--history" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("source", ["/srv/studies/minilm.zip", '/srv/my "50 %" $tudies/a\\b.zip'])
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path, source: str) -> None:
    files = emitted("systemd", schedule("*/15 * * * *", source, "--workload", "threads=1"))
    assert len(files) == 3
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf8")
    for name in files:
        found = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", tmp_path / name], capture_output=True, text=True, check=False
        )
        complaints = [line for line in found.stderr.splitlines() if "paring-" in line]
        assert complaints == []


def test_the_units_say_when_and_what() -> None:
    files = emitted("systemd")
    timer, service = files["paring-0123abcd.timer"].splitlines(), files["paring-0123abcd.service"].splitlines()
    assert [line for line in timer if line.startswith("OnCalendar=")] == [
        "OnCalendar=*-*-13 12:00:00",
        "OnCalendar=Fri *-*-* 12:00:00",
    ]
    assert "Persistent=true" in timer
    command = next(line for line in service if line.startswith("ExecStart="))
    assert words_of(command.removeprefix("ExecStart=")) == command_of(schedule(), PROGRAM, HISTORY)
    at_start = files["paring-0123abcd-new-hardware.service"]
    assert "--only-new-hardware" in at_start
    assert "WantedBy=multi-user.target" in at_start


def test_cron_lines_are_times_and_commands() -> None:
    source = "/srv/my 50 % studies/it's.zip"
    lines = [line for line in emitted("cron", schedule("0 3 * * 7", source))["crontab"].splitlines() if line[0] != "#"]
    minute, hour, day, month, weekday, command = lines[0].split(" ", 5)
    CronSim(" ".join((minute, hour, day, month, weekday)), datetime(2026, 1, 1))
    assert "%" not in command.replace("\\%", "")  # cron would end the line there
    assert words_of(command.replace("\\%", "%")) == command_of(schedule("0 3 * * 7", source), PROGRAM, HISTORY)
    assert lines[1].startswith("@reboot ")
    assert lines[1].endswith("--only-new-hardware")


def test_a_workflow_of_github_is_valid_and_runs_on_a_machine_of_ones_own() -> None:
    source = '/srv/a: "b" #c.zip'
    (text,) = emitted("github", schedule("0 3 * * 1", source)).values()
    found = yaml.load(text, yaml.BaseLoader)  # in which `on` stays a word
    assert found["on"]["schedule"] == [{"cron": "0 3 * * 1"}]
    assert found["concurrency"]["cancel-in-progress"] == "false"
    job = found["jobs"]["bench"]
    assert "self-hosted" in job["runs-on"]
    words = words_of(job["steps"][0]["run"])
    assert words[: len(command_of(schedule(), PROGRAM, HISTORY))] == command_of(
        schedule("0 3 * * 1", source), PROGRAM, HISTORY
    )
    assert job["steps"][1]["with"]["path"] == words[words.index("--junit") + 1]


def test_a_cron_job_of_kubernetes_has_the_shape_of_one() -> None:
    (text,) = emitted("kubernetes", schedule("0 3 * * 1", "/srv/studies/a b.zip")).values()
    found = yaml.safe_load(text)
    assert (found["apiVersion"], found["kind"]) == ("batch/v1", "CronJob")
    assert found["metadata"]["name"] == "paring-0123abcd"
    spec = found["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("0 3 * * 1", "Forbid")
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["image"] == "registry/paring:1"
    assert container["command"] == ["paring"]
    assert container["args"][:4] == ["bench", "/data/a b.zip", "--history", "/data/history.db"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    (mount,) = container["volumeMounts"]
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]


def test_what_cannot_be_emitted_is_refused() -> None:
    with pytest.raises(SettingError, match="cron, github, kubernetes, systemd"):
        emit(schedule(), "launchd", program=PROGRAM, history=HISTORY)
    with pytest.raises(SettingError, match="--image"):
        emit(schedule(), "kubernetes", program=PROGRAM, history=HISTORY)

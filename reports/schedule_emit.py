"""A schedule for who already runs things on time: systemd, cron, GitHub Actions, Kubernetes."""

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from ..errors import SettingError
from .schedule import Schedule

# Where a container finds what the volume holds.
_MOUNTED = PurePosixPath("/data")
_CLAIM = "paring-data"
Files = Mapping[str, str]


def emit(schedule: Schedule, form: str, *, program: str, history: Path, image: str | None = None) -> Files:
    """The files that make another scheduler measure a study.

    Args:
        schedule: what and when.
        form: one of `FORMS`.
        program: how `paring` is called on this machine.
        history: where measurements are kept on this machine.
        image: for kubernetes, a container image that has paring.

    Returns:
        Name of a file -> its text.

    Raises:
        SettingError: if there is no such form, or one needs an image and has none.
    """
    if form not in FORMS:
        raise SettingError.unknown("scheduler to emit for", form, FORMS)
    if form != "kubernetes":
        return _WRITERS[form](schedule, program, history)
    if image is None:
        raise SettingError("a job of Kubernetes runs a container; give --image NAME of one that has paring.")
    return _kubernetes(schedule, image)


def command_of(schedule: Schedule, program: str, history: Path, source: str | None = None) -> list[str]:
    """The words of the command that measures a schedule's study, unless the machine is busy.

    Args:
        schedule: what to measure.
        program: how `paring` is called.
        history: where measurements are kept.
        source: where the study is, if not where the schedule says.
    """
    where = ["bench", source or str(schedule.source), "--history", str(history)]
    return [program, *where, *schedule.arguments, "--skip-if-busy", "--wait", "3600"]


def _systemd(schedule: Schedule, program: str, history: Path) -> Files:
    """A service, its timer, and where wanted a service that looks for new hardware at every start."""
    name, command = f"paring-{schedule.id}", command_of(schedule, program, history)
    calendar = "".join(f"OnCalendar={line}\n" for line in schedule.cron.on_calendar())
    files = {
        f"{name}.service": _service(f"Measure {schedule.source.name} with paring", command),
        f"{name}.timer": (
            f"[Unit]\nDescription=When to measure {_plain(schedule.source.name)} with paring\n\n"
            f"[Timer]\n{calendar}# A time that was missed is caught up once.\nPersistent=true\nAccuracySec=1s\n\n"
            "[Install]\nWantedBy=timers.target\n"
        ),
    }
    if schedule.on_new_hardware:
        at_start = _service(f"Measure {schedule.source.name} on new hardware", [*command, "--only-new-hardware"])
        files[f"{name}-new-hardware.service"] = f"{at_start}\n[Install]\nWantedBy=multi-user.target\n"
    return files


def _service(title: str, command: list[str]) -> str:
    # systemd reads % and $ in a command as its own; a regression (exit code 3) was measured well.
    words = " ".join(_quoted(word) for word in command)
    return f"[Unit]\nDescription={_plain(title)}\n\n[Service]\nType=oneshot\nExecStart={words}\nSuccessExitStatus=3\n"


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if set(escaped) & set(" \t'\"\\;") or not escaped else escaped


def _plain(text: str) -> str:
    return text.replace("%", "%%").replace("\n", " ")


def _cron(schedule: Schedule, program: str, history: Path) -> Files:
    """Lines for `crontab -e`; cron reads % as the end of a line."""
    command = command_of(schedule, program, history)
    lines = [f"# paring schedule {schedule.id}", f"{schedule.cron.text} {_for_cron(command)}"]
    if schedule.on_new_hardware:
        lines.append(f"@reboot {_for_cron([*command, '--only-new-hardware'])}")
    return {"crontab": "\n".join(lines) + "\n"}


def _for_cron(command: list[str]) -> str:
    return shlex.join(command).replace("%", "\\%")


def _github(schedule: Schedule, program: str, history: Path) -> Files:
    """A workflow for a runner of one's own: on rented ones the machine is another every time."""
    command = command_of(schedule, program, history)
    junit = "paring-verdicts.xml"
    text = f"""# Times are UTC on GitHub. The runner is one of your own, where the study and the history lie.
name: paring {schedule.id}
on:
  schedule:
    - cron: {json.dumps(schedule.cron.text)}
  workflow_dispatch:
concurrency:
  group: paring-bench
  cancel-in-progress: false
jobs:
  bench:
    runs-on: [self-hosted]
    timeout-minutes: 120
    steps:
      - name: Measure, and fail where a plan became slower
        run: {json.dumps(shlex.join([*command, "--junit", junit]))}
      - name: Keep the verdicts
        if: always()
        uses: actions/upload-artifact@v4
        with:
          name: paring-verdicts
          path: {junit}
          if-no-files-found: ignore
"""
    return {f"paring-{schedule.id}.yml": text}


def _kubernetes(schedule: Schedule, image: str) -> Files:
    """A CronJob; study and history lie on a volume."""
    arguments = command_of(schedule, "paring", Path(_MOUNTED / "history.db"), str(_MOUNTED / schedule.source.name))
    size = '{cpu: "2", memory: 4Gi}'
    text = f"""# Put {schedule.source.name} on the volume {_CLAIM}; set cores and memory to what will serve.
apiVersion: batch/v1
kind: CronJob
metadata:
  name: paring-{schedule.id}
spec:
  schedule: {json.dumps(schedule.cron.text)}
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  jobTemplate:
    spec:
      backoffLimit: 0
      activeDeadlineSeconds: 7200
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: paring
              image: {json.dumps(image)}
              command: {json.dumps(arguments[:1])}
              args: {json.dumps(arguments[1:])}
              resources:  # requests equal limits, so that no neighbour shares cores where whole ones are granted
                requests: {size}
                limits: {size}
              volumeMounts:
                - name: data
                  mountPath: {_MOUNTED}
          volumes:
            - name: data
              persistentVolumeClaim:
                claimName: {_CLAIM}
"""
    return {f"paring-{schedule.id}.yaml": text}


_WRITERS: Mapping[str, Callable[[Schedule, str, Path], Files]] = {
    "systemd": _systemd,
    "cron": _cron,
    "github": _github,
}
FORMS = (*_WRITERS, "kubernetes")

"""Twenty kills at random moments: nothing judged is lost, and the final front is that of an undisturbed run.

    python benchmarks/kills.py [--model MODEL --data DATA] [--kills 20] [--cluster] [--prepared LAYERS]

Without a model, that of `paring demo` is trained first. The search covers a whole space (tilings of the layers, and how
many of them go), because random numbers of a run that goes on are not those it began with: what both runs end with is
then the same only if nothing was lost, however often one of them was cut off. Modular layers are trained in the run, so
kills hit their training too, unless `--prepared` gives them. A kill (SIGKILL) comes after a random time, drawn so that
all of them together leave the last part of the search to a command that nobody kills; one in five comes while the
command is still starting.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import keep

from paring.demo import make_data, make_model
from paring.errors import ParingError
from paring.search.progress import Silent
from paring.search.study import Record
from paring.search.trial import State

_COMMAND = [sys.executable, "-c", "from paring.cli import main; main()", "search"]
_SPACE = [
    "--tokens",
    "16",
    "--max-tokens",
    "64",
    "--axes",
    "assembly,depth",
    "--objectives",
    "quality,size",
    "--sampler",
    "random",
]
_SHARE_WHILE_STARTING = 0.2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--modular-steps", type=int, default=60)
    parser.add_argument("--prepared", help="modular layers of `paring prepare`, so that kills hit the judging")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster", action="store_true", help="judge on two workers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paring-kills-") as place:
        model, data = arguments.model, arguments.data
        if model is None:
            model, data = str(Path(place) / "model"), str(Path(place) / "data")
            make_model(make_data(Path(data)), Path(model), Silent())
        asked = [model, "--data", data, *_SPACE, "--limit", str(arguments.limit), "--trials", str(arguments.trials)]
        if arguments.prepared is None:
            asked += ["--modular-steps", str(arguments.modular_steps)]
        else:
            asked += ["--prepared", str(Path(arguments.prepared).resolve())]
        asked += ["--threads", "1"]
        asked += ["--cluster", "local", "--workers", "2"] if arguments.cluster else []
        rows, facts = _compared(asked, Path(place), arguments.kills, random.Random(arguments.seed))
    name = ("kills_cluster" if arguments.cluster else "kills") + ("_judging" if arguments.prepared else "")
    # Without the places of model, data and layers, which are of this machine.
    keep(name, rows, model=Path(model).name, command=[word for word in asked if "/" not in word], **facts)


def _compared(
    asked: list[str], place: Path, kills: int, draw: random.Random
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    started = time.monotonic()
    undisturbed = _run(asked, place / "undisturbed")
    assert undisturbed == 0
    whole = time.monotonic() - started
    started = time.monotonic()
    assert _run(asked, place / "undisturbed") == 0  # has nothing left to do but start
    starting = time.monotonic() - started
    # So much of the search is done between two kills, on average.
    stretch = 0.8 * max(1.0, whole - starting) / max(1, round(kills * (1 - _SHARE_WHILE_STARTING)))
    rows, known = [], dict[str, float]()
    out = place / "killed"
    for number in range(1, kills + 1):
        early = draw.random() < _SHARE_WHILE_STARTING
        seconds = draw.uniform(0.5, starting) if early else starting + draw.uniform(0, 2 * stretch)
        code = _run(asked, out, seconds)
        found = _qualities(out)
        lost = sum(found.get(plan) != quality for plan, quality in known.items())
        known |= found
        rows.append({"kill": number, "after_s": seconds, "ended": _word(code), "judged": len(found), "lost": lost})
    final = _run(asked, out)
    found = _qualities(out)
    lost = sum(found.get(plan) != quality for plan, quality in known.items())
    record, other = Record.open(out), Record.open(place / "undisturbed")
    rows.append({"kill": 0, "after_s": 0.0, "ended": _word(final), "judged": len(found), "lost": lost})
    facts = {
        "undisturbed_seconds": whole,
        "starting_seconds": starting,
        "kills": sum(row["ended"] == "killed" for row in rows),
        "lost": sum(row["lost"] for row in rows),
        "plans_undisturbed": len(other.judged()),
        "plans_killed": len(record.judged()),
        "qualities_equal": _qualities(out) == _qualities(place / "undisturbed"),
        "front_equal": _front(record) == _front(other),
        "front": len(_front(other)),
        "interrupted_trials": sum(trial.state == State.INTERRUPTED for trial in record.trials()),
        "failed_trials": sum(trial.state in (State.FAILED, State.OUT_OF_MEMORY) for trial in record.trials()),
    }
    return rows, facts


def _run(asked: list[str], out: Path, seconds: float | None = None) -> int:
    """The exit code of the command; killed after so many seconds, if it still runs, with all that it started."""
    process = subprocess.Popen(
        [*_COMMAND, *asked, "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        return process.wait()


def _word(code: int) -> str:
    return {0: "done", -signal.SIGKILL: "killed"}.get(code, f"exit code {code}")


def _qualities(out: Path) -> dict[str, float]:
    """Plan -> quality of all that was judged; none where the run was killed before it had a database."""
    try:
        judged = Record.open(out).judged()
    except ParingError:
        return {}
    return {name: trial.quality.value for name, trial in judged.items() if trial.quality is not None}


def _front(record: Record) -> dict[str, tuple[float, float]]:
    """Plan -> quality on the test split and bytes, of the members that were searched for."""
    best = {trial.plan.fingerprint for trial in record.best() if trial.plan is not None}
    return {
        final.plan.fingerprint: (final.quality.value, final.measures.size_bytes)
        for final in record.finals()
        if final.plan.fingerprint in best
    }


if __name__ == "__main__":
    main()

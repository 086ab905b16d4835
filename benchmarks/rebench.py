"""A finished study on other machines: how long it takes, whether the pick changes, and what verdicts are worth.

    python benchmarks/rebench.py --run RUN --work FOLDER [--plans 12] [--repeats 30] [--planted 5] [--minutes 3]
                                 [--machines torch:1,torch:2,openvino:1,onnxruntime:1] [--parts machines,unchanged]

- *machines*: the bundle of the run, measured by other runtimes and with other numbers of threads, as on a machine that
  is not the search's: seconds, plans judged again, who left the front and came to it, whether the pick changes.
- *unchanged*: the same benchmark again and again, each in a process of its own and judged against those before.
  To fit many into an hour it has two plans beside the original, not twelve; the verdicts are those of `paring bench`.
  The table judges them again, by the code as it is now.
- *planted*: the same, where one of the two plans does 5 % more work (products of matrices, after every request). Each
  is judged, when it is measured, against the unchanged sessions there are by then, in a copy of their history.

Everything is `paring bench` run as a command. What is measured is kept in FOLDER as it comes: after `--minutes` the
script ends, and the same command goes on, so that a shared machine need not be kept for long.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from results import keep

from paring.cli import main as paring
from paring.profilers import devices, runtimes
from paring.profilers.history import History
from paring.profilers.runtimes import Executable
from paring.profilers.scatter import disturbance_of
from paring.profilers.timing import wall_clock
from paring.profilers.verdicts import verdicts_on
from paring.profilers.workload import Workload
from paring.reports.bench import carried_from
from paring.reports.bench_front import picked_where_searched
from paring.reports.benched import verdict_row
from paring.spaces import artefact

MORE = 0.05
PARTS = ("machines", "unchanged", "planted")
_FEW = 2  # plans of the parts that are repeated
_PAIRS = 40


def main() -> None:
    if "--plant" in sys.argv:
        plant(*sys.argv[sys.argv.index("--plant") + 1 :])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--plans", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--planted", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--machines", default="torch:1,torch:2,openvino:1,onnxruntime:1")
    parser.add_argument("--parts", default=",".join(PARTS))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * given.minutes
    bundle = given.work / "study.zip"
    if not bundle.exists():
        command("bundle", given.run, "--out", bundle)
    wanted = [one for one in sessions(given) if one["part"] in given.parts.split(",")]
    known = {one["name"] for one in measured(given.work)}
    longest = 0.0
    for one in wanted:
        if one["name"] in known:
            continue
        if time.monotonic() + longest > until:
            print(f"{one['name']} and those after it are still to come: run the same command again", file=sys.stderr)
            return
        started = time.monotonic()
        measure(one, bundle, given)
        longest = max(longest, time.monotonic() - started)
    report(given)


def sessions(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything to measure, in order."""
    found: list[dict[str, Any]] = []
    for machine in given.machines.split(","):
        runtime, _, threads = machine.partition(":")
        found.append({"part": "machines", "name": f"machine {machine}", "runtime": runtime, "threads": threads})
    found += [{"part": "unchanged", "name": f"unchanged {number}"} for number in range(given.repeats + 1)]
    return [*found, *({"part": "planted", "name": f"planted {number}"} for number in range(given.planted))]


def measure(one: dict[str, Any], bundle: Path, given: argparse.Namespace) -> None:
    """One session; what it says is added to the file of all of them."""
    history = given.work / ("machines.db" if one["part"] == "machines" else "repeated.db")
    if one["part"] == "planted":
        copy = given.work / "planted.db"
        for path in given.work.glob("planted.db*"):
            path.unlink()
        shutil.copy(history, copy)
        history = copy
    asked: list[object] = ["--plans", _FEW if one["part"] != "machines" else given.plans, "--seconds", given.seconds]
    if one["part"] == "machines":
        asked += ["--runtime", one["runtime"], "--workload", f"threads={one['threads']}"]
    else:
        asked += ["--workload", "threads=1"]
    words = ["bench", bundle, "--history", history, "--out", given.work / "fronts" / one["name"], "--format", "json"]
    started = time.monotonic()
    before = [__file__, "--plant"] if one["part"] == "planted" else []
    found = json.loads(command(*words, *asked, before=before))
    row = {**one, "wall_seconds": time.monotonic() - started, "found": found}
    with (given.work / "sessions.jsonl").open("a", encoding="utf8") as file:
        file.write(json.dumps(row) + "\n")
    print(
        one["name"], f"{row['wall_seconds']:.1f} s,", found["regressions"], "regressions;", found["reason"], flush=True
    )


def measured(work: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    path = work / "sessions.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()] if path.exists() else []


def command(*arguments: object, before: list[str] | None = None) -> str:
    """Runs paring as a user does; 3 is a verdict, not a failure."""
    program = [sys.executable, *before] if before else [sys.executable, "-c", "from paring.cli import main; main()"]
    done = subprocess.run([*program, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):
        sys.exit(done.returncode)
    return done.stdout


def plant(*arguments: str) -> None:
    """`paring` with these arguments, where the slowest plan of the bundle does more work than it should."""
    carried = carried_from(Path(arguments[1]))
    carried = carried.thinned(_FEW, keep=picked_where_searched(carried).plan)
    victim = max(carried.members[1:], key=lambda member: member.final.profile.latency.ratio).plan
    with carried.model(victim) as folder:
        model, _ = artefact.load(folder)
    workload = Workload.from_json({**carried.workload.to_json(), "threads": 1})
    executable = runtimes.find(carried.identity["runtime"]).load(model, devices.find("cpu"), threads=1)
    rows = calibrated(executable, workload.inputs(model.config))
    left, right, load = torch.ones(rows, 384), torch.ones(384, 384), artefact.load

    def more(*_: object) -> None:
        torch.mm(left, right)

    def loaded(folder: Path) -> Any:
        model, plan = load(folder)
        if plan == victim:
            model.register_forward_hook(more)
        return model, plan

    artefact.load = loaded
    sys.argv = ["paring", *arguments]
    paring()


def calibrated(executable: Executable, inputs: Any) -> int:
    """How many rows of extra products are so much of a request; both times are of one thread, in turn."""
    rows, right = 256, torch.ones(384, 384)
    for _ in range(6):
        left, shares = torch.ones(rows, 384), []
        for _ in range(_PAIRS):
            started = wall_clock()
            executable(inputs)
            between = wall_clock()
            torch.mm(left, right)
            shares.append((wall_clock() - between) / (between - started))
        rows = max(1, round(rows * MORE / median(shares)))
    return rows


def report(given: argparse.Namespace) -> None:
    """Writes what was found."""
    every = measured(given.work)
    rows = [machine_row(one) for one in every if one["part"] == "machines"]
    unchanged = judged_again(given.work / "repeated.db")
    planted = [one["found"] for one in every if one["part"] == "planted"]
    keep(
        "rebench",
        rows,
        picks_changed=f"{sum(bool(row['pick changes']) for row in rows)} of {len(rows)}",
        unchanged_sessions=len(unchanged),
        unchanged_regressions=sum(found["regressions"] for found in unchanged),
        unchanged_verdicts=counted(unchanged),
        unchanged_largest_change=max(
            (abs(v["change"] - 1) for found in unchanged for v in of_plans(found)), default=0.0
        ),
        unchanged_others_cores=[found["others_cores"] for found in unchanged],
        unchanged_seconds=[one["wall_seconds"] for one in every if one["part"] == "unchanged"],
        planted_sessions=len(planted),
        planted_found=sum(any(v["verdict"] == "slower" for v in of_plans(found)) for found in planted),
        planted_verdicts=[of_plans(found) for found in planted],
        unchanged=[of_plans(found) for found in unchanged],
        machines=[one["found"] for one in every if one["part"] == "machines"],
    )


def judged_again(path: Path) -> list[dict[str, Any]]:
    """The unchanged sessions as the code judges them now, each against those before it."""
    kept = [session for session in History(path).sessions() if session.source == "bench"] if path.exists() else []
    found = []
    for number, session in enumerate(kept[1:], 1):
        verdicts = verdicts_on(session, kept[:number])
        rows = [verdict_row(one) for one in (verdicts.machine, *verdicts.plans)]
        others = disturbance_of(session)
        found.append({"verdicts": rows, "regressions": len(verdicts.regressions), "others_cores": others})
    return found


def machine_row(one: dict[str, Any]) -> dict[str, Any]:
    """One machine of the table."""
    found = one["found"]
    return {
        "machine": one["name"].removeprefix("machine "),
        "plans": len(found["plans"]) - 1,
        "seconds": one["wall_seconds"],
        "judged again": sum(plan["was_judged"] for plan in found["plans"]),
        "answers differ": sum(not plan["is_verified"] for plan in found["plans"]),
        "largest difference": max(plan["answers_differ_by"] for plan in found["plans"]),
        "left": len(found["left"]),
        "came": len(found["came"]),
        "pick changes": found["pick_changes"],
        "why": found["reason"],
    }


def of_plans(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Verdicts on plans, without the machine's."""
    return [verdict for verdict in found["verdicts"] if verdict["plan"]]


def counted(every: list[dict[str, Any]]) -> dict[str, int]:
    """How often each verdict was given, on plans and on the machine."""
    words = [f"{'plan' if v['plan'] else 'machine'}: {v['verdict']}" for found in every for v in found["verdicts"]]
    return {word: words.count(word) for word in sorted(set(words))}


if __name__ == "__main__":
    main()

"""The main job on a real model: how long it takes, what it finds, and whether every exported member is what it was.

    python benchmarks/whole_search.py --model MODEL --data DATA [--out RUN] [--trials 60]

Runs `paring search` over depth and bits, then exports every member of the front on its own, reloads the files, judges
and times them again beside the original, and compares: quality must be equal, and the two intervals of the latency
ratio, from two separate sessions, should overlap.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import keep

from paring.api import Study
from paring.reports.export import export
from paring.reports.front_table import row_of


def command(*arguments: str) -> None:
    """Runs paring as a user does."""
    subprocess.run([sys.executable, "-c", "from paring.cli import main; main()", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trials", type=int, default=60)
    arguments = parser.parse_args()
    run = arguments.out or Path(tempfile.mkdtemp(prefix="paring-benchmark-")) / "run"
    started = time.monotonic()
    wanted = ["--axes", "depth,bits", "--trials", str(arguments.trials), "--out", str(run)]
    command("search", arguments.model, "--data", arguments.data, *wanted)
    minutes = (time.monotonic() - started) / 60
    study, rows = Study(run), []
    front = study.whole_front
    for point in front.members:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "deploy"
            again = export(study.record, point.plan, folder).final
        row = row_of(point, front.baseline)
        late, later = point.profile.latency, again.profile.latency
        assert late is not None
        assert later is not None
        rows.append(
            {
                "plan": row["plan"],
                "searched": row["search_quality"],
                "test": row["quality"],
                "test reloaded": again.quality.value,
                "ms": row["latency_ms"],
                "ratio": late.ratio,
                "low": late.ratio_low,
                "high": late.ratio_high,
                "ratio again": later.ratio,
                "intervals overlap": later.ratio_low <= late.ratio_high and late.ratio_low <= later.ratio_high,
                "MB peak": row["memory_mb"],
                "MB stored": row["size_mb"],
                "kernels": row["kernels"],
            }
        )
    keep(
        "whole_search",
        rows,
        trials=len(study.record.trials()),
        search_minutes=round(minutes, 2),
        hypervolume=front.hypervolume,
        baseline=row_of(front.baseline, front.baseline),
        qualities_equal=all(row["test"] == row["test reloaded"] for row in rows),
        latencies_agree=sum(bool(row["intervals overlap"]) for row in rows),
    )


if __name__ == "__main__":
    main()

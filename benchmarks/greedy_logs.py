"""Does `greedy_order` find the orders that the authors of Greedy-layer pruning published, from their own scores?

    python benchmarks/greedy_logs.py LOGS.json

LOGS.json holds one entry per search: `steps` (per greedy step the score of every layer tried) and `order`. The logs are
in the authors' repository, deepopinion/greedy-layer-pruning.
"""

import json
import sys
from pathlib import Path

from results import keep

from paring.search.greedy import greedy_order


def main() -> None:
    logs, rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf8")), []
    for name, log in logs.items():
        steps, depth = log["steps"], len(log["order"])

        def score(gone: tuple[int, ...], steps: list[dict[str, float]] = steps) -> float:
            return steps[len(gone) - 1][str(gone[-1])]

        found = greedy_order(len(steps[0]), score, depth, decimals=3, ties="high")
        rows.append({"search": name, "equal": list(found.order) == log["order"], "evaluations": found.evaluations})
    keep("greedy_logs", rows, equal=sum(row["equal"] for row in rows), searches=len(rows))


if __name__ == "__main__":
    main()

"""Where benchmarks put what they measured: one JSON file each, with the machine it was measured on."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from paring.profilers import devices
from paring.profilers.machine import Machine

FOLDER = Path(__file__).parent / "results"


def keep(name: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Prints the rows as a table and writes them, with the machine's fingerprint, to results/<name>.json."""
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    for fact, value in facts.items():
        if not isinstance(value, dict | list):  # those are for the file
            print(f"{fact}: {value}")
    write(name, rows, **facts)


def write(name: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Only writes them, which a long run does after every row."""
    device = devices.find("cpu")
    machine = Machine.here(device.name, device.facts(), {})
    FOLDER.mkdir(exist_ok=True)
    content = {"machine": {"fingerprint": machine.fingerprint, **machine.to_json()}, **facts, "rows": rows}
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")

import ast
import importlib
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import paring

ROOT = Path(paring.__file__).parent
HEAVY = {"torch", "transformers", "optuna", "numpy", "pandas", "plotly", "scipy", "sklearn"}
WATCHED = """
import json, os, signal, sys, threading, warnings

def state():
    handlers = [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())]
    return [dict(os.environ), os.getcwd(), sys.path, handlers, threading.active_count(), str(warnings.filters)]

before = state()
import {module}
print(json.dumps({{"modules": sorted(sys.modules), "unchanged": state() == before}}))
"""


def imported(module: str, folder: Path) -> dict[str, list[str] | bool]:
    """What a fresh process holds after an import."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(module=module)],
        capture_output=True, text=True, timeout=60, check=False, cwd=folder,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, list[str] | bool] = json.loads(done.stdout)
    return found


def test_the_public_names_are_sorted_and_complete() -> None:
    assert paring.__all__ == sorted(paring.__all__)
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf8"))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.asname for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {*typed, "__version__"} == set(paring.__all__)
    assert {"Study", "Task", "Workload", "load", "pare"} <= set(paring.__all__)


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("Study", "paring.api"),
        ("Task", "paring.search.tasks"),
        ("Workload", "paring.profilers.workload"),
        ("load", "paring.api"),
        ("pare", "paring.api"),
    ],
)
def test_a_public_name_is_the_object_of_its_home(name: str, home: str) -> None:
    assert getattr(paring, name) is getattr(importlib.import_module(home), name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'paring' has no attribute 'prune'"):
        _ = paring.prune


def test_one_version_everywhere() -> None:
    assert paring.__version__ == version("paring")
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf8"), flags=re.MULTILINE)
    assert re.search(rf"(?<![\d.]){re.escape(paring.__version__)}(?![\d.])", headings[0])


@pytest.mark.parametrize("module", ["paring", "paring.errors", "paring.cli"])
def test_importing_does_nothing(tmp_path: Path, module: str) -> None:
    found = imported(module, tmp_path)
    modules = found["modules"]
    assert isinstance(modules, list) and module in modules
    assert not HEAVY & set(modules)
    assert found["unchanged"] is True
    assert list(tmp_path.iterdir()) == []

"""The rooms of the house are a total order, plug-ins stand alone, and importing does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import paring

ROOT = Path(paring.__file__).parent
ROOMS = ("spaces", "profilers", "search", "reports")
PLUGINS = ("spaces/axes", "profilers/devices", "profilers/runtimes", "search/tasks")
INSIDE = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
CLOCKS = {"perf_counter", "perf_counter_ns", "process_time", "process_time_ns"}


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Every relative import of a file, at any depth of its code, as parts of a path from the root of the package."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple(node.module.split(".") if node.module else ())
            yield from ((*base, alias.name) for alias in node.names)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_room_has_files() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in INSIDE} == set(ROOMS)


@pytest.mark.parametrize("path", INSIDE, ids=label)
def test_a_room_imports_only_from_rooms_to_its_left(path: Path) -> None:
    own = ROOMS.index(path.relative_to(ROOT).parts[0])
    assert {target[0] for target in imported(path)} <= {"errors", *ROOMS[: own + 1]}


def test_errors_import_no_room() -> None:
    assert list(imported(ROOT / "errors.py")) == []


@pytest.mark.parametrize("path", INSIDE, ids=label)
def test_rooms_import_each_other_relatively(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf8"))))
    absolute = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    absolute |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    assert not {name for name in absolute if name.split(".")[0] == "paring"}


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugins_never_import_each_other(folder: str) -> None:
    files = {path.stem: path for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"}
    assert files
    place = tuple(folder.split("/"))
    for name, path in files.items():
        siblings = {target[len(place)] for target in imported(path) if target[: len(place)] == place}
        assert not siblings & (set(files) - {name}), label(path)


def test_only_the_stopwatch_reads_the_clock() -> None:
    readers = set()
    for path in [*INSIDE, *ROOT.glob("*.py")]:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf8"))))
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        names |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
        if names & CLOCKS:
            readers.add(label(path))
    assert readers == {"profilers/timing.py"}


def test_importing_does_nothing() -> None:
    """Third-party libraries come first: what they do at import is theirs."""
    script = f"""
import importlib, os, threading
import numpy, optuna, pandas, plotly, psutil, scipy.stats, sklearn.metrics, torch, typer, rich
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

def state():
    here = psutil.Process()
    random = torch.random.get_rng_state().tolist()
    return dict(os.environ), torch.get_num_threads(), threading.active_count(), len(here.children()), random

before = state()
import paring
for name in {[".".join(("paring", *path.relative_to(ROOT).with_suffix("").parts)) for path in INSIDE]}:
    importlib.import_module(name.removesuffix(".__init__"))
assert not torch.cuda.is_initialized(), "CUDA was initialised"
after = state()
assert after == before, [(a, b) for a, b in zip(after[:-1], before[:-1]) if a != b]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

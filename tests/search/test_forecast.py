"""The dry run: what it counts is right, what it refuses cannot be kept, and it leaves nothing behind."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paring.errors import BudgetError
from paring.profilers.workload import Workload
from paring.search import preparing_time
from paring.search.forecast import Forecast, Reach, forecast
from paring.search.objectives import Limits
from paring.search.removal import Greedy
from paring.search.settings import Settings
from paring.search.tasks import Task
from paring.search.workers import Cluster
from paring.spaces import artefact

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True, scope="module")
def _little_effort(little_effort: None) -> None:
    """Three rounds where a real search takes seconds."""


@pytest.fixture(scope="module")
def settings(model_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    out = tmp_path_factory.mktemp("none") / "run"
    task = Task("classification", str(data_folder))
    return Settings(str(model_folder), task, out, workload=Workload(1, 16, 1), trials=40)


@pytest.fixture(scope="module")
def found(settings: Settings) -> Forecast:
    limits = Limits.parse(["size_mb=1", "latency_ms=1000", "quality=0.5"])
    return forecast(replace(settings, objectives=("quality", "latency"), budget=limits))


def test_plans_and_evaluations_are_counted(found: Forecast, settings: Settings) -> None:
    per_layer, outside = 3**6, found.choices // (3 * 3**18)
    assert found.choices == 3 * per_layer**3 * outside
    # One slot that is empty makes the choices for its six Linears the same plan.
    distinct = outside * (per_layer**3 + per_layer**2 + per_layer)
    assert distinct / 2 < found.plans < distinct * 2
    pieces = {piece.what: piece for piece in found.preparing}
    assert pieces["greedy order of encoder"].times == 3 + 2
    assert pieces["calibrating inputs"].times == 3
    assert "learning what plans cost" not in pieces
    assert all(piece.seconds >= 0 for piece in found.preparing)
    assert found.trials == 40
    assert found.minutes * 60 > 40 * found.trial_seconds + found.front_seconds


def test_nothing_is_written(found: Forecast, settings: Settings) -> None:
    assert not settings.out.exists()


def test_limits_that_can_be_kept_are_told_from_those_that_cannot(found: Forecast, settings: Settings) -> None:
    size, latency = found.reaches
    assert (size.limit, size.asked, size.is_reachable) == ("size_mb", 1.0, True)
    original = artefact.stored_bytes(artefact.load_original(settings.model)) / 1e6
    assert 0.05 * original < size.best < 0.5 * original
    assert (latency.limit, latency.is_reachable) == ("latency_ms", True)
    found.refuse_unreachable()
    broken = replace(found, reaches=(Reach("size_mb", 0.5, 0.7), latency, Reach("memory_mb", 1, 300)))
    with pytest.raises(
        BudgetError, match=r"keeps size_mb=0\.5 \(the least is 0\.7\), memory_mb=1 \(the least is 300\):"
    ):
        broken.refuse_unreachable()


def test_small_spaces_are_counted_exactly_and_end_the_search(settings: Settings) -> None:
    small = forecast(replace(settings, axes=("depth",), objectives=("quality", "size")))
    assert (small.choices, small.plans, small.trials) == (3, 3, 3)
    assert [piece.what for piece in small.preparing] == ["greedy order of encoder"]
    assert small.reaches == ()


def test_minutes_and_workers_count(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(settings, axes=("depth",), objectives=("quality", "size"), trials=None, minutes=7.0)
    assert 7 < forecast(asked).minutes < 9
    assert forecast(replace(asked, cluster=Cluster("head:6379", workers=4))).minutes > 7


@pytest.mark.parametrize(
    ("workers", "scorer", "passes"),
    [
        # Of six layers, six candidates with five layers each, five with four, and so on.
        (None, "training_free", (6 * 5 + 5 * 4 + 4 * 3 + 3 * 2 + 2 * 1) / 6),
        (2, "training_free", (3 * 5 + 3 * 4 + 2 * 3 + 2 * 2 + 1 * 1) / 6),
        (64, "training_free", (5 + 4 + 3 + 2 + 1) / 6),
        (2, "fine_tune", (6 * 5 + 5 * 4 + 4 * 3 + 3 * 2 + 2 * 1) / 6),
    ],
)
def test_workers_share_the_candidates_of_a_step(
    settings: Settings, workers: int | None, scorer: str, passes: float
) -> None:
    cluster = None if workers is None else Cluster("head:6379", workers)
    asked: Any = replace(settings, cluster=cluster, greedy=Greedy(scorer))
    bench: Any = SimpleNamespace(
        anatomy=SimpleNamespace(stacks=(SimpleNamespace(name="encoder", n_layers=6),)), train=None
    )
    rehearsal: Any = SimpleNamespace(pass_seconds=10.0, building_seconds=0.0)
    (piece,) = preparing_time._greedy(asked, bench, rehearsal)
    assert piece.times == 6 + 5 + 4 + 3 + 2
    assert piece.seconds == pytest.approx(10 * passes)


def test_the_command_says_it_in_words_and_as_json(
    command: Command, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    asked = ("search", model_folder, "--data", data_folder, "--out", tmp_path / "run", "--dry-run", "--tokens", 16)
    code, out, said = command(*asked, "--axes", "depth", "--threads", 1, "--objectives", "quality,size")
    assert (code, said) == (0, "")
    assert out.startswith("Space      3 choices\n")
    code, out, said = command(
        *asked,
        "--axes",
        "depth",
        "--threads",
        1,
        "--budget",
        "memory_mb=5",
        "--budget",
        "size_mb=9",
        "--format",
        "json",
    )
    assert code == 2
    assert "no plan of this space keeps memory_mb=5 (the least is" in said
    answer = json.loads(out)
    assert [(one["limit"], one["is_reachable"]) for one in answer["reaches"]] == [
        ("size_mb", True),
        ("memory_mb", False),
    ]
    assert answer["choices"] == 3
    assert list(tmp_path.iterdir()) == []

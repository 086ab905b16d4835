"""Bits allocated under budgets: what they cost is what is stored, and what is not reachable is said."""

from pathlib import Path

import pytest

from paring.errors import BudgetError
from paring.profilers.workload import Workload
from paring.search import kind_latency, starts
from paring.search.opening import open_workbench
from paring.search.progress import Silent
from paring.search.settings import Settings
from paring.search.tasks import Task
from paring.search.workbench import LocalWorkbench
from paring.spaces.artefact import stored_bytes
from paring.spaces.palette import Palette
from paring.spaces.plan import Plan
from paring.spaces.precision import Precision
from paring.spaces.space import Space

MENU = Palette(
    tuple(map(Precision.parse, ("w8a8", "w4a8-64x64-pow2", "w4-1x16", "w3-1x16", "w2"))),
    tuple(map(Precision.parse, ("w8", "w4-1x16", "w3-1x16", "w2"))),
)


@pytest.fixture(scope="module")
def rich(model_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalWorkbench:
    """One for all, so that it rounds its weights and learns their harm once."""
    settings = Settings(
        str(model_folder),
        Task("classification", str(data_folder)),
        tmp_path_factory.mktemp("rich"),
        axes=("bits",),
        workload=Workload(tokens=8),
        palette=MENU,
    )
    return open_workbench(settings, Silent())[0]


def plan_of(bench: LocalWorkbench, bits: dict[str, str]) -> Plan:
    space = Space(bench.anatomy, ("bits",))
    return space.resolve({**space.identity(), **{f"bits.{part}": value for part, value in bits.items()}}, bench)


@pytest.mark.parametrize("ratio", [1.5, 2.0, 3.0, 5.0])
def test_the_model_is_as_small_as_it_was_asked_to_be(rich: LocalWorkbench, ratio: float) -> None:
    plan = plan_of(rich, starts.allocated_bits(rich, ratio))
    got = stored_bytes(rich.model) / stored_bytes(rich.build(plan))
    # No smaller than one part of this tiny model needs to be.
    assert ratio <= got <= ratio * 1.35


def test_costs_are_the_bytes_that_are_stored(rich: LocalWorkbench) -> None:
    options, rest = starts.byte_options(rich)
    for level in range(5):
        picked = {part: found[min(level, len(found) - 1)] for part, found in options.items()}
        plan = plan_of(rich, {part: option.name for part, option in picked.items()})
        assert sum(option.cost for option in picked.values()) + rest == stored_bytes(rich.build(plan))


def test_more_bytes_never_harm_more(rich: LocalWorkbench) -> None:
    options, _ = starts.byte_options(rich)

    def harm(ratio: float) -> float:
        bits = starts.allocated_bits(rich, ratio)
        return sum(next(o.harm for o in options[part] if o.name == name) for part, name in bits.items())

    harms = [harm(ratio) for ratio in (1.01, 2.0, 3.0, 4.0, 5.0)]
    assert harms == sorted(harms)
    assert harms[0] < harms[-1]


def test_what_cannot_be_reached_is_said(rich: LocalWorkbench) -> None:
    with pytest.raises(BudgetError, match=r"at most \d\.\d\d times smaller, wanted 50"):
        starts.allocated_bits(rich, 50)


SAVED = {"query": 3.0, "key": 2.0, "value": 1.0, "attention_output": 0.5, "ffn_in": -1.0, "ffn_out": 4.0}


def test_time_is_bought_where_it_harms_least(rich: LocalWorkbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precisions of every kind save what `SAVED` says in a request of 100 seconds."""
    ways = [str(precision) for precision in MENU.linears]
    saved = {f"encoder.{kind}": dict.fromkeys(ways, seconds) for kind, seconds in SAVED.items()}
    monkeypatch.setattr(starts, "seconds_saved", lambda *_, **__: (100.0, saved))
    layers = rich.anatomy.stack("encoder").n_layers
    most = layers * sum(seconds for seconds in SAVED.values() if seconds > 0)

    def won(bits: dict[str, str]) -> float:
        return sum(SAVED[part.split(".")[2]] for part, name in bits.items() if name != "float")

    for speed_up in (1.02, 1.1, 100 / (100 - most)):
        bits = starts.fast_bits(rich, Workload(tokens=8), speed_up, seed=0)
        assert 100 / (100 - won(bits)) >= speed_up * (1 - 1e-9)
        assert all(name == "float" for part, name in bits.items() if part.endswith("ffn_in"))
    with pytest.raises(BudgetError, match="times faster, wanted 2"):
        starts.fast_bits(rich, Workload(tokens=8), 2.0, seed=0)


def test_seconds_are_those_of_one_linear(rich: LocalWorkbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With scripted ratios: a kind that takes a tenth of the time off, over all its layers."""

    class Found:
        def __init__(self, name: str) -> None:
            self.seconds, self.ratio = 2.0, 0.9 if "query w8a8" in name else 1.0

    monkeypatch.setattr(kind_latency, "measure", lambda calls, **_: {name: Found(name) for name in calls})
    whole, saved = kind_latency.seconds_saved(rich, Workload(tokens=8), seed=0)
    assert whole == 2.0
    layers = rich.anatomy.stack("encoder").n_layers
    assert saved["encoder.query"]["w8a8"] == pytest.approx(0.2 / layers)
    assert saved["encoder.query"]["w2"] == saved["encoder.ffn_in"]["w8a8"] == 0

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

import paring
from paring.api import Study, pare
from paring.errors import BudgetError, ModelError, RunError, SettingError
from paring.reports.front_table import table_of
from paring.reports.page import REPORT
from paring.search.objectives import Limits
from paring.search.study import Record
from paring.search.tasks import Task
from paring.spaces import artefact
from paring.spaces.anatomy import anatomy_of
from paring.spaces.build import build
from paring.spaces.plan import Slot

pytestmark = pytest.mark.usefixtures("little_effort")


@pytest.fixture(scope="module")
def study(finished_run: Path) -> Study:
    return Study(finished_run)


def test_pare_goes_on_with_a_run_and_returns_it(run_folder: Path, odd_model_folder: Path, data_folder: Path) -> None:
    before = Record.open(run_folder).trials()
    (run_folder / REPORT).unlink()
    found = pare(
        odd_model_folder,
        Task("classification", str(data_folder)),
        out=run_folder,
        objectives=("size", "memory", "latency", "quality"),
        workload=paring.Workload(1, 16, 1),
        trials=9,
    )
    assert isinstance(found, Study) and found.record.folder == run_folder
    assert found.record.trials()[:8] == before and len(found.record.trials()) == 9
    for judged, frozen in zip(found.record.trials(), found.record.study.trials, strict=False):
        assert judged.number == frozen.number and judged.measures
        assert frozen.values == [judged.measures.minimised(name) for name in ("quality", "latency", "memory", "size")]
    assert (run_folder / REPORT).is_file()
    assert {one.plan for one in found.record.finals()} >= {one.plan for one in found.record.best()}


def test_the_front_is_a_table_of_non_dominated_members(study: Study) -> None:
    front = study.front()
    assert isinstance(front, pd.DataFrame)
    pd.testing.assert_frame_equal(front, table_of(study.whole_front))
    costs = front[["latency_ms", "memory_mb", "size_mb"]].assign(loss=-front["quality"]).to_numpy()
    for own in costs:
        assert not any((other <= own).all() and (other < own).any() for other in costs)
    assert front["latency_ms"].is_monotonic_decreasing
    assert set(front["split"]) == {"test"}
    assert front["fingerprint"].is_unique


def test_pick_by_name_is_pick_by_limits(study: Study) -> None:
    front = study.front()
    assert study.pick(drop=0.5).point.plan.fingerprint == front.iloc[-1]["fingerprint"]
    assert study.pick(drop=0.5) == study.pick(Limits(max_drop=0.5))
    slowest = front["latency_ms"].max()
    found = study.pick(latency_ms=slowest + 1e-6)
    assert found.point.quality.value == front["quality"].max()
    assert found.limits.latency_seconds == pytest.approx((slowest + 1e-6) / 1e3, rel=1e-12)
    fit = front[front["size_mb"] <= 0.09]
    best = fit[fit["quality"] == fit["quality"].max()]
    assert study.pick(size_mb=0.09).point.measures.latency_seconds == pytest.approx(best["latency_ms"].min() / 1e3)


def test_pick_refuses_what_it_cannot_read_or_keep(study: Study) -> None:
    with pytest.raises(SettingError, match=r"unknown limit 'latency'.*Did you mean 'latency_ms'"):
        study.pick(latency=3.0)
    with pytest.raises(SettingError, match="must be above 0"):
        study.pick(latency_ms=-3.0)
    with pytest.raises(BudgetError, match=r"size_mb=1e-09; .* is: size_mb=0\.0\d+"):
        study.pick(size_mb=1e-9)


def test_limits_given_in_both_ways_are_both_kept_or_refused(study: Study) -> None:
    try:
        found = study.pick(Limits(size_bytes=1.0), drop=0.5)
    except (BudgetError, SettingError, TypeError):
        return
    pytest.fail(f"the limit of one byte was silently left out: {found.limits}")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none is no run folder: it has no study\.db"):
        Study(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["with space", "what?", "what?mode=ro", "50%20", "#1", "c:d", "'quoted\"", "ünï 😀"])
def test_a_run_folder_may_have_any_name(finished_run: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / name))
    assert Study(folder).report() == folder / REPORT
    assert len(Study(str(folder)).record.trials()) == 8
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_load_gives_a_model_that_is_called_like_the_original(
    trained_bert: PreTrainedModel, request_inputs: Callable[..., dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    plan = anatomy_of(trained_bert).identity()
    shorter = plan.with_stack(type(plan.stacks[0])("encoder", (*plan.stacks[0].slots[:2], Slot(None))))
    pared = build(trained_bert, shorter, materials={})
    artefact.save(pared, shorter, tmp_path / "deploy", original=trained_bert.config)
    loaded = paring.load(str(tmp_path / "deploy"), threads=1)
    assert torch.get_num_threads() == 1
    assert isinstance(loaded, PreTrainedModel) and not loaded.training
    assert loaded.config.num_hidden_layers == 2
    inputs = request_inputs()
    assert torch.equal(loaded(**inputs).logits, pared(**inputs).logits)
    assert not torch.equal(loaded(**inputs).logits, trained_bert(**inputs).logits)


@pytest.mark.parametrize("wish", [{"threads": 0}, {"threads": -1}, {"device": "gpu"}])
def test_load_refuses_threads_and_devices_that_cannot_be(
    tmp_path: Path, odd_model_folder: Path, wish: dict[str, Any]
) -> None:
    model = artefact.load_original(str(odd_model_folder))
    artefact.save(model, anatomy_of(model).identity(), tmp_path / "deploy", original=model.config)
    with pytest.raises(SettingError, match=next(iter(wish))):
        paring.load(tmp_path / "deploy", **wish)


def test_load_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        paring.load(tmp_path / "none")

"""The main job on a model that writes, from the command line to an export."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import paring
from paring.api import Study
from paring.profilers.workload import Workload
from paring.search.settings import Settings
from paring.search.study import Record

pytestmark = pytest.mark.usefixtures("little_effort")
TRIALS = 5


def arguments(model: Path, data: Path, out: Path) -> list[object]:
    asked = ["search", model, "--task", "seq2seq", "--data", data, "--out", out, "--metric", "chrf", "--trials", TRIALS]
    served = ["--tokens", 8, "--threads", 1, "--generated-tokens", 6, "--max-new-tokens", 8]
    return [*asked, *served, "--objectives", "quality,latency,memory,size"]


@pytest.fixture(scope="module")
def run(
    writer_folder: Path,
    translations_folder: Path,
    little_effort: None,
    run_command: Callable[..., int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished search; not to be changed."""
    out = tmp_path_factory.mktemp("writing") / "run"
    assert run_command(*arguments(writer_folder, translations_folder, out)) == 0
    return out


def test_every_number_is_measured(run: Path) -> None:
    record = Record.open(run)
    assert [trial.state for trial in record.trials()] == ["judged"] * TRIALS
    assert Settings.of_run(record.settings, run).workload == Workload(1, 8, 1, generated=6)
    finals = record.finals()
    assert len(finals) > 1
    for final in finals:
        assert final.reloads_equal
        assert (final.quality.metric, final.quality.split, len(final.quality.outcomes)) == ("chrf", "test", 12)
        assert final.profile.workload == "batch 1, 8 tokens, 6 tokens generated, 1 threads"
        whole, first, further = final.profile.latency, final.profile.first_token, final.profile.seconds_per_token
        assert whole is not None and first is not None and further is not None and final.profile.memory is not None
        assert first.seconds < whole.seconds
        assert first.seconds + 5 * further == pytest.approx(whole.seconds, rel=0.5)
        assert (first.ratio == 1) == final.plan.is_identity
    assert any(final.quality.value > 0.02 for final in finals)


def test_layers_go_by_the_likelihood_of_the_target(run: Path) -> None:
    keys = {path.name for path in (run / "cache").glob("quality-*")}
    assert any(key.startswith("quality-log_likelihood-search-") for key in keys)
    assert not any(key.startswith("quality-log_likelihood-test-") for key in keys)


def test_the_front_shows_the_times_of_tokens(run: Path) -> None:
    front = Study(run).front()
    assert (front["first_token_ms"] < front["latency_ms"].max()).all()
    members = json.loads((run / "front.json").read_text(encoding="utf8"))["members"]
    assert [member["further_token_ms"] for member in members] == front["further_token_ms"].tolist()
    assert "8 tokens and 6 generated on" in " ".join((run / "report.html").read_text(encoding="utf8").split())


def test_the_same_search_goes_on(
    run: Path, writer_folder: Path, translations_folder: Path, run_command: Callable[..., int], tmp_path: Path
) -> None:
    out = shutil.copytree(run, tmp_path / "run")
    before, finals = Record.open(out).begun, Record.open(out).finals()
    assert run_command(*arguments(writer_folder, translations_folder, out)) == 0
    assert (Record.open(out).begun, Record.open(out).finals()) == (before, finals)


def test_an_export_writes_what_was_judged(
    run: Path,
    make_word_tokenizer: Callable[[], PreTrainedTokenizerFast],
    run_command: Callable[..., int],
    tmp_path: Path,
) -> None:
    out, target = shutil.copytree(run, tmp_path / "run"), tmp_path / "deploy"
    # Latencies of tiny models are alike, so any member may be the fastest.
    assert run_command("pick", out, "--max-drop", 1.0, "--export", target) == 0
    card = (target / "README.md").read_text(encoding="utf8")
    assert "| chrf, test split |" in card and "| first token, ms |" in card and "| every further token, ms |" in card
    measured = json.loads((target / "measured.json").read_text(encoding="utf8"))
    assert measured["exported"]["reloads_equal"]
    model = paring.load(target, threads=1)
    inputs = make_word_tokenizer()("w5 w6 w7", return_tensors="pt")
    with torch.inference_mode():
        written = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert written.shape[0] == 1 and 2 <= written.shape[1] <= 6

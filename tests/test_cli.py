import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForSequenceClassification,
)

import paring
from paring import api
from paring.api import Study
from paring.errors import SearchError, StorageError
from paring.profilers import runtimes
from paring.profilers.workload import Workload
from paring.reports.page import REPORT
from paring.search.judge import Judge
from paring.search.settings import Settings
from paring.search.study import DATABASE, Record
from paring.search.tasks import Task
from paring.spaces.plan import Plan

pytestmark = pytest.mark.usefixtures("little_effort")

Answer = tuple[int, str, str]
Command = Callable[..., Answer]

ALL = "quality,latency,memory,size"


@pytest.fixture
def search(command: Command, odd_model_folder: Path, data_folder: Path, tmp_path: Path) -> Command:
    """`paring search` on the tiny model, with more options or other ones; cheap unless asked otherwise."""

    def run(
        *options: object, model: Path = odd_model_folder, data: Path = data_folder, out: Path | None = None
    ) -> Answer:
        base = ["--data", data, "--out", out or tmp_path / "new", "--tokens", 16, "--threads", 1]
        cheap = ["--axes", "depth", "--objectives", "quality,size", "--trials", 2]
        return command("search", model, *base, *cheap, *options)

    return run


def shell(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, cut off from the network."""
    return subprocess.run(
        [Path(sys.executable).with_name("paring"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def assert_refused(answer: Answer, message: str) -> None:
    """Exit code 2, nothing on standard output and one message on standard error."""
    code, out, err = answer
    assert (code, out) == (2, ""), err
    assert err.startswith("paring: ") and err.count("\n") == 1 and "Traceback" not in err
    assert re.search(message, err), err


def again(run: Path, model: Path, data: Path, *options: object) -> list[object]:
    """The arguments of the search that made the finished run."""
    base = ["search", model, "--data", data, "--out", run, "--tokens", 16, "--threads", 1, "--trials", 8]
    return [*base, "--objectives", ALL, *options]


def test_search_says_the_answer_and_where_the_report_is(search: Command, tmp_path: Path) -> None:
    code, out, err = search()
    assert (code, err) == (0, "")
    assert "Pareto front, accuracy on the test split" in out
    study = Study(tmp_path / "new")
    pick = study.pick()
    assert len(study.record.trials()) == 2
    plan = "the original" if pick.point.is_baseline else str(pick.point.plan)
    assert f"Deploy: {plan} | accuracy {pick.point.quality.value:.4f} | " in out
    assert f"It is {pick.reason}.\n" in out
    assert out.endswith(f"Report: {tmp_path / 'new' / REPORT}\n")
    assert (tmp_path / "new" / REPORT).stat().st_size > 1_000_000


def test_the_same_search_again_says_the_same_and_judges_nothing(
    command: Command, run_folder: Path, odd_model_folder: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, begun, finals = (
        command("front", run_folder),
        Record.open(run_folder).begun,
        Record.open(run_folder).finals(),
    )

    def refuse(judge: Judge, number: int, plan: Plan) -> None:
        raise AssertionError(f"judged {plan} again")

    monkeypatch.setattr(Judge, "judge", refuse)
    code, out, err = command(*again(run_folder, odd_model_folder, data_folder))
    assert (code, err) == (0, "")
    assert out.startswith(before[1])
    assert (Record.open(run_folder).begun, Record.open(run_folder).finals()) == (begun, finals)


def test_shortcuts_of_judging_are_switched_off(
    command: Command, run_folder: Path, odd_model_folder: Path, data_folder: Path
) -> None:
    options = ("--no-racing", "--no-prefix-reuse")
    code, _, err = command(*again(run_folder, odd_model_folder, data_folder, *options))
    assert (code, err) == (0, "")
    effort = Record.open(run_folder).settings["effort"]
    assert effort["quality"] == {"reuses_prefixes": False, "races": False}


def test_report_prints_the_path_of_the_page(command: Command, run_folder: Path) -> None:
    (run_folder / REPORT).unlink()
    assert command("report", run_folder) == (0, f"{run_folder / REPORT}\n", "")
    assert (run_folder / REPORT).is_file()


def test_report_of_several_runs_is_one_page(
    command: Command, run_folder: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run_folder / REPORT).read_bytes()
    both = tmp_path / "both.html"
    assert command("report", run_folder, finished_run, "--out", both) == (0, f"{both}\n", "")
    assert "2 runs side by side" in both.read_text(encoding="utf8")
    assert (run_folder / REPORT).read_bytes() == before
    monkeypatch.chdir(tmp_path)
    assert command("report", run_folder, finished_run) == (0, "comparison.html\n", "")
    assert (tmp_path / "comparison.html").is_file()
    assert_refused(command("report", run_folder, run_folder), "each run is given once")
    assert_refused(command("report", run_folder, "--out", both), "--out is for several runs")


def test_front_in_every_format(command: Command, finished_run: Path) -> None:
    front = Study(finished_run).front()
    code, text, err = command("front", finished_run, "--format", "json")
    data = json.loads(text)
    assert (code, err, data["members"][0]["plan"]) == (0, "", front["plan"][0])
    assert [member["latency_ms"] for member in data["members"]] == front["latency_ms"].tolist()
    code, text, err = command("front", finished_run, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert (code, err, list(rows[0])) == (0, "", list(front.columns))
    assert [float(row["size_mb"]) for row in rows] == front["size_mb"].tolist()
    assert [row["fingerprint"] for row in rows] == front["fingerprint"].tolist()
    code, text, err = command("front", finished_run)
    assert (code, err) == (0, "")
    assert all(fingerprint[:8] in text for fingerprint in front["fingerprint"])
    assert max(map(len, text.splitlines())) <= 160


def test_pick_in_words_and_as_json(command: Command, finished_run: Path) -> None:
    pick = Study(finished_run).pick(drop=0.5)
    code, out, err = command("pick", finished_run, "--max-drop", 0.5)
    assert (code, err) == (0, "")
    named = "the original" if pick.point.is_baseline else pick.point.plan
    assert out.splitlines()[0].startswith(f"{named} | accuracy {pick.point.quality.value:.4f} | drop ")
    assert out.splitlines()[1] == f"It is {pick.reason}."
    assert [line[:6] for line in out.splitlines()].count("Next: ") == len(pick.runners_up)
    code, out, err = command("pick", finished_run, "--max-drop", 0.5, "--format", "json")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert Plan.from_json(answer["plan_json"]) == pick.point.plan
    assert (answer["fingerprint"], answer["reason"]) == (pick.point.plan.fingerprint, pick.reason)
    assert [one["fingerprint"] for one in answer["runners_up"]] == [one.plan.fingerprint for one in pick.runners_up]


def test_pick_keeps_all_limits_at_once(command: Command, finished_run: Path) -> None:
    front = Study(finished_run).front()
    largest = front["size_mb"].median()
    options = ["--max", f"size_mb={largest},latency_ms=1000", "--max", "memory_mb=90000", "--min", "quality=0.1"]
    code, out, _ = command("pick", finished_run, *options, "--format", "json")
    fit = front[front["size_mb"] <= largest]
    assert (code, json.loads(out)["latency_ms"]) == (0, fit["latency_ms"].min())
    assert len(json.loads(out)["runners_up"]) == min(2, len(fit) - 1)


def test_pick_exports_what_it_picked(command: Command, run_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "deploy"
    code, out, err = command("pick", run_folder, "--max-drop", 0.5, "--export", target)
    assert (code, err) == (0, "")
    verdict = json.loads((target / "measured.json").read_text(encoding="utf8"))["verdict"]
    assert out.endswith(f"Exported to {target}: it is {verdict}.\n")
    assert_refused(
        command("pick", run_folder, "--export", target), "exists and is not an empty folder; export into a new one"
    )


def test_devices_lists_what_can_run_here(command: Command) -> None:
    code, out, err = command("devices")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(r"\d+ cores( in \d+ NUMA nodes)?; instruction sets: .+", lines[0])
    cpu = next(number for number, line in enumerate(lines) if line.startswith("cpu: "))
    under_cpu = lines[cpu + 1 : cpu + 1 + len(runtimes.names())]
    assert [line.split(":")[0] for line in under_cpu] == [f"  {name}" for name in runtimes.names()]
    assert any(re.fullmatch(r"  torch: ready(; kernels [a-z0-9, ]+)?", line) for line in under_cpu)
    assert any(line.startswith(("cuda: none (", "cuda:0: ")) for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--task", "clasification"],
            r"unknown task 'clasification'.* classification, seq2seq\. Did you mean 'classification'",
        ),
        (
            ["--axes", "depht"],
            r"unknown axis 'depht'; the legal values are: assembly, bits, depth, factors\. Did you mean 'depth'\?",
        ),
        (["--axes", "depth,width"], r"unknown axis 'width'; the legal values are: assembly, bits, depth"),
        (["--axes", ","], r"axis|axes"),
        (["--device", "gpu"], r"unknown device 'gpu'; the legal values are: cpu, cuda\."),
        (["--device", "cuda:99"], r"there is no device 'cuda:99' here"),
        (["--device", "cpu:1"], r"there is no device 'cpu:1' here; of this kind there are: cpu\."),
        (["--runtime", "tensorrt"], r"unknown runtime 'tensorrt'; the legal values are: .*torch\."),
        (["--objectives", "quality,latencies"], r"unknown objective 'latencies'.*Did you mean 'latency'\?"),
        (["--objectives", ","], r"at least one objective is needed; the legal values are: quality, latency, memory"),
        (
            ["--sampler", "tpee"],
            r"unknown sampler 'tpee'; the legal values are: gp, guided, nsga2, random, tpe\. Did you mean 'tpe",
        ),
        (["--metric", "acuracy"], r"unknown metric 'acuracy'.*accuracy, f1, .*matthews\. Did you mean 'accuracy'\?"),
        (["--metric", "spearman"], r"unknown metric 'spearman'; the legal values are: accuracy, f1, .*matthews"),
        (["--budget", "latency=10"], r"unknown limit 'latency'; .* values are: drop, latency_ms, .*quality, size"),
        (["--budget", "latency_ms=fast"], r"latency_ms must be a number, got 'fast'; write for instance latency_ms=10"),
        (["--budget", "latency_ms=nan"], r"latency_ms must be a number, got 'nan'"),
        (["--budget", "size_mb=0"], r"a limit on size must be above 0, got 0"),
        (["--budget", "drop=-0.1"], r"drop of quality must be at least 0, got -0\.1"),
        (["--budget", "size_mb=1", "--budget", "size_mb=2"], r"the limit size_mb is given twice"),
        (["--trials", "0"], r"trials must be above 0, got 0"),
        (["--minutes", "-1"], r"minutes must be above 0, got -1"),
        (["--seed", "-1"], r"seed must be at least 0, got -1"),
        (["--isolate-seconds", "0"], r"the seconds of an isolated process must be above 0, got 0"),
        (["--isolate-memory-mb", "-1"], r"the bytes of memory of an isolated process must be above 0, got -1000000"),
        (["--isolate-memory-mb", "900"], r"for the process in which memory is measured.*add it to the objectives"),
        (["--batch", "0"], r"batch of a workload must be at least 1, got 0"),
        (["--threads", "0"], r"threads of a workload must be at least 1, got 0"),
        (["--tokens", "65"], r"the model has 64 positions; the workload asks for 65 tokens"),
        (["--limit", "0"], r"limit of a task must be at least 1, got 0"),
        (["--max-tokens", "0"], r"max_tokens of a task must be at least 1, got 0"),
        (["--text-column", "body"], r"needs the columns body, label; it has: text, label\. Name yours with --text"),
        (
            ["--latency", "guessed"],
            r"unknown way to find latencies 'guessed'; the legal values are: measured, predicted",
        ),
        (["--depth-scorer", "tuned"], r"unknown scorer 'tuned'; the legal values are: fine_tune, training_free"),
        (["--epochs", "0"], r"training needs epochs >= 1"),
        (["--task", "seq2seq"], r"seq2seq needs an encoder-decoder .*, got BertForSequenceClassification"),
        (["--generated-tokens", "8"], r"classification generates no text.*leave out --generated-tokens and --beams"),
        (["--beams", "2"], r"classification generates no text.*leave out --generated-tokens and --beams"),
        (["--beams", "0"], r"beams of a task must be at least 1, got 0"),
        (["--generated-tokens", "0"], r"--generated-tokens must be at least 1, got 0"),
        (["--max-new-tokens", "0"], r"max_new_tokens of a task must be at least 1, got 0"),
        (["--depth-metric", "bleu"], r"unknown metric 'bleu'; the legal values are: accuracy, f1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_refused_and_leave_no_run(
    search: Command, tmp_path: Path, options: list[str], message: str
) -> None:
    assert_refused(search(*options), message)
    assert not (tmp_path / "new").exists()


def gpt2_folder(folder: Path) -> Path:
    config = GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, num_labels=2,
        pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    return folder


def t5_folder(folder: Path) -> Path:
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, num_labels=2)
    T5ForSequenceClassification(config).save_pretrained(folder)
    return folder


def empty_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def bare_folder(folder: Path) -> Path:
    empty_folder(folder)
    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForSequenceClassification"]}')
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, r"there is no model folder '.*model'; give a Hugging Face folder that holds"),
        (empty_folder, r"is not a Hugging Face model folder: it has no config\.json"),
        (bare_folder, r"the weights of '.*model' do not load"),
        (gpt2_folder, r"unknown model family 'gpt2'; paring knows: bart, bert, .*, t5\."),
        (t5_folder, r"classification judges encoders, and T5ForSequenceClassification has a decoder\."),
    ],
    ids=["missing", "no config", "no weights", "gpt2", "t5"],
)
def test_bad_models_are_refused(
    search: Command,
    make_tokenizer: Callable[[], PreTrainedTokenizerFast],
    tmp_path: Path,
    make: Callable[[Path], Path],
    message: str,
) -> None:
    folder = make(tmp_path / "model")
    if folder.is_dir():
        make_tokenizer().save_pretrained(folder)
    assert_refused(search(model=folder), message)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"there are no data at '.*data'; give a folder, a file"),
        ({"notes.txt": "hello"}, r"holds no train, validation or test file \(\.jsonl"),
        ({"train.jsonl": '{"text": "good", "label": 1}\n'}, r"has no validation split, only train"),
        ({"validation.jsonl": ""}, r"needs the columns text, label; it has: none"),
        ({"validation.csv": ""}, r"validation\.csv is empty"),
        ({"validation.csv": "text,label\n"}, r"part of '.*data' has no rows"),
        ({"validation.csv": "sentence,label\ngood,1\n"}, r"has: sentence, label\. Name yours with --text-column"),
        ({"validation.jsonl": "{not json}\n"}, r"validation\.jsonl cannot be read"),
        (
            {"validation.jsonl": "".join(f'{{"text": "good {n}", "label": "fair"}}\n' for n in range(40))},
            r"labels the model does not know: fair; it knows: 0, 1, blame, praise",
        ),
    ],
    ids=["missing", "foreign", "train only", "empty", "empty csv", "no rows", "columns", "no json", "labels"],
)
def test_bad_data_are_refused(search: Command, tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(content)
    assert_refused(search(data=tmp_path / "data"), message)
    assert not (tmp_path / "new").exists()


def test_texts_longer_than_the_model_are_cut_or_refused(
    search: Command, write_rows: Callable[[Path, list[dict[str, object]]], None], tmp_path: Path
) -> None:
    long = "very " * 80
    write_rows(tmp_path / "validation.jsonl", [{"text": f"good {long} {n}", "label": 1} for n in range(40)])
    code, _, err = search(data=tmp_path / "validation.jsonl")
    assert code in (0, 2), err
    assert code == 0 or "max-tokens" in err


def test_a_run_folder_goes_on_only_with_its_own_search(
    command: Command,
    run_folder: Path,
    odd_model_folder: Path,
    data_folder: Path,
    model_folder: Path,
    write_rows: Callable[[Path, list[dict[str, object]]], None],
    make_reviews: Callable[[int, int], list[dict[str, object]]],
    tmp_path: Path,
) -> None:
    begun = Record.open(run_folder).begun
    other_data = tmp_path / "other"
    shutil.copytree(data_folder, other_data)
    write_rows(other_data / "test.jsonl", make_reviews(60, 99))
    for arguments, changed in (
        (again(run_folder, odd_model_folder, data_folder, "--seed", 1), r"\(seed was 0, now 1\)"),
        (again(run_folder, model_folder, data_folder), r"\(model was [0-9a-f]{12}, now [0-9a-f]{12}\)"),
        (again(run_folder, odd_model_folder, other_data), r"\(data was [0-9a-f]{12}, now [0-9a-f]{12}\)"),
        (again(run_folder, odd_model_folder, data_folder, "--tokens", 17), r"\(workload.tokens was 16, now 17\)"),
    ):
        assert_refused(
            command(*arguments), f"was made by another search {changed}. Give another --out, or repeat those settings"
        )
    assert Record.open(run_folder).begun == begun


def test_a_folder_of_other_files_is_left_alone(search: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert_refused(
        search(out=tmp_path / "mine"), r"holds files but no run of paring; give --out an empty or a new folder"
    )
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    assert_refused(search(out=tmp_path / "mine" / "thesis.tex"), r"cannot make the run folder")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pick", "--max", "quality=0.5"], r"unknown limit for --max 'quality'.*: latency_ms, memory_mb, size_mb\."),
        (["pick", "--max", "size_mb=1,drop=1"], r"unknown limit for --max 'drop'"),
        (["pick", "--min", "latency_ms=5"], r"unknown limit for --min 'latency_ms'; the legal values are: quality\."),
        (["pick", "--max", "latency=5"], r"unknown limit for --max 'latency'.*Did you mean 'latency_ms'\?"),
        (["pick", "--max", "latency_ms"], r"latency_ms must be a number, got ''; write for instance latency_ms=10"),
        (["pick", "--max-drop", "-0.1"], r"drop of quality must be at least 0, got -0\.1"),
        (["pick", "--max", "latency_ms=1e-6"], r"front keeps latency_ms=1e-06; .* is: latency_ms=[\d.]+\."),
        (["pick", "--min", "quality=1.01"], r"front keeps quality=1\.01; .* is: quality=[\d.]+\."),
        (["pick", "--format", "csv"], r"unknown format 'csv'; the legal values are: json, table\."),
        (["front", "--format", "jsn"], r"format 'jsn'; the legal values are: csv, json, table\. Did you mean 'json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_questions_are_refused(command: Command, finished_run: Path, arguments: list[str], message: str) -> None:
    verb, *options = arguments
    assert_refused(command(verb, finished_run, *options), message)


@pytest.mark.parametrize("verb", ["report", "front", "pick"])
def test_a_folder_without_a_run_is_refused(command: Command, tmp_path: Path, verb: str) -> None:
    assert_refused(
        command(verb, tmp_path / "none"), rf"is no run folder: it has no {DATABASE}\. Make one with: paring search"
    )
    assert not (tmp_path / "none").exists()


def test_a_budget_that_nothing_meets_keeps_the_trials(search: Command, command: Command, tmp_path: Path) -> None:
    answer = search("--budget", "size_mb=0.000001")
    assert_refused(answer, r"no candidate meets the budget size_mb=1e-06; .* is: size_mb=[\d.]+\. Relax the budget")
    assert f"all 2 trials are kept in {tmp_path / 'new'}" in answer[2]
    assert [trial.state for trial in Record.open(tmp_path / "new").trials()] == ["infeasible"] * 2
    assert command("report", tmp_path / "new")[::2] == (0, "")
    html = (tmp_path / "new" / REPORT).read_text(encoding="utf8")
    data = html.partition('id="data">')[2].partition("</script>")[0]
    assert "Not final." in html and data.count('"infeasible"') == 2
    assert ">Deploy " not in html
    assert_refused(command("pick", tmp_path / "new"), r"size_mb")


def test_an_interrupted_search_says_how_to_go_on(search: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "searched", interrupted)
    code, out, err = search()
    assert (code, out) == (130, "")
    assert err == "paring: interrupted; what was judged or trained is kept. Run the same command again to go on.\n"


@pytest.mark.parametrize("error", [SearchError("the search cannot go on: why"), StorageError("the disk is full")])
def test_what_could_not_be_done_has_exit_code_1(
    search: Command, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failed(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(api, "searched", failed)
    assert search() == (1, "", f"paring: {error}\n")


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], (60, None)),
        (["--minutes", 2], (None, 2.0)),
        (["--trials", 5], (5, None)),
        (["--minutes", 2, "--trials", 5], (5, 2.0)),
    ],
)
def test_a_search_ends_after_60_trials_unless_told_otherwise(
    command: Command, monkeypatch: pytest.MonkeyPatch, options: list[object], asked: tuple[int | None, float | None]
) -> None:
    seen: list[tuple[int | None, float | None]] = []

    def noted(settings: Settings, progress: object) -> None:
        seen.append((settings.trials, settings.minutes))
        raise SearchError("enough")

    monkeypatch.setattr(api, "searched", noted)
    assert command("search", "model", "--data", "data", "--out", "out", *options)[0] == 1
    assert seen == [asked]


def test_what_is_said_of_a_generating_task_arrives(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def noted(settings: Settings, progress: object) -> None:
        seen.extend([settings.task, settings.workload, settings.greedy.metric])
        raise SearchError("enough")

    monkeypatch.setattr(api, "searched", noted)
    base = ["search", "model", "--data", "data", "--out", "out", "--threads", 1, "--task", "seq2seq"]
    assert command(*base)[0] == 1
    assert seen == [Task("seq2seq", "data"), Workload(threads=1, generated=32), None]
    columns = ["--source-column", "de", "--target-column", "en", "--metric", "chrf", "--depth-metric", "bleu"]
    assert command(*base, *columns, "--beams", 3, "--max-new-tokens", 9, "--generated-tokens", 7)[0] == 1
    asked = Task("seq2seq", "data", "chrf", text="de", label="en", beams=3, max_new_tokens=9)
    assert seen[3:] == [asked, Workload(threads=1, generated=7, beams=3), "bleu"]
    assert command(*base, "--text-column", "de", "--label-column", "en")[0] == 1
    assert seen[6] == Task("seq2seq", "data", text="de", label="en")


def test_openvino_refuses_a_decoder_before_it_reads_data(command: Command, writer_folder: Path, tmp_path: Path) -> None:
    options = ["--task", "seq2seq", "--runtime", "openvino", "--data", "nowhere", "--out", tmp_path / "new"]
    assert_refused(
        command("search", writer_folder, *options),
        r"'openvino' cannot run MBartForConditionalGeneration: .*use --runtime torch\.",
    )
    assert not (tmp_path / "new").exists()


def test_an_objective_named_twice_counts_once(search: Command, tmp_path: Path) -> None:
    code, _, err = search("--objectives", "size,quality,size")
    assert (code, err) == (0, "")
    record = Record.open(tmp_path / "new")
    assert record.settings["identity"]["objectives"] == ["quality", "size"]
    assert [len(trial.values) for trial in record.study.get_trials(states=(TrialState.COMPLETE,))] == [2, 2]


def test_the_real_command(finished_run: Path, tmp_path: Path) -> None:
    version = shell("--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{paring.__version__}\n", "")
    found = shell("front", finished_run, "--format", "json")
    assert (found.returncode, found.stderr) == (0, "")
    assert [one["plan"] for one in json.loads(found.stdout)["members"]] == Study(finished_run).front()["plan"].tolist()
    usage = shell("search", "model", "--trials", "many")
    assert (usage.returncode, usage.stdout) == (2, "")
    assert "--trials" in usage.stderr and "Traceback" not in usage.stderr


def test_the_real_command_refuses_without_network(data_folder: Path, tmp_path: Path) -> None:
    found = shell("search", "no-such-model", "--data", data_folder, "--out", tmp_path / "new")
    assert_refused(
        (found.returncode, found.stdout, found.stderr),
        r"no model config at 'no-such-model': there is no such folder; as a name on the hub: ",
    )
    assert not (tmp_path / "new").exists()

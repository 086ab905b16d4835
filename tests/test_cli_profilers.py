"""The commands that measure without searching."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paring.profilers import doctor, runtimes
from paring.profilers.conditions import Reading
from paring.profilers.doctor import State
from paring.profilers.timing import Effort, Latency

Answer = tuple[int, str, str]
Command = Callable[..., Answer]
LITTLE = ("--seconds", "0.01", "--threads", "1")


def test_profile_measures_a_grid_beside_the_first_model(
    command: Command, model_folder: Path, odd_model_folder: Path
) -> None:
    grid = ("--batch", "1,2", "--tokens", "4,8", "--no-memory", *LITTLE)
    code, out, err = command("profile", model_folder, odd_model_folder, *grid, "--format", "json")
    assert code == 0
    rows = json.loads(out)
    assert len(err.splitlines()) == 4
    assert [(row["workload_json"]["batch"], row["workload_json"]["tokens"]) for row in rows[::2]] == [
        (1, 4),
        (1, 8),
        (2, 4),
        (2, 8),
    ]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert (first["model"], second["model"]) == (str(model_folder), str(odd_model_folder))
        assert (first["ratio"], first["ratio_low"], first["ratio_high"]) == (1.0, 1.0, 1.0)
        assert second["ratio_low"] <= second["ratio"] <= second["ratio_high"]
        assert second["p50_ms"] <= second["p90_ms"] <= second["p99_ms"]
        assert second["examples_per_second"] == second["requests_per_second"] * second["workload_json"]["batch"]
        assert len(second["latency"]["calls_seconds"]) == len(second["latency"]["samples_seconds"])
        assert (second["millijoules"] is None) == (second["energy"] != "RAPL, whole processor packages")


def test_profile_draws_a_table_and_writes_csv(command: Command, model_folder: Path) -> None:
    code, out, _ = command("profile", model_folder, "--tokens", 8, *LITTLE)
    assert code == 0
    assert "batch 1, 8 tokens, 1 threads" in out
    assert "requests/s" in out
    assert re.search(r"^Energy: .+\.$", out, re.MULTILINE)
    code, out, _ = command("profile", model_folder, "--tokens", 8, "--no-memory", "--format", "csv", *LITTLE)
    head, row, *rest = out.splitlines()
    assert head.startswith("model,workload,ratio,")
    assert row.startswith(str(model_folder))
    assert rest == []


def test_profile_serves_streams(command: Command, model_folder: Path) -> None:
    options = ("--tokens", 8, "--streams", 3, "--no-memory", "--format", "json", *LITTLE)
    code, out, _ = command("profile", model_folder, *options)
    (row,) = json.loads(out)
    assert code == 0
    assert row["workload"] == "batch 1, 8 tokens, 1 threads, 3 streams"
    assert len(row["latency"]["calls_seconds"]) == 3 * len(row["latency"]["samples_seconds"])


def test_profile_measures_in_a_process_of_its_own(command: Command, model_folder: Path) -> None:
    options = ("--tokens", 8, "--isolate-seconds", 600, "--isolate-memory-mb", 1e6, "--format", "json", *LITTLE)
    code, out, err = command("profile", model_folder, *options)
    (row,) = json.loads(out)
    assert (code, row["ending"], row["cause"]) == (0, "answered", "")
    assert row["p50_ms"] > 0
    assert row["memory_mb"] > 0
    assert "in a process of their own" in err


@pytest.mark.parametrize("form", ["table", "csv", "json"])
@pytest.mark.parametrize(
    ("limit", "ending", "cause"),
    [
        (("--isolate-seconds", 0.01), "timed.out", "it took longer than 0.01 s"),
        (("--isolate-memory-mb", 1), "out.of.memory", r"the process held \d+ MB, more than the 1 MB it may take"),
    ],
)
def test_profile_shows_what_gave_no_numbers_and_ends_with_1(
    command: Command, model_folder: Path, form: str, limit: tuple[str, float], ending: str, cause: str
) -> None:
    code, out, err = command("profile", model_folder, "--tokens", "8,16", *limit, "--format", form, *LITTLE)
    assert code == 1
    for words in (ending, cause):
        assert len(re.findall(words, out)) == 2
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tokens", "65"], "64 positions; the workload asks for 65 tokens"),
        (["--batch", "0"], "batch of a workload must be at least 1, got 0"),
        (["--tokens", "-4"], "--tokens takes whole numbers"),
        (["--streams", "0"], "streams of a workload must be at least 1"),
        (["--threads", "0"], "threads of a workload must be at least 1"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--half-width", "nan"], "--half-width must be above 0"),
        (["--generated-tokens", "0"], "--generated-tokens must be at least 1"),
        (["--device", "simulated"], "unknown device 'simulated'; the legal values are: cpu, cuda."),
        (["--device", "cpu:77"], "there is no device 'cpu:77' here"),
        (["--runtime", "tensorrt"], "unknown runtime 'tensorrt'"),
        (["--format", "xml"], "unknown format 'xml'"),
        (["--timer", "sundial"], "unknown timer 'sundial'; the legal values are: device, wall."),
        (["--timer", "device"], "cpu has no stopwatch of its own"),
        (["--isolate-seconds", "0"], "the seconds of an isolated process must be above 0, got 0"),
        (["--isolate-seconds", "nan"], "the seconds of an isolated process must be above 0, got nan"),
        (["--isolate-memory-mb", "-1"], "the bytes of memory of an isolated process must be above 0, got -1000000"),
        (["--isolate-memory-mb", "nan"], "--isolate-memory-mb must be a finite number above 0, got nan"),
        (["--isolate-seconds", "0.01", "--device", "cpu:77"], "there is no device 'cpu:77' here"),
        (["--cuda-graph", "--tokens", "8"], "cpu cannot record passes"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    command: Command, model_folder: Path, options: list[str], words: str
) -> None:
    code, out, err = command("profile", model_folder, *options)
    assert (code, out) == (2, "")
    assert words in err


def test_the_same_model_twice_and_no_model_are_refused(command: Command, model_folder: Path, tmp_path: Path) -> None:
    assert command("profile", model_folder, model_folder)[0] == 2
    code, _, err = command("profile", tmp_path / "nothing")
    assert code == 2
    assert "there is no model folder" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_driver_is_named(command: Command, model_folder: Path) -> None:
    code, _, err = command("profile", model_folder, "--device", "cuda")
    assert code == 2
    assert re.search(r"no device 'cuda' here: (torch was built without CUDA; install|torch sees no CUDA GPU)", err)


def test_a_model_that_answers_with_no_numbers_is_refused(command: Command, run_model: Path) -> None:
    tensors = load_file(run_model / "model.safetensors")
    tensors["classifier.bias"][0] = float("nan")
    save_file(tensors, run_model / "model.safetensors", metadata={"format": "pt"})
    code, out, err = command("profile", run_model, "--tokens", 8, *LITTLE)
    assert (code, out) == (2, "")
    assert "answers with numbers that are not finite" in err


@pytest.fixture
def run_model(model_folder: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def test_devices_say_which_kernels_runtimes_have(command: Command) -> None:
    code, out, _ = command("devices", "--format", "json")
    assert code == 0
    cpu = json.loads(out)["cpu"]["cpu"]
    assert set(cpu["runtimes"]) == set(runtimes.names())
    assert cpu["runtimes"]["torch"].startswith("ready")
    if "avx512_vnni" in json.loads(out)["instruction_sets"]:
        assert "int8" in cpu["runtimes"]["torch"]
    assert "simulated" not in out
    assert "kernels" not in command("devices", "--no-kernels")[1]


@pytest.fixture
def tiny_doctor(monkeypatch: pytest.MonkeyPatch, make_model: Callable[..., object]) -> None:
    monkeypatch.setattr(doctor, "_minilm_sized", lambda: make_model("bert", layers=1))
    monkeypatch.setattr(cli_profilers_time(), "sleep", lambda seconds: None)


def cli_profilers_time() -> object:
    from paring import cli_profilers

    return cli_profilers.time


@pytest.mark.usefixtures("tiny_doctor")
@pytest.mark.parametrize(("resolve", "code", "verdict"), [("1e-7", 1, "NOT fit"), ("1e7", 0, "fit")])
def test_doctor_ends_with_what_it_found(
    command: Command, monkeypatch: pytest.MonkeyPatch, resolve: str, code: int, verdict: str
) -> None:
    monkeypatch.setattr(doctor, "_load", lambda wait: iter(()))
    found, out, _ = command("doctor", "--resolve", resolve, "--seconds", 0.05, "--threads", 1)
    assert found == code
    assert out.splitlines()[-1] == f"This machine is {verdict} to measure on now."
    assert "differences from" in out


@pytest.mark.usefixtures("tiny_doctor")
def test_doctor_writes_json(command: Command) -> None:
    code, out, _ = command("doctor", "--seconds", 0.05, "--threads", 1, "--format", "json")
    found = json.loads(out)
    noise = found["noise"]
    assert code == (0 if found["fit"] else 1)
    assert {"device", "cores", "governor", "energy", "load", "resolution"} <= {one["name"] for one in found["findings"]}
    assert found["resolved"] == pytest.approx((noise["high"] - noise["low"]) / 2 / noise["ratio"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "tpu"], "unknown device"),
        (["--threads", "0"], "threads of a workload"),
        (["--resolve", "0"], "--resolve must be"),
    ],
)
def test_doctor_refuses_what_cannot_be(command: Command, options: list[str], words: str) -> None:
    code, _, err = command("doctor", *options)
    assert code == 2
    assert words in err


def test_others_at_work_make_a_machine_unfit() -> None:
    before = Reading(100.0, 10.0, 0.0, 5.0)
    (good,) = doctor.load_finding(before, Reading(101.0, 10.05, 0.0, 5.0), {})
    load, stolen = doctor.load_finding(before, Reading(101.0, 10.9, 0.1, 5.2), {"train.py (7)": 0.6, "idle (8)": 0.01})
    assert good.state == State.GOOD
    assert (load.state, load.seen) == (State.BAD, "other processes take 0.70 cores: train.py (7) 0.60")
    assert (stolen.state, stolen.name) == (State.BAD, "hypervisor")


@pytest.mark.parametrize(
    ("governors", "state"),
    [((), State.GOOD), (("performance", "performance"), State.GOOD), (("performance", "powersave"), State.DOUBTFUL)],
)
def test_governors(governors: tuple[str, ...], state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "allowed_cores", lambda: (0, 1))
    for core, governor in enumerate(governors):
        folder = tmp_path / f"cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n", encoding="ascii")
    finding = doctor.governor_finding(tmp_path)
    assert finding.state == state
    assert bool(finding.advice) == (state == State.DOUBTFUL)


@pytest.mark.parametrize(
    ("low", "high", "state"), [(0.99, 1.01, State.GOOD), (0.95, 1.05, State.BAD), (1.001, 1.011, State.DOUBTFUL)]
)
def test_what_must_be_told_apart_decides(low: float, high: float, state: State) -> None:
    noise = Latency((1.0, 1.0), (low * high) ** 0.5, low, high, loads=(1, 1))
    assert doctor.resolution(noise, 0.02).state == state


def test_warnings_of_a_measurement_are_findings() -> None:
    noise = Latency((1.0,), 1.0, 1.0, 1.0, warnings=("hot", "busy"))
    assert [finding.seen for finding in doctor.disturbances(noise)] == ["hot", "busy"]


def test_lengths_of_the_task_can_be_served(
    command: Command, model_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paring.search import finals, judge

    effort = Effort(seconds=0.0, min_rounds=3, max_rounds=3, calls=1, min_loads=2, load_rounds=1)
    for place, name in ((judge, "_CANDIDATE_EFFORT"), (judge, "_REFERENCE_EFFORT"), (finals, "_EFFORT")):
        monkeypatch.setattr(place, name, effort)
    monkeypatch.setattr(finals, "_SECONDS_PER_MODEL", 0.0)
    options = ("--data", data_folder, "--out", tmp_path / "run", "--trials", 2, "--axes", "depth", "--threads", 1)
    served = ("--tokens", "task", "--streams", 2, "--objectives", "quality,latency")
    code, _, err = command("search", model_folder, *options, *served)
    assert code == 0, err
    front = json.loads((tmp_path / "run" / "front.json").read_text(encoding="utf8"))
    measured = front["baseline"]["measured"]
    assert measured["p50_ms"] <= measured["p99_ms"]
    assert isinstance(measured["warnings"], list)
    # Going on needs the same lengths again: they are part of what the run is.
    assert command("search", model_folder, *options, *served)[0] == 0
    code, _, err = command("search", model_folder, *options, "--objectives", "quality,latency")
    assert code == 2


@pytest.mark.parametrize("tokens", ["tasks", "4,8", "0"])
def test_tokens_of_a_search_are_a_number_or_the_tasks(
    command: Command, model_folder: Path, data_folder: Path, tmp_path: Path, tokens: str
) -> None:
    code, _, err = command("search", model_folder, "--data", data_folder, "--out", tmp_path / "run", "--tokens", tokens)
    assert code == 2
    assert "tokens" in err

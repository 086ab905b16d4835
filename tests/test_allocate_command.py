"""Bits by one target from the command line: exported, reloaded, measured; and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import paring
from paring import cli_options
from paring.spaces.artefact import PACKED_WEIGHTS, load, load_original, read_plan, stored_bytes
from paring.spaces.palette import DEFAULT_PALETTE

pytestmark = pytest.mark.usefixtures("little_effort")

Answer = tuple[int, str, str]
Command = Callable[..., Answer]
FAST = ["--tokens", 16, "--threads", 1]


@pytest.mark.parametrize(
    ("target", "ratio"), [(("--ratio", 2.0), 2.0), (("--effective-bits", 12.8), 2.5), (("--speed-up", 1.000001), 1.0)]
)
def test_a_target_becomes_a_model(
    command: Command, model_folder: Path, data_folder: Path, tmp_path: Path, target: tuple[str, float], ratio: float
) -> None:
    out = tmp_path / "out"
    code, said, errors = command(
        "allocate", model_folder, "--data", data_folder, "--out", out, *target, *FAST, "--format", "json"
    )
    if target[0] == "--speed-up" and code == 2:
        # A model this tiny need not be faster with any precision at all; then that is what must be said.
        assert "times faster, wanted 1" in errors
        return
    assert code == 0, errors
    found = json.loads(said)
    assert found["compressed"]["stored_bytes"] == (out / PACKED_WEIGHTS).stat().st_size
    # Of the tensors; in a model this tiny the names and shapes at the head of a file count, too.
    assert stored_bytes(load_original(str(model_folder))) / stored_bytes(load(out)[0]) >= ratio
    assert found["effective_bits"] == pytest.approx(
        32 * found["compressed"]["stored_bytes"] / found["original"]["stored_bytes"]
    )
    treated = [value for value in found["bits"].values() if value != "float"]
    assert treated
    assert len(read_plan(out).treatments()) == len(treated)
    assert "Linears" in found["kernels"] or found["kernels"] == "float"
    model = paring.load(out)
    ids = torch.tensor([[2, 4, 5, 3]])
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()


def test_the_answer_in_words(command: Command, model_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    asked = ["allocate", model_folder, "--data", data_folder, "--out", tmp_path / "out", "--ratio", 2, *FAST]
    code, said, _ = command(*asked)
    assert code == 0
    assert "bits a number" in said and "times smaller" in said and "kernels: " in said
    code, _, errors = command(*asked)
    assert code == 2
    assert "not an empty folder" in errors


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((), "exactly one of a ratio, effective bits and a speed-up"),
        (("--ratio", 2, "--speed-up", 2), "exactly one of"),
        (("--ratio", 1), "must be above 1, got 1"),
        (("--speed-up", 0.5), "must be above 1, got 0.5"),
        (("--effective-bits", 32), "below 32, got 32"),
        (("--effective-bits", 0), "above 0"),
        (("--ratio", 500), "times smaller, wanted 500"),
        (("--ratio", 2, "--precisions", "int8"), "a precision is written like"),
        (("--ratio", 2, "--precisions", "w9"), "bits are 2 to 8"),
        (("--ratio", 2, "--table-precisions", "w8a8"), "like 'w8'"),
        (("--ratio", 2, "--calibration", "max"), "least_error"),
        (("--ratio", 2, "--format", "csv"), "unknown format 'csv'"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    command: Command, model_folder: Path, data_folder: Path, tmp_path: Path, asked: tuple[object, ...], message: str
) -> None:
    code, _, errors = command("allocate", model_folder, "--data", data_folder, "--out", tmp_path / "out", *FAST, *asked)
    assert code == 2
    assert message in " ".join(errors.split())
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_the_options_are_those_of_the_palette() -> None:
    assert (
        cli_options.palette(cli_options.PRECISIONS, cli_options.TABLE_PRECISIONS, "", "least_error") == DEFAULT_PALETTE
    )

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from paring.errors import SettingError
from paring.profilers.workload import Workload, quantiles_of, serving
from paring.spaces.families import FAMILIES
from paring.spaces.workbench import Inputs

MakeModel = Callable[..., PreTrainedModel]
ENCODERS = [name for name, forms in FAMILIES.items() if len(forms[0].stacks) == 1]


@pytest.mark.parametrize("setting", ["batch", "tokens", "threads"])
@pytest.mark.parametrize("value", [0, -1])
def test_everything_is_at_least_one(setting: str, value: int) -> None:
    with pytest.raises(SettingError, match=f"{setting} of a workload must be at least 1, got {value}"):
        Workload(**{setting: value})


@pytest.mark.parametrize("family", ENCODERS)
def test_the_longest_legal_request_is_served_and_one_token_more_refused(make_model: MakeModel, family: str) -> None:
    """All tiny models have 64 position embeddings; RoBERTa's padding index 0 costs it one."""
    model, positions = make_model(family), 63 if family == "roberta" else 64
    inputs = Workload(batch=2, tokens=positions).inputs(model.config)
    with torch.inference_mode():
        assert model(**inputs).logits.shape == (2, 2)
    with pytest.raises(SettingError, match=f"{positions} positions; the workload asks for {positions + 1} tokens"):
        Workload(tokens=positions + 1).inputs(model.config)


def test_published_roberta_takes_512_tokens(make_model: MakeModel) -> None:
    config = make_model("roberta").config
    config.max_position_embeddings, config.pad_token_id = 514, 1
    assert Workload(tokens=512).inputs(config)["input_ids"].shape == (1, 512)
    with pytest.raises(SettingError, match="512 positions"):
        Workload(tokens=513).inputs(config)


@pytest.mark.parametrize(("vocabulary", "first"), [(30522, 1000), (64, 32)])
def test_tokens_are_ordinary_and_the_same_every_time(make_model: MakeModel, vocabulary: int, first: int) -> None:
    config = make_model("bert").config
    config.vocab_size = vocabulary
    inputs = Workload(batch=8, tokens=64).inputs(config)
    assert inputs["input_ids"].shape == (8, 64)
    assert first <= int(inputs["input_ids"].min()) < int(inputs["input_ids"].max()) < vocabulary
    assert inputs["attention_mask"].tolist() == [[1] * 64] * 8
    torch.manual_seed(99)
    assert torch.equal(Workload(batch=8, tokens=64).inputs(config)["input_ids"], inputs["input_ids"])


def test_asking_for_inputs_leaves_the_global_generator_alone(make_model: MakeModel) -> None:
    config = make_model("bert").config
    before = torch.random.get_rng_state()
    Workload(tokens=8).inputs(config)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_json_round_trip_and_words() -> None:
    workload = Workload(batch=4, tokens=32, threads=2)
    assert Workload.from_json(json.loads(json.dumps(workload.to_json()))) == workload
    assert str(workload) == "batch 4, 32 tokens, 2 threads"


def test_what_says_nothing_stays_out_of_json_and_words() -> None:
    """Run folders from before there were streams and lengths go on."""
    assert Workload().to_json() == {"batch": 1, "tokens": 128, "threads": 1}
    assert Workload.from_json({"batch": 1, "tokens": 128, "threads": 1}) == Workload()
    assert str(Workload()) == "batch 1, 128 tokens, 1 threads"


def test_streams_and_lengths_round_trip() -> None:
    workload = Workload(streams=3, lengths=(12, 4, 8))
    assert (workload.lengths, workload.tokens) == ((4, 8, 12), 12)
    assert Workload.from_json(json.loads(json.dumps(workload.to_json()))) == workload
    assert str(workload) == "batch 1, 4 to 12 tokens, 1 threads, 3 streams"


@pytest.mark.parametrize("wrong", [{"lengths": (4, 0)}, {"streams": 0}, {"beams": -1}])
def test_lengths_and_streams_are_at_least_one(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"{next(iter(wrong))} of a workload must be at least 1"):
        Workload(**wrong)


def test_sizes_are_whole_numbers() -> None:
    with pytest.raises(SettingError, match=r"batch of a workload must be a whole number, got 1\.5"):
        Workload(batch=1.5)  # type: ignore[arg-type]


class Asked:
    kernels = "float"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, inputs: Inputs) -> Tensor:
        self.shapes.append(tuple(inputs["input_ids"].shape))
        return torch.zeros(1)

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        raise AssertionError


def test_a_request_of_every_length_is_served(make_model: MakeModel) -> None:
    config, asked = make_model("bert").config, Asked()
    served = serving(asked, Workload(batch=2, streams=3, lengths=(12, 4)), config)
    assert served.streams == 3
    for call in served.calls:
        call()
    assert asked.shapes == [(2, 4), (2, 12)]
    with pytest.raises(SettingError, match="64 positions"):
        serving(asked, Workload(lengths=(4, 65)), config)
    assert len(serving(asked, Workload(), make_model("t5").config).calls) == 1


def test_quantiles_stand_for_the_whole() -> None:
    assert quantiles_of(range(1, 81)) == (6, 16, 26, 36, 46, 56, 66, 76)
    assert quantiles_of([5]) == (5,) * 8
    assert quantiles_of([9, 1]) == (1,) * 4 + (9,) * 4

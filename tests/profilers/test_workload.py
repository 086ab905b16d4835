import json
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from paring.errors import SettingError
from paring.profilers.workload import Workload
from paring.spaces.families import FAMILIES

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
